"""Regression: a score for a text, or for a pair that is encoded together (cross-encoder)."""

from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanAbsoluteError, MetricCollection, PearsonCorrCoef, SpearmanCorrCoef

from litpool import InputError
from litpool.tasks.scores import check_scores, score_bounds
from litpool.tasks.task import Mistake, Task, check_shares, linear_head

if TYPE_CHECKING:  # slow to import, and not needed until there are rows
    from datasets import Dataset


class Regression(Task):
    """A number for each text or pair of texts; a pair is encoded together, as by a cross-encoder.

    The network learns scores that are shifted and scaled: to 0 to 1 if their range is known,
    otherwise to mean 0 and standard deviation 1 over the train split. Answers and metrics are in
    the scores' own unit.

    Args:
        text: The column with the text, or a list of two columns to encode as a pair.
        label: The column with the score.
        score_range: The lowest and the highest possible score, such as `[0, 5]`; predictions stay
            within. By default any number may be a score.
        dropout: Dropout before the linear head, 0 to 1.
    """

    monitor = "val/spearman"
    mistake_measure = "error"

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
        self.shift, self.scale = 0.0, 1.0

    def learn(self, splits: Mapping[str, "Dataset"]) -> None:
        """Learn how to shift and scale scores; each must be a number, and within the range."""
        scores = check_scores(splits, self.label, self.bounds)
        if self.bounds:
            self.shift, self.scale = self.bounds[0], self.bounds[1] - self.bounds[0]
        elif "train" in scores:
            self.shift, self.scale = fmean(scores["train"]), pstdev(scores["train"])
            if not self.scale:
                raise InputError(
                    f"column {self.label!r}: all scores of the train split are {self.shift:g}; "
                    "name another"
                )

    def encoding_key(self) -> list[Any]:
        """Columns, and how scores are shifted and scaled."""
        return [type(self).__name__, self.texts, self.label, self.shift, self.scale]

    def targets(self, labels: Sequence[Any]) -> list[float]:
        """The scores, shifted and scaled."""
        return [(float(label) - self.shift) / self.scale for label in labels]

    def head(self, in_features: int) -> nn.Module:
        """Dropout and a linear layer, (B, in_features) to (B, 1)."""
        return linear_head(in_features, 1, self.dropout)

    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """Mean squared error of outputs (B, 1) and labels (B,), both shifted and scaled."""
        return F.mse_loss(output.squeeze(-1), labels.to(output.dtype))

    def metrics(self, rows: "Dataset") -> MetricCollection:
        """Spearman's and Pearson's correlation, and the mean absolute error in the scores' unit."""
        return MetricCollection(
            {
                "spearman": SpearmanCorrCoef(),
                "pearson": PearsonCorrCoef(),
                "mae": MeanAbsoluteError(),
            },
            compute_groups=False,
        )

    def update(
        self, metrics: MetricCollection, predictions: Tensor, batch: Mapping[str, Tensor]
    ) -> None:
        """Update the metrics with predictions and scores in the scores' own unit."""
        true = batch["labels"].float() * self.scale + self.shift  # (B,)
        metrics.update(self._scores(predictions), true)

    def _scores(self, predictions: Tensor) -> Tensor:
        scores = predictions.float().squeeze(-1) * self.scale + self.shift  # (N,)
        return scores.clamp(*self.bounds) if self.bounds else scores

    def decode(self, predictions: Tensor, rows: "Dataset") -> list[dict[str, Any]]:
        """The score."""
        return [{"score": score} for score in self._scores(predictions).tolist()]

    def mistakes(self, predictions: Tensor, rows: "Dataset") -> list[Mistake]:
        """All rows, the largest error first."""
        true = torch.tensor([float(score) for score in rows[self.label]])  # (N,)
        predicted = self._scores(predictions)  # (N,)
        error = (predicted - true).abs()
        mistakes = []
        for row in error.argsort(descending=True).tolist():
            texts = f"{true[row]:.2f}", f"{predicted[row]:.2f}"
            mistakes.append(Mistake(row, *texts, float(error[row])))
        return mistakes

    def state_dict(self) -> dict[str, Any]:
        """How scores are shifted and scaled."""
        return {"shift": self.shift, "scale": self.scale}
