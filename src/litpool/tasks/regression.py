"""Regression: a score for a text, or for a pair that is encoded together (cross-encoder)."""

from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from litpool import InputError
from litpool.tasks.outcome import Scores
from litpool.tasks.scores import check_scores, score_bounds, score_mistakes
from litpool.tasks.task import Columns, Mistake, Task, check_shares, linear_head

if TYPE_CHECKING:
    from datasets import Dataset
    from torchmetrics import MetricCollection


class Regression(Task):
    """A number for each text or pair of texts; a pair is encoded together, as by a cross-encoder.

    The network learns shifted and scaled scores: from 0 to 1 if their range is known, otherwise
    with mean 0 and standard deviation 1 over the train split. Answers and metrics are in the
    scores' own unit.

    Args:
        text: The column with the text, or a list of two columns to encode as a pair.
        label: The column with the score.
        score_range: The lowest and the highest possible score, such as `[0, 5]`; predictions stay
            within this range. By default a score may be any number.
        dropout: Dropout before the linear head, 0 to 1.
    """

    monitor = "val/spearman"
    mistake_measure = "error"
    numeric = True
    state_attributes = ("shift", "scale")
    encoding_attributes = ("texts", "label", "shift", "scale")

    def __init__(
        self,
        text: str | list[str] = "text",
        label: str = "score",
        score_range: tuple[float, float] | None = None,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(text, label)
        check_shares(dropout=dropout)
        self.bounds = None if score_range is None else score_bounds(score_range)
        self.dropout = dropout
        self.shift = 0.0
        self.scale = 1.0

    def learn(self, splits: Mapping[str, "Dataset"]) -> None:
        """Check that scores are numbers within the range, and learn how to shift and scale them."""
        scores = check_scores(splits, self.label, self.bounds)
        if self.bounds:
            self.shift, self.scale = self.bounds[0], self.bounds[1] - self.bounds[0]
        elif "train" in scores:
            self.shift, self.scale = fmean(scores["train"]), pstdev(scores["train"])
            if not self.scale:
                raise InputError(
                    f"column {self.label!r}: all scores of the train split are {self.shift:g}; "
                    "set task.label to another column"
                )

    def targets(self, labels: Sequence[Any]) -> list[float]:
        """Return the scores, shifted and scaled."""
        return [(float(label) - self.shift) / self.scale for label in labels]

    def head(self, in_features: int) -> nn.Module:
        """Return dropout and a linear layer, (B, in_features) to (B, 1)."""
        return linear_head(in_features, 1, self.dropout)

    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """Return the mean squared error of outputs (B, 1) and labels (B,), both scaled."""
        return F.mse_loss(output.squeeze(-1), labels.to(output.dtype))

    def metrics(self, rows: "Dataset") -> "MetricCollection":
        """Return Spearman's and Pearson's correlation, and the mean absolute error."""
        from torchmetrics import (
            MeanAbsoluteError,
            MetricCollection,
            PearsonCorrCoef,
            SpearmanCorrCoef,
        )

        return MetricCollection(
            {
                "spearman": SpearmanCorrCoef(),
                "pearson": PearsonCorrCoef(),
                "mae": MeanAbsoluteError(),
            },
            compute_groups=False,
        )

    def update(
        self, metrics: "MetricCollection", predictions: Tensor, batch: Mapping[str, Tensor]
    ) -> None:
        """Update the metrics with predictions and scores in the scores' own unit."""
        true = batch["labels"].float() * self.scale + self.shift  # (B,)
        metrics.update(self._scores(predictions), true)

    def _scores(self, predictions: Tensor) -> Tensor:
        scores = predictions.float().squeeze(-1) * self.scale + self.shift  # (N,)
        return scores.clamp(*self.bounds) if self.bounds else scores

    def decode(self, predictions: Tensor, rows: Columns) -> list[dict[str, Any]]:
        return [{"score": score} for score in self._scores(predictions).tolist()]

    def mistakes(self, predictions: Tensor, rows: "Dataset") -> list[Mistake]:
        """Return all rows, the largest error first."""
        return score_mistakes(self._scores(predictions), self._true_scores(rows))

    def outcome(self, predictions: Tensor, rows: "Dataset") -> Scores:
        return Scores(self._true_scores(rows), self._scores(predictions))

    def _true_scores(self, rows: "Dataset") -> Tensor:
        return torch.tensor([float(score) for score in rows[self.label]])  # (N,)
