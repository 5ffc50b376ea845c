"""What the objectives of Similarity have in common.

B or N rows, K texts in a row, F features of a pooled vector.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MetricCollection

from litpool.tasks.task import Mistake

if TYPE_CHECKING:  # slow to import, and not needed until there are rows
    from datasets import Dataset


class Objective(ABC):
    """The part of Similarity that depends on what it is trained for.

    Methods mean what they mean in Task. An objective holds settings only; what is learned from the
    rows belongs to the task.
    """

    monitor: str
    mistake_measure: str = "error"

    @abstractmethod
    def learn(self, splits: Mapping[str, "Dataset"]) -> list[str]:
        """Check the rows; returns the label names, if there are labels."""

    @abstractmethod
    def encode_labels(self, rows: Mapping[str, list[Any]]) -> list[Any] | None:
        """What the loss takes as labels; None if the rows have no label."""

    def targets(self, labels: Sequence[Any]) -> list[Any]:
        """The numbers that the loss takes for these labels."""
        return list(labels)

    def head(self, in_features: int) -> nn.Module:
        """The module on top of the vectors (B, K, F); by default it passes them on."""
        return nn.Identity()

    @abstractmethod
    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch."""

    def extract(self, output: Tensor) -> Tensor:
        """The predictions of a batch of pairs."""
        return output

    @abstractmethod
    def metrics(self) -> MetricCollection:
        """Fresh metrics."""

    def update(self, metrics: MetricCollection, predictions: Tensor, labels: Tensor) -> None:
        """Update the metrics with the predictions of a batch."""
        metrics.update(predictions, labels)

    @abstractmethod
    def decode(self, predictions: Tensor, rows: "Dataset") -> list[dict[str, Any]]:
        """The answers for pairs."""

    @abstractmethod
    def mistakes(self, predictions: Tensor, rows: "Dataset") -> list[Mistake]:
        """The wrong answers, worst first."""


def cosine(vectors: Tensor) -> Tensor:
    """Cosine of the two vectors of each pair, (B, 2, F) to (B,), in float32."""
    first, second = vectors.float().unbind(1)
    return F.cosine_similarity(first, second, dim=-1)
