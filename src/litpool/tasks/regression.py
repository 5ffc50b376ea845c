"""Regression: a score for a text, or for a pair that the encoder reads together (a cross-encoder)."""

from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanAbsoluteError, MetricCollection, PearsonCorrCoef, SpearmanCorrCoef

from litpool import InputError
from litpool.tasks.task import Mistake, Task, check_scores, check_shares, linear_head, score_bounds

if TYPE_CHECKING:  # slow to import, and not needed until there are rows
    from datasets import Dataset


class Regression(Task):
    """A number for each text or pair of texts; a pair is read as one, as a cross-encoder does.

    The network learns scores that are shifted and scaled: to 0 to 1 where their range is known, else to the mean 0 and
    the standard deviation 1 of the train split. Answers and metrics are in the scores' own unit.

    Args:
        text: The column with the text, or a list of two columns, whose texts are encoded as a pair.
        label: The column with the score.
        score_range: The lowest and the highest score there can be, such as `[0, 5]`; predictions stay within. By
            default any number may be a score.
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
        self.bounds, self.dropout = score_bounds(score_range), dropout
        self.shift, self.scale = 0.0, 1.0

    def learn(self, splits: Mapping[str, "Dataset"]) -> None:
        """How scores are shifted and scaled; each must be a number, and within the range."""
        scores = check_scores(splits, self.label, self.bounds)
        if self.bounds:
            self.shift, self.scale = self.bounds[0], self.bounds[1] - self.bounds[0]
        elif "train" in scores:
            self.shift, self.scale = fmean(scores["train"]), pstdev(scores["train"])
            if not self.scale:
                raise InputError(
                    f"column {self.label!r}: all scores of the train split are {self.shift:g}; name another"
                )

    def targets(self, labels: Sequence[Any]) -> list[float]:
        """The scores, shifted and scaled."""
        return [(float(label) - self.shift) / self.scale for label in labels]

    def head(self, width: int) -> nn.Module:
        """Dropout and a linear layer, (B, width) to (B, 1)."""
        return linear_head(width, 1, self.dropout)

    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """Mean squared error of outputs (B, 1) and labels (B,), in the scaled unit."""
        return F.mse_loss(output.squeeze(-1), labels.to(output.dtype))

    def metrics(self, split: str, rows: "Dataset") -> MetricCollection:
        """Spearman's and Pearson's correlation, and the mean absolute error in the scores' unit."""
        correlations = {"spearman": SpearmanCorrCoef(), "pearson": PearsonCorrCoef()}
        return MetricCollection({**correlations, "mae": MeanAbsoluteError()}, compute_groups=False)

    def update(self, metrics: MetricCollection, kept: Tensor, batch: Mapping[str, Tensor]) -> None:
        """Feed the metrics with predictions and scores in their own unit."""
        metrics.update(self._scores(kept), batch["labels"].float() * self.scale + self.shift)

    def _scores(self, kept: Tensor) -> Tensor:
        scores = kept.float().squeeze(-1) * self.scale + self.shift  # (N,)
        return scores.clamp(*self.bounds) if self.bounds else scores

    def decode(self, kept: Tensor, rows: "Dataset") -> list[dict[str, Any]]:
        """The score."""
        return [{"score": score} for score in self._scores(kept).tolist()]

    def mistakes(self, kept: Tensor, rows: "Dataset") -> list[Mistake]:
        """All rows, the largest error first."""
        true = torch.tensor([float(score) for score in rows[self.label]])
        predicted = self._scores(kept)
        error = (predicted - true).abs()
        worst = error.argsort(descending=True).tolist()
        return [Mistake(row, f"{true[row]:.2f}", f"{predicted[row]:.2f}", float(error[row])) for row in worst]

    def state_dict(self) -> dict[str, Any]:
        """How scores are shifted and scaled."""
        return {"shift": self.shift, "scale": self.scale}
