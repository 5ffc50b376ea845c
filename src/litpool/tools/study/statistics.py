"""What scores show: standard errors, planned comparisons, tables with simultaneous intervals.

Every score is written as the mean of one value per row. For accuracy that is 100 or 0. For a score
that is no mean (macro-F1, balanced accuracy, Spearman's correlation) it is the score plus the row's
influence on it (the infinitesimal jackknife; Jaeckel 1972, Efron 1982). So a difference of any two
scores is the mean of paired differences, and its standard error needs no resampling.

- Rows of one cluster (an author, equal texts) count together.
- With K folds, the train sets overlap. The variance of the mean over K x R folds is
  (1 / KR + 1 / (K - 1)) s^2 (Nadeau and Bengio 2003), where s^2 is the variance of the folds'
  differences, and at least what the rows alone would give: a fold's share of K times the variance
  of the mean over all rows.
- Few discordant rows leave a normal approximation too certain. The standard error is at least that
  of Bonett and Price (2012), one more row discordant in each direction, within each label where the
  score weights labels equally; and with fewer than 25, p is at least that of the exact McNemar
  test.
- The intervals of a table hold for all its lines at once: their critical value is the 95% quantile
  of the largest |t| of all lines under their joint distribution (single-step max-T; Romano and Wolf
  2005, Hothorn et al. 2008). The adjusted p comes from the same draws, so the two agree.

Scores, differences and standard errors are in points.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, multivariate_t, rankdata, t
from torch import Tensor

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]
LabelScore = Literal["accuracy", "macro_f1", "balanced_accuracy"]
Claim = Literal["beats", "behind", "equivalent", "not shown"]

MIN_ROWS = 20  # with fewer rows there are no intervals
MIN_CLUSTERS = 10  # nor with fewer clusters
LEVEL = 0.05
POWER = 0.8
FEW = 25  # discordant rows, below which the exact test counts
DRAWS = 19_999  # of the largest |t|


class Design(NamedTuple):
    """Which of the n scored rows depend on each other."""

    folds: Numbers  # (R, n), the fold of each row in R repeats, from 0; all 0 for one split
    clusters: Numbers  # (n,), from 0
    strata: Numbers | None = None  # (n,), the labels, where the score weights them equally

    @property
    def fold_count(self) -> int:
        """The number of folds, K."""
        return int(self.folds.max()) + 1

    @property
    def is_enough(self) -> bool:
        """Whether there are enough rows and clusters for an interval."""
        return len(self.clusters) >= MIN_ROWS and self.clusters.max() + 1 >= MIN_CLUSTERS


class Estimate(NamedTuple):
    """A score or a difference of two, with its standard error."""

    value: float
    error: float
    df: int  # degrees of freedom
    influence: Array  # (clusters,), the deviations that the error comes from

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Return the interval that covers the truth in 1 - level of all studies."""
        reach = float(t.isf(level / 2, self.df)) * self.error
        return self.value - reach, self.value + reach

    def p(self, points: float = 0.0) -> float:
        """Return the two-sided p value of `points` as the truth."""
        if self.error == 0:
            return float(self.value == points)
        return float(2 * t.sf(abs(self.value - points) / self.error, self.df))

    def equivalence_p(self, margin: float) -> float:
        """Return twice the p value of two one-sided tests (Schuirmann 1987) that |truth| < margin.

        Twice, so that it is under 0.05 where the 95% interval lies within the margin.
        """
        if self.error == 0:
            return float(abs(self.value) >= margin)
        return min(1.0, float(2 * t.sf((margin - abs(self.value)) / self.error, self.df)))

    def claim(self, margin: float) -> Claim:
        """Return what the estimate of a difference shows."""
        if self.p() < LEVEL:
            return "beats" if self.value > 0 else "behind"
        return "equivalent" if self.equivalence_p(margin) < LEVEL else "not shown"

    def rows_needed(self, rows: int, points: float) -> int:
        """Return how many rows show `points` with 80% power, to two digits.

        The standard error shrinks as 1 / sqrt(rows).
        """
        reach = float(t.isf(LEVEL / 2, self.df) + t.isf(1 - POWER, self.df))
        return int(float(f"{rows * (reach * self.error / points) ** 2:.1e}"))


class Line(NamedTuple):
    """A line of a table: simultaneous interval, adjusted p."""

    value: float
    low: float | None
    high: float | None
    p: float | None


# Values per row


def label_score(counts: Tensor, score: LabelScore) -> Tensor:
    """Return a score of labels in points from their counts.

    Labels that no row has are left out of the mean over labels.

    Args:
        counts: How often each label was both predicted and true, predicted, and true: (3, ...,
            labels).
        score: What to measure.
    """
    hits, predicted, gold = counts
    if score == "accuracy":
        return 100 * hits.sum(-1) / gold.sum(-1)
    hits, size = (2 * hits, predicted + gold) if score == "macro_f1" else (hits, gold)
    present = gold > 0
    return 100 * (hits / size.clamp(min=1) * present).sum(-1) / present.sum(-1)


def label_values(predicted: Array, gold: Array, score: LabelScore) -> Array:
    """Return the values (n,) whose mean is the same score of rows.

    Args:
        predicted: Indicators (n, labels): 1 for a label that is predicted, else 0.
        gold: The same for the truth.
        score: What to measure.
    """
    hits = predicted * gold
    if score == "accuracy":
        return 100 * hits.sum(1) / gold.sum(1)
    hits, size = (2 * hits, predicted + gold) if score == "macro_f1" else (hits, gold)
    present = gold.any(0)
    hits, size = hits[:, present], size[:, present]
    total = size.sum(0)  # (labels,)
    ratio = hits.sum(0) / total
    return 100 * (ratio + len(gold) * (hits - ratio * size) / total).mean(1)


