"""What a study's test scores allow to say: bootstrap intervals, paired comparisons, and one sentence.

A cell is a pooling of a layer; its outcomes are one number for each of n test examples. The intervals are percentiles
over B resamples of the examples (Efron and Tibshirani, An Introduction to the Bootstrap, 1993), the same resamples for
all cells, so that differences are paired. A resample is kept as how often it drew each example, (n,): a mean is then a
product of matrices, and ranks are sums over examples that were sorted once. Scores and differences are in points.

Two questions are asked, and each has its own answer to having looked at many cells:

- Which poolings differ from the baseline? One test each, Holm-corrected (Holm, 1979) over all of them. The interval
  beside it is of this difference alone, and of the largest of many differences it is somewhat too high.
- Is the best the best? It was picked by its test score, so it must differ from each of the others: p is the largest of
  these paired tests, which holds after such a pick without a further correction (arXiv 1610.03944, 2503.01065).

Layers and probe strengths must have been chosen on other examples. What another train split would change is not told.
"""

from collections.abc import Callable, Iterator, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from litpool import InputError

Array = NDArray[np.float64]
Score = Callable[
    [Array, Array], Array
]  # outcomes (cells, n) and counts of draws (n, B) -> points (cells, B)

ENOUGH = 20  # test examples, below which there are no intervals
LEVEL = 0.05
ENTRIES = 2**21  # of one array of a chunk of resamples, 16 MiB


class Estimate(NamedTuple):
    """A cell's score in points, with its 95% interval where there are enough examples."""

    value: float
    low: float | None = None
    high: float | None = None


class Comparison(NamedTuple):
    """By how many points `first` scores over `second`: 95% interval, standard error, two-sided p."""

    first: str
    second: str
    difference: float
    low: float
    high: float
    error: float
    p: float


class Analysis(NamedTuple):
    """All that is said of the cells; without comparisons where there are too few examples or only one cell."""

    estimates: list[Estimate]  # one a cell
    against_baseline: list[Comparison]  # each other cell - baseline; p is Holm-corrected
    lead: Comparison | None  # best - runner-up by test score; p is against all the others
    verdict: str


def accuracy(outcomes: Array, counts: Array) -> Array:
    """Mean x 100 of outcomes (cells, n): 1 where the answer was right and 0 where not, or the share that was right."""
    return 100 * (outcomes @ counts) / counts.sum(0)


def spearman(gold: Array) -> Score:
    """The score of predictions (cells, n) by their Spearman correlation x 100 with `gold` (n,).

    Ties have the mean of their ranks, in each resample anew. Without any variation the correlation is 0.
    """

    def score(outcomes: Array, counts: Array) -> Array:
        right = _centred_ranks(gold, counts)  # (n, B)
        weighted = right * counts
        spread = np.einsum("nb,nb->b", weighted, right)  # (B,)
        return np.stack(
            [
                _correlation(_centred_ranks(row, counts), weighted, spread, counts)
                for row in outcomes
            ]
        )

    return score


def _centred_ranks(values: Array, counts: Array) -> Array:
    """Ranks of the examples in each resample, less the mean rank: `values` (n,), `counts` (n, B) -> (n, B)."""
    _, group, size = np.unique(
        values, return_inverse=True, return_counts=True
    )  # group (n,), size (groups,)
    starts = np.cumsum(size) - size
    drawn = np.add.reduceat(counts[np.argsort(group, kind="stable")], starts, axis=0)  # (groups, B)
    ranks = np.cumsum(drawn, axis=0) - drawn / 2 - counts.sum(0) / 2
    return ranks[group]


def _correlation(left: Array, weighted_right: Array, spread_right: Array, counts: Array) -> Array:
    """Pearson correlation x 100 of centred `left` (n, B) with another, given times `counts`, and its spread (B,)."""
    spread = np.einsum("nb,nb,nb->b", left, left, counts) * spread_right
    covariance = np.einsum("nb,nb->b", left, weighted_right)
    return 100 * np.divide(covariance, np.sqrt(spread), out=np.zeros_like(spread), where=spread > 0)


