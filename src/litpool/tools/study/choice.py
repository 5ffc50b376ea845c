"""The choice of pooling and layer without the rows that score it, and what it is compared with."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from litpool.tools.study import statistics
from litpool.tools.study.examples import Examples
from litpool.tools.study.scores import Row
from litpool.tools.study.statistics import Array, Estimate, Line

BASELINE = "ClsPooling"
MIN_CHOOSING = 200  # rows; with fewer, a choice among all layers is mostly noise
Json = dict[str, Any]


class Pick(NamedTuple):
    """The choice among some cells: anew for each fold, and once on all rows, to announce."""

    row: Row  # of the choice on all rows
    values: Array  # (R, n), of each fold's own choice
    right: Array | None

    @property
    def test(self) -> float:
        """The score in points."""
        return float(self.values.mean())


class Chooser(NamedTuple):
    """Chooses and compares cells of a data set."""

    rows: list[Row]  # of all cells
    examples: Examples
    last: int  # the number of the last layer
    margin: float
    seed: int

    @property
    def last_only(self) -> bool:
        """Whether there are too few rows to choose a layer on."""
        return self.examples.choosing < MIN_CHOOSING

    def candidates(self, whitened: bool, pooling: str | None = None) -> list[Row]:
        """List the raw or the whitened cells to choose from, of one pooling or of all."""
        return [
            row
            for row in self.rows
            if row.whitened == whitened
            and pooling in (None, row.cell.pooling)
            and (not self.last_only or row.cell.layer in (None, self.last))
        ]

    def challenger(self, reference: Pick) -> Pick:
        """Choose among all raw cells but the reference.

        If the reference could be chosen as well, a study would announce a difference only where
        another cell is ahead, and what is announced would be too high on average.
        """
        return self.pick(
            [row for row in self.candidates(whitened=False) if row is not reference.row]
        )

    def cell(self, pooling: str, layer: int | None) -> Pick:
        """Return a cell as it is."""
        return self.pick(
            [
                row
                for row in self.rows
                if (row.cell.pooling, row.cell.layer, row.whitened) == (pooling, layer, False)
            ]
        )

    def pick(self, rows: Sequence[Row]) -> Pick:
        """Choose among rows, each fold by the score without it.

        Scores within 0.01 points are ties, which go to the last layer and then to the first row:
        the cosines of MeanSqrtLenPooling equal those of MeanPooling but for rounding.
        """
        rows = sorted(
            rows, key=lambda row: -self.last if row.cell.layer is None else -row.cell.layer
        )
        scores = np.stack([row.inner for row in rows]).round(2)
        best = scores.argmax(0)  # (R, K), the first of equals
        chosen = np.take_along_axis(best, self.examples.design.folds, axis=1)  # (R, n)
        values = np.zeros(chosen.shape)
        right = None if rows[0].right is None else np.zeros(chosen.shape)
        for index in np.unique(best):
            here = chosen == index
            values[here] = rows[index].values[here]
            part = rows[index].right
            if right is not None and part is not None:
                right[here] = part[here]
        return Pick(max(rows, key=lambda row: round(row.overall, 2)), values, right)

    def difference(self, first: Pick, second: Pick) -> Estimate:
        """Estimate how many points `first` is ahead of `second`."""
        right = None
        if first.right is not None and second.right is not None:
            right = first.right - second.right
        return statistics.estimate(first.values - second.values, self.examples.design, right)

    def score(self, pick: Pick) -> Estimate:
        """Estimate a score."""
        if pick.right is None:
            return statistics.estimate(pick.values, self.examples.design)
        # As the difference from answers that are always right, which few errors leave uncertain.
        estimate = statistics.estimate(pick.values - 100, self.examples.design, pick.right - 1)
        return estimate._replace(value=estimate.value + 100)

    def table(self, picks: Sequence[Pick], against: Pick | None = None) -> list[Json]:
        """Describe scores, or differences to `against`, with intervals that hold at once."""
        estimates = [
            self.score(pick) if against is None else self.difference(pick, against)
            for pick in picks
        ]
        if self.examples.design.is_enough:
            lines = statistics.simultaneous(estimates, self.seed)
        else:
            lines = [Line(estimate.value, None, None, None) for estimate in estimates]
        if against is None:
            return [{"test": line.value, "low": line.low, "high": line.high} for line in lines]
        names = ("difference", "low", "high", "p")
        return [dict(zip(names, line, strict=True)) for line in lines]

    def against_cls(self, picks: Sequence[Pick], cls: Pick) -> list[Json]:
        """Describe scores and differences to [CLS] of the last layer; its own is None."""
        others = [pick for pick in picks if pick.row is not cls.row]
        differences = iter(self.table(others, cls))
        return [
            {**score, "against_cls": None if pick.row is cls.row else next(differences)}
            for pick, score in zip(picks, self.table(picks), strict=True)
        ]

    def describe(self, choice: Pick) -> Json:
        """Describe all cells, the best of each pooling, and all poolings of the last layer.

        The choice is always among the best: it may be [CLS] of a layer that is behind the last.
        """
        cls = self.cell(BASELINE, self.last)
        families = dict.fromkeys((row.whitened, row.cell.pooling) for row in self.rows)
        picks = [self.pick(self.candidates(*family)) for family in families]
        if all(pick.row is not choice.row for pick in picks):
            picks = [choice, *picks]
        # The reference is fixed: where [CLS] of the last layer is chosen, it scores as itself.
        picks = [cls if pick.row is cls.row else pick for pick in picks]
        same = [
            self.pick([row])
            for row in self.rows
            if row.cell.layer == self.last and not row.whitened
        ]
        return {
            "cells": [_describe_cell(row) for row in self.rows],
            "chosen": [
                {**_place(pick.row), **line}
                for pick, line in zip(picks, self.against_cls(picks, cls), strict=True)
            ],
            "same_layer": {
                "layer": self.last,
                "poolings": [
                    {"pooling": pick.row.cell.pooling, **line}
                    for pick, line in zip(same, self.against_cls(same, cls), strict=True)
                ],
            },
        }


def _place(row: Row) -> Json:
    return {"pooling": row.cell.pooling, "layer": row.cell.layer, "whitened": row.whitened}


def _describe_cell(row: Row) -> Json:
    validation = None if np.isnan(row.overall) else row.overall
    return {
        **_place(row),
        "C": row.C,
        "validation": validation,
        "test": row.test,
        "selectivity": row.selectivity,
        "geometry": None,  # measured later, where it is shown
        "logistic": None,
    }


def summarize_tuned(runs: Sequence[Json]) -> str:
    """List mean, lowest and highest over seeds of each pooling and layer, the best mean first."""
    parts = []
    for (pooling, layer), tests in rank_tuned(runs).items():
        name = pooling if layer is None else f"{pooling} of layer {layer}"
        spread = f" ({min(tests):.1f} to {max(tests):.1f})" if len(tests) > 1 else ""
        parts.append(f"{name} {fmean(tests):.1f}{spread}")
    note = "of one seed"
    if len(tests) > 1:
        note = f"the spread over {len(tests)} seeds, which is not a confidence interval"
    return f"fine-tuned: {', '.join(parts)}; {note}"


def rank_tuned(runs: Sequence[Json]) -> dict[tuple[str, int | None], list[float]]:
    """Return the scores of each pooling and layer, one for each seed, the best mean first."""
    groups: dict[tuple[str, int | None], list[float]] = {}
    for run in runs:
        groups.setdefault((run["pooling"], run["layer"]), []).append(run["test"])
    return dict(sorted(groups.items(), key=lambda group: -fmean(group[1])))
