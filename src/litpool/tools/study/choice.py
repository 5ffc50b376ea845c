"""From the scores of all cells to what study.json says: each pooling's layer chosen on validation, and compared."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from litpool.tools.study import statistics
from litpool.tools.study.scores import Row
from litpool.tools.study.statistics import LEVEL, Analysis, Comparison, Estimate, Score

BASELINE = "ClsPooling"
RESAMPLES = 2_000  # of all cells together, which only colour a map; those that are chosen get more
Json = dict[str, Any]


class Choice(NamedTuple):
    """Of each pooling the row whose layer was best on validation (else the last), compared with that of [CLS]."""

    rows: list[Row]
    analysis: Analysis


def choose(rows: Sequence[Row], whitened: bool, score: Score, unit: str, seed: int) -> Choice:
    """Choose among the rows that are whitened, or among those that are not: like is compared with like.

    Args:
        rows: Of all cells.
        whitened: Which of them.
        score: Of outcomes.
        unit: What the verdict calls the examples.
        seed: Of the resamples.
    """
    best: dict[str, Row] = {}
    for row in rows:
        name = row.cell.pooling
        if row.whitened == whitened and (name not in best or _rank(row) > _rank(best[name])):
            best[name] = row
    chosen = list(best.values())
    outcomes = np.stack([row.outcomes for row in chosen])
    baseline = [row.cell.pooling for row in chosen].index(BASELINE)
    names = [row.cell.name for row in chosen]
    return Choice(chosen, statistics.analyse(names, outcomes, score, baseline, unit, seed=seed))


def _rank(row: Row) -> float:
    """What the choice goes by: the validation score; without that split the layer, so that it is the last one."""
    return (row.cell.layer or 0) if row.validation is None else row.validation


def tell_cells(
    rows: Sequence[Row], choices: Sequence[Choice], score: Score, seed: int
) -> list[Json]:
    """Every cell, as study.json has it; a chosen one has the interval that its comparison has."""
    found = statistics.estimates(np.stack([row.outcomes for row in rows]), score, RESAMPLES, seed)
    better = {
        id(row): e for c in choices for row, e in zip(c.rows, c.analysis.estimates, strict=True)
    }
    return [
        _cell(row, better.get(id(row), estimate)) for row, estimate in zip(rows, found, strict=True)
    ]


def _cell(row: Row, estimate: Estimate) -> Json:
    return {
        "pooling": row.cell.pooling,
        "layer": row.cell.layer,
        "whitened": row.whitened,
        "strength": row.strength,
        "validation": row.validation,
        **tell_estimate(estimate),
        "geometry": None if row.geometry is None else row.geometry._asdict(),
    }


def tell_estimate(estimate: Estimate) -> Json:
    """The test score with its interval."""
    return {"test": estimate.value, "low": estimate.low, "high": estimate.high}


def tell_chosen(choice: Choice) -> list[Json]:
    """The chosen cells, and how each compares with [CLS]: not at all if it is [CLS], or if the examples are too few."""
    against = {comparison.first: comparison for comparison in choice.analysis.against_baseline}
    return [
        {
            "pooling": row.cell.pooling,
            "layer": row.cell.layer,
            "whitened": row.whitened,
            **tell_estimate(estimate),
            "against_cls": tell_comparison(against.get(row.cell.name)),
        }
        for row, estimate in zip(choice.rows, choice.analysis.estimates, strict=True)
    ]


def tell_comparison(comparison: Comparison | None, names: bool = False) -> Json | None:
    """The difference, its interval and p; with `names`, of which two."""
    if comparison is None:
        return None
    keys = ("difference", "low", "high", "p")
    return {
        key: getattr(comparison, key) for key in (*(("first", "second") if names else ()), *keys)
    }


def tell_doubt(cells: Sequence[Json], choice: Choice) -> list[str]:
    """A note where another layer of [CLS] would take away most of the difference that the verdict tells.

    Args:
        cells: What `tell_cells` gave.
        choice: The one that the verdict is of, not whitened.
    """
    sure = [one for one in choice.analysis.against_baseline if one.p < LEVEL and one.difference > 0]
    if not sure:
        return []
    verdict = max(sure, key=lambda one: one.difference)
    own = [cell for cell in cells if cell["pooling"] == BASELINE and not cell["whitened"]]
    rival = max(own, key=lambda cell: cell["test"])
    chosen = choice.analysis.estimates[
        [row.cell.pooling for row in choice.rows].index(BASELINE)
    ].value
    if rival["test"] - chosen <= verdict.difference / 2:
        return []
    return [
        f"The verdict hangs on the choice of the layer: {BASELINE} of layer {rival['layer']} scores "
        f"{rival['test']:.1f} on test, which is {rival['test'] - chosen:.1f} points more than the layer that was best "
        "on validation; more validation examples would make the choice surer"
    ]


def tell_rival(
    choice: Choice, baselines: Mapping[str, NDArray[np.float64]], score: Score, unit: str, seed: int
) -> list[str]:
    """A note where the best pooling on test is not shown to be ahead of the best baseline.

    Args:
        choice: The one that the verdict is of.
        baselines: The outcomes of each on test, (n,).
        score: Of outcomes.
        unit: What the verdict calls the examples.
        seed: Of the resamples.
    """
    best, ours = max(
        zip(choice.rows, choice.analysis.estimates, strict=True), key=lambda pair: pair[1].value
    )
    values = {
        name: float(statistics.observe(found[None], score)[0]) for name, found in baselines.items()
    }
    rival = max(values, key=values.__getitem__)
    names, outcomes = [best.cell.name, rival], np.stack([best.outcomes, baselines[rival]])
    found = statistics.analyse(names, outcomes, score, 1, unit, seed=seed).against_baseline
    if not found or (
        found[0].difference > 0 and found[0].p < LEVEL
    ):  # none: too few examples for intervals
        return []
    told = f"the best pooling on test, {best.cell.name} with {ours.value:.1f}, "
    return [
        f"Mind the baseline: {told}is not shown to be ahead of {rival} with {values[rival]:.1f} (p = {found[0].p:.3f})"
    ]


def baselines(
    outcomes: Mapping[str, NDArray[np.float64]], coverage: float | None, score: Score, seed: int
) -> list[Json]:
    """The baselines' scores; `coverage` is that of the word vectors."""
    found = statistics.estimates(np.stack(list(outcomes.values())), score, seed=seed)
    return [
        {
            "name": name,
            **tell_estimate(estimate),
            "coverage": coverage if name.startswith("word vectors") else None,
        }
        for name, estimate in zip(outcomes, found, strict=True)
    ]


def tell_tuned(runs: Sequence[Json]) -> str:
    """The mean over seeds of each pooling and layer with its lowest and highest, the highest mean first."""
    groups: dict[str, list[float]] = {}
    for run in runs:
        name = (
            run["pooling"] if run["layer"] is None else f"{run['pooling']} of layer {run['layer']}"
        )
        groups.setdefault(name, []).append(run["test"])
    ranked = sorted(groups.items(), key=lambda group: -fmean(group[1]))
    seeds = len(ranked[0][1])
    spread = (
        f"the spread over {seeds} seeds, which is no confidence interval"
        if seeds > 1
        else "of one seed"
    )
    parts = [
        f"{name} {fmean(tests):.1f}"
        + (f" ({min(tests):.1f} to {max(tests):.1f})" if seeds > 1 else "")
        for name, tests in ranked
    ]
    return f"fine-tuned: {', '.join(parts)}; {spread}"
