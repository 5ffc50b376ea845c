"""True answers to questions, and how the official scripts of SQuAD score an answer by them."""

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

ARTICLES = re.compile(r"\b(a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def golds(cell: Any, context: str, start: Any = None) -> list[tuple[str, int]]:
    """The true answers of one row: texts and the characters where they begin."""
    if isinstance(cell, str):
        cell = [{"text": cell, "answer_start": context.find(cell) if start is None else start}]
    elif isinstance(cell, Mapping):
        pairs = zip(cell["text"], cell["answer_start"], strict=True)
        cell = [{"text": text, "answer_start": at} for text, at in pairs]
    return [(one["text"], int(one["answer_start"])) for one in cell if one["text"].strip()]


def all_golds(columns: Mapping[str, Any], answers: str, context: str) -> list[list[tuple[str, int]]]:
    """The true answers of each row; `answers` and `context` name columns."""
    starts = columns["answer_start"] if "answer_start" in columns else [None] * len(columns[context])
    return [golds(*cell) for cell in zip(columns[answers], columns[context], starts, strict=True)]


def fault(cell: Any, context: str, start: Any, no_answer: bool) -> str | None:
    """What is wrong with the true answers of one row, and how to mend it."""
    try:
        found = golds(cell, context, start)
    except (TypeError, KeyError, ValueError, AttributeError):
        mend = "must be a text, or {text: [...], answer_start: [...]}; mend the row, or set task.answers"
        return f"the answers are {str(cell)[:60]!r} with the offset {start!r}, {mend}"
    if not found and not no_answer:
        return "there is no answer; mend the row, or set task.no_answer true if questions may have none"
    for text, at in found:
        if at < 0:
            return f"the answer {text[:60]!r} has the offset {at}, must be 0 or more; mend the answer or the context"
        if not context.startswith(text, at):
            there = f"at its offset {at}, where {context[at : at + min(len(text), 60)]!r} stands"
            return f"the answer {text[:60]!r} is not {there}; mend answer_start, counted in characters from 0"
    return None


def found_by(columns: Mapping[str, Any], number: int) -> str:
    """What a person can find a row by."""
    title = f"article {columns['title'][number]!r}, " if "title" in columns else ""
    return title + (f"question {columns['id'][number]!r}" if "id" in columns else f"row {number + 1}")


def normal(text: str) -> list[str]:
    """The words by which answers are compared: in small letters, without punctuation and articles."""
    return ARTICLES.sub(" ", text.lower().translate(NO_PUNCTUATION)).split()


def exact_match(answer: str, golds: Sequence[str], no_answer: bool = False) -> float:
    """1 if the answer has the words of one of the true answers, else 0.

    Args:
        answer: The text, empty for no answer.
        golds: The true answers.
        no_answer: Whether to score as SQuAD 2.0: true answers without words do not count, and no answer is right
            where none is left.
    """
    return max(float(normal(answer) == words) for words in _words(golds, no_answer))


def f1(answer: str, golds: Sequence[str], no_answer: bool = False) -> float:
    """The best F1 of the answer's words against a true answer's, 0 to 1; arguments as of `exact_match`."""
    return max(_overlap(normal(answer), words, no_answer) for words in _words(golds, no_answer))


def _words(golds: Sequence[str], no_answer: bool) -> list[list[str]]:
    words = [normal(text) for text in golds]
    return ([some for some in words if some] or [[]]) if no_answer else words


def _overlap(answer: list[str], gold: list[str], no_answer: bool) -> float:
    if not answer and not gold:
        return float(no_answer)  # SQuAD 1.1's script gives 0
    return 2 * sum((Counter(answer) & Counter(gold)).values()) / (len(answer) + len(gold))


def best_threshold(difference: NDArray[np.float64], gain: NDArray[np.float64]) -> float:
    """Where the sum of gains is highest if the rows with a difference up to the threshold gain.

    Args:
        difference: Of each row (R,), the score of no answer less that of the best span.
        gain: Of each row (R,), how much better the span is than no answer.
    """
    steps, place = np.unique(np.nan_to_num(difference), return_inverse=True)  # (U,), (R,)
    sums = np.concatenate([[0.0], np.bincount(place, gain).cumsum()])  # (U + 1,)
    between = np.concatenate([steps[:1] - 1, (steps[:-1] + steps[1:]) / 2, steps[-1:] + 1])  # (U + 1,)
    return float(between[sums.argmax()])
