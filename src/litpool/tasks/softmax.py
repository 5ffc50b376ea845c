"""The objective `softmax` of Similarity: a classifier on both vectors learns the pair's label.

This is how Sentence-BERT was trained on NLI (arXiv 1908.10084).
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from litpool.tasks.labels import label_name, label_names, learn_labels
from litpool.tasks.logits import label_answers, label_decisions, label_mistakes
from litpool.tasks.objective import Objective, cosine
from litpool.tasks.outcome import Decisions
from litpool.tasks.task import Columns, Mistake, linear_head

if TYPE_CHECKING:
    from datasets import Dataset
    from torchmetrics import MetricCollection

Part = Literal["u", "v", "|u-v|", "u*v"]


class SoftmaxObjective(Objective):
    """Cross-entropy of a linear classifier; its output is the cosine, then the logits of labels.

    Args:
        label: The column with the label.
        labels: The C label names; empty until they are learned.
        combination: What the classifier reads.
    """

    monitor = "val/accuracy"
    mistake_measure = "confidence"

    def __init__(self, label: str, labels: list[str], combination: Sequence[Part]) -> None:
        self.label = label
        self.labels = labels
        self.combination = combination

    def learn(self, splits: Mapping[str, "Dataset"]) -> list[str]:
        return learn_labels(label_names(splits, self.label), self.label, self.labels)

    def targets(self, labels: Sequence[Any]) -> list[int]:
        positions = {name: position for position, name in enumerate(self.labels)}
        return [positions[label_name(label)] for label in labels]

    def head(self, in_features: int) -> nn.Module:
        """Return the classifier, (B, 2, F) to (B, 1 + C)."""
        return SoftmaxHead(in_features, len(self.labels), self.combination)

    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy of the logits and labels (B,)."""
        return F.cross_entropy(output[:, 1:], labels)

    def metrics(self) -> "MetricCollection":
        """Return accuracy, macro F1 and the confusion matrix."""
        from torchmetrics import MetricCollection
        from torchmetrics.classification import (
            MulticlassAccuracy,
            MulticlassConfusionMatrix,
            MulticlassF1Score,
        )

        count = len(self.labels)
        return MetricCollection(
            {
                "accuracy": MulticlassAccuracy(count, average="micro"),
                "f1": MulticlassF1Score(count, average="macro"),
                "confusion_matrix": MulticlassConfusionMatrix(count),
            },
            compute_groups=False,
        )

    def update(self, metrics: "MetricCollection", predictions: Tensor, labels: Tensor) -> None:
        metrics.update(predictions[:, 1:], labels)

    def decode(self, predictions: Tensor, rows: Columns) -> list[dict[str, Any]]:
        """Return the cosine, the most probable label and the probability of every label."""
        cosines = predictions[:, 0].tolist()
        answers = label_answers(predictions[:, 1:], self.labels)
        return [{"cosine": value, **answer} for value, answer in zip(cosines, answers, strict=True)]

    def mistakes(self, predictions: Tensor, rows: "Dataset") -> list[Mistake]:
        """Return the rows whose most probable label is wrong, most confident first."""
        return label_mistakes(predictions[:, 1:], self.targets(rows[self.label]), self.labels)

    def outcome(self, predictions: Tensor, rows: "Dataset") -> Decisions:
        """Return the probability of the most probable label, and whether it is right."""
        return label_decisions(predictions[:, 1:], self.targets(rows[self.label]))


class SoftmaxHead(nn.Module):
    """The cosine of a pair and the logits of its label; single texts pass unchanged.

    Args:
        in_features: F.
        num_labels: C.
        combination: What the linear layer reads.
    """

    def __init__(self, in_features: int, num_labels: int, combination: Sequence[Part]) -> None:
        super().__init__()
        self.combination = combination
        self.linear = linear_head(in_features * len(combination), num_labels, dropout=0.0)

    def forward(self, vectors: Tensor) -> Tensor:
        if vectors.shape[1] == 1:
            return vectors  # (B, 1, F)
        u, v = vectors.unbind(1)  # each (B, F)
        parts = {"u": u, "v": v, "|u-v|": (u - v).abs(), "u*v": u * v}
        features = torch.cat([parts[part] for part in self.combination], dim=-1)
        logits = self.linear(features)  # (B, C)
        return torch.cat([cosine(vectors).unsqueeze(-1).to(logits.dtype), logits], dim=-1)
