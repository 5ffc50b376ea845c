"""The objective `cosine` of Similarity: the cosine of a pair is fitted to its score."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MetricCollection, PearsonCorrCoef, SpearmanCorrCoef

from litpool.tasks.objective import Objective, cosine
from litpool.tasks.scores import Bounds, check_scores
from litpool.tasks.task import Mistake

if TYPE_CHECKING:  # slow to import, and not needed until there are rows
    from datasets import Dataset


class CosineObjective(Objective):
    """Mean squared error of cosine and scaled score.

    Args:
        label: The column with the score.
        bounds: The lowest and the highest score, which become the cosines 0 and 1.
    """

    monitor = "val/spearman"

    def __init__(self, label: str, bounds: Bounds) -> None:
        self.label, self.bounds = label, bounds

    def learn(self, splits: Mapping[str, "Dataset"]) -> list[str]:
        """Check that every score is a number within the bounds."""
        check_scores(splits, self.label, self.bounds)
        return []

    def encode_labels(self, rows: Mapping[str, list[Any]]) -> list[Any] | None:
        """The cosines that the scores stand for."""
        return self.targets(rows[self.label]) if self.label in rows else None

    def targets(self, labels: Sequence[Any]) -> list[Any]:
        """The cosines that the scores stand for."""
        low, high = self.bounds
        return [(float(label) - low) / (high - low) for label in labels]

    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """Mean squared error of the cosines of pairs (B, 2, F) and labels (B,)."""
        return F.mse_loss(cosine(output), labels.float())

    def extract(self, output: Tensor) -> Tensor:
        """The cosines, (B,)."""
        return cosine(output)

    def metrics(self) -> MetricCollection:
        """Spearman's and Pearson's correlation of cosine and score."""
        return MetricCollection(
            {"spearman": SpearmanCorrCoef(), "pearson": PearsonCorrCoef()}, compute_groups=False
        )

    def decode(self, predictions: Tensor, rows: "Dataset") -> list[dict[str, Any]]:
        """The cosine."""
        return [{"cosine": value} for value in predictions.tolist()]

    def mistakes(self, predictions: Tensor, rows: "Dataset") -> list[Mistake]:
        """All rows, the largest error first."""
        true = torch.tensor(self.targets(rows[self.label]))  # (N,)
        predicted = predictions.float()  # (N,)
        error = (predicted - true).abs()
        mistakes = []
        for row in error.argsort(descending=True).tolist():
            texts = f"{true[row]:.2f}", f"{predicted[row]:.2f}"
            mistakes.append(Mistake(row, *texts, float(error[row])))
        return mistakes
