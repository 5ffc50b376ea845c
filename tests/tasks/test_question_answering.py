"""Question answering: windows, spans, the official scores again, the threshold, bad input."""

import collections
import json
import math
import os
import random
import re
import string
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from litpool import InputError
from litpool.data.source import Source, load_splits
from litpool.demo.encoder import locate
from litpool.loops.evaluation import Evaluation
from litpool.tasks.answers import best_threshold, exact_match, f1
from litpool.tasks.question_answering import QuestionAnswering
from litpool.tasks.windows import trim

MINUS = -math.inf
MINILM = locate("sentence-transformers/all-MiniLM-L6-v2")


def gold(*pairs: tuple[str, int]) -> dict[str, list[Any]]:
    return {"text": [text for text, _ in pairs], "answer_start": [at for _, at in pairs]}


def table(*rows: tuple[str, str, Any], **more: list[Any]) -> Dataset:
    questions, contexts, answers = zip(*rows, strict=True)
    columns = {"question": list(questions), "context": list(contexts), "answers": list(answers)}
    return Dataset.from_dict(columns | more)


def refusal(task: QuestionAnswering, rows: Dataset) -> str:
    with pytest.raises(InputError) as caught:
        task.learn({"train": rows})
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- the rows


@pytest.mark.parametrize(
    ("answers", "more"),
    [
        ({"text": ["Nile", "The Nile"], "answer_start": [4, 0]}, {}),
        ([{"text": "Nile", "answer_start": 4}], {}),
        ("Nile", {}),
        ("Nile", {"answer_start": [4]}),
        ("Nile", {"answer_start": ["4"]}),  # as a CSV file has it
    ],
)
def test_answers_may_have_any_of_the_forms(
    answers: Any, more: dict[str, list[Any]], tokenizer: PreTrainedTokenizerBase
) -> None:
    rows = table(("What?", "The Nile is long. Nile!", answers), **more)
    task = QuestionAnswering()
    task.learn({"train": rows})
    encoded = task.encode(rows[:], tokenizer, 64)
    first, last = encoded["labels"][0]
    assert (encoded["offsets"][0][first][0], encoded["offsets"][0][last][1]) == (4, 8)


def test_an_answer_that_is_not_at_its_offset_is_refused() -> None:
    rows = table(("What?", "The Nile is long.", gold(("Nile", 3))), id=["q7"], title=["Rivers"])
    message = refusal(QuestionAnswering(), rows)
    assert (
        "train split, article 'Rivers', question 'q7': the answer 'Nile' is not at its offset 3"
        in message
    )
    assert "where the context has ' Nil'" in message
    rows = table(("?", "The Nile", gold(("The", 0))), ("?", "The Nile", gold(("Nile", 0))))
    assert "train split, row 2: the answer 'Nile'" in refusal(QuestionAnswering(), rows)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (gold(), "there is no answer; .*task.no_answer true"),
        (gold(("e", -1)), "'e' has the offset -1"),
        ("Amazon", "'Amazon' has the offset -1"),
        (7, "the answers are '7'"),
        ({"text": ["Nile"]}, "the answers are"),
        ({"text": ["Nile"], "answer_start": [4, 5]}, "the answers are"),
    ],
)
def test_other_bad_answers_are_refused(answers: Any, message: str) -> None:
    assert re.search(message, refusal(QuestionAnswering(), table(("?", "The Nile", answers))))


def test_a_start_that_is_no_number_is_refused() -> None:
    assert "'four'" in refusal(
        QuestionAnswering(), table(("?", "The Nile", "Nile"), answer_start=["four"])
    )


def test_no_answer_is_welcome_where_it_may_be() -> None:
    QuestionAnswering(no_answer=True).learn({"train": table(("?", "The Nile", gold()))})


@pytest.mark.parametrize(
    "options",
    [{"doc_stride": -1}, {"max_answer_length": 0}, {"n_best": 0}, {"n_best": 21}],
    ids=str,
)
def test_an_argument_out_of_bounds_is_refused(options: dict[str, Any]) -> None:
    name, value = next(iter(options.items()))
    with pytest.raises(InputError, match=rf"task\.{name}={value}"):
        QuestionAnswering(**options)


# ---- windows


