"""Added tokens: which are new, their pieces, the special-token mask, and texts without them."""

from collections.abc import Callable

import pytest
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from litpool import InputError
from litpool.data.added import add, mark, require, warn_unused
from litpool.data.tokenizer import dump_tokenizer, restore_tokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def word_piece() -> PreTrainedTokenizerBase:
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "[unused1]",
        "the",
        "film",
        "[",
        "]",
        "1",
    ]
    words += [*LETTERS, *(f"##{letter}" for letter in LETTERS), "##1"]
    return BertTokenizer({word: number for number, word in enumerate(words)})


def byte_level_bpe() -> PreTrainedTokenizerBase:
    words = ["<pad>", "<s>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(
        models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=[])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 1))
    return fast(backend)


def unigram() -> PreTrainedTokenizerBase:
    scores = [
        *((word, 0.0) for word in ("<pad>", "<s>", "</s>", "<unk>")),
        ("▁", -2.0),
        ("▁film", -3.0),
    ]
    scores += [(letter, -5.0) for letter in [*LETTERS, "[", "]", "1"]]
    backend = Tokenizer(models.Unigram(scores, unk_id=3))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 1), ("</s>", 2)],
    )
    return fast(backend)


def fast(backend: Tokenizer) -> PreTrainedTokenizerBase:
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, cls_token="<s>", sep_token="</s>", **names
    )


MAKE: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "WordPiece": word_piece, "byte-level BPE": byte_level_bpe, "Unigram": unigram,
}  # fmt: skip
every_tokenizer = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)


@every_tokenizer
def test_pieces_are_what_the_original_tokenizer_splits_a_token_into(
    make: Callable[[], PreTrainedTokenizerBase],
) -> None:
    original, tokenizer = make(), make()
    new = add(tokenizer, ["covid"], ["[s1]"])
    assert list(new) == [len(original), len(original) + 1]
    for (number, pieces), token in zip(new.items(), ("covid", "[s1]"), strict=True):
        assert tokenizer.convert_ids_to_tokens(number) == token
        assert pieces == original(token, add_special_tokens=False)["input_ids"]
        assert len(pieces) > 3


def test_pieces_that_are_unknown_are_left_out() -> None:
    tokenizer = word_piece()
    assert list(add(tokenizer, ["코로나", "the코"], []).values()) == [
        [],
        [],
    ]  # WordPiece gives up on the whole word


@every_tokenizer
def test_special_ones_are_never_split_and_marked_as_special(
    make: Callable[[], PreTrainedTokenizerBase],
) -> None:
    tokenizer = make()
    add(tokenizer, ["covid"], ["[s1]"])
    encoded = dict(tokenizer(["the [s1]film[s1]covid"], return_special_tokens_mask=True))
    tokens = tokenizer.convert_ids_to_tokens(encoded["input_ids"][0])
    assert tokens.count("[s1]") == 2
    assert tokens.count("covid") == 1
    mark(encoded, tokenizer)
    special = [
        token for token, bit in zip(tokens, encoded["special_tokens_mask"][0], strict=True) if bit
    ]
    assert special == [tokenizer.cls_token, "[s1]", "[s1]", tokenizer.sep_token]


@every_tokenizer
def test_they_survive_a_checkpoint(make: Callable[[], PreTrainedTokenizerBase]) -> None:
    tokenizer = make()
    add(tokenizer, ["covid"], ["[s1]"])
    again = restore_tokenizer(dump_tokenizer(tokenizer))
    text = "the [s1]film[s1] covid"
    first, second = (
        {"input_ids": [t(text)["input_ids"]], "special_tokens_mask": [[0] * 99]}
        for t in (tokenizer, again)
    )
    assert first == second
    for encoded, t in ((first, tokenizer), (second, again)):
        encoded["special_tokens_mask"] = [[0] * len(encoded["input_ids"][0])]
        mark(encoded, t)
        assert sum(encoded["special_tokens_mask"][0]) == 2


def test_the_mask_of_several_texts_in_a_row_is_marked_as_well() -> None:
    tokenizer = word_piece()
    (number,) = add(tokenizer, [], ["[s1]"])
    encoded = {
        "input_ids": [[[2, number, 3], [2, 6, number, 3]]],
        "special_tokens_mask": [[[1, 0, 1], [1, 0, 0, 1]]],
    }
    mark(encoded, tokenizer)
    assert encoded["special_tokens_mask"] == [[[1, 1, 1], [1, 0, 1, 1]]]


