"""Classification of a text or a pair: one label of several, or any number of them (multi-label)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import ClasswiseWrapper, Metric, MetricCollection
from torchmetrics import classification as tm

from litpool import InputError
from litpool.tasks.task import Mistake, Task, check_known, check_shares, label_names, linear_head

if TYPE_CHECKING:  # slow to import, and not needed until there are rows
    from datasets import Dataset

ClassWeights = Literal["balanced"] | dict[str, float] | None


class Classification(Task):
    """One label of several for each text or pair of texts.

    Args:
        text: The column with the text, or a list of two columns, whose texts are encoded as a pair.
        label: The column with the label: ints, strings, or a Hub data set's ClassLabel.
        class_weights: Weight of each label in the loss: a mapping from label to weight (1 where a label is not
            named), or `balanced`: inverse to its frequency in the train split, so that all labels weigh the same.
        label_smoothing: Share of the target that is spread evenly over all labels, 0 to 1 (Szegedy et al., 2016).
        dropout: Dropout before the linear head, 0 to 1.
    """

    monitor = "val/accuracy"

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
        self.class_weights, self.label_smoothing, self.dropout = class_weights, label_smoothing, dropout
        self.weights: list[float] | None = None

    def learn(self, splits: Mapping[str, "Dataset"]) -> None:
        """Label names and weights from the train split; every split must use those labels only."""
        names = {split: [str(value) for value in rows[self.label][:]] for split, rows in splits.items()}
        self.labels = self.labels or label_names(names, self.label)
        check_known(names, self.labels, self.label)
        if "train" in names:
            self.weights = _weights(self.class_weights, self.labels, Counter(names["train"]))

    def targets(self, labels: Sequence[Any]) -> list[int]:
        """The position of each label among the names."""
        position = {name: index for index, name in enumerate(self.labels)}
        return [position[str(label)] for label in labels]

    def head(self, width: int) -> nn.Module:
        """Dropout and a linear layer, (B, width) to (B, labels)."""
        return linear_head(width, len(self.labels), self.dropout)

    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of logits (B, C) and labels (B,)."""
        weight = None if self.weights is None else output.new_tensor(self.weights)
        return F.cross_entropy(output, labels, weight=weight, label_smoothing=self.label_smoothing)

    def metrics(self, split: str, rows: "Dataset") -> MetricCollection:
        """Accuracy, macro F1, F1 of each label, and the confusion matrix."""
        count = len(self.labels)
        metrics: dict[str, Metric | MetricCollection] = {
            "accuracy": tm.MulticlassAccuracy(count, average="micro"),
            "f1": tm.MulticlassF1Score(count, average="macro"),
            "f1_of": ClasswiseWrapper(tm.MulticlassF1Score(count, average=None), self.labels, prefix="f1/"),
            "confusion_matrix": tm.MulticlassConfusionMatrix(count),
        }
        return MetricCollection(metrics, compute_groups=False)  # groups do not see through ClasswiseWrapper

    def decode(self, kept: Tensor, rows: "Dataset") -> list[dict[str, Any]]:
        """The label's name and the probability of every label."""
        probabilities = kept.float().softmax(-1)  # (N, C)
        return [
            {"label": self.labels[best], "probabilities": dict(zip(self.labels, row, strict=True))}
            for best, row in zip(probabilities.argmax(-1).tolist(), probabilities.tolist(), strict=True)
        ]

    def mistakes(self, kept: Tensor, rows: "Dataset") -> list[Mistake]:
        """Rows whose most probable label is not the true one."""
        labels = torch.tensor(self.targets(rows[self.label]))  # (N,)
        confidence, predicted = kept.float().softmax(-1).max(-1)  # each (N,)
        return [
            Mistake(row, self.labels[int(labels[row])], self.labels[int(predicted[row])], float(confidence[row]))
            for row in _most_confident(predicted != labels, confidence)
        ]

    def state_dict(self) -> dict[str, Any]:
        """Label names and weights."""
        return {"labels": self.labels, "weights": self.weights}