def test_windows_by_hand(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = table(
        (" the film", "a bad dull film is good", gold(("dull film", 6))),
        ("was this", "a play", gold(("play", 2))),
    )
    encoded = QuestionAnswering(doc_stride=1).encode(
        rows[:], tokenizer, 8
    )  # [CLS] q q [SEP] c c c [SEP]
    words = [tokenizer.convert_ids_to_tokens(ids) for ids in encoded["input_ids"]]
    assert [" ".join(window[4:-1]) for window in words] == [
        "a bad dull",
        "dull film is",
        "is good",
        "a play",
    ]
    assert words[0] == ["[CLS]", "the", "film", "[SEP]", "a", "bad", "dull", "[SEP]"]
    assert encoded["row"] == [0, 0, 0, 1]
    assert encoded["labels"] == [[0, 0], [4, 5], [0, 0], [5, 5]]
    assert encoded["special_tokens_mask"][1:3] == [[1, 1, 1, 1, 0, 0, 0, 1], [1, 1, 1, 1, 0, 0, 1]]
    assert encoded["offsets"][2] == [(0, 0), (0, 0), (0, 0), (0, 0), (16, 18), (19, 23), (0, 0)]
    assert encoded["token_type_ids"][0] == [0, 0, 0, 0, 1, 1, 1, 1]


def test_rows_without_answers_have_no_labels(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = {"question": ["what"], "context": ["a film"]}
    assert "labels" not in QuestionAnswering().encode(rows, tokenizer, 32)


@pytest.mark.parametrize("stride", [0, 1, 3, 128, 10_000])
@pytest.mark.parametrize("length", [6, 7, 12, 24])
def test_any_stride_and_length_show_the_whole_context(
    stride: int, length: int, tokenizer: PreTrainedTokenizerBase
) -> None:
    context = " ".join(["film", "dull", "good"] * 7)
    rows = {"question": ["a", "the a", " "], "context": [context] * 3}
    encoded = QuestionAnswering(doc_stride=stride).encode(rows, tokenizer, length)
    seen: dict[int, set[Any]] = {0: set(), 1: set(), 2: set()}
    for row, ids, offsets in zip(
        encoded["row"], encoded["input_ids"], encoded["offsets"], strict=True
    ):
        assert len(ids) <= length
        seen[row] |= set(offsets) - {(0, 0)}
    assert [len(some) for some in seen.values()] == [21, 21, 21]
    assert encoded["row"] == sorted(encoded["row"])


def test_a_question_that_fills_the_window_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = {"question": ["a", "a bad dull film"], "context": ["good"] * 2}
    QuestionAnswering().encode(rows, tokenizer, 8)
    reason = r"'a bad dull film': its 4 tokens .* 3 or fewer; shorten it, or raise data\.max_length"
    with pytest.raises(InputError, match=reason):
        QuestionAnswering().encode(rows, tokenizer, 7)


def test_a_tokenizer_that_knows_no_characters_is_refused(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(tokenizer), "is_fast", False)
    with pytest.raises(InputError, match="use a fast tokenizer"):
        QuestionAnswering().encode({"question": ["a"], "context": ["b"]}, tokenizer, 8)


# ---- gold answers there and back


def padded(encoded: dict[str, list[Any]]) -> tuple[Tensor, Tensor]:
    """Logits that are sure of the labels, (N, T, 2), and offsets (N, T, 2)."""
    longest = max(map(len, encoded["input_ids"]))
    output, offsets = (
        torch.zeros(len(encoded["row"]), longest, 2),
        torch.zeros(len(encoded["row"]), longest, 2).long(),
    )
    for n, (characters, (first, last)) in enumerate(
        zip(encoded["offsets"], encoded["labels"], strict=True)
    ):
        offsets[n, : len(characters)] = torch.tensor(characters)
        output[n, first, 0] = output[n, last, 1] = 10.0
    return output, offsets


def there_and_back(
    rows: Dataset, tokenizer: PreTrainedTokenizerBase, length: int
) -> list[dict[str, Any]]:
    task = QuestionAnswering(max_answer_length=64)
    task.learn({"test": rows})
    encoded = task.encode(rows[:], tokenizer, length)
    output, offsets = padded(encoded)
    order = torch.randperm(len(output), generator=torch.Generator().manual_seed(0))
    predictions = torch.cat(
        [task.extract(output[some], {"offsets": offsets[some]}) for some in order.split(100)]
    )
    return task.decode(task.assemble(predictions, torch.tensor(encoded["row"])[order]), rows[:])


@pytest.mark.parametrize("length", [128, 384])
@pytest.mark.skipif(
    "LITPOOL_TEST_DATA" not in os.environ, reason="LITPOOL_TEST_DATA names no folder with xquad"
)
def test_the_answers_of_xquad_come_back_verbatim(length: int) -> None:
    path = str(Path(os.environ["LITPOOL_TEST_DATA"]) / "xquad/xquad.en.json")
    rows = load_splits(
        Source({"test": path}), ["question", "context"], ["answers"], ("id", "title")
    )["test"]
    assert len(rows) == 1190
    answers = there_and_back(rows, PreTrainedTokenizerFast.from_pretrained(MINILM), length)
    true = [answers["text"][0] for answers in rows["answers"]]
    other = [
        (got["answer"], text)
        for got, text in zip(answers, true, strict=True)
        if got["answer"] != text
    ]
    # One answer ends within a number, which is one token: it comes back with the whole token.
    assert other == [("7,000,000 square kilometres (2,700", "7,000,000 square kilometres (2,70")]


CONTEXTS = [
    ("수도는?", "대한민국의 수도는 서울이다. 인구는 약 천만 명이다.", "서울"),
    ("首都是?", "中国的首都是北京。它有两千万人。", "北京"),
    ("What?", "He said 👍🏽 and 👩‍👩‍👧 twice,  café  naïve.", "👩‍👩‍👧 twice"),
    ("What?", "He said 👍🏽 and 👩‍👩‍👧 twice,  café  naïve.", "café"),
    ("Wer?", "Der İstanbul-Straße\u00a0Fluß\tist lang\n\nund tief.", "Fluß\tist"),
    ("누가?", "그는 😀 웃었다 😀", "웃었다 😀"),
]


def build_wordpiece() -> PreTrainedTokenizerBase:
    texts = [text for question, context, _ in CONTEXTS for text in (question, context)]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(
        vocab_size=1, special_tokens=special
    )  # single characters: merges would vary
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )


def build_bytes(trim_offsets: bool) -> PreTrainedTokenizerBase:
    """Every byte is a token; a space before a word belongs to the word unless it is trimmed."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([" twice and is long said lang"] * 9, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 1), ("<s>", 0), trim_offsets=trim_offsets
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", cls_token="<s>", sep_token="</s>"
    )


@pytest.mark.parametrize("length", [48, 200])
@pytest.mark.parametrize(
    "tokenizer",
    [build_wordpiece(), build_bytes(True), build_bytes(False)],
    ids=["wordpiece", "bytes", "bytes with spaces"],
)
def test_answers_in_any_script_come_back_verbatim(
    tokenizer: PreTrainedTokenizerBase, length: int
) -> None:
    rows = table(
        *((asked, text, gold((answer, text.index(answer)))) for asked, text, answer in CONTEXTS)
    )
    answers = there_and_back(rows, tokenizer, length)
    assert [answer["answer"] for answer in answers] == [answer for _, _, answer in CONTEXTS]
    for answer, (_, context, _) in zip(answers, CONTEXTS, strict=True):
        assert context[answer["start"] : answer["end"]] == answer["answer"]


@pytest.mark.parametrize(
    ("span", "expected"),
    [((0, 3), (1, 3)), ((3, 5), (0, 0)), ((2, 2), (0, 0)), ((3, 7), (5, 6)), ((1, 3), (1, 3))],
)
def test_spans_lose_their_white_space(span: tuple[int, int], expected: tuple[int, int]) -> None:
    assert trim(" ab  c ", span) == expected


# ---- head and loss


def test_the_head_gives_no_answer_a_place_and_the_question_none() -> None:
    head = QuestionAnswering().head(4)
    batch = {
        "attention_mask": torch.tensor([[1, 1, 1, 1, 1, 0]]),
        "special_tokens_mask": torch.tensor([[1, 1, 1, 0, 0, 0]]),
    }
    for kind in (torch.float32, torch.bfloat16):
        output = head.to(kind)(torch.ones(1, 6, 4, dtype=kind), batch)
        assert output.shape == (1, 6, 2)
        lowest = output == torch.finfo(kind).min
        assert (
            lowest[0, :, 0].tolist()
            == lowest[0, :, 1].tolist()
            == [False, True, True, False, False, True]
        )
    weight, bias = QuestionAnswering().head(1000).parameters()
    assert weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert bias.tolist() == [0, 0]


def test_the_loss_is_the_mean_of_two_cross_entropies() -> None:
    starts, ends = [1.0, 2.0, 0.5], [0.0, -1.0, 3.0]
    output = torch.tensor([starts, ends]).T.unsqueeze(0)  # (1, 3, 2)
    loss = QuestionAnswering().loss(output, torch.tensor([[1, 2]]))
    parts = [-row[at] + math.log(sum(map(math.exp, row))) for row, at in ((starts, 1), (ends, 2))]
    assert loss.item() == pytest.approx(sum(parts) / 2)


def test_the_loss_of_masked_logits_is_finite() -> None:
    output = torch.full((2, 5, 2), torch.finfo(torch.float16).min, dtype=torch.float16)
    output[:, 0] = 1.0
    output.requires_grad_()
    QuestionAnswering().loss(output, torch.zeros(2, 2, dtype=torch.long)).backward()
    assert output.grad is not None
    assert output.grad.isfinite().all()


# ---- spans


def test_the_best_spans_by_hand() -> None:
    starts, ends = (
        [0.5, 9.0, 1.0, 4.0],
        [0.25, 9.0, 5.0, 2.0],
    )  # [CLS], a question's token, two of the context
    offsets = torch.tensor([[[0, 0], [0, 0], [0, 3], [4, 9]]])
    predictions = QuestionAnswering().extract(
        torch.tensor([starts, ends]).T.unsqueeze(0), {"offsets": offsets}
    )
    assert predictions.shape == (1, 21, 3)
    assert predictions.dtype == torch.float64
    # the end of one context token with the start of the one after it, 4 + 5, is no span
    assert predictions[0, :4].tolist() == [[0.75, -1, -1], [6.0, 0, 3], [6.0, 4, 9], [3.0, 0, 9]]
    assert predictions[0, 4:].tolist() == [[MINUS, -1, -1]] * 17


@pytest.mark.parametrize("longest", [1, 2, 7, 100])
def test_spans_equal_those_of_a_search_through_all(longest: int) -> None:
    generator = torch.Generator().manual_seed(longest)
    output = torch.randn(3, 30, 2, generator=generator, dtype=torch.float64)
    offsets = torch.stack([torch.arange(30) * 2, torch.arange(30) * 2 + 1], -1).repeat(3, 1, 1)
    offsets[:, :6] = 0
    predictions = QuestionAnswering(max_answer_length=longest).extract(output, {"offsets": offsets})
    for logits, best in zip(output.tolist(), predictions.tolist(), strict=True):
        spans = [
            (logits[s][0] + logits[e][1], 2 * s, 2 * e + 1)
            for s in range(6, 30)
            for e in range(s, 30)
        ]
        spans = sorted(
            (span for span in spans if (span[2] - 1 - span[1]) // 2 < longest), reverse=True
        )
        assert best[1:] == [list(span) for span in spans[:20]]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_windows_of_a_row_join_by_hand(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    predictions = torch.tensor([MINUS, -1, -1], dtype=torch.float64, device=device).repeat(4, 21, 1)
    predictions[0, :3] = torch.tensor([[2.0, -1, -1], [5.0, 3, 7], [1.0, 0, 2]])
    predictions[1, :2] = torch.tensor([[4.0, -1, -1], [0.5, 1, 2]])  # of another row
    predictions[2, :4] = torch.tensor([[1.0, -1, -1], [6.0, 9, 11], [4.0, 3, 7], [3.0, 9, 10]])
    predictions[3, :1] = torch.tensor([[-1.0, -1, -1]])  # a row without any span
    whole = (
        QuestionAnswering().assemble(predictions, torch.tensor([7, 2, 7, 9], device=device)).cpu()
    )
    assert whole.shape == (3, 21, 3)
    assert whole[0, :3].tolist() == [[4.0, -1, -1], [0.5, 1, 2], [MINUS, -1, -1]]
    assert whole[1, :6].tolist() == [
        [1.0, -1, -1],
        [6.0, 9, 11],
        [5.0, 3, 7],
        [3.0, 9, 10],
        [1.0, 0, 2],
        [MINUS, -1, -1],
    ]
    assert whole[2, :2].tolist() == [[-1.0, -1, -1], [MINUS, -1, -1]]


# ---- the official scores, worked out again


def words_again(text: str) -> list[str]:
    predictions = "".join(
        letter for letter in text.lower() if letter not in set(string.punctuation)
    )
    return re.sub(r"\b(a|an|the)\b", " ", predictions).split()


def f1_again(answer: str, true: str, version: int) -> float:
    got, wanted = words_again(answer), words_again(true)
    if version == 2 and (not got or not wanted):
        return float(got == wanted)
    same = sum((collections.Counter(got) & collections.Counter(wanted)).values())
    if not same:
        return 0.0
    precision, recall = same / len(got), same / len(wanted)
    return 2 * precision * recall / (precision + recall)


def scores_again(answers: list[str], golds: list[list[str]], version: int) -> dict[str, float]:
    matches, overlaps = [], []
    for answer, true in zip(answers, golds, strict=True):
        if version == 2:
            true = [text for text in true if words_again(text)] or [""]
        matches.append(max(float(words_again(answer) == words_again(text)) for text in true))
        overlaps.append(max(f1_again(answer, text, version) for text in true))
    parts = {"exact_match": matches, "f1": overlaps}
    if version == 2:
        parts["f1_answerable"] = [
            score for score, true in zip(overlaps, golds, strict=True) if true
        ]
        parts["f1_unanswerable"] = [
            score for score, true in zip(overlaps, golds, strict=True) if not true
        ]
    return {name: 100 * sum(part) / len(part) for name, part in parts.items()}


PIECES = [
    "the",
    "a",
    "An",
    "Nile",
    "nile,",
    "is",
    "--",
    "U.S.",
    "long",
    "ever-green",
    "서울은",
    "1,000",
    "it's",
    "theatre",
]


KOREAN_PIECES = [
    "박경리의",
    "《토지》는",
    "〈토지〉",
    "토지",
    "(1994년)",
    "1994년",
    "‘봄’의",
    "“봄”",
    "the",
    "a.b",
    "서울,",
    "서울에서",
]


def random_rows(
    count: int, unanswerable: float, seed: int, pieces: list[str] = PIECES
) -> tuple[Dataset, Tensor]:
    """Rows of random words, and candidates (count, 21, 3), three spans each."""
    rng = random.Random(seed)
    rows, predictions = [], torch.tensor([MINUS, -1, -1], dtype=torch.float64).repeat(count, 21, 1)
    for n in range(count):
        context = " ".join(rng.choices(pieces, k=12))
        ends = [(match.start(), match.end()) for match in re.finditer(r"\S+", context)]

        def span(ends: list[tuple[int, int]] = ends) -> tuple[int, int]:
            first = rng.randrange(12)
            return ends[first][0], ends[min(11, first + rng.randrange(3))][1]

        true = [] if rng.random() < unanswerable else [span() for _ in range(rng.randint(1, 3))]
        rows.append(("?", context, gold(*((context[s:e], s) for s, e in true))))
        for place, score in enumerate(sorted((rng.gauss(0, 2) for _ in range(3)), reverse=True), 1):
            predictions[n, place] = torch.tensor(
                [score, *(rng.choice(true) if true and rng.random() < 0.3 else span())]
            )
        predictions[n, 0, 0] = rng.gauss(1.0 if not true else -1.0, 2)
    return table(*rows), predictions


def computed(
    task: QuestionAnswering, split: str, rows: Dataset, predictions: Tensor, sizes: int = 64
) -> dict[str, float]:
    metrics = task.metrics(rows)
    for some, index in zip(
        predictions.split(sizes), torch.arange(len(predictions)).split(sizes), strict=True
    ):
        task.update(metrics, some, {"index": index})
    if split == "validation":
        task.tune(metrics)
    return {name: value.item() for name, value in metrics.compute().items()}


def texts_of(rows: Dataset) -> list[list[str]]:
    return [answers["text"] for answers in rows["answers"]]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_scores_are_those_of_the_official_script_of_1_1(seed: int) -> None:
    rows, predictions = random_rows(400, 0.0, seed)
    task = QuestionAnswering()
    task.learn({"test": rows})
    scores = computed(task, "test", rows, predictions)
    answers = [answer["answer"] for answer in task.decode(predictions, rows[:])]
    assert scores == pytest.approx(scores_again(answers, texts_of(rows), 1), abs=1e-9, rel=0)
    assert 10 < scores["exact_match"] < scores["f1"] < 90


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("split", ["validation", "test"])
def test_scores_are_those_of_the_official_script_of_2_0(seed: int, split: str) -> None:
    rows, predictions = random_rows(400, 0.4, seed)
    task = QuestionAnswering(no_answer=True)
    task.learn({split: rows})
    scores = computed(task, split, rows, predictions)
    answers = [answer["answer"] for answer in task.decode(predictions, rows[:])]
    assert scores == pytest.approx(scores_again(answers, texts_of(rows), 2), abs=1e-9, rel=0)
    assert (task.threshold != 0) == (split == "validation")
    assert 10 < sum(not answer for answer in answers) < 390


def korquad_again(answers: list[str], golds: list[list[str]]) -> dict[str, float]:
    """KorQuAD 1.0's script, step by step: one replacement and one character at a time."""

    def words(text: str) -> list[str]:
        for sign in ["'", '"', "《", "》", "<", ">", "〈", "〉", "(", ")", "‘", "’"]:
            text = re.sub(re.escape(sign), " ", text)
        return "".join(
            letter for letter in text.lower() if letter not in string.punctuation
        ).split()

    def overlap(answer: str, true: str) -> float:
        got = [letter for word in words(answer) for letter in word]
        wanted = [letter for word in words(true) for letter in word]
        same = sum(min(got.count(letter), wanted.count(letter)) for letter in set(got))
        if not same:
            return 0.0
        precision, recall = same / len(got), same / len(wanted)
        return 2 * precision * recall / (precision + recall)

    pairs = list(zip(answers, golds, strict=True))
    matches = [max(words(answer) == words(text) for text in true) for answer, true in pairs]
    overlaps = [max(overlap(answer, text) for text in true) for answer, true in pairs]
    return {
        "exact_match": 100 * sum(matches) / len(pairs),
        "f1": 100 * sum(overlaps) / len(pairs),
    }


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_scores_are_those_of_the_script_of_korquad(seed: int) -> None:
    rows, predictions = random_rows(400, 0.0, seed, KOREAN_PIECES)
    task = QuestionAnswering(metric="korquad")
    task.learn({"test": rows})
    scores = computed(task, "test", rows, predictions)
    answers = [answer["answer"] for answer in task.decode(predictions, rows[:])]
    assert scores == pytest.approx(korquad_again(answers, texts_of(rows)), abs=1e-9, rel=0)
    by_words = computed(QuestionAnswering(), "test", rows, predictions)
    assert 10 < scores["exact_match"] < by_words["f1"] + 3 < scores["f1"] < 90


@pytest.mark.parametrize("metric", ["squad", "korquad"])
def test_the_threshold_is_best_for_the_metric(metric: Any) -> None:
    """An answer with its particle is worth 0 by words, and 2/3 by characters: both or neither."""
    rows = table(*[("?", "봄에 왔다", gold(("봄", 0)))] * 2, ("?", "봄에 왔다", gold()))
    predictions = torch.tensor([MINUS, -1, -1], dtype=torch.float64).repeat(3, 21, 1)
    predictions[:, 1] = torch.tensor([3.0, 0, 2])  # "봄에"
    predictions[:, 0, 0] = 1.0
    task = QuestionAnswering(no_answer=True, metric=metric)
    scores = computed(task, "validation", rows, predictions)
    assert scores["f1"] == pytest.approx({"squad": 100 / 3, "korquad": 200 * (2 / 3) / 3}[metric])


@pytest.mark.parametrize(("metric", "rows"), [("squad", [0, 1]), ("korquad", [1])])
def test_mistakes_are_answers_that_score_nothing(metric: Any, rows: list[int]) -> None:
    data = table(*[("?", "서울에서 봄에 왔다", gold(("서울", 0)))] * 2)
    predictions = torch.tensor([MINUS, -1, -1], dtype=torch.float64).repeat(2, 21, 1)
    predictions[0, 1] = torch.tensor([3.0, 0, 4])  # "서울에서"
    predictions[1, 1] = torch.tensor([3.0, 5, 7])  # "봄에"
    found = QuestionAnswering(metric=metric).mistakes(predictions, data)
    assert sorted(mistake.row for mistake in found) == rows


@pytest.mark.parametrize("seed", range(5))
def test_no_threshold_is_better_than_the_one_that_is_found(seed: int) -> None:
    rows, predictions = random_rows(120, 0.4, seed)
    predictions[:, :, 0] = predictions[:, :, 0].round() - torch.arange(
        21
    )  # many differences are equal, no two spans of a row
    task = QuestionAnswering(no_answer=True)
    best_f1 = computed(task, "validation", rows, predictions)["f1"]
    tried, golds = [], texts_of(rows)
    for threshold in [n / 2 for n in range(-31, 32)]:
        answers = [
            context[int(best[1]) : int(best[2])] if none[0] - best[0] <= threshold else ""
            for context, (none, best, *_) in zip(rows["context"], predictions.tolist(), strict=True)
        ]
        tried.append(scores_again(answers, golds, 2)["f1"])
    assert best_f1 == pytest.approx(max(tried), abs=1e-9, rel=0)
    assert computed(task, "test", rows, predictions)["f1"] == best_f1  # as it stays


def test_the_threshold_goes_round() -> None:
    rows, predictions = random_rows(60, 0.4, 9)
    task, other = QuestionAnswering(no_answer=True), QuestionAnswering(no_answer=True)
    computed(task, "validation", rows, predictions)
    other.load_state_dict(json.loads(json.dumps(task.state_dict())))
    assert other.state_dict() == task.state_dict() != {"threshold": 0.0}
    assert other.decode(predictions, rows[:]) == task.decode(predictions, rows[:])


@pytest.mark.parametrize("no_answer", [False, True])
def test_only_a_validation_of_questions_without_answers_sets_the_threshold(no_answer: bool) -> None:
    rows, predictions = random_rows(60, 0.4 if no_answer else 0.0, 9)
    task = QuestionAnswering(no_answer=no_answer)
    thresholds = []
    for split in ("test", "validation", "test"):
        evaluation = Evaluation(task, split, rows)
        task.update(evaluation.metrics, predictions, {"index": torch.arange(60)})
        evaluation.mean_loss.update(0.0, weight=60)
        evaluation.compute()
        thresholds.append(task.threshold)
    assert thresholds[0] == 0.0
    assert (thresholds[1] != 0.0) == no_answer
    assert thresholds[2] == thresholds[1]


def test_computing_the_metrics_sets_nothing() -> None:
    rows, predictions = random_rows(60, 0.4, 9)
    task = QuestionAnswering(no_answer=True)
    metrics = task.metrics(rows)
    task.update(metrics, predictions, {"index": torch.arange(60)})
    metrics.compute()
    assert task.threshold == 0.0
    task.tune(metrics)
    assert task.threshold != 0.0


RANK = """
import sys
import torch
from datasets import Dataset
from litpool.tasks.question_answering import QuestionAnswering

folder, rank = sys.argv[1], int(sys.argv[2])
torch.distributed.init_process_group(
    "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
)
saved = torch.load(f"{folder}/saved.pt")
task = QuestionAnswering(no_answer=True)
metrics = task.metrics(Dataset.from_list(saved["rows"]))
for index, predictions in saved["batches"][rank::2]:
    task.update(metrics, predictions, {"index": index})
task.tune(metrics)
values = {name: value.item() for name, value in metrics.compute().items()}
torch.save((task.threshold, values), f"{folder}/{rank}.pt")
"""


@pytest.mark.slow  # two processes that import torch
def test_two_devices_find_the_threshold_of_one(tmp_path: Path) -> None:
    rows, predictions = random_rows(61, 0.4, 9)
    index = torch.cat([torch.arange(61), torch.arange(0, 61, 3)])  # some rows have two windows
    windows = torch.cat([predictions, predictions[torch.arange(0, 61, 3)].flip(0)])
    batches = list(zip(index.split(7), windows.split(7), strict=True))
    torch.save({"rows": rows.to_list(), "batches": batches}, tmp_path / "saved.pt")
    commands = [[sys.executable, "-c", RANK, str(tmp_path), str(rank)] for rank in (0, 1)]
    processes = [subprocess.Popen(command) for command in commands]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]

    task = QuestionAnswering(no_answer=True)
    metrics = task.metrics(rows)
    for some, predictions in batches:
        task.update(metrics, predictions, {"index": some})
    task.tune(metrics)
    values = {name: value.item() for name, value in metrics.compute().items()}
    for rank in (0, 1):
        assert torch.load(tmp_path / f"{rank}.pt") == (task.threshold, values)


