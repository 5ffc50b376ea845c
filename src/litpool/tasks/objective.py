"""What the objectives of Similarity share.

B or N rows, K texts in a row, F features of a pooled vector.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import functional as F

from litpool.tasks.outcome import Outcome
from litpool.tasks.task import Columns, Mistake

if TYPE_CHECKING:
    from datasets import Dataset
    from torchmetrics import MetricCollection


class Objective(ABC):
    """The part of Similarity that depends on what the vectors are trained for.

    The methods do the same as in Task. An objective contains only settings; what is learned from
    the rows belongs to the task.
    """

    monitor: str
    mistake_measure: str = "error"
    label: str = ""  # the column with the label, if the objective needs one

    def learn(self, splits: Mapping[str, "Dataset"]) -> list[str]:
        """Check the rows, and return the label names, if there are any."""
        return []

    def encode_labels(self, rows: Mapping[str, list[Any]]) -> list[Any] | None:
        """Return the labels for the loss; None if the rows have none."""
        return self.targets(rows[self.label]) if self.label in rows else None

    def targets(self, labels: Sequence[Any]) -> list[Any]:
        """Return the numbers that the loss expects for these labels."""
        return list(labels)

    def head(self, in_features: int) -> nn.Module:
        """Return the module on top of the vectors (B, K, F); by default it passes them on."""
        return nn.Identity()

    @abstractmethod
    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a batch."""

    def extract(self, output: Tensor) -> Tensor:
        """Return the predictions of a batch of pairs."""
        return output

    @abstractmethod
    def metrics(self) -> "MetricCollection":
        """Return new metrics."""

    def update(self, metrics: "MetricCollection", predictions: Tensor, labels: Tensor) -> None:
        """Update the metrics with the predictions of a batch."""
        metrics.update(predictions, labels)

    @abstractmethod
    def decode(self, predictions: Tensor, rows: Columns) -> list[dict[str, Any]]:
        """Return the answers for pairs."""

    @abstractmethod
    def mistakes(self, predictions: Tensor, rows: "Dataset") -> list[Mistake]:
        """Return the wrong answers, worst first."""

    def outcome(self, predictions: Tensor, rows: "Dataset") -> Outcome | None:
        """Return what to draw of the predictions next to the truth; None for nothing."""
        return None


def cosine(vectors: Tensor) -> Tensor:
    """Return the cosine of each pair of vectors, (B, 2, F) to (B,), in float32."""
    first, second = vectors.float().unbind(1)
    return F.cosine_similarity(first, second, dim=-1)
