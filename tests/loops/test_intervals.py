"""Intervals against values worked out here, and how often they are right on fresh data."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from litpool.loops.intervals import (
    accuracy_interval,
    against_majority,
    correlation_interval,
    details,
)
from litpool.loops.summary import score_lines

Z = 1.959964


def wilson(share, rows):
    middle = (share + Z**2 / (2 * rows)) / (1 + Z**2 / rows)
    variance = share * (1 - share) / rows + Z**2 / (4 * rows**2)
    margin = Z / (1 + Z**2 / rows) * math.sqrt(variance)
    return middle - margin, middle + margin


@pytest.mark.parametrize(
    ("right", "rows"), [(156, 300), (0, 20), (20, 20), (1, 3), (9_000, 10_000)]
)
def test_the_interval_of_an_accuracy_is_wilsons(right, rows):
    low, high = accuracy_interval(right, rows)
    assert (low, high) == pytest.approx(wilson(right / rows, rows), abs=1e-6)
    assert 0 <= low <= right / rows <= high <= 1


@pytest.mark.parametrize("accuracy", [0.5, 0.8, 0.95])
def test_19_of_20_intervals_contain_the_accuracy_on_fresh_data(accuracy):
    right = np.random.default_rng(1).binomial(100, accuracy, 2000)
    inside = [
        low <= accuracy <= high for low, high in (accuracy_interval(int(n), 100) for n in right)
    ]
    assert 0.93 < np.mean(inside) < 0.98


@pytest.mark.parametrize(("correlation", "rows"), [(0.0, 40), (0.5, 40), (0.85, 200)])
def test_19_of_20_intervals_contain_the_rank_correlation_on_fresh_data(correlation, rows):
    rng = np.random.default_rng(2)
    true = 6 / math.pi * math.asin(correlation / 2)  # Spearman's, of normal scores
    inside = []
    for _ in range(500):
        first, noise = rng.normal(size=(2, rows))
        second = correlation * first + math.sqrt(1 - correlation**2) * noise
        low, high = correlation_interval(spearmanr(first, second).statistic, rows)
        inside.append(low <= true <= high)
    assert 0.92 < np.mean(inside) < 0.98


def test_an_interval_of_three_rows_excludes_nothing():
    assert correlation_interval(0.9, 3) == (-1.0, 1.0)


def confusions(true, predicted, labels):
    matrix = np.zeros((labels, labels), dtype=np.int64)
    np.add.at(matrix, (true, predicted), 1)
    return torch.from_numpy(matrix)


def says(matrix):
    """What the line of the test split says about a confusion matrix, in parentheses."""
    values = {"confusion_matrix": matrix, "accuracy": matrix.diagonal().sum() / matrix.sum()}
    metrics = {"test/accuracy": float(values["accuracy"])}
    found = details(values, int(matrix.sum()), interval=True)
    metrics |= {f"test/{name}": value for name, value in found.items()}
    (line,) = score_lines(metrics)
    return line


def test_a_classifier_is_compared_with_the_most_frequent_label_row_by_row():
    # 60 rows of label 0, of which 50 are right; 40 of label 1, of which 30 are right
    found = against_majority(torch.tensor([[50, 10], [10, 30]]))
    assert found["majority"] == 0.6
    assert found["answers"] == 2
    # of 40 rows that one of the two gets right, the classifier has 30; Clopper and Pearson by hand
    assert found["gain_low"] == pytest.approx(0.58804, abs=1e-4)


@pytest.mark.parametrize(
    ("matrix", "verdict"),
    [
        ([[156, 0], [144, 0]], "majority class 0.520: the model predicts one class only)"),
        ([[0, 156], [0, 144]], "majority class 0.520: the model predicts one class only)"),
        ([[150, 6], [150, 0]], "majority class 0.510: not better)"),
        ([[100, 56], [100, 44]], "majority class 0.520: not better)"),
        ([[100, 56], [76, 68]], "majority class 0.520: not clearly better)"),
        ([[100, 56], [30, 114]], "majority class 0.520)"),
        ([[270, 0], [20, 10]], "majority class 0.900)"),
    ],
)
def test_the_line_says_when_a_score_does_not_beat_the_majority_class(matrix, verdict):
    assert verdict in says(torch.tensor(matrix))


@pytest.mark.parametrize("share", [0.5, 0.8])
@pytest.mark.parametrize("rows", [50, pytest.param(300, marks=pytest.mark.slow)])
def test_a_model_that_is_no_better_is_seldom_taken_for_better(share, rows):
    """It is right as often as the majority class, on any rows: the hardest case to tell apart."""
    rng = np.random.default_rng(3)
    better = []
    for _ in range(1000):
        true = (rng.random(rows) > share).astype(int)
        predicted = np.where(rng.random(rows) < share, true, 1 - true)
        better.append("better" not in says(confusions(true, predicted, 2)))
    assert np.mean(better) <= 0.035  # 0.025, and the error of 1,000 draws


def test_a_model_that_is_better_is_found_out():
    rng = np.random.default_rng(4)
    found = []
    for _ in range(200):
        true = rng.integers(8, size=200)
        predicted = np.where(rng.random(200) < 0.4, true, rng.integers(8, size=200))
        found.append("better" not in says(confusions(true, predicted, 8)))
    assert np.mean(found) > 0.95


def test_the_split_that_chose_the_checkpoint_has_no_interval():
    values = {"confusion_matrix": torch.tensor([[5, 1], [1, 5]]), "spearman": torch.tensor(0.5)}
    found = details(values, 12, interval=False)
    assert set(found) == {"accuracy/majority", "accuracy/gain_low", "accuracy/answers"}


def test_a_matrix_for_each_label_and_no_rows_give_nothing():
    assert details({"confusion_matrix": torch.ones(3, 2, 2)}, 4, interval=True) == {}
    assert details({"confusion_matrix": torch.zeros(2, 2)}, 0, interval=True) == {}