@pytest.mark.parametrize(
    ("difference", "gain", "threshold"),
    [
        ([1.0, 3.0, 5.0], [1.0, 1.0, -1.0], 4.0),
        ([1.0, 3.0], [-1.0, -1.0], 0.0),
        ([1.0, 3.0], [1.0, 1.0], 4.0),
        ([2.0, 2.0, 6.0], [1.0, -1.0, 1.0], 7.0),
        ([1.0, math.inf], [1.0, 0.0], pytest.approx(9e307, rel=0.01)),
    ],
)
def test_thresholds_by_hand(difference: list[float], gain: list[float], threshold: Any) -> None:
    assert (
        best_threshold(
            torch.tensor(difference).double().numpy(), torch.tensor(gain).double().numpy()
        )
        == threshold
    )


@pytest.mark.parametrize(
    ("answer", "golds", "no_answer", "expected"),
    [
        ("The Nile!", ["a nile"], False, (1.0, 1.0)),
        ("long Nile river", ["Nile river", "x"], False, (0.0, 0.8)),
        ("Nile Nile", ["Nile"], False, (0.0, 2 / 3)),
        ("", ["Nile"], False, (0.0, 0.0)),
        ("the", ["a"], False, (1.0, 0.0)),  # as SQuAD 1.1's script has it
        ("", [], True, (1.0, 1.0)),
        ("Nile", [], True, (0.0, 0.0)),
        ("", ["Nile"], True, (0.0, 0.0)),
        ("the", ["a", "."], True, (1.0, 1.0)),
        ("", ["the", "Nile"], True, (0.0, 0.0)),  # golds without words do not count
    ],
)
def test_one_answer_by_hand(
    answer: str, golds: list[str], no_answer: bool, expected: tuple[float, float]
) -> None:
    got = exact_match(answer, golds, no_answer), f1(answer, golds, no_answer)
    assert got == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answer", "golds", "expected"),
    [
        ("서울특별시", ["서울"], (0.0, 2 * 2 / (5 + 2))),
        ("서울에서", ["서울에"], (0.0, 2 * 3 / (4 + 3))),  # by words it shares nothing
        ("서울 시", ["서울시"], (0.0, 1.0)),  # a space is a difference, but no character
        ("《토지》", ["토지"], (1.0, 1.0)),
        ("〈토지〉(1994년)", ["토지 1994년"], (1.0, 1.0)),  # a bracket becomes a space,
        ("19.94", ["1994"], (1.0, 1.0)),  # other punctuation nothing
        ("‘봄’", ["'봄'"], (1.0, 1.0)),
        ("“봄”", ["봄"], (0.0, 2 * 1 / (3 + 1))),  # not in the script's list
        ("「봄」", ["봄"], (0.0, 2 * 1 / (3 + 1))),  # nor is this
        ("The BTS", ["bts"], (0.0, 2 * 3 / (6 + 3))),  # an article counts
        ("부산", ["서울"], (0.0, 0.0)),
        ("대구", ["서울", "대전", "대구광역시"], (0.0, 2 * 2 / (2 + 5))),  # the best of them
        ("가가나", ["가나나"], (0.0, 2 * 2 / (3 + 3))),  # characters count as often as they occur
        ("", ["서울"], (0.0, 0.0)),
        ("()", ["《》"], (1.0, 0.0)),  # nothing is left of either: as the script has it
    ],
)
def test_one_answer_by_hand_in_korean(
    answer: str, golds: list[str], expected: tuple[float, float]
) -> None:
    got = exact_match(answer, golds, metric="korquad"), f1(answer, golds, metric="korquad")
    assert got == pytest.approx(expected)


