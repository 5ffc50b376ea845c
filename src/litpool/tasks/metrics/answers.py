"""Exact match and F1 of answers as a metric, over all rows and devices."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

if TYPE_CHECKING:
    from datasets import Dataset


class Scorer(Protocol):
    """What the metric needs of its task."""

    def assemble(self, predictions: Tensor, index: Tensor) -> Tensor:
        """Return one prediction per row."""

    def score(self, predictions: Tensor, rows: Mapping[str, Any]) -> dict[str, float]:
        """Return the scores of assembled predictions."""


class AnswerScores(Metric):
    """Exact match and F1 of all rows, from the candidates of all windows on all devices."""

    predictions: list[Tensor]
    index: list[Tensor]

    def __init__(self, task: Scorer, rows: "Dataset") -> None:
        super().__init__()
        self.task = task
        self.rows = rows
        self.add_state("predictions", [], dist_reduce_fx="cat")
        self.add_state("index", [], dist_reduce_fx="cat")

    def update(self, predictions: Tensor, index: Tensor) -> None:
        """Add the candidates of a batch and the numbers of their rows."""
        self.predictions.append(predictions)
        self.index.append(index)

    def assemble(self) -> tuple[Tensor, Mapping[str, Any]]:
        """Return the best spans of every row, and the columns of these rows."""
        index = dim_zero_cat(self.index)
        predictions = self.task.assemble(dim_zero_cat(self.predictions), index)
        return predictions, self.rows.select(index.unique().tolist())[:]

    def compute(self) -> dict[str, Tensor]:
        """Return the task's scores, in float64."""
        scores = self.task.score(*self.assemble())
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in scores.items()}
