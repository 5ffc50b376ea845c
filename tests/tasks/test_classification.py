"""Classification, and labels as all tasks use them, against values worked out by hand."""

import json
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
from litpool.tasks.similarity import Similarity
from litpool.tasks.task import Task

NO_ROWS = Dataset.from_dict({})  # for what does not look at them


def splits(column: str = "label", **labels: list[Any]) -> dict[str, Dataset]:
    return {split: Dataset.from_dict({column: values}) for split, values in labels.items()}


def learned(values: list[Any], **options: Any) -> Classification:
    task = Classification(**options)
    task.learn(splits(train=values))
    return task


def learned_sets(values: list[Any], **options: Any) -> MultiLabelClassification:
    task = MultiLabelClassification(label="labels", **options)
    task.learn(splits("labels", train=values))
    return task


def computed(task: Task, logits: Tensor, labels: Tensor, sizes: list[int]) -> dict[str, Any]:
    """The metrics of a split that is fed in batches of these sizes."""
    metrics = task.metrics(NO_ROWS)
    for some, truth in zip(logits.split(sizes), labels.split(sizes), strict=True):
        task.update(metrics, some, {"labels": truth})
    return {name: value.tolist() for name, value in metrics.compute().items()}


def f1(predicted: Any, true: Any) -> float:
    """From two arrays of bools."""
    hits = 2 * np.sum(predicted & true)
    return float(hits / (np.sum(predicted) + np.sum(true)))


# ---- label names


@pytest.mark.filterwarnings("ignore:column 'label'. '001' and '01' are two labels:UserWarning")
@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["pos", "neg", "pos"], ["neg", "pos"]),
        ([10, 9, 2, 2], ["2", "9", "10"]),
        ([-1, 1, 0], ["-1", "0", "1"]),
        (["10", "9", "a"], ["10", "9", "a"]),
        ([10.0, 2.5, 9.0], ["2.5", "9.0", "10.0"]),
        ([True, False], ["False", "True"]),
        (["²", "1"], ["1", "²"]),
        (["--1", "1"], ["--1", "1"]),
        (["1", "01", "001", "0"], ["0", "001", "01", "1"]),
        (["ü", "Z", "a"], ["Z", "a", "ü"]),
    ],
)
def test_labels_stand_in_order_numbers_as_numbers(values: list[Any], names: list[str]) -> None:
    for order in (values, values[::-1]):
        task = learned(order)
        assert task.labels == names
        assert task.targets(values) == [names.index(str(value)) for value in values]


def test_labels_are_those_of_train_where_there_is_train() -> None:
    task = Classification()
    task.learn(splits(train=["a", "b", "c"], validation=["a"], test=["c", "b"]))
    assert task.labels == ["a", "b", "c"]
    scored = Classification()
    scored.learn(splits(validation=["a"], test=["c"]))
    assert scored.labels == ["a", "c"]


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_label_unknown_to_train_is_named(split: str) -> None:
    with pytest.raises(
        InputError, match=f"the {split} split has the label 'z' in column 'label'.*known: a, b"
    ) as caught:
        Classification().learn(splits(train=["a", "b"], **{split: ["a", "z"]}))
    assert "\n" not in str(caught.value)


def test_a_column_of_texts_as_the_label_is_called_that_in_a_short_line() -> None:
    names = [f"{number}: {'a long text, ' * 20}end" for number in range(100)]
    with pytest.raises(InputError, match=r"set task.label to another column.*Regression") as caught:
        Classification().learn(splits(train=names[:90], test=names[90:]))
    assert "and 70 more" in str(caught.value)
    assert len(str(caught.value)) < 1_300


@pytest.mark.parametrize("text", ["label", ["text", "label"]])
def test_the_text_is_no_label(text: str | list[str]) -> None:
    with pytest.raises(InputError, match=r"task.label=label: the column with the text"):
        Classification(text=text)


@pytest.mark.parametrize("task", [Classification(), MultiLabelClassification(label="label")])
def test_one_label_is_too_few(task: Task) -> None:
    with pytest.raises(InputError, match=r"column 'label' holds 1 label \(only\); at least 2"):
        task.learn(splits(train=["only", "only"]))


@pytest.mark.parametrize(
    ("written", "twin"), [("1.0", "1"), ("1e0", "1"), ("Good", "good"), ("01", "1")]
)
def test_an_unknown_label_is_told_with_the_one_it_may_mean(written: str, twin: str) -> None:
    with pytest.raises(InputError, match=f"'{written}'.*if it means the label '{twin}', write"):
        Classification().learn(splits(train=["0", "1", "good"], test=["0", written]))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["1", "2", "1.0"], "'1' and '1.0' are two labels"),
        (["3.10", "x", "3.1"], "'3.1' and '3.10' are two labels"),
    ],
)
def test_labels_that_are_the_same_number_stay_apart_with_a_warning(
    values: list[str], said: str
) -> None:
    with pytest.warns(UserWarning, match=f"column 'label': {said}, although they are the same"):
        assert sorted(learned(values).labels) == sorted(values)


