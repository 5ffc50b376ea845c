"""The objective `cosine` of Similarity: the cosine of a pair is fitted to its score."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from litpool.tasks.objective import Objective, cosine
from litpool.tasks.outcome import Scores
from litpool.tasks.scores import Bounds, check_scores, score_mistakes
from litpool.tasks.task import Columns, Mistake

if TYPE_CHECKING:
    from datasets import Dataset
    from torchmetrics import MetricCollection


class CosineObjective(Objective):
    """Mean squared error of the cosine and the scaled score.

    Args:
        label: The column with the score.
        bounds: The lowest and the highest score, which become the cosines 0 and 1.
    """

    monitor = "val/spearman"

    def __init__(self, label: str, bounds: Bounds) -> None:
        self.label = label
        self.bounds = bounds

    def learn(self, splits: Mapping[str, "Dataset"]) -> list[str]:
        """Check that every score is a number within the bounds."""
        check_scores(splits, self.label, self.bounds)
        return []

    def targets(self, labels: Sequence[Any]) -> list[Any]:
        low, high = self.bounds
        return [(float(label) - low) / (high - low) for label in labels]

    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """Return the mean squared error of the cosines of pairs (B, 2, F) and labels (B,)."""
        return F.mse_loss(cosine(output), labels.float())

    def extract(self, output: Tensor) -> Tensor:
        return cosine(output)

    def metrics(self) -> "MetricCollection":
        """Return Spearman's and Pearson's correlation of cosine and score."""
        from torchmetrics import MetricCollection, PearsonCorrCoef, SpearmanCorrCoef

        return MetricCollection(
            {"spearman": SpearmanCorrCoef(), "pearson": PearsonCorrCoef()}, compute_groups=False
        )

    def decode(self, predictions: Tensor, rows: Columns) -> list[dict[str, Any]]:
        return [{"cosine": value} for value in predictions.tolist()]

    def mistakes(self, predictions: Tensor, rows: "Dataset") -> list[Mistake]:
        """Return all rows, the largest error first."""
        true = torch.tensor(self.targets(rows[self.label]))  # (N,)
        return score_mistakes(predictions.float(), true)

    def outcome(self, predictions: Tensor, rows: "Dataset") -> Scores:
        """Return the cosines, with the scores scaled to cosines."""
        true = torch.tensor(self.targets(rows[self.label]))  # (N,)
        low, high = self.bounds
        return Scores(
            true, predictions.float(), f"true score ({low:g} to {high:g}, as 0 to 1)", "cosine"
        )
