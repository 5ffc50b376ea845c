"""Multi-label classification against values worked out by hand."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import Tensor

from litpool import InputError
from litpool.tasks.classification import Classification
from litpool.tasks.multilabel import MultiLabelClassification

NO_ROWS = Dataset.from_dict({})  # for what does not look at them


def splits(**labels: list[Any]) -> dict[str, Dataset]:
    return {split: Dataset.from_dict({"labels": values}) for split, values in labels.items()}


def learned_sets(values: list[Any], **options: Any) -> MultiLabelClassification:
    task = MultiLabelClassification(label="labels", **options)
    task.learn(splits(train=values))
    return task


def computed(
    task: MultiLabelClassification, logits: Tensor, labels: Tensor, sizes: list[int]
) -> dict[str, Any]:
    """The metrics of a split that is fed in batches of these sizes."""
    metrics = task.metrics(NO_ROWS)
    for some, truth in zip(logits.split(sizes), labels.split(sizes), strict=True):
        task.update(metrics, some, {"labels": truth})
    return {name: value.tolist() for name, value in metrics.compute().items()}


def f1(predicted: Any, true: Any) -> float:
    """From two arrays of bools."""
    hits = 2 * np.sum(predicted & true)
    return float(hits / (np.sum(predicted) + np.sum(true)))


@pytest.mark.parametrize(
    "values",
    [
        [["a", "b"], ["b"], []],
        ["a|b", "b", "|"],
        [" b | a ", "b|", "|"],
        ["b|a|b", "b|b", ""],
    ],
    ids=["lists", "names with bars", "blanks", "doubled"],
)
def test_sets_of_labels_become_zeros_and_ones(values: list[Any]) -> None:
    task = learned_sets(values)
    assert task.labels == ["a", "b"]
    assert task.targets(values) == [[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]]


def test_a_column_of_numbers_holds_one_label_a_row() -> None:
    task = learned_sets([10, 9])  # a CSV file of single numbers is read as numbers
    assert task.labels == ["9", "10"]
    assert task.targets([10]) == [[0.0, 1.0]]


@pytest.mark.parametrize("value", [{"a": 1}, b"a", [["a"]], ["a", None], [{"a": 1}]])
def test_what_is_no_set_of_names_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match=r"the train split, row 1: 'labels' contains .*names"):
        learned_sets([value, value])


def test_a_label_unknown_to_train_is_named_among_several() -> None:
    with pytest.raises(InputError, match="the test split has the label 'z' in column 'labels'"):
        MultiLabelClassification(label="labels").learn(splits(train=["a", "b"], test=["a|z"]))


@pytest.mark.parametrize(
    "values", [[["a", "b"], ["b"], ["b"], []], ["a|b|b", "b|b", "b", "|"]], ids=["once", "doubled"]
)
def test_balanced_weights_of_several_labels_by_hand(values: list[Any]) -> None:
    assert learned_sets(values, class_weights="balanced").weights == pytest.approx([3 / 1, 1 / 3])


def test_a_label_of_every_row_still_counts_in_the_loss() -> None:
    weights = learned_sets([["a", "b"], ["b"]], class_weights="balanced").weights
    assert weights is not None
    assert min(weights) > 0


def test_the_loss_of_several_labels_by_hand() -> None:
    logits, labels = [[2.0, -1.0], [0.5, 0.0]], [[1.0, 0.0], [0.0, 1.0]]
    task = learned_sets([["a"], ["b"]], class_weights={"b": 4.0}, label_smoothing=0.2)

    def loss(logit: float, label: float, weight: float) -> float:
        probability, target = 1 / (1 + math.exp(-logit)), 0.1 + 0.8 * label
        return -(weight * target * math.log(probability) + (1 - target) * math.log(1 - probability))

    expected = [
        loss(x, y, w)
        for row, truth in zip(logits, labels, strict=True)
        for x, y, w in zip(row, truth, (1, 4), strict=True)
    ]
    assert task.loss(torch.tensor(logits), torch.tensor(labels)).item() == pytest.approx(
        sum(expected) / 4
    )


@pytest.mark.parametrize("sizes", [[41], [16, 16, 9], [1] * 41], ids=str)
@pytest.mark.parametrize(
    "scale", [0.2, 5.0], ids=["logits that look like probabilities", "logits that do not"]
)
def test_metrics_of_several_labels_are_those_of_the_split(sizes: list[int], scale: float) -> None:
    task = learned_sets([["a"], ["b"], ["c"]])
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(2, (41, 3), generator=generator).float()
    logits = torch.randn(41, 3, generator=generator) * scale + (labels - 0.5) * scale
    logits[:16] = (
        logits[:16].abs().clamp(max=0.99) if scale < 1 else logits[:16]
    )  # a batch wholly in [0, 1]
    scores = computed(task, logits, labels, sizes)
    predicted, true = logits.numpy() > 0, labels.numpy() > 0
    each = [f1(predicted[:, n], true[:, n]) for n in range(3)]
    matrix = [
        [[int(np.sum((true[:, n] == r) & (predicted[:, n] == c))) for c in (0, 1)] for r in (0, 1)]
        for n in range(3)
    ]
    assert scores == {
        "accuracy": pytest.approx(np.mean(predicted == true)),
        "exact_match": pytest.approx(np.mean((predicted == true).all(1))),
        "f1": pytest.approx(np.mean(each)),
        **{f"f1/{name}": pytest.approx(value) for name, value in zip("abc", each, strict=True)},
        "confusion_matrix": matrix,
    }


def test_answers_name_the_labels_over_one_half() -> None:
    answers = learned_sets([["a"], ["b"], ["c"]]).decode(
        torch.tensor([[2.0, -3.0, 0.1], [-1.0, -1.0, 0.0]]), NO_ROWS
    )
    assert [answer["labels"] for answer in answers] == [["a", "c"], []]
    assert answers[0]["probabilities"] == pytest.approx(
        {n: 1 / (1 + math.exp(-v)) for n, v in zip("abc", (2, -3, 0.1), strict=True)}
    )


def test_mistakes_of_several_labels_by_hand() -> None:
    logits = torch.tensor([[3.0, -3.0], [2.0, 1.0], [-4.0, -4.0], [1.0, -1.0]])
    rows = Dataset.from_dict({"labels": [["a"], ["b"], ["a"], []]})
    mistakes = learned_sets([["a"], ["b"]]).mistakes(logits, rows)
    assert [mistake.row for mistake in mistakes] == [2, 1, 3]
    assert [(mistake.true, mistake.predicted) for mistake in mistakes] == [
        ("a", "none"),
        ("b", "a | b"),
        ("none", "a"),
    ]
    assert [mistake.measure for mistake in mistakes] == pytest.approx(
        [1 / (1 + math.exp(-v)) for v in (4, 2, 1)]
    )


def test_no_mistake_is_no_row() -> None:
    rows = Dataset.from_dict({"labels": [["a"], ["b"]]})
    assert learned_sets([["a"], ["b"]]).mistakes(torch.eye(2) * 2 - 1, rows) == []


# ---- the key of the token cache


def test_the_encoding_key_has_what_the_tokens_depend_on_and_nothing_else() -> None:
    key = learned_sets([["a"], ["b"]]).encoding_key()
    options = {"dropout": 0.5, "label_smoothing": 0.3, "class_weights": "balanced"}
    assert learned_sets([["a"], ["b"]], **options).encoding_key() == key
    assert learned_sets([["a"], ["c"]]).encoding_key() != key
    assert learned_sets([["a"], ["b"]], text="other").encoding_key() != key
    other = MultiLabelClassification(label="other")
    other.labels = ["a", "b"]
    assert other.encoding_key() != key
    single = Classification(label="labels")
    single.labels = ["a", "b"]
    assert single.encoding_key() != key  # their targets differ
