"""Gold answers to questions, and how the scripts of SQuAD and KorQuAD score an answer against them.

KorQuAD 1.0's script differs from SQuAD's in two points. A Korean particle is written without a
space after its noun, so F1 counts characters, not words. And it knows no articles, but replaces
quotation marks and brackets with spaces before it removes the other punctuation.
"""

import re
import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

AnswerMetric = Literal["squad", "korquad"]
Gold = tuple[str, int]  # a correct answer's text, and the character of the context where it begins

ARTICLES = re.compile(r"\b(a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
NO_BRACKETS = str.maketrans(dict.fromkeys("'\"()<>《》〈〉‘’", " "))  # KorQuAD's list


def answer_cells(
    columns: Mapping[str, Any], answers: str, context: str
) -> Iterator[tuple[Any, str, Any]]:
    """Return each row's answers, context and offset; `answers` and `context` name columns."""
    contexts = columns[context]
    starts = columns["answer_start"] if "answer_start" in columns else [None] * len(contexts)
    return zip(columns[answers], contexts, starts, strict=True)


def read_golds(cell: Any, context: str, start: Any) -> list[Gold]:
    """Return the gold answers of one row, without empty ones."""
    if isinstance(cell, str):
        golds = [(cell, context.find(cell) if start is None else start)]
    elif isinstance(cell, Mapping):
        golds = list(zip(cell["text"], cell["answer_start"], strict=True))
    else:
        golds = [(gold["text"], gold["answer_start"]) for gold in cell]
    return [(text, int(offset)) for text, offset in golds if text.strip()]


def read_all_golds(columns: Mapping[str, Any], answers: str, context: str) -> list[list[Gold]]:
    """Return the gold answers of each row; `answers` and `context` name columns."""
    return [read_golds(*cell) for cell in answer_cells(columns, answers, context)]


def find_fault(cell: Any, context: str, start: Any, no_answer: bool) -> str | None:
    """Return what is wrong with the gold answers of one row and how to fix it; None if nothing."""
    try:
        golds = read_golds(cell, context, start)
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
    for text, offset in golds:
        if offset < 0:
            return (
                f"the answer {text[:60]!r} has the offset {offset}, must be 0 or more; "
                "correct the answer or the context"
            )
        if not context.startswith(text, offset):
            actual = context[offset : offset + min(len(text), 60)]
            return (
                f"the answer {text[:60]!r} is not at its offset {offset}, where the context has "
                f"{actual!r}; correct answer_start, counted in characters from 0"
            )
    return None


def describe_row(columns: Mapping[str, Any], number: int) -> str:
    """Return what a person can find a row by: its article and id, or its number."""
    title = f"article {columns['title'][number]!r}, " if "title" in columns else ""
    row = f"question {columns['id'][number]!r}" if "id" in columns else f"row {number + 1}"
    return title + row


def normalize(text: str, metric: AnswerMetric = "squad") -> list[str]:
    """Return the words to compare answers by: lower case, without punctuation and articles."""
    text = text.lower()
    if metric == "korquad":
        return text.translate(NO_BRACKETS).translate(NO_PUNCTUATION).split()
    return ARTICLES.sub(" ", text.translate(NO_PUNCTUATION)).split()


def exact_match(
    answer: str, golds: Sequence[str], no_answer: bool = False, metric: AnswerMetric = "squad"
) -> float:
    """Return 1 if the answer has the same words as one of the gold answers, else 0.

    Args:
        answer: The text, empty for no answer.
        golds: The texts of the gold answers.
        no_answer: Whether to score as in SQuAD 2.0: gold answers without words do not count, and if
            there are no others, giving no answer is correct.
        metric: Whose words: those of SQuAD's script, or of KorQuAD's.
    """
    words = normalize(answer, metric)
    return max(float(words == gold) for gold in _gold_words(golds, no_answer, metric))


def f1(
    answer: str, golds: Sequence[str], no_answer: bool = False, metric: AnswerMetric = "squad"
) -> float:
    """Return the best F1, 0 to 1, of the answer's words against those of a gold answer.

    For `korquad`, of its characters. The arguments are those of `exact_match`.
    """
    golds_words = _gold_words(golds, no_answer, metric)
    words = normalize(answer, metric)
    if metric == "korquad":
        return max(_overlap("".join(words), "".join(gold), no_answer) for gold in golds_words)
    return max(_overlap(words, gold, no_answer) for gold in golds_words)


def _gold_words(golds: Sequence[str], no_answer: bool, metric: AnswerMetric) -> list[list[str]]:
    golds_words = [normalize(text, metric) for text in golds]
    if no_answer:
        return [words for words in golds_words if words] or [[]]
    return golds_words


def _overlap(answer: Sequence[str], gold: Sequence[str], no_answer: bool) -> float:
    """Return the F1 of two bags of words, or of characters."""
    if not answer and not gold:
        return float(no_answer)  # the scripts of SQuAD 1.1 and KorQuAD give 0
    return 2 * sum((Counter(answer) & Counter(gold)).values()) / (len(answer) + len(gold))


def best_threshold(difference: NDArray[np.float64], gain: NDArray[np.float64]) -> float:
    """Return the threshold with the highest total gain of the rows at or below it.

    Args:
        difference: For each row (R,), the score of no answer minus that of the best span.
        gain: For each row (R,), how much better the span is than no answer.
    """
    steps, place = np.unique(np.nan_to_num(difference), return_inverse=True)  # (U,), (R,)
    sums = np.concatenate([[0.0], np.bincount(place, gain).cumsum()])  # (U + 1,)
    middles = (steps[:-1] + steps[1:]) / 2
    thresholds = np.concatenate([steps[:1] - 1, middles, steps[-1:] + 1])  # (U + 1,)
    return float(thresholds[sums.argmax()])
