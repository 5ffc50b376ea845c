"""Gold answers to questions, and how the official scripts of SQuAD score an answer against them."""

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Gold = tuple[str, int]  # a correct answer's text, and the character of the context where it begins

ARTICLES = re.compile(r"\b(a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def row_golds(cell: Any, context: str, start: Any = None) -> list[Gold]:
    """The gold answers of one row, without empty ones."""
    if isinstance(cell, str):
        cell = [{"text": cell, "answer_start": context.find(cell) if start is None else start}]
    elif isinstance(cell, Mapping):
        pairs = zip(cell["text"], cell["answer_start"], strict=True)
        cell = [{"text": text, "answer_start": at} for text, at in pairs]
    return [(gold["text"], int(gold["answer_start"])) for gold in cell if gold["text"].strip()]


def all_golds(columns: Mapping[str, Any], answers: str, context: str) -> list[list[Gold]]:
    """The gold answers of each row; `answers` and `context` name columns."""
    starts = (
        columns["answer_start"] if "answer_start" in columns else [None] * len(columns[context])
    )
    cells = zip(columns[answers], columns[context], starts, strict=True)
    return [row_golds(*cell) for cell in cells]


def find_fault(cell: Any, context: str, start: Any, no_answer: bool) -> str | None:
    """What is wrong with the gold answers of one row, and how to fix it; None if nothing is."""
    try:
        golds = row_golds(cell, context, start)
    except (TypeError, KeyError, ValueError, AttributeError):
        return (
            f"the answers are {str(cell)[:60]!r} with the offset {start!r}, must be a text, or "
            "{text: [...], answer_start: [...]}; correct the row, or set task.answers"
        )
    if not golds and not no_answer:
        return (
            "there is no answer; correct the row, "
            "or set task.no_answer true if questions may have none"
        )
    for text, at in golds:
        if at < 0:
            return (
                f"the answer {text[:60]!r} has the offset {at}, must be 0 or more; "
                "correct the answer or the context"
            )
        if not context.startswith(text, at):
            actual = context[at : at + min(len(text), 60)]
            return (
                f"the answer {text[:60]!r} is not at its offset {at}, where {actual!r} stands; "
                "correct answer_start, counted in characters from 0"
            )
    return None


def describe_row(columns: Mapping[str, Any], number: int) -> str:
    """What a person can find a row by: its article and id, or its number."""
    title = f"article {columns['title'][number]!r}, " if "title" in columns else ""
    row = f"question {columns['id'][number]!r}" if "id" in columns else f"row {number + 1}"
    return title + row


def normalize(text: str) -> list[str]:
    """The words to compare answers by: in lower case, without punctuation and articles."""
    return ARTICLES.sub(" ", text.lower().translate(NO_PUNCTUATION)).split()


def exact_match(answer: str, golds: Sequence[str], no_answer: bool = False) -> float:
    """1 if the answer has the same words as one of the gold answers, else 0.

    Args:
        answer: The text, empty for no answer.
        golds: The texts of the gold answers.
        no_answer: Whether to score as in SQuAD 2.0: gold answers without words do not count, and if
            none is left, giving no answer is correct.
    """
    words = normalize(answer)
    return max(float(words == gold) for gold in _gold_words(golds, no_answer))


def f1(answer: str, golds: Sequence[str], no_answer: bool = False) -> float:
    """The best F1 of the answer's words against those of a gold answer, 0 to 1.

    Args:
        answer: The text, empty for no answer.
        golds: The texts of the gold answers.
        no_answer: Whether to score as in SQuAD 2.0, as `exact_match` does.
    """
    words = normalize(answer)
    return max(_overlap(words, gold, no_answer) for gold in _gold_words(golds, no_answer))


def _gold_words(golds: Sequence[str], no_answer: bool) -> list[list[str]]:
    golds_words = [normalize(text) for text in golds]
    if no_answer:
        return [words for words in golds_words if words] or [[]]
    return golds_words


def _overlap(answer: list[str], gold: list[str], no_answer: bool) -> float:
    if not answer and not gold:
        return float(no_answer)  # SQuAD 1.1's script gives 0
    return 2 * sum((Counter(answer) & Counter(gold)).values()) / (len(answer) + len(gold))


def best_threshold(difference: NDArray[np.float64], gain: NDArray[np.float64]) -> float:
    """The threshold with the highest sum of gains over the rows whose difference is not above it.

    Args:
        difference: For each row (R,), the score of no answer minus that of the best span.
        gain: For each row (R,), how much better the span is than no answer.
    """
    steps, place = np.unique(np.nan_to_num(difference), return_inverse=True)  # (U,), (R,)
    sums = np.concatenate([[0.0], np.bincount(place, gain).cumsum()])  # (U + 1,)
    middles = (steps[:-1] + steps[1:]) / 2
    thresholds = np.concatenate([steps[:1] - 1, middles, steps[-1:] + 1])  # (U + 1,)
    return float(thresholds[sums.argmax()])