def test_scores_are_of_the_rows_that_were_fed_however_they_are_batched() -> None:
    rows, predictions = random_rows(50, 0.0, 3)
    task = QuestionAnswering()
    assert computed(task, "test", rows, predictions, 50) == pytest.approx(
        computed(task, "test", rows, predictions, 1)
    )
    metrics = task.metrics(rows)
    some = torch.tensor([40, 3, 17])
    task.update(metrics, predictions[some], {"index": some})
    few = [
        answer["answer"]
        for answer in task.decode(predictions[[3, 17, 40]], rows.select([3, 17, 40])[:])
    ]
    expected = scores_again(few, texts_of(rows.select([3, 17, 40])), 1)
    assert {name: value.item() for name, value in metrics.compute().items()} == pytest.approx(
        expected
    )


def test_the_monitored_metric_is_among_the_metrics() -> None:
    rows, predictions = random_rows(5, 0.0, 0)
    assert QuestionAnswering.monitor.removeprefix("val/") in computed(
        QuestionAnswering(), "validation", rows, predictions
    )


# ---- answers


def candidates(*spans: tuple[float, int, int]) -> Tensor:
    predictions = torch.tensor([MINUS, -1, -1], dtype=torch.float64).repeat(1, 21, 1)
    predictions[0, : len(spans)] = torch.tensor(spans, dtype=torch.float64)
    return predictions