@pytest.mark.parametrize(
    "task", [Classification(), Similarity(["a", "b"], "label", objective="softmax")]
)
def test_blanks_around_labels_are_left_out_with_a_warning(task: Task) -> None:
    values = ["good", " good", "bad\t", "bad"]
    with pytest.warns(UserWarning, match="2 of 5 labels begin or end .* ' good' becomes 'good'"):
        task.learn(splits(train=values, test=["bad"]))
    assert task.labels == ["bad", "good"]
    assert task.targets(values) == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (["a", "b"], "use --task MultiLabelClassification"),
        ({"a": 1}, "set task.label to another column"),
        (b"a", "save the labels as text"),
    ],
)
@pytest.mark.parametrize(
    "task", [Classification(), Similarity(["a", "b"], "label", objective="softmax")]
)
def test_a_label_that_is_no_name_is_refused(task: Task, value: Any, advice: str) -> None:
    with pytest.raises(InputError, match=f"the train split, row 1: 'label' is .*; .*{advice}"):
        task.learn(splits(train=[value, value]))


def test_restored_labels_stay_and_others_are_refused() -> None:
    task = Classification()
    task.load_state_dict({"labels": ["a", "b", "c"], "weights": None})
    task.learn(splits(test=["c", "a"]))
    assert task.labels == ["a", "b", "c"]
    with pytest.raises(InputError, match="'d'"):
        task.learn(splits(test=["d"]))


@pytest.mark.parametrize(
    "task", [learned(["a", "b"], class_weights="balanced"), learned_sets([["a"], ["b"]])]
)
def test_the_state_goes_round(task: Task) -> None:
    other = type(task)()
    other.load_state_dict(task.state_dict())
    assert other.state_dict() == task.state_dict()
    assert other.labels == ["a", "b"]
    assert other.head(4)[-1].out_features == 2  # type: ignore[index]


@pytest.mark.parametrize("name", ["label_smoothing", "dropout"])
@pytest.mark.parametrize("value", [-0.1, 1.0, math.nan])
@pytest.mark.parametrize("kind", [Classification, MultiLabelClassification])
def test_a_share_out_of_bounds_is_refused(kind: type[Any], name: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"task\.{name}={value}"):
        kind(**{name: value})


# ---- class weights and loss


def test_balanced_weights_by_hand() -> None:
    task = learned(["a"] * 6 + ["b"] * 3 + ["c"], class_weights="balanced")
    assert task.weights == pytest.approx([10 / 18, 10 / 9, 10 / 3])


def test_balanced_labels_weigh_the_same_in_all() -> None:
    values = ["a"] * 6 + ["b"] * 3 + ["c"]
    task = learned(values, class_weights="balanced")
    assert task.weights is not None
    sums = [
        weight * values.count(name) for name, weight in zip(task.labels, task.weights, strict=True)
    ]
    assert sums == pytest.approx([10 / 3] * 3)


def test_weights_by_name_are_1_where_none_is_named() -> None:
    assert learned(["a", "b", "c"], class_weights={"c": 5}).weights == [1.0, 1.0, 5.0]
    assert learned(["a", "b"]).weights is None


@pytest.mark.parametrize("kind", [Classification, MultiLabelClassification])
def test_a_weight_for_no_label_is_refused(kind: type[Any]) -> None:
    with pytest.raises(
        InputError, match=r"task\.class_weights names 'z', which is not a label; known: a, b"
    ):
        kind(label="label", class_weights={"z": 2.0}).learn(splits(train=["a", "b"]))


@pytest.mark.parametrize(
    "task",
    [
        Classification(class_weights="balanced"),
        MultiLabelClassification(label="label", class_weights="balanced"),
    ],
)
def test_a_restored_label_without_rows_has_a_weight_all_the_same(task: Any) -> None:
    task.load_state_dict({"labels": ["a", "b", "c"]})
    task.learn(splits(train=["a", "b", "a"]))
    assert all(0 < weight < math.inf for weight in task.weights)


LOGITS = [[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]]
LABELS = [0, 2]


def log_softmax(row: list[float]) -> list[float]:
    total = math.log(sum(math.exp(value) for value in row))
    return [value - total for value in row]


def test_the_loss_is_cross_entropy() -> None:
    loss = learned(["a", "b", "c"]).loss(torch.tensor(LOGITS), torch.tensor(LABELS))
    expected = -(log_softmax(LOGITS[0])[0] + log_softmax(LOGITS[1])[2]) / 2
    assert loss.item() == pytest.approx(expected)


def test_label_smoothing_by_hand() -> None:
    loss = learned(["a", "b", "c"], label_smoothing=0.3).loss(
        torch.tensor(LOGITS), torch.tensor(LABELS)
    )
    targets = [[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]]
    rows = [
        sum(t * lp for t, lp in zip(target, log_softmax(row), strict=True))
        for target, row in zip(targets, LOGITS, strict=True)
    ]
    assert loss.item() == pytest.approx(-sum(rows) / 2)


def test_class_weights_in_the_loss_by_hand() -> None:
    task = learned(["a", "b", "c"], class_weights={"a": 3.0})
    loss = task.loss(torch.tensor(LOGITS), torch.tensor(LABELS))
    expected = -(3 * log_softmax(LOGITS[0])[0] + log_softmax(LOGITS[1])[2]) / 4  # a mean by weight
    assert loss.item() == pytest.approx(expected)