def observe(outcomes: Array, score: Score) -> Array:
    """The scores (cells,) of outcomes (cells, n)."""
    return score(outcomes, np.ones((outcomes.shape[1], 1)))[:, 0]


def bootstrap(outcomes: Array, score: Score, resamples: int = 10_000, seed: int = 0) -> Array:
    """Scores (cells, B) of outcomes (cells, n) in B resamples, which depend on n, B and the seed only."""
    return np.concatenate(
        [score(outcomes, counts) for counts in _draws(outcomes.shape[1], resamples, seed)], axis=1
    )


def _draws(examples: int, resamples: int, seed: int) -> Iterator[Array]:
    """How often each example is drawn, (n, some of B), until all B resamples are through."""
    generator = np.random.default_rng(seed)
    chunk = max(1, ENTRIES // examples)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        drawn = (
            generator.integers(examples, size=(size, examples))
            + examples * np.arange(size)[:, None]
        )
        counts = np.bincount(drawn.ravel(), minlength=size * examples).reshape(size, examples)
        yield np.ascontiguousarray(counts.T, dtype=np.float64)


def estimates(
    outcomes: Array, score: Score, resamples: int = 10_000, seed: int = 0
) -> list[Estimate]:
    """The score of each cell of outcomes (cells, n), with its interval if there are 20 examples or more."""
    resampled = bootstrap(outcomes, score, resamples, seed) if outcomes.shape[1] >= ENOUGH else None
    return _estimates(observe(outcomes, score), resampled)


def _estimates(observed: Array, resampled: Array | None) -> list[Estimate]:
    if resampled is None:
        return [Estimate(float(value)) for value in observed]
    low, high = np.percentile(resampled, [100 * LEVEL / 2, 100 * (1 - LEVEL / 2)], axis=1)
    return [Estimate(*map(float, row)) for row in zip(observed, low, high, strict=True)]


