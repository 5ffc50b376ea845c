"""How far a score can be trusted: its 95% interval, and whether it beats the majority class.

The intervals say how much the score would differ on other rows of the same kind. They say nothing
about another seed, or about texts of another kind.
"""

import math
from collections.abc import Mapping

import torch
from scipy.stats import binomtest, norm
from torch import Tensor

LEVEL = 0.95


def accuracy_interval(right: int, total: int) -> tuple[float, float]:
    """Return the Wilson score interval of a share (Wilson 1927)."""
    interval = binomtest(right, total).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def correlation_interval(correlation: float, rows: int) -> tuple[float, float]:
    """Return the interval of a rank correlation: Fisher's z with the error of Bonett and Wright.

    (Bonett and Wright 2000, doi 10.1007/BF02294183.) With fewer than four rows it is -1 to 1.
    """
    if rows < 4 or abs(correlation) >= 1:
        return (-1.0, 1.0) if rows < 4 else (correlation, correlation)
    error = math.sqrt((1 + correlation**2 / 2) / (rows - 3))
    margin = float(norm.ppf(0.5 + LEVEL / 2)) * error
    z = math.atanh(correlation)
    return math.tanh(z - margin), math.tanh(z + margin)


def against_majority(matrix: Tensor) -> dict[str, float]:
    """Compare a classifier with the one that always answers the most frequent label.

    Both answer the same rows, so only those count that exactly one of them gets right (McNemar's
    test): `gain_low` is the lower end of the exact interval of the classifier's share of these
    rows. Above 0.5, the classifier is better than chance explains.

    Args:
        matrix: The counts (C, C) of true labels by predicted labels.

    Returns:
        `majority`: the share of the most frequent label. `gain_low`. `answers`: how many different
        labels the classifier gives.
    """
    rows = matrix.sum(1)
    majority = int(rows.argmax())
    won = int(matrix.diagonal().sum() - matrix[majority, majority])
    lost = int(rows[majority] - matrix[majority, majority])
    gain = binomtest(won, won + lost).proportion_ci(LEVEL).low if won + lost else 0.0
    return {
        "majority": int(rows[majority]) / int(rows.sum()),
        "gain_low": float(gain),
        "answers": float((matrix.sum(0) > 0).sum()),
    }


def details(values: Mapping[str, Tensor], rows: int, interval: bool) -> dict[str, float]:
    """Return what to know about the scores of a split, named after the score, as `accuracy/low`.

    Args:
        values: The metrics of the split; `confusion_matrix` (C, C) if each row has one label.
        rows: How many rows were scored.
        interval: Whether to add the intervals. They would mislead on the split that chose the best
            checkpoint, because the best of several scores is too high.
    """
    found: dict[str, float] = {}
    matrix = values.get("confusion_matrix")
    if matrix is not None and matrix.ndim == 2 and matrix.sum():
        counts = matrix.long().cpu()
        found |= {f"accuracy/{name}": value for name, value in against_majority(counts).items()}
        if interval:
            bounds = accuracy_interval(int(counts.diagonal().sum()), int(counts.sum()))
            found |= dict(zip(("accuracy/low", "accuracy/high"), bounds, strict=True))
    correlation = values.get("spearman")
    if interval and correlation is not None and torch.isfinite(correlation):
        bounds = correlation_interval(float(correlation), rows)
        found |= dict(zip(("spearman/low", "spearman/high"), bounds, strict=True))
    return found
