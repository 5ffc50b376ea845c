"""Multi-label classification: a text or a pair of texts has any number of labels, or none."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from litpool import InputError
from litpool.tasks.labels import ClassWeights, label_weights, learn_labels, rank_by_confidence
from litpool.tasks.outcome import Decisions
from litpool.tasks.task import Columns, Mistake, Task, check_shares, linear_head

if TYPE_CHECKING:
    from datasets import Dataset
    from torchmetrics import Metric, MetricCollection


class MultiLabelClassification(Task):
    """Any number of labels for each text or pair of texts: those with a probability over 0.5.

    Args:
        text: The column with the text, or a list of two columns to encode as a pair.
        label: The column with the labels: a list in each row, or, in CSV and TSV, names separated
            by `|` (a lone `|` for a row without labels).
        class_weights: Weight of each label's positive rows in the loss: a mapping from label to
            weight (1 for labels it does not name), or `balanced`: the number of negative rows
            divided by that of positive rows in the train split.
        label_smoothing: Share by which each target is moved towards 0.5, 0 to 1.
        dropout: Dropout before the linear head, 0 to 1.
    """

    monitor = "val/f1"
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
        names = {}
        for split, rows in splits.items():
            values = rows[self.label][:]
            _check_sets(values, split, self.label)
            sets = [label_set(value) for value in values]
            names[split] = [name for row in sets for name in row]
        self.labels = learn_labels(names, self.label, self.labels)
        if "train" not in splits:
            return
        counts = Counter(names["train"])
        if self.class_weights == "balanced":
            rows = len(splits["train"])
            self.weights = [
                max(rows - counts[name], 1) / max(counts[name], 1) for name in self.labels
            ]
        else:
            self.weights = label_weights(self.class_weights, self.labels, counts)

    def targets(self, labels: Sequence[Any]) -> list[list[float]]:
        """Return a row of zeros and ones for each set of labels."""
        sets = [label_set(value) for value in labels]
        return [[float(name in names) for name in self.labels] for names in sets]

    def head(self, in_features: int) -> nn.Module:
        """Return dropout and a linear layer, (B, in_features) to (B, C)."""
        return linear_head(in_features, len(self.labels), self.dropout)

    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """Return the binary cross-entropy of logits and labels, both (B, C), averaged over both."""
        smoothed = labels * (1 - self.label_smoothing) + 0.5 * self.label_smoothing
        smoothed = smoothed.to(output.dtype)
        weight = None if self.weights is None else output.new_tensor(self.weights)
        return F.binary_cross_entropy_with_logits(output, smoothed, pos_weight=weight)

    def metrics(self, rows: "Dataset") -> "MetricCollection":
        """Return accuracy of all decisions, exact match, macro F1, F1 and matrix of each label."""
        from torchmetrics import ClasswiseWrapper, MetricCollection
        from torchmetrics import classification as tm

        count = len(self.labels)
        f1_by_label = tm.MultilabelF1Score(count, average=None)
        metrics: dict[str, Metric | MetricCollection] = {
            "accuracy": tm.MultilabelAccuracy(count, average="micro"),
            "exact_match": tm.MultilabelExactMatch(count),
            "f1": tm.MultilabelF1Score(count, average="macro"),
            "f1_of": ClasswiseWrapper(f1_by_label, self.labels, prefix="f1/"),
            "confusion_matrix": tm.MultilabelConfusionMatrix(count),
        }
        return MetricCollection(metrics, compute_groups=False)  # groups miss a ClasswiseWrapper

    def update(
        self, metrics: "MetricCollection", predictions: Tensor, batch: Mapping[str, Tensor]
    ) -> None:
        """Update the metrics with probabilities.

        Given logits, torchmetrics would guess in each batch whether they are probabilities.
        """
        metrics.update(predictions.float().sigmoid(), batch["labels"].int())

    def decode(self, predictions: Tensor, rows: Columns) -> list[dict[str, Any]]:
        """Return the labels with a probability over 0.5 and the probability of every label."""
        answers = []
        for row in predictions.float().sigmoid().tolist():
            probabilities = dict(zip(self.labels, row, strict=True))
            names = [name for name, probability in probabilities.items() if probability > 0.5]
            answers.append({"labels": names, "probabilities": probabilities})
        return answers

    def mistakes(self, predictions: Tensor, rows: "Dataset") -> list[Mistake]:
        """Return rows with a label too many or too few, by the confidence of their worst error."""
        true = torch.tensor(self.targets(rows[self.label])).bool()  # (N, C)
        predicted = predictions > 0  # (N, C)
        wrong = predicted != true
        decisiveness = (predictions.float().sigmoid() - 0.5).abs() + 0.5  # (N, C)
        confidence = decisiveness.where(wrong, 0).amax(-1)  # (N,)
        mistakes = []
        for row in rank_by_confidence(wrong.any(-1), confidence):
            names = self._join_names(true[row]), self._join_names(predicted[row])
            mistakes.append(Mistake(row, *names, float(confidence[row])))
        return mistakes

    def outcome(self, predictions: Tensor, rows: "Dataset") -> Decisions:
        """Return how sure the model is that each label applies or not, and whether it is right."""
        true = torch.tensor(self.targets(rows[self.label])).bool()  # (N, C)
        confidence = (predictions.float().sigmoid() - 0.5).abs() + 0.5  # (N, C)
        return Decisions(confidence.flatten(), ((predictions > 0) == true).flatten())

    def _join_names(self, flags: Tensor) -> str:
        names = [name for name, flag in zip(self.labels, flags.tolist(), strict=True) if flag]
        return " | ".join(names) or "none"


def _check_sets(values: Sequence[Any], split: str, column: str) -> None:
    """Refuse a label that is neither a text nor a number."""
    for number, value in enumerate(values, start=1):
        for label in value if isinstance(value, list) else [value]:
            if label is None or isinstance(label, list | dict | bytes):
                raise InputError(
                    f"the {split} split, row {number}: {column!r} contains {str(label)[:40]}, "
                    "must be names; correct the row, or set task.label to another column"
                )


def label_set(value: Any) -> list[str]:
    """Return the distinct labels in a cell: a list, names separated by `|`, or one number."""
    if isinstance(value, str):
        values: list[Any] = value.split("|")
    elif isinstance(value, list):
        values = value
    else:
        values = [value]
    names = dict.fromkeys(str(name).strip() for name in values)
    return [name for name in names if name]
