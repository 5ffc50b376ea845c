"""Classification of a text or a pair of texts: each has exactly one label."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import functional as F

from litpool.tasks.labels import (
    ClassWeights,
    label_name,
    label_names,
    label_weights,
    learn_labels,
)
from litpool.tasks.logits import label_answers, label_decisions, label_mistakes
from litpool.tasks.outcome import Decisions
from litpool.tasks.task import Columns, Mistake, Task, check_shares, linear_head

if TYPE_CHECKING:
    from datasets import Dataset
    from torchmetrics import Metric, MetricCollection


class Classification(Task):
    """One label of several for each text or pair of texts.

    Args:
        text: The column with the text, or a list of two columns to encode as a pair.
        label: The column with the label: ints, strings, or a Hub data set's ClassLabel.
        class_weights: Weight of each label in the loss: a mapping from label to weight (1 for
            labels it does not name), or `balanced`: inversely proportional to the label's frequency
            in the train split, so that all labels weigh the same.
        label_smoothing: Share of the target to spread evenly over all labels, 0 to 1
            (arXiv 1512.00567).
        dropout: Dropout before the linear head, 0 to 1.
    """

    monitor = "val/accuracy"
    state_attributes = ("labels", "weights")
    encoding_attributes = ("texts", "label", "labels")

    def __init__(
        self,
        text: str | list[str] = "text",
        label: str = "label",
        class_weights: ClassWeights = None,
        label_smoothing: float = 0.0,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(text, label)
        check_shares(label_smoothing=label_smoothing, dropout=dropout)
        self.class_weights = class_weights
        self.label_smoothing = label_smoothing
        self.dropout = dropout
        self.weights: list[float] | None = None

    def learn(self, splits: Mapping[str, "Dataset"]) -> None:
        """Learn label names and weights from the train split; every split must use these labels."""
        names = label_names(splits, self.label)
        self.labels = learn_labels(names, self.label, self.labels)
        if "train" in names:
            counts = Counter(names["train"])
            self.weights = label_weights(self.class_weights, self.labels, counts)

    def targets(self, labels: Sequence[Any]) -> list[int]:
        """Return the position of each label among the label names."""
        positions = {name: position for position, name in enumerate(self.labels)}
        return [positions[label_name(label)] for label in labels]

    def head(self, in_features: int) -> nn.Module:
        """Return dropout and a linear layer, (B, in_features) to (B, C)."""
        return linear_head(in_features, len(self.labels), self.dropout)

    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy of logits (B, C) and labels (B,)."""
        weight = None if self.weights is None else output.new_tensor(self.weights)
        return F.cross_entropy(output, labels, weight=weight, label_smoothing=self.label_smoothing)

    def metrics(self, rows: "Dataset") -> "MetricCollection":
        """Return accuracy, macro F1, F1 of each label, and the confusion matrix."""
        from torchmetrics import ClasswiseWrapper, MetricCollection
        from torchmetrics import classification as tm

        count = len(self.labels)
        f1_by_label = tm.MulticlassF1Score(count, average=None)
        metrics: dict[str, Metric | MetricCollection] = {
            "accuracy": tm.MulticlassAccuracy(count, average="micro"),
            "f1": tm.MulticlassF1Score(count, average="macro"),
            "f1_of": ClasswiseWrapper(f1_by_label, self.labels, prefix="f1/"),
            "confusion_matrix": tm.MulticlassConfusionMatrix(count),
        }
        return MetricCollection(metrics, compute_groups=False)  # groups miss a ClasswiseWrapper

    def decode(self, predictions: Tensor, rows: Columns) -> list[dict[str, Any]]:
        """Return the most probable label and the probability of every label."""
        return label_answers(predictions, self.labels)

    def mistakes(self, predictions: Tensor, rows: "Dataset") -> list[Mistake]:
        """Return the rows whose most probable label is wrong, most confident first."""
        return label_mistakes(predictions, self.targets(rows[self.label]), self.labels)

    def outcome(self, predictions: Tensor, rows: "Dataset") -> Decisions:
        """Return the probability of the most probable label, and whether it is right."""
        return label_decisions(predictions, self.targets(rows[self.label]))