def test_answers_by_hand() -> None:
    rows = table(("What?", "The Nile is long.", gold(("Nile", 4))), id=["q1"])
    predictions = candidates((9.0, -1, -1), (2.0, 4, 8), (1.0, 0, 8))
    first, second = math.e / (math.e + 1), 1 / (math.e + 1)
    nile = {"answer": "Nile", "start": 4, "end": 8, "probability": round(first, 4)}
    assert QuestionAnswering().decode(predictions, rows[:]) == [{"id": "q1", **nile}]
    other = {"answer": "The Nile", "start": 0, "end": 8, "probability": round(second, 4)}
    assert QuestionAnswering(n_best=5).decode(predictions, rows[:]) == [
        {"id": "q1", **nile, "n_best": [nile, other]}
    ]
    assert "id" not in QuestionAnswering().decode(predictions, rows.remove_columns("id")[:])[0]


@pytest.mark.parametrize(("threshold", "answer"), [(0.0, ""), (0.9, ""), (1.1, "Nile")])
def test_no_answer_is_given_where_it_scores_above_the_threshold(
    threshold: float, answer: str
) -> None:
    rows = table(("What?", "The Nile is long.", gold()))
    task = QuestionAnswering(no_answer=True, n_best=2)
    task.load_state_dict({"threshold": threshold})
    decoded = task.decode(candidates((3.0, -1, -1), (2.0, 4, 8)), rows[:])[0]
    assert decoded["answer"] == answer
    assert (decoded["start"], decoded["end"]) == ((4, 8) if answer else (-1, -1))
    assert decoded["probability"] == round(1 / (1 + math.exp(-abs(1 - threshold))), 4)
    assert [candidate["answer"] for candidate in decoded["n_best"]] == [
        answer,
        "" if answer else "Nile",
    ]


