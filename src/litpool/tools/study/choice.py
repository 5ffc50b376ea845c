"""The choice of a layer for each pooling, and the entries of study.json on cells and baselines."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from litpool.tools.study import statistics
from litpool.tools.study.scores import Row
from litpool.tools.study.statistics import LEVEL, Analysis, Comparison, Estimate, Score

BASELINE = "ClsPooling"
RESAMPLES = 2_000  # for all cells, only shown in tables; chosen cells get more
Json = dict[str, Any]


class Choice(NamedTuple):
    """The best row of each pooling on validation (or that of its last layer), and a comparison."""

    rows: list[Row]
    analysis: Analysis


def choose(rows: Sequence[Row], whitened: bool, score: Score, unit: str, seed: int) -> Choice:
    """Choose each pooling's layer and compare the poolings, all whitened or all raw.

    Args:
        rows: The rows of all cells.
        whitened: Whether to choose among the whitened or the raw ones.
        score: How to score outcomes.
        unit: The word for examples in the verdict.
        seed: The seed of the bootstrap.
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
    return Choice(chosen, statistics.analyze(names, outcomes, score, baseline, unit, seed=seed))


def _rank(row: Row) -> float:
    """Return the validation score, or without that split the layer, so that the last one wins."""
    return (row.cell.layer or 0) if row.validation is None else row.validation


def describe_cells(
    rows: Sequence[Row], choices: Sequence[Choice], score: Score, seed: int
) -> list[Json]:
    """Describe every cell for study.json; a chosen one has the interval of its comparison."""
    outcomes = np.stack([row.outcomes for row in rows])
    estimates = statistics.estimates(outcomes, score, RESAMPLES, seed)
    chosen = {
        id(row): estimate
        for choice in choices
        for row, estimate in zip(choice.rows, choice.analysis.estimates, strict=True)
    }
    return [
        _describe_cell(row, chosen.get(id(row), estimate))
        for row, estimate in zip(rows, estimates, strict=True)
    ]


def _describe_cell(row: Row, estimate: Estimate) -> Json:
    return {
        "pooling": row.cell.pooling,
        "layer": row.cell.layer,
        "whitened": row.whitened,
        "strength": row.C,
        "validation": row.validation,
        **describe_estimate(estimate),
        "geometry": None if row.geometry is None else row.geometry._asdict(),
    }


def describe_estimate(estimate: Estimate) -> Json:
    """Describe the test score with its interval."""
    return {"test": estimate.value, "low": estimate.low, "high": estimate.high}


def describe_chosen(choice: Choice) -> list[Json]:
    """Describe the chosen cells; given enough examples, all others are compared with [CLS]."""
    against = {comparison.first: comparison for comparison in choice.analysis.against_baseline}
    return [
        {
            "pooling": row.cell.pooling,
            "layer": row.cell.layer,
            "whitened": row.whitened,
            **describe_estimate(estimate),
            "against_cls": describe_comparison(against.get(row.cell.name)),
        }
        for row, estimate in zip(choice.rows, choice.analysis.estimates, strict=True)
    ]


def describe_comparison(comparison: Comparison | None, names: bool = False) -> Json | None:
    """Describe the difference, its interval and p; with `names`, also the two poolings."""
    if comparison is None:
        return None
    keys = ("first", "second") if names else ()
    return {key: getattr(comparison, key) for key in (*keys, "difference", "low", "high", "p")}


def warn_of_layer(cells: Sequence[Json], choice: Choice) -> list[str]:
    """Note that another layer of [CLS] would take away most of the verdict's difference.

    Args:
        cells: The result of `describe_cells`.
        choice: The raw one, which the verdict is about.
    """
    wins = [
        comparison
        for comparison in choice.analysis.against_baseline
        if comparison.p < LEVEL and comparison.difference > 0
    ]
    if not wins:
        return []
    largest = max(comparison.difference for comparison in wins)
    cls_cells = [cell for cell in cells if cell["pooling"] == BASELINE and not cell["whitened"]]
    rival = max(cls_cells, key=lambda cell: cell["test"])
    place = [row.cell.pooling for row in choice.rows].index(BASELINE)
    gain = rival["test"] - choice.analysis.estimates[place].value
    if gain <= largest / 2:
        return []
    return [
        f"The verdict depends on the choice of the layer: {BASELINE} of layer {rival['layer']} "
        f"scores {rival['test']:.1f} on test, {gain:.1f} points more than the layer that was best "
        "on validation; more validation examples would make the choice more reliable"
    ]


def warn_of_baseline(
    choice: Choice, baselines: Mapping[str, NDArray[np.float64]], score: Score, unit: str, seed: int
) -> list[str]:
    """Note that the best pooling on test is not shown to be ahead of the best baseline.

    Args:
        choice: The raw one, which the verdict is about.
        baselines: The outcomes of each on test, (n,).
        score: How to score outcomes.
        unit: The word for examples in the verdict.
        seed: The seed of the bootstrap.
    """
    best, ours = max(
        zip(choice.rows, choice.analysis.estimates, strict=True), key=lambda pair: pair[1].value
    )
    scores = {
        name: float(statistics.observe(outcomes[None], score)[0])
        for name, outcomes in baselines.items()
    }
    rival = max(scores, key=scores.__getitem__)
    names = [best.cell.name, rival]
    outcomes = np.stack([best.outcomes, baselines[rival]])
    analysis = statistics.analyze(names, outcomes, score, 1, unit, seed=seed)
    if not analysis.against_baseline:  # too few examples for intervals
        return []
    comparison = analysis.against_baseline[0]
    if comparison.difference > 0 and comparison.p < LEVEL:
        return []
    return [
        f"Mind the baseline: the best pooling on test, {best.cell.name} with {ours.value:.1f}, "
        f"is not shown to be ahead of {rival} with {scores[rival]:.1f} (p = {comparison.p:.3f})"
    ]


def describe_baselines(
    outcomes: Mapping[str, NDArray[np.float64]], coverage: float | None, score: Score, seed: int
) -> list[Json]:
    """Describe the baselines' scores; `coverage` is that of the word vectors."""
    estimates = statistics.estimates(np.stack(list(outcomes.values())), score, seed=seed)
    return [
        {
            "name": name,
            **describe_estimate(estimate),
            "coverage": coverage if name.startswith("word vectors") else None,
        }
        for name, estimate in zip(outcomes, estimates, strict=True)
    ]


def summarize_tuned(runs: Sequence[Json]) -> str:
    """List mean, lowest and highest over seeds of each pooling and layer, the best mean first."""
    groups: dict[str, list[float]] = {}
    for run in runs:
        name = (
            run["pooling"] if run["layer"] is None else f"{run['pooling']} of layer {run['layer']}"
        )
        groups.setdefault(name, []).append(run["test"])
    ranked = sorted(groups.items(), key=lambda group: -fmean(group[1]))
    seeds = len(ranked[0][1])
    if seeds == 1:
        parts = [f"{name} {tests[0]:.1f}" for name, tests in ranked]
        return f"fine-tuned: {', '.join(parts)}; of one seed"
    parts = [
        f"{name} {fmean(tests):.1f} ({min(tests):.1f} to {max(tests):.1f})"
        for name, tests in ranked
    ]
    spread = f"the spread over {seeds} seeds, which is not a confidence interval"
    return f"fine-tuned: {', '.join(parts)}; {spread}"
