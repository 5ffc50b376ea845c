"""Scores as labels: their range, how they are checked, and the largest errors."""

import math
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from litpool import InputError
from litpool.tasks.task import Mistake

if TYPE_CHECKING:
    from datasets import Dataset

Bounds = tuple[float, float]


def score_bounds(score_range: Bounds) -> Bounds:
    """Return the lowest and the highest score; refuse an empty range."""
    low, high = score_range
    if not low < high:
        raise InputError(
            f"task.score_range={list(score_range)}: give the lowest score, then the highest"
        )
    return low, high


def check_scores(
    splits: Mapping[str, "Dataset"], column: str, bounds: Bounds | None
) -> dict[str, list[float]]:
    """Return the scores of each split.

    Raises:
        InputError: A score is not a finite number, or is out of bounds.
    """
    low, high = bounds or (-sys.float_info.max, sys.float_info.max)
    allowed = "a number"
    if bounds:
        allowed = f"a number from {low:g} to {high:g}; correct the row, or set task.score_range"
    scores: dict[str, list[float]] = {split: [] for split in splits}
    for split, rows in splits.items():
        for number, value in enumerate(rows[column][:], start=1):
            try:
                score = float(value)
            except (TypeError, ValueError):
                score = math.nan
            if not low <= score <= high:
                raise InputError(
                    f"the {split} split, row {number}: {column!r} is {str(value)[:40]!r}, "
                    f"must be {allowed}"
                )
            scores[split].append(score)
    return scores


def score_mistakes(predicted: Tensor, true: Tensor) -> list[Mistake]:
    """Return all rows, the largest error first; both tensors are (N,)."""
    error = (predicted - true).abs()
    mistakes = []
    for row in error.argsort(descending=True).tolist():
        texts = f"{true[row]:.2f}", f"{predicted[row]:.2f}"
        mistakes.append(Mistake(row, *texts, float(error[row])))
    return mistakes