def test_a_row_without_any_candidate_has_an_empty_answer() -> None:
    rows = table(("What?", "The Nile", gold(("Nile", 4))))
    decoded = QuestionAnswering(n_best=3).decode(candidates((3.0, -1, -1)), rows[:])
    assert decoded == [{"answer": "", "start": -1, "end": -1, "probability": 0.0, "n_best": []}]


def test_mistakes_come_the_most_confident_first() -> None:
    context = "The Nile is long."
    rows = table(*((("?", context, gold(("Nile", 4))),) * 3), ("?", context, gold(("long", 12))))
    predictions = torch.cat(
        [
            candidates((0.0, -1, -1), (1.0, 9, 11), (0.0, 4, 8)),  # is
            candidates((0.0, -1, -1), (9.0, 0, 8), (0.0, 9, 11)),  # The Nile
            candidates((0.0, -1, -1), (3.0, 12, 16), (0.0, 4, 8)),  # long
            candidates((0.0, -1, -1), (2.0, 9, 16), (0.0, 4, 8)),  # is long
        ]
    )
    mistakes = QuestionAnswering().mistakes(predictions, rows)
    assert [(mistake.row, mistake.true, mistake.predicted) for mistake in mistakes] == [
        (2, "Nile", "long"),
        (0, "Nile", "is"),
    ]
    assert [mistake.measure for mistake in mistakes] == pytest.approx(
        [1 / (1 + math.exp(-v)) for v in (3, 1)]
    )


