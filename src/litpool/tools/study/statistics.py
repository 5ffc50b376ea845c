"""What a study's test scores show: bootstrap intervals, paired comparisons, and a verdict.

A cell is a pooling of a layer; its outcomes are one number for each of n test examples. Intervals
are percentiles over B resamples of the examples (Efron and Tibshirani, An Introduction to the
Bootstrap, 1993). All cells share the resamples, so that differences are paired. A resample is
stored as how often it drew each example, (n,): a mean is then a matrix product, and ranks are sums
over examples that were sorted once. Scores and differences are in points.

There are two questions, and each corrects for the number of cells in its own way:

- Which poolings differ from the baseline? One test each, Holm-corrected (Holm, 1979) over all of
  them. The interval next to p is not corrected, so that of the largest difference is somewhat too
  high.
- Is the best pooling really the best? It was picked by its test score, so it must differ from each
  of the others: p is the largest of these paired tests, which is valid after such a pick without
  further correction (arXiv 1610.03944, 2503.01065).

Layers and the probes' C must have been chosen on other examples. The intervals do not cover what
another train split would change.
"""

from collections.abc import Callable, Iterator, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from litpool import InputError

Array = NDArray[np.float64]
Score = Callable[[Array, Array], Array]  # outcomes (cells, n), counts (n, B) -> points

MIN_EXAMPLES = 20  # test examples; with fewer there are no intervals
LEVEL = 0.05
CHUNK = 2**21  # entries of an array of resamples, 16 MiB


class Estimate(NamedTuple):
    """A cell's score in points, with its 95% interval if there are enough examples."""

    value: float
    low: float | None = None
    high: float | None = None


class Comparison(NamedTuple):
    """How many points `first` is ahead of `second`: 95% interval, standard error, two-sided p."""

    first: str
    second: str
    difference: float
    low: float
    high: float
    error: float
    p: float


class Analysis(NamedTuple):
    """The results; without comparisons if there are too few examples or only one cell."""

    estimates: list[Estimate]  # one per cell
    against_baseline: list[Comparison]  # every other cell - baseline; p is Holm-corrected
    lead: Comparison | None  # best - runner-up by test score; p is against all others
    verdict: str


def accuracy(outcomes: Array, counts: Array) -> Array:
    """Return the mean x 100 of outcomes (cells, n): 1 right, 0 wrong, or a share."""
    return 100 * (outcomes @ counts) / counts.sum(0)


def spearman(gold: Array) -> Score:
    """Return a score of predictions (cells, n): Spearman's correlation x 100 with `gold` (n,).

    Each resample ranks anew, and ties share their mean rank. Without variation the score is 0.
    """

    def score(outcomes: Array, counts: Array) -> Array:
        right = _centered_ranks(gold, counts)  # (n, B)
        weighted = right * counts
        spread = np.einsum("nb,nb->b", weighted, right)  # (B,)
        return np.stack(
            [
                _correlation(_centered_ranks(row, counts), weighted, spread, counts)
                for row in outcomes
            ]
        )

    return score


def _centered_ranks(values: Array, counts: Array) -> Array:
    """Rank `values` (n,) in each resample, minus the mean rank: `counts` (n, B) -> (n, B)."""
    # group (n,), size (groups,)
    _, group, size = np.unique(values, return_inverse=True, return_counts=True)
    starts = np.cumsum(size) - size
    drawn = np.add.reduceat(counts[np.argsort(group, kind="stable")], starts, axis=0)  # (groups, B)
    ranks = np.cumsum(drawn, axis=0) - drawn / 2 - counts.sum(0) / 2
    return ranks[group]


def _correlation(left: Array, weighted_right: Array, spread_right: Array, counts: Array) -> Array:
    """Return Pearson's correlation x 100 of centered `left` and right, (B,).

    Right comes as its product with `counts` (n, B), and as its spread (B,).
    """
    spread = np.einsum("nb,nb,nb->b", left, left, counts) * spread_right
    covariance = np.einsum("nb,nb->b", left, weighted_right)
    return 100 * np.divide(covariance, np.sqrt(spread), out=np.zeros_like(spread), where=spread > 0)


