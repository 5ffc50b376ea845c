"""Whether the winner really beats the config as it is: one sentence about the test split.

Both are trained with the same fresh seeds and scored on the same test rows, which had no part in
the choice of the winner. The difference depends on both, and both would be others the next time:

- its variance over seeds is that of the mean of the paired differences;
- its variance over rows is that of the delete-a-group jackknife (Shao and Tu 1995, section 2.3) of
  the difference, averaged over the seeds. Two rows that decide differently, one each way, are added
  to it: few such rows leave a normal approximation too certain (Bonett and Price 2012).

The half-width of the interval is the root of t^2 x variance, summed over both, each with its own
degrees of freedom: such an interval covers at least as often as it says (Banerjee 1961), and few
seeds widen it only as far as seeds matter. What a row adds by chance in one training is in both
variances, which errs on the safe side too.

The rows of the train split are the same in all trainings: what other ones would change is not in
the interval, and the sentence says so.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

Array = NDArray[np.float64]
Verdict = Literal["beats", "behind", "not shown"]

LEVEL = 0.05
MIN_ROWS = 20  # test rows, below which there is no interval
MIN_CLUSTERS = 10  # nor with fewer independent ones


class Difference(NamedTuple):
    """How many points the winner is ahead, with a 95% interval."""

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> Verdict:
        """What the interval shows."""
        if self.low > 0:
            return "beats"
        return "behind" if self.high < 0 else "not shown"


def difference(first: Array, second: Array, rows: int) -> Difference:
    """Estimate a difference of test scores.

    Args:
        first: The scores of a config, (S, 1 + G), of S seeds, 0 to 1: of all rows, and without each
            of G groups of rows.
        second: Those of the other config, of the same seeds and the same groups.
        rows: The number of test rows.
    """
    gains = 100 * (first - second)
    seeds, columns = gains.shape
    groups = columns - 1
    value = float(gains[:, 0].mean())
    over_seeds = float(gains[:, 0].var(ddof=1)) / seeds
    over_rows = (groups - 1) * float(gains[:, 1:].mean(0).var()) + 2 * (100 / rows) ** 2
    reach = math.sqrt(_square(seeds - 1) * over_seeds + _square(groups - 1) * over_rows)
    return Difference(value, value - reach, value + reach)


def _square(freedom: int) -> float:
    return float(t.isf(LEVEL / 2, freedom)) ** 2


def compare(winner: Sequence[dict[str, Any]], default: Sequence[dict[str, Any]]) -> Difference:
    """Estimate the difference of two configs from the results of `score_rows`, seed by seed."""
    first, second = (
        np.array([[result["test"], *result["without"]] for result in results])
        for results in (winner, default)
    )
    return difference(first, second, winner[0]["rows"])


def sentence(
    name: str, metric: str, winner: Sequence[dict[str, Any]], default: Sequence[dict[str, Any]]
) -> str:
    """Say whether the winner beats the config as it is.

    Args:
        name: The parameters of the winner.
        metric: What the points are points of, such as `accuracy`.
        winner: Its results, one for each seed.
        default: Those of the config as it is, for the same seeds.
    """
    rows, clusters = winner[0]["rows"], winner[0]["clusters"]
    means = [np.mean([result["test"] for result in side]) for side in (winner, default)]
    if not all(math.isfinite(value) for side in (winner, default) for value in _values(side)):
        return f"No claim about {name}: the test {metric} of a training is not defined"
    about = f"test {metric}, {len(winner)} fresh seeds each, {rows:,} test rows, one train split"
    if rows < MIN_ROWS or clusters < MIN_CLUSTERS:
        gain = 100 * (means[0] - means[1])
        return (
            f"No claim about {name}: {gain:+.1f} points against the config as it is ({about}), but "
            f"a claim needs at least {MIN_ROWS} test rows, {MIN_CLUSTERS} of them independent"
        )
    found = compare(winner, default)
    interval = f"95% CI {found.low:.1f} to {found.high:.1f}; {about}"
    match found.verdict:
        case "beats":
            return f"{name} beats the config as it is by {found.value:.1f} points ({interval})"
        case "behind":
            return f"{name} is {-found.value:.1f} points behind the config as it is ({interval})"
    return (
        f"{name} is not shown to differ from the config as it is: {found.value:+.1f} points "
        f"({interval})"
    )


def _values(results: Sequence[dict[str, Any]]) -> list[float]:
    return [value for result in results for value in (result["test"], *result["without"])]