def test_an_answer_to_what_has_none_is_a_mistake() -> None:
    rows = table(
        ("?", "The Nile", gold()), ("?", "The Nile", gold(("Nile", 4))), ("?", "The Nile", gold())
    )
    predictions = torch.cat([candidates((none, -1, -1), (2.0, 4, 8)) for none in (0.0, 5.0, 5.0)])
    mistakes = QuestionAnswering(no_answer=True).mistakes(predictions, rows)
    assert [(mistake.row, mistake.true, mistake.predicted) for mistake in mistakes] == [
        (1, "Nile", "no answer"),
        (0, "no answer", "Nile"),
    ]


# ---- the key of the token cache


@pytest.mark.parametrize("options", [{"n_best": 3}, {"max_answer_length": 9}, {"no_answer": True}])
def test_what_does_not_change_the_tokens_keeps_the_encoding_key(options: dict[str, Any]) -> None:
    assert QuestionAnswering(**options).encoding_key() == QuestionAnswering().encoding_key()


def test_the_threshold_keeps_the_encoding_key() -> None:
    task = QuestionAnswering(no_answer=True)
    task.threshold = 2.5
    assert task.encoding_key() == QuestionAnswering(no_answer=True).encoding_key()


@pytest.mark.parametrize(
    "options", [{"question": "q"}, {"context": "c"}, {"answers": "a"}, {"doc_stride": 64}]
)
def test_columns_and_overlap_change_the_encoding_key(options: dict[str, Any]) -> None:
    assert QuestionAnswering(**options).encoding_key() != QuestionAnswering().encoding_key()