def observe(outcomes: Array, score: Score) -> Array:
    """Return the scores (cells,) of outcomes (cells, n)."""
    return score(outcomes, np.ones((outcomes.shape[1], 1)))[:, 0]


def bootstrap(outcomes: Array, score: Score, resamples: int = 10_000, seed: int = 0) -> Array:
    """Return the scores (cells, B) in B resamples, which depend only on n, B and the seed."""
    return np.concatenate(
        [score(outcomes, counts) for counts in _draws(outcomes.shape[1], resamples, seed)], axis=1
    )


def _draws(examples: int, resamples: int, seed: int) -> Iterator[Array]:
    """Yield how often each example is drawn, (n, chunk), until there are B resamples."""
    generator = np.random.default_rng(seed)
    chunk = max(1, CHUNK // examples)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        drawn = generator.integers(examples, size=(size, examples))
        drawn += examples * np.arange(size)[:, None]  # a range of numbers per resample
        counts = np.bincount(drawn.ravel(), minlength=size * examples).reshape(size, examples)
        yield np.ascontiguousarray(counts.T, dtype=np.float64)


def estimates(
    outcomes: Array, score: Score, resamples: int = 10_000, seed: int = 0
) -> list[Estimate]:
    """Return the score of each cell, with an interval if there are 20 examples or more."""
    resampled = (
        bootstrap(outcomes, score, resamples, seed) if outcomes.shape[1] >= MIN_EXAMPLES else None
    )
    return _estimates(observe(outcomes, score), resampled)


def _estimates(observed: Array, resampled: Array | None) -> list[Estimate]:
    if resampled is None:
        return [Estimate(float(value)) for value in observed]
    low, high = np.percentile(resampled, [100 * LEVEL / 2, 100 * (1 - LEVEL / 2)], axis=1)
    return [Estimate(*map(float, row)) for row in zip(observed, low, high, strict=True)]


def holm(p: Sequence[float]) -> list[float]:
    """Correct p values for their number, in the same order (Holm, 1979)."""
    order = np.argsort(p, kind="stable")
    corrected = np.maximum.accumulate(np.asarray(p)[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return corrected[np.argsort(order, kind="stable")].tolist()


def examples_needed(
    error: float, examples: int, points: float, level: float = LEVEL, power: float = 0.8
) -> float:
    """Return how many test examples show a difference of `points` at `level` with `power`.

    `error` is the standard error of the difference with `examples`, in points; it shrinks as
    1/sqrt(n).
    """
    reach = NormalDist().inv_cdf(1 - level / 2) + NormalDist().inv_cdf(power)
    return examples * (reach * error / points) ** 2


def analyze(
    names: Sequence[str],
    outcomes: Array,
    score: Score,
    baseline: int,
    unit: str = "examples",
    resamples: int = 10_000,
    seed: int = 0,
) -> Analysis:
    """Score and compare one cell of each pooling, its layer chosen on validation.

    Args:
        names: The names of the cells, such as `MeanPooling of layer 6`.
        outcomes: (cells, n), the input of `score`.
        score: `accuracy`, or `spearman(gold)`.
        baseline: The position of [CLS] among the cells.
        unit: The word for examples in the verdict.
        resamples: B; p is 1/(B+1) or more before Holm's correction.
        seed: The seed of the resamples.

    Raises:
        InputError: An outcome is not finite.
    """
    for name, row in zip(names, outcomes, strict=True):
        if not np.isfinite(row).all():
            raise InputError(
                f"{name}: some of its test outcomes are not finite; leave it out or fix its vectors"
            )
    outcomes = outcomes.astype(np.float64)
    observed = observe(outcomes, score)
    resampled = (
        bootstrap(outcomes, score, resamples, seed) if outcomes.shape[1] >= MIN_EXAMPLES else None
    )
    analysis = Analysis(_estimates(observed, resampled), [], None, "")
    if resampled is not None and len(names) > 1:
        against = [
            _compare(names, observed, resampled, cell, baseline)
            for cell in _others(len(names), baseline)
        ]
        corrected = holm([comparison.p for comparison in against])
        against = [
            comparison._replace(p=p) for comparison, p in zip(against, corrected, strict=True)
        ]
        lead = _lead(names, observed, resampled)
        analysis = analysis._replace(against_baseline=against, lead=lead)
    return analysis._replace(verdict=_verdict(analysis, names, baseline, outcomes.shape[1], unit))


def _others(cells: int, cell: int) -> list[int]:
    return [other for other in range(cells) if other != cell]


def _compare(
    names: Sequence[str], observed: Array, resampled: Array, first: int, second: int
) -> Comparison:
    """Test how often resampled differences stray as far from the observed one as that is from 0."""
    difference = float(observed[first] - observed[second])
    differences = resampled[first] - resampled[second]  # (B,)
    low, high = np.percentile(differences, [100 * LEVEL / 2, 100 * (1 - LEVEL / 2)])
    deviations = np.abs(differences - difference)
    as_far = np.count_nonzero(deviations >= abs(difference) - 1e-9)  # 1e-9: rounding
    error = float(differences.std())
    p = float((1 + as_far) / (1 + len(differences)))
    return Comparison(names[first], names[second], difference, float(low), float(high), error, p)


def _lead(names: Sequence[str], observed: Array, resampled: Array) -> Comparison:
    best, runner_up = np.argsort(-observed, kind="stable")[:2]
    p = [_compare(names, observed, resampled, best, other).p for other in _others(len(names), best)]
    return _compare(names, observed, resampled, best, runner_up)._replace(p=max(p))


def _verdict(
    analysis: Analysis, names: Sequence[str], baseline: int, examples: int, unit: str
) -> str:
    """Say the result in one sentence."""
    if len(names) == 1:
        return f"{names[0]} is the only pooling: there is nothing to compare it with"
    lead = analysis.lead
    if lead is None:
        return _too_few(analysis, names, baseline, examples, unit)
    significant = [pair for pair in analysis.against_baseline if pair.p < LEVEL]
    better = [comparison for comparison in significant if comparison.difference > 0]
    worse = [comparison for comparison in significant if comparison.difference < 0]
    if better:
        best = max(better, key=lambda comparison: comparison.difference)
        interval = f"95% CI {best.low:.1f} to {best.high:.1f}"
        return (
            f"Here {best.first} beats {best.second} by {best.difference:.1f} points "
            f"({interval}, {_p(best.p)}, {examples:,} {unit})"
        )
    if lead.first == names[baseline] and lead.p < LEVEL:
        interval = f"95% CI {lead.low:.1f} to {lead.high:.1f} against {lead.second}"
        return (
            f"Here {names[baseline]} is ahead of all others by {lead.difference:.1f} points or "
            f"more ({interval}, {_p(lead.p)}, {examples:,} {unit})"
        )
    claim = f"distinguishable from [CLS] with {examples:,} {unit}"
    if worse:
        others = len(names) - 1
        claim = f"better than [CLS] with {examples:,} {unit}, and {len(worse)} of {others} worse"
    return f"no pooling is {claim}{_outlook(analysis, examples)}"


def _too_few(
    analysis: Analysis, names: Sequence[str], baseline: int, examples: int, unit: str
) -> str:
    """Name the best score, without intervals."""
    scores = [estimate.value for estimate in analysis.estimates]
    best = int(np.argmax(scores))
    rival = "" if best == baseline else f", {names[baseline]} {scores[baseline]:.1f}"
    few = f"{examples:,} test {unit} are too few for intervals, {MIN_EXAMPLES} are needed"
    return f"{few}; {names[best]} scores highest, {scores[best]:.1f}{rival}"


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _outlook(analysis: Analysis, examples: int) -> str:
    """Say how many examples would show that the best other pooling differs from the baseline."""
    rival = max(analysis.against_baseline, key=lambda comparison: comparison.difference)
    level = LEVEL / len(analysis.against_baseline)  # Holm's correction of the smallest p
    for points in (2, 1, 0.5, 0.2, 0.1):  # the first that these examples cannot show
        needed = examples_needed(rival.error, examples, points, level)
        if needed > examples:
            rounded = int(float(f"{needed:.1e}"))  # two digits
            word = "point" if points == 1 else "points"
            return f"; about {rounded:,} would show a difference of {points:g} {word}"
    return ""