@pytest.mark.parametrize(
    ("plain", "special", "told"),
    [
        ([""], [], r"add_tokens=\[''\]: a token is empty or only spaces"),
        ([], ["[S1]", "  "], r"add_special_tokens=.*: a token is empty or only spaces"),
        (["covid", "flu", "covid"], [], "add_tokens: 'covid' is named twice"),
        ([], ["[S1]", "[S1]"], r"add_special_tokens: '\[S1\]' is named twice"),
        (["[S1]"], ["[S1]"], r"both name '\[S1\]'"),
        (
            ["[SEP]"],
            [],
            r"'\[SEP\]' is a special token already and would become a plain one; leave it out",
        ),
    ],
)
def test_unusable_tokens_are_told_in_one_line(
    plain: list[str], special: list[str], told: str
) -> None:
    tokenizer = word_piece()
    before = tokenizer.get_vocab()
    with pytest.raises(InputError, match=told) as error:
        add(tokenizer, plain, special)
    assert "\n" not in str(error.value)
    assert tokenizer.get_vocab() == before
    assert "[SEP]" in tokenizer.all_special_tokens


def test_tokens_that_exist_are_told_in_one_line_and_not_added() -> None:
    tokenizer = word_piece()
    with pytest.warns(
        UserWarning, match=r"already has these tokens, which are not added: 'film', '\[MASK\]'$"
    ) as told:
        new = add(tokenizer, ["film", "covid"], ["[MASK]"])
    assert len(told) == 1
    assert [tokenizer.convert_ids_to_tokens(number) for number in new] == ["covid"]


def test_a_word_of_the_vocabulary_that_would_be_split_is_left_whole_and_keeps_its_row() -> None:
    tokenizer = word_piece()
    size = len(tokenizer)
    assert len(tokenizer.tokenize("[unused1]")) > 1
    with pytest.warns(
        UserWarning, match=r"the vocabulary already has '\[unused1\]': no longer split"
    ):
        assert add(tokenizer, [], ["[unused1]"]) == {}
    assert tokenizer.tokenize("the [unused1] film") == ["the", "[unused1]", "film"]
    assert len(tokenizer) == size


# ---- do the texts have them?


def encoded(*rows: list[int]) -> Dataset:
    return Dataset.from_dict({"input_ids": list(rows), "index": list(range(len(rows)))})


def test_a_token_that_never_occurs_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="never occur in the train split.*: 'flu'$"):
        warn_unused(encoded([2, 70, 3], [2, 3]), {"covid": 70, "flu": 71})


def test_tokens_that_occur_are_not_warned_of() -> None:
    warn_unused(encoded([2, 70, 3], [2, 71, 3]), {"covid": 70, "flu": 71})
    warn_unused(Dataset.from_dict({"input_ids": [[[2, 3], [2, 70, 3]]]}), {"covid": 70})
    warn_unused(encoded([2, 3]), {})


def test_a_text_without_a_marker_is_named() -> None:
    rows = Dataset.from_dict({"text": ["[S1] a", "[S1] b", "c"]})
    ids = encoded([2, 70, 3], [2, 9, 70, 3], [2, 3])
    require({"[S1]": 70}, {"train": encoded([2, 70, 3])}, {"train": rows}, ["text"])
    require({}, {"train": ids}, {"train": rows}, ["text"])
    with pytest.raises(
        InputError, match=r"the train split, row 3: no '\[S1\]' in the text 'c'; mark every text"
    ) as told:
        require({"[S1]": 70}, {"train": ids}, {"train": rows}, ["text"])
    assert "\n" not in str(told.value)


def test_of_several_texts_in_a_row_the_one_without_a_marker_is_named() -> None:
    rows = Dataset.from_dict({"a": ["[S1] a", "[S1] b"], "b": ["[S1] c", "d"]})
    ids = Dataset.from_dict({"input_ids": [[[70, 3], [70]], [[1, 70], [3]]], "index": [0, 1]})
    with pytest.raises(InputError, match=r"row 2: no '\[S1\]' in the text 'd'; mark"):
        require({"[S1]": 70}, {"test": ids}, {"test": rows}, ["a", "b"])
