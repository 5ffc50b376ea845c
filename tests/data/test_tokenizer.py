"""Added tokens stay whole, and a checkpoint keeps the tokenizer."""

import io
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import BertTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from litpool import InputError
from litpool.data.tokenizer import dump_tokenizer, load_tokenizer, restore_tokenizer


def load(name: str, *tokens: list[str], **options: str) -> PreTrainedTokenizerBase:
    return load_tokenizer(name, *tokens, **options)[0]


# ---- loading, added tokens


def test_an_added_token_stays_whole_where_it_was_split_before(tokenizer_folder: str) -> None:
    plain = load(tokenizer_folder)
    assert len(plain.tokenize("the covid film")) == 2 + len("covid")
    added = load(tokenizer_folder, ["covid"])
    assert added.tokenize("the covid film") == ["the", "covid", "film"]
    assert len(added) == len(plain) + 1


def test_added_special_tokens_stay_whole_and_count_as_special(tokenizer_folder: str) -> None:
    tokenizer = load(tokenizer_folder, ["covid"], ["[E1]", "[/E1]"])
    encoded = tokenizer("the [E1] film [/E1]", return_special_tokens_mask=True)
    assert tokenizer.convert_ids_to_tokens(encoded["input_ids"]) == [
        "[CLS]",
        "the",
        "[E1]",
        "film",
        "[/E1]",
        "[SEP]",
    ]
    assert {"[E1]", "[/E1]"} <= set(tokenizer.all_special_tokens)
    assert tokenizer.decode(encoded["input_ids"], skip_special_tokens=True) == "the film"


def test_adding_twice_is_adding_once(tokenizer_folder: str, tmp_path: Path) -> None:
    once = load(tokenizer_folder, ["covid"], ["[E1]"])
    once.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"which are not added: 'covid', '\[E1\]'"):
        twice = load(str(tmp_path), ["covid"], ["[E1]"])
    assert len(twice) == len(once)
    assert twice.get_vocab() == once.get_vocab()


def test_more_special_tokens_leave_the_earlier_ones_special(
    tokenizer_folder: str, tmp_path: Path
) -> None:
    load(tokenizer_folder, [], ["[E1]"]).save_pretrained(tmp_path)
    assert {"[E1]", "[E2]"} <= set(load(str(tmp_path), [], ["[E2]"]).all_special_tokens)


def test_a_token_that_the_vocabulary_has_takes_no_new_id(tokenizer_folder: str) -> None:
    plain = load(tokenizer_folder)
    with pytest.warns(UserWarning, match="which are not added: 'film'"):
        added = load(tokenizer_folder, ["film"])
    assert added.get_vocab() == plain.get_vocab()
    assert added.tokenize("filmgood") == plain.tokenize(
        "filmgood"
    )  # nor is it cut out of other words


def test_a_tokenizer_without_padding_token_is_refused(tmp_path: Path) -> None:
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>").save_pretrained(tmp_path)
    with pytest.raises(
        InputError, match=r"no padding token.*set data.pad_token to a token of its vocabulary"
    ) as told:
        load(str(tmp_path))
    assert "\n" not in str(told.value)
    with pytest.raises(InputError, match=r"data.pad_token=<pad>: not in the vocabulary of"):
        load(str(tmp_path), pad_token="<pad>")
    tokenizer = load(str(tmp_path), pad_token="<unk>")
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<unk>", 0)
    assert restore_tokenizer(dump_tokenizer(tokenizer)).pad_token == "<unk>"


@pytest.mark.parametrize("kind", ["bert", "roberta", "deberta-v2", "xlm-roberta"])
def test_a_folder_without_tokenizer_files_is_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        f'{{"model_type": "{kind}"}}'
    )  # from it, transformers makes one up
    with pytest.raises(InputError, match="no tokenizer files"):
        load(str(tmp_path))


@pytest.mark.parametrize("content", ["{", '{"model_type": "bert", "hidden_size": "wide"}', "{}"])
def test_a_bad_config_beside_no_tokenizer_is_told_in_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"^data\.tokenizer=.*: not a tokenizer") as told:
        load(str(tmp_path))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["nowhere/to-be-found", "./no/such/folder", "not a name!"])
def test_an_unknown_name_is_told_in_one_line(name: str) -> None:
    with pytest.raises(InputError, match="not a tokenizer") as told:
        load(name)
    assert "\n" not in str(told.value)
    assert name in str(told.value)


# ---- kept in a checkpoint


def test_a_restored_tokenizer_gives_the_same_ids(tokenizer_folder: str) -> None:
    tokenizer = load(tokenizer_folder, ["covid"], ["[E1]"])
    restored = restore_tokenizer(dump_tokenizer(tokenizer))
    for texts in (["the [E1] covid film", "zebra"], ["covid"]):
        assert restored(texts)["input_ids"] == tokenizer(texts)["input_ids"]
    assert restored.get_vocab() == tokenizer.get_vocab()
    assert restored.all_special_tokens == tokenizer.all_special_tokens


def test_what_was_cut_and_padded_before_the_dump_is_not_cut_after_it(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    long = "this film is great " * 50
    tokenizer([long, "bad"], truncation=True, max_length=8, padding="max_length")
    restored = restore_tokenizer(dump_tokenizer(tokenizer))
    assert len(restored(long)["input_ids"]) == 202
    assert len(restored("bad")["input_ids"]) == 3


def test_the_padding_side_survives(tokenizer_folder: str, tmp_path: Path) -> None:
    BertTokenizer.from_pretrained(tokenizer_folder, padding_side="left").save_pretrained(tmp_path)
    tokenizer = load(str(tmp_path))
    assert tokenizer.padding_side == "left"
    assert restore_tokenizer(dump_tokenizer(tokenizer)).padding_side == "left"


def test_a_restored_tokenizer_is_dumped_as_it_was(tokenizer_folder: str) -> None:
    files = dump_tokenizer(load(tokenizer_folder, ["covid"], ["[E1]"]))
    again = dump_tokenizer(restore_tokenizer(files))
    assert again["tokenizer.json"] == files["tokenizer.json"]


def test_a_dump_loads_as_plain_values(tokenizer: PreTrainedTokenizerBase) -> None:
    files = dump_tokenizer(tokenizer)
    stream = io.BytesIO()
    torch.save({"state_dict": {}, "job": {"tokenizer": files}}, stream)
    stream.seek(0)
    assert torch.load(stream, weights_only=True)["job"]["tokenizer"] == files


def test_a_dump_cannot_write_outside_its_folder(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    files = dump_tokenizer(tokenizer)
    restore_tokenizer({**files, str(tmp_path / "escaped"): b"", "../escaped": b""})
    assert not (tmp_path / "escaped").exists()
    assert not (tmp_path.parent / "escaped").exists()


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("tokenizer_config.json", None, b"{}"),  # no padding token
        ("tokenizer.json", b'"[UNK]":1,', b'"[UNX]":1,'),  # fails when it is used
        ("tokenizer.json", None, b"[]"),
        ("tokenizer.json", None, b""),
    ],
)
def test_a_damaged_tokenizer_is_refused(
    tokenizer: PreTrainedTokenizerBase, name: str, old: bytes | None, new: bytes
) -> None:
    files = dump_tokenizer(tokenizer)
    content = b"".join(files[name].split()) if old else b""
    assert old is None or old in content
    damaged = content.replace(old, new) if old else new
    with pytest.raises(InputError, match="ckpt_path: its tokenizer cannot be loaded") as caught:
        restore_tokenizer({**files, name: damaged})
    assert "\n" not in str(caught.value)