# ---- metrics


@pytest.mark.parametrize("sizes", [[50], [32, 18], [16, 16, 16, 2], [1] * 50], ids=str)
def test_metrics_are_those_of_the_split_however_it_is_batched(sizes: list[int]) -> None:
    task = learned(["a", "b", "c"])
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (50,), generator=generator)
    logits = torch.randn(50, 3, generator=generator) + torch.nn.functional.one_hot(labels, 3)
    scores = computed(task, logits, labels, sizes)
    predicted, true = logits.argmax(1).numpy(), labels.numpy()
    each = [f1(predicted == n, true == n) for n in range(3)]
    matrix = [
        [int(np.sum((true == row) & (predicted == column))) for column in range(3)]
        for row in range(3)
    ]
    assert scores == {
        "accuracy": pytest.approx(np.mean(predicted == true)),
        "f1": pytest.approx(np.mean(each)),
        "f1/a": pytest.approx(each[0]),
        "f1/b": pytest.approx(each[1]),
        "f1/c": pytest.approx(each[2]),
        "confusion_matrix": matrix,
    }


def test_a_mean_of_batches_would_be_another_number() -> None:
    task = learned(["a", "b"])
    logits, labels = torch.tensor([[1.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1])
    assert computed(task, logits, labels, [3, 1])["accuracy"] == 0.75  # the batches' are 1 and 0


def test_a_label_that_neither_truth_nor_answers_have_is_left_out_of_macro_f1() -> None:
    logits, labels = torch.tensor([[3.0, 0, 0], [3.0, 0, 0], [0, 3.0, 0]]), torch.tensor([0, 1, 1])
    scores = computed(learned(["a", "b", "c"]), logits, labels, [3])
    assert scores["f1"] == pytest.approx((2 / 3 + 2 / 3) / 2)  # as scikit-learn has it


@pytest.mark.parametrize("task", [Classification(), MultiLabelClassification(label="label")])
def test_the_monitored_metric_is_among_the_metrics(task: Task) -> None:
    task.learn(splits(train=["a", "b"]))
    labels = torch.tensor(task.targets(["a", "b"]))
    assert task.monitor.removeprefix("val/") in computed(task, torch.eye(2), labels, [2])
    assert task.monitor_mode == "max"


# ---- answers


def test_answers_name_the_likeliest_label_and_all_probabilities() -> None:
    answers = learned(["b", "a", "c"]).decode(torch.tensor(LOGITS, dtype=torch.bfloat16), NO_ROWS)
    assert [answer["label"] for answer in answers] == ["b", "c"]
    for answer, row in zip(answers, LOGITS, strict=True):
        assert list(answer["probabilities"]) == ["a", "b", "c"]
        assert sum(answer["probabilities"].values()) == pytest.approx(1)
        assert list(answer["probabilities"].values()) == pytest.approx(
            [math.exp(v) for v in log_softmax(row)], abs=1e-5
        )


def test_mistakes_come_the_most_confident_first() -> None:
    logits = torch.tensor([[0.0, 1.0], [5.0, 0.0], [0.0, 3.0], [4.0, 0.0], [0.0, 2.0]])
    mistakes = learned(["a", "b"]).mistakes(logits, Dataset.from_dict({"label": ["a"] * 5}))
    assert [mistake.row for mistake in mistakes] == [2, 4, 0]
    assert [mistake.measure for mistake in mistakes] == pytest.approx(
        [1 / (1 + math.exp(-v)) for v in (3, 2, 1)]
    )
    assert {(mistake.true, mistake.predicted) for mistake in mistakes} == {("a", "b")}


def test_no_mistake_is_no_row() -> None:
    assert (
        learned(["a", "b"]).mistakes(torch.eye(2), Dataset.from_dict({"label": ["a", "b"]})) == []
    )


# ---- the key of the token cache


@pytest.mark.parametrize(
    "options", [{"dropout": 0.5}, {"label_smoothing": 0.3}, {"class_weights": "balanced"}]
)
def test_what_does_not_change_the_tokens_keeps_the_encoding_key(options: dict[str, Any]) -> None:
    assert learned(["a", "b"], **options).encoding_key() == learned(["a", "b"]).encoding_key()


def test_columns_and_label_names_change_the_encoding_key() -> None:
    tasks = [
        learned(["a", "b"]),
        learned(["a", "c"]),
        learned(["a", "b"], text="other"),
        learned(["a", "b"], text=["text", "other"]),
        Classification(label="other"),
    ]
    keys = [json.dumps(task.encoding_key()) for task in tasks]
    assert len(set(keys)) == len(tasks)


def test_a_task_of_ones_own_has_every_attribute_in_its_key() -> None:
    class Own(Classification):
        encoding_attributes = ()

    task = Own(dropout=0.5)
    key = task.encoding_key()
    task.extra = "value"  # type: ignore[attr-defined]
    assert "Own" in key
    assert ("extra", "value") in task.encoding_key()
    assert ("extra", "value") not in key