def holm(p: Sequence[float]) -> list[float]:
    """The p values corrected for their number, in the order given (Holm, 1979)."""
    order = np.argsort(p, kind="stable")
    corrected = np.maximum.accumulate(np.asarray(p)[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return corrected[np.argsort(order, kind="stable")].tolist()


def examples_needed(
    error: float, examples: int, points: float, level: float = LEVEL, power: float = 0.8
) -> float:
    """Test examples with which a difference of that many points is shown at `level` with `power`.

    `error` is the standard error of the difference, in points, with `examples`; it shrinks as 1/sqrt(n).
    """
    reach = NormalDist().inv_cdf(1 - level / 2) + NormalDist().inv_cdf(power)
    return examples * (reach * error / points) ** 2


def analyse(
    names: Sequence[str],
    outcomes: Array,
    score: Score,
    baseline: int,
    unit: str = "examples",
    resamples: int = 10_000,
    seed: int = 0,
) -> Analysis:
    """Scores, comparisons and verdict for one cell of each pooling, its layer chosen on validation.

    Args:
        names: Of the cells, such as `MeanPooling of layer 6`.
        outcomes: (cells, n), what `score` takes.
        score: `accuracy`, or `spearman(gold)`.
        baseline: The position of [CLS] among the cells.
        unit: What the verdict calls the examples.
        resamples: B; p is 1/(B+1) or more before Holm's correction.
        seed: Of the resamples.

    Raises:
        InputError: An outcome is not finite.
    """
    if strange := [
        name for name, row in zip(names, outcomes, strict=True) if not np.isfinite(row).all()
    ]:
        raise InputError(
            f"{strange[0]}: some of its test outcomes are not finite; leave it out or mend its vectors"
        )
    outcomes = outcomes.astype(np.float64)
    observed = observe(outcomes, score)
    resampled = bootstrap(outcomes, score, resamples, seed) if outcomes.shape[1] >= ENOUGH else None
    found = Analysis(_estimates(observed, resampled), [], None, "")
    if resampled is not None and len(names) > 1:
        against = [
            _compare(names, observed, resampled, cell, baseline)
            for cell in _others(len(names), baseline)
        ]
        corrected = holm([comparison.p for comparison in against])
        against = [
            comparison._replace(p=p) for comparison, p in zip(against, corrected, strict=True)
        ]
        found = found._replace(against_baseline=against, lead=_lead(names, observed, resampled))
    return found._replace(verdict=_verdict(found, names, baseline, outcomes.shape[1], unit))


def _others(cells: int, cell: int) -> list[int]:
    return [other for other in range(cells) if other != cell]


def _compare(
    names: Sequence[str], observed: Array, resampled: Array, first: int, second: int
) -> Comparison:
    """A paired test: how often resampled differences stray as far from the observed one as that is from 0."""
    difference = float(observed[first] - observed[second])
    differences = resampled[first] - resampled[second]  # (B,)
    low, high = np.percentile(differences, [100 * LEVEL / 2, 100 * (1 - LEVEL / 2)])
    as_far = np.count_nonzero(
        np.abs(differences - difference) >= abs(difference) - 1e-9
    )  # but for rounding
    error, p = float(differences.std()), float((1 + as_far) / (1 + len(differences)))
    return Comparison(names[first], names[second], difference, float(low), float(high), error, p)


def _lead(names: Sequence[str], observed: Array, resampled: Array) -> Comparison:
    best, runner_up = np.argsort(-observed, kind="stable")[:2]
    p = [_compare(names, observed, resampled, best, other).p for other in _others(len(names), best)]
    return _compare(names, observed, resampled, best, runner_up)._replace(p=max(p))


def _verdict(found: Analysis, names: Sequence[str], baseline: int, examples: int, unit: str) -> str:
    """The one sentence."""
    if len(names) == 1:
        return f"{names[0]} is the only pooling: there is nothing to compare it with"
    if found.lead is None:
        return _too_few(found, names, baseline, examples, unit)
    better = [one for one in found.against_baseline if one.p < LEVEL and one.difference > 0]
    worse = [one for one in found.against_baseline if one.p < LEVEL and one.difference < 0]
    if better:
        best = max(better, key=lambda comparison: comparison.difference)
        size = f"{best.difference:.1f} points (95% CI {best.low:.1f} to {best.high:.1f}"
        return (
            f"Here {best.first} beats {best.second} by {size}, {_p(best.p)}, {examples:,} {unit})"
        )
    if found.lead.first == names[baseline] and found.lead.p < LEVEL:
        size = f"{found.lead.difference:.1f} points or more (95% CI {found.lead.low:.1f} to {found.lead.high:.1f}"
        rival = f"against {found.lead.second}, {_p(found.lead.p)}, {examples:,} {unit})"
        return f"Here {names[baseline]} is ahead of all others by {size} {rival}"
    claim = (
        f"better than [CLS] with {examples:,} {unit}, and {len(worse)} of {len(names) - 1} worse"
    )
    claim = claim if worse else f"distinguishable from [CLS] with {examples:,} {unit}"
    return f"no pooling is {claim}{_outlook(found, examples)}"


def _too_few(found: Analysis, names: Sequence[str], baseline: int, examples: int, unit: str) -> str:
    """Scores without intervals."""
    scores = [estimate.value for estimate in found.estimates]
    best = int(np.argmax(scores))
    rival = "" if best == baseline else f", {names[baseline]} {scores[baseline]:.1f}"
    few = f"{examples:,} test {unit} are too few for intervals, {ENOUGH} are needed"
    return f"{few}; {names[best]} scores highest, {scores[best]:.1f}{rival}"


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _outlook(found: Analysis, examples: int) -> str:
    """How many examples would show a difference between the best other pooling and the baseline."""
    rival = max(found.against_baseline, key=lambda comparison: comparison.difference)
    level = LEVEL / len(found.against_baseline)  # what Holm's correction asks of the first one
    for points in (2, 1, 0.5, 0.2, 0.1):  # the first that is not shown by the examples there are
        needed = examples_needed(rival.error, examples, points, level)
        if needed > examples:
            rounded = int(float(f"{needed:.1e}"))  # two digits
            return f"; about {rounded:,} would show a difference of {points:g} point{'s' if points != 1 else ''}"
    return ""
