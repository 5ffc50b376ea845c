"""Scores as labels: their range, and the check that every one is a number within it."""

import math
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from litpool import InputError

if TYPE_CHECKING:  # slow to import, and not needed until there are rows
    from datasets import Dataset

Bounds = tuple[float, float]


def score_bounds(score_range: Bounds) -> Bounds:
    """The lowest and the highest score; refuses an empty range."""
    low, high = score_range
    if not low < high:
        raise InputError(
            f"task.score_range={list(score_range)}: give the lowest score, then the highest"
        )
    return low, high


def check_scores(
    splits: Mapping[str, "Dataset"], column: str, bounds: Bounds | None
) -> dict[str, list[float]]:
    """The scores of each split.

    Raises:
        InputError: One is not a finite number, or is out of bounds.
    """
    low, high = bounds or (-sys.float_info.max, sys.float_info.max)
    must = f"a number from {low:g} to {high:g}; correct the row, or set task.score_range"
    if bounds is None:
        must = "a number"
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
                    f"must be {must}"
                )
            scores[split].append(score)
    return scores
