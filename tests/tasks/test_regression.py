"""Regression: scores shifted, scaled and brought back, by values worked out by hand."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from scipy import stats

from litpool import InputError
from litpool.tasks.regression import Regression

NO_ROWS = Dataset.from_dict({})


def splits(**scores: list[Any]) -> dict[str, Dataset]:
    return {split: Dataset.from_dict({"score": values}) for split, values in scores.items()}


def learned(train: list[Any], **options: Any) -> Regression:
    task = Regression(**options)
    task.learn(splits(train=train))
    return task


def test_scores_with_a_range_become_0_to_1() -> None:
    task = learned([0, 5, 2.5], score_range=(0, 5))
    assert task.targets([0, 5, 2.5]) == [0, 1, 0.5]
    assert learned(["-1", "1"], score_range=(-1, 1)).targets(["-1", "0", "0.5"]) == [0, 0.5, 0.75]


def test_scores_without_a_range_are_standardized_by_the_train_split() -> None:
    task = Regression()
    task.learn(splits(train=[10, 20, 30, 40], test=[1000]))
    assert task.targets([25, 25 + math.sqrt(125)]) == pytest.approx([0, 1])
    restored = Regression()
    restored.load_state_dict(task.state_dict())
    restored.learn(splits(test=[3.0]))
    assert restored.targets([25]) == [0]


@pytest.mark.parametrize(
    ("value", "shown"), [(5.1, "5.1"), (-0.1, "-0.1"), ("high", "high"), (math.nan, "nan")]
)
def test_a_score_that_is_none_names_split_row_and_range(value: Any, shown: str) -> None:
    task = Regression(score_range=(0, 5))
    bad = (
        Dataset.from_list([{"score": 1.0}, {"score": value}])
        if not isinstance(value, str)
        else None
    )
    rows = bad or Dataset.from_dict({"score": ["1", value]})
    with pytest.raises(
        InputError,
        match=rf"the test split, row 2: 'score' is '{shown}', must be a number from 0 to 5",
    ):
        task.learn({"train": Dataset.from_dict({"score": [0.0, 5.0]}), "test": rows})


def test_scores_that_are_all_alike_and_empty_ranges_are_refused() -> None:
    with pytest.raises(InputError, match="all scores of the train split are 3"):
        learned([3, 3, 3])
    with pytest.raises(
        InputError, match=r"task.score_range=\[5, 0\]: give the lowest score, then the highest"
    ):
        Regression(score_range=(5, 0))


def test_the_loss_is_the_mean_squared_error_of_scaled_scores() -> None:
    task = learned([0, 5], score_range=(0, 5))
    labels = torch.tensor(task.targets([5, 0, 2.5]))
    assert task.loss(torch.tensor([[0.5], [0.0], [1.0]]), labels).item() == pytest.approx(
        (0.25 + 0 + 0.25) / 3
    )


def test_answers_are_in_the_scores_unit_and_range() -> None:
    outputs = torch.tensor([[0.5], [1.3], [-0.2]], dtype=torch.bfloat16)
    assert learned([0, 5], score_range=(0, 5)).decode(outputs, NO_ROWS) == [
        {"score": 2.5},
        {"score": 5},
        {"score": 0},
    ]
    free = learned([10, 30])  # mean 20, deviation 10
    assert [
        a["score"] for a in free.decode(torch.tensor([[2.5], [-3.0]]), NO_ROWS)
    ] == pytest.approx([45, -10])


@pytest.mark.parametrize("sizes", [[50], [17, 32, 1]])
def test_metrics_are_those_of_the_whole_split(sizes: list[int]) -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 11, 50) / 2
    outputs = (scores / 5 + rng.normal(0, 0.3, 50)).astype(np.float32)
    task = learned([0, 5], score_range=(0, 5))
    metrics = task.metrics(NO_ROWS)
    labels = torch.tensor(task.targets(scores.tolist()))
    for some, truth in zip(
        torch.tensor(outputs)[:, None].split(sizes), labels.split(sizes), strict=True
    ):
        task.update(metrics, some, {"labels": truth})
    answers = np.clip(outputs * 5, 0, 5)
    assert {name: value.item() for name, value in metrics.compute().items()} == {
        "spearman": pytest.approx(stats.spearmanr(answers, scores).statistic, abs=1e-5),
        "pearson": pytest.approx(stats.pearsonr(answers, scores).statistic, abs=1e-5),
        "mae": pytest.approx(np.abs(answers - scores).mean(), abs=1e-5),
    }


def test_mistakes_begin_with_the_largest_error() -> None:
    rows = Dataset.from_dict({"score": [1.0, 4.0, 2.0]})
    mistakes = learned([0, 5], score_range=(0, 5)).mistakes(
        torch.tensor([[0.2], [0.2], [0.5]]), rows
    )
    assert [(m.row, m.true, m.predicted) for m in mistakes] == [
        (1, "4.00", "1.00"),
        (2, "2.00", "2.50"),
        (0, "1.00", "1.00"),
    ]
    assert [m.measure for m in mistakes] == pytest.approx([3, 0.5, 0])


# ---- the key of the token cache


def test_dropout_keeps_the_encoding_key() -> None:
    assert learned([0, 5], dropout=0.5).encoding_key() == learned([0, 5]).encoding_key()


def test_columns_shift_and_scale_change_the_encoding_key() -> None:
    tasks = [
        learned([0, 5]),
        learned([1, 6]),  # another mean
        learned([1, 4]),  # another deviation
        learned([0, 5], score_range=(0, 5)),
        learned([0, 5], score_range=(0, 6)),
        learned([0, 5], text=["text", "other"]),
        Regression(label="other"),
    ]
    keys = [json.dumps(task.encoding_key()) for task in tasks]
    assert len(set(keys)) == len(tasks)