class MultiLabelClassification(Task):
    """Any number of labels for each text or pair of texts; a label is given where its probability is over 0.5.

    Args:
        text: The column with the text, or a list of two columns, whose texts are encoded as a pair.
        label: The column with the labels: a list in each row, or, in CSV and TSV, names with `|` between them
            (nothing but `|` for a row without any).
        class_weights: Weight of each label's positive rows in the loss: a mapping from label to weight (1 where a
            label is not named), or `balanced`: its negative over its positive rows in the train split.
        label_smoothing: Moves each target towards 0.5 by this share, 0 to 1.
        dropout: Dropout before the linear head, 0 to 1.
    """

    monitor = "val/f1"

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
        self.class_weights, self.label_smoothing, self.dropout = class_weights, label_smoothing, dropout
        self.weights: list[float] | None = None

    def learn(self, splits: Mapping[str, "Dataset"]) -> None:
        """Label names and weights from the train split; every split must use those labels only."""
        sets = {split: [_label_set(value) for value in rows[self.label][:]] for split, rows in splits.items()}
        names = {split: [name for row in rows for name in row] for split, rows in sets.items()}
        self.labels = self.labels or label_names(names, self.label)
        check_known(names, self.labels, self.label)
        if "train" in sets:
            self.weights = self._positive_weights(Counter(names["train"]), len(sets["train"]))

    def _positive_weights(self, counts: Counter[str], rows: int) -> list[float] | None:
        if self.class_weights == "balanced":
            return [max(rows - counts[name], 1) / max(counts[name], 1) for name in self.labels]
        return _weights(self.class_weights, self.labels, counts)

    def targets(self, labels: Sequence[Any]) -> list[list[float]]:
        """A row of 0 and 1 for each set of labels."""
        return [[float(name in names) for name in self.labels] for names in map(_label_set, labels)]

    def head(self, width: int) -> nn.Module:
        """Dropout and a linear layer, (B, width) to (B, labels)."""
        return linear_head(width, len(self.labels), self.dropout)

    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """Binary cross-entropy of logits (B, C) and labels (B, C), the mean over labels and rows."""
        smoothed = labels * (1 - self.label_smoothing) + 0.5 * self.label_smoothing
        weight = None if self.weights is None else output.new_tensor(self.weights)
        return F.binary_cross_entropy_with_logits(output, smoothed.to(output.dtype), pos_weight=weight)

    def metrics(self, split: str, rows: "Dataset") -> MetricCollection:
        """Accuracy over all decisions, share of rows that are wholly right, macro F1, F1 and matrix of each label."""
        count = len(self.labels)
        metrics: dict[str, Metric | MetricCollection] = {
            "accuracy": tm.MultilabelAccuracy(count, average="micro"),
            "exact_match": tm.MultilabelExactMatch(count),
            "f1": tm.MultilabelF1Score(count, average="macro"),
            "f1_of": ClasswiseWrapper(tm.MultilabelF1Score(count, average=None), self.labels, prefix="f1/"),
            "confusion_matrix": tm.MultilabelConfusionMatrix(count),
        }
        return MetricCollection(metrics, compute_groups=False)  # groups do not see through ClasswiseWrapper

    def update(self, metrics: MetricCollection, kept: Tensor, batch: Mapping[str, Tensor]) -> None:
        """Feed the metrics with probabilities: from logits, torchmetrics would guess, batch by batch, what they are."""
        metrics.update(kept.float().sigmoid(), batch["labels"].int())

    def decode(self, kept: Tensor, rows: "Dataset") -> list[dict[str, Any]]:
        """The names of the labels over 0.5 and the probability of every label."""
        named = [dict(zip(self.labels, row, strict=True)) for row in kept.float().sigmoid().tolist()]
        return [{"labels": [name for name, p in row.items() if p > 0.5], "probabilities": row} for row in named]

    def mistakes(self, kept: Tensor, rows: "Dataset") -> list[Mistake]:
        """Rows with a wrong label more or less; the confidence is that of their worst decision."""
        labels = torch.tensor(self.targets(rows[self.label]))  # (N, C)
        predicted = kept > 0  # (N, C)
        wrong = predicted != labels.bool()
        confidence = ((kept.float().sigmoid() - 0.5).abs() + 0.5).where(wrong, 0).amax(-1)  # (N,)
        return [
            Mistake(row, self._joined(labels[row].bool()), self._joined(predicted[row]), float(confidence[row]))
            for row in _most_confident(wrong.any(-1), confidence)
        ]

    def _joined(self, chosen: Tensor) -> str:
        return " | ".join(name for name, flag in zip(self.labels, chosen.tolist(), strict=True) if flag) or "none"

    def state_dict(self) -> dict[str, Any]:
        """Label names and weights."""
        return {"labels": self.labels, "weights": self.weights}


def _label_set(value: Any) -> list[str]:
    """The labels of one row, each once: a list, or names with `|` between them; a column of numbers holds one a row."""
    values = value.split("|") if isinstance(value, str) else value if isinstance(value, list) else [value]
    return [name for name in dict.fromkeys(str(value).strip() for value in values) if name]


def _weights(weights: ClassWeights, labels: Sequence[str], counts: Counter[str]) -> list[float] | None:
    if weights is None:
        return None
    if weights == "balanced":
        return [counts.total() / (len(labels) * max(counts[name], 1)) for name in labels]
    assert isinstance(weights, dict)
    if unknown := sorted(set(weights).difference(labels)):
        raise InputError(f"task.class_weights names {unknown[0]!r}, which is no label; known: {', '.join(labels)}")
    return [float(weights.get(name, 1.0)) for name in labels]


def _most_confident(wrong: Tensor, confidence: Tensor) -> list[int]:
    rows = wrong.nonzero().flatten()
    return rows[confidence[rows].argsort(descending=True)].tolist()