def spearman_values(predicted: Array, gold: Array) -> Array:
    """Return the values (n,) whose mean is Spearman's correlation x 100 of two (n,).

    Ties share their mean rank. Without variation the score is 0.
    """
    first, second = (rankdata(part) - (len(gold) + 1) / 2 for part in (predicted, gold))
    one, two, both = first @ first, second @ second, first @ second
    if one * two == 0:
        return np.zeros(len(gold))
    # What one more copy of a row adds to the three sums: its own product, and what it adds to the
    # ranks of all rows above it.
    d_both = first * second + _above(first, second) + _above(second, first)
    d_one = first**2 + 2 * _above(first, first)
    d_two = second**2 + 2 * _above(second, second)
    correlation = both / np.sqrt(one * two)
    influence = d_both / np.sqrt(one * two) - correlation / 2 * (d_one / one + d_two / two)
    return 100 * (correlation + len(gold) * influence)


def _above(ranks: Array, values: Array) -> Array:
    """Sum for each row the values of the rows with higher ranks, and half of those with equal."""
    _, group = np.unique(ranks, return_inverse=True)
    sums = np.bincount(group, values)
    return (sums[::-1].cumsum()[::-1] - sums / 2)[group]


# Estimates


def estimate(values: Array, design: Design, right: Array | None = None) -> Estimate:
    """Estimate the mean of values, such as the differences of two cells' values.

    Args:
        values: (R, n), in points.
        design: Which rows depend on each other.
        right: For differences of labels' scores: how much more the first is right than the second,
            (R, n), -1 to 1.
    """
    value = values.mean()
    rows = values.mean(0) - value
    influence = np.bincount(design.clusters, rows) / len(rows)  # (clusters,)
    df = len(influence) - 1
    variance = float(influence @ influence) * len(influence) / max(1, df)
    if right is not None:
        variance = max(variance, _few_discordant(right.mean(0), design))
    if design.fold_count > 1:
        folds = (design.folds + design.fold_count * np.arange(len(values))[:, None]).ravel()
        means = np.bincount(folds, values.ravel()) / np.bincount(folds)
        spread = max(float(means.var(ddof=1)), design.fold_count * variance)
        variance = (1 / len(means) + 1 / (design.fold_count - 1)) * spread
        df = min(df, len(means) - 1)
    error = math.sqrt(variance)
    if right is not None:
        error = max(error, _exact(float(value), right.mean(0), design.clusters, df))
    return Estimate(float(value), error, max(1, df), influence)


def _few_discordant(right: Array, design: Design) -> float:
    """Return Bonett and Price's variance of a paired difference, in points squared."""
    strata = np.zeros(len(right), np.int64) if design.strata is None else design.strata
    gains, losses = (np.bincount(strata, part.clip(min=0)) for part in (right, -right))
    rows = np.bincount(strata)
    gains, losses, rows = gains[rows > 0], losses[rows > 0], rows[rows > 0] + 2
    first, second = (gains + 1) / rows, (losses + 1) / rows
    return float(1e4 * ((first + second - (first - second) ** 2) / rows).sum() / len(rows) ** 2)


def _exact(value: float, right: Array, clusters: Numbers, df: int) -> float:
    """Return the standard error with which `value` has the p of an exact McNemar test.

    It is 0 with enough discordant clusters, or where that p is so high that it decides nothing.
    """
    net = np.bincount(clusters, right).round(9)
    gains, discordant = np.count_nonzero(net > 0), np.count_nonzero(net)
    if not 0 < discordant < FEW:
        return 0.0
    p = binomtest(gains, discordant).pvalue
    return abs(value) / float(t.isf(p / 2, df)) if p < 0.5 else 0.0


def simultaneous(estimates: Sequence[Estimate], seed: int) -> list[Line]:
    """Give the lines of a table intervals that hold at once, and adjusted p values.

    Args:
        estimates: Of the lines; one without an error has no interval.
        seed: The seed of the draws.
    """
    varying = [line for line in estimates if line.error > 0]
    if not varying:
        return [Line(line.value, None, None, None) for line in estimates]
    df = min(line.df for line in varying)
    influence = np.stack([line.influence for line in varying])
    lengths = np.linalg.norm(influence, axis=1, keepdims=True)
    unit = influence / np.where(lengths > 0, lengths, 1)
    shape = unit @ unit.T
    np.fill_diagonal(shape, 1)
    draws = multivariate_t(shape=shape, df=df, allow_singular=True, seed=seed).rvs(DRAWS)
    largest = np.sort(np.abs(draws.reshape(DRAWS, -1)).max(1))
    # p < LEVEL is 1 + (draws as large) < LEVEL (DRAWS + 1): beyond this draw, counted from the top.
    critical = largest[-round(LEVEL * (DRAWS + 1)) + 1]
    lines = []
    for line in estimates:
        if line.error == 0:
            lines.append(Line(line.value, None, None, None))
            continue
        reach = critical * line.error
        as_large = DRAWS - np.searchsorted(largest, abs(line.value) / line.error)
        p = (1 + as_large) / (1 + DRAWS)
        lines.append(Line(line.value, line.value - reach, line.value + reach, float(p)))
    return lines
