"""The last lines of a command."""

import math

import pytest

from litpool.loops.summary import score_lines


def test_each_split_has_a_line_without_the_metrics_of_single_labels():
    metrics = {"val/accuracy": 0.9, "val/f1/low": 0.1, "test/accuracy": 0.8, "test/loss": 1.25}
    assert score_lines({**metrics, "train/loss": 1.0}) == [
        "val         accuracy 0.900",
        "test        accuracy 0.800, loss 1.250",
    ]


def test_labels_named_like_details_are_not_taken_for_them():
    metrics = {"test/f1": 0.5, "test/f1/low": 0.1, "test/f1/high": 0.9, "test/f1/majority": 0.5}
    assert score_lines(metrics) == ["test        f1 0.500"]


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (0.1, 0.4, "spearman 0.250 (95% CI 0.100 to 0.400)"),
        (-0.1, 0.5, "spearman 0.250 (95% CI -0.100 to 0.500: not clearly different from 0)"),
    ],
)
def test_a_correlation_that_may_be_none_is_called_that(low, high, text):
    metrics = {"test/spearman": 0.25, "test/spearman/low": low, "test/spearman/high": high}
    assert score_lines(metrics) == [f"test        {text}"]


def test_an_undefined_correlation_says_why():
    (line,) = score_lines({"test/spearman": math.nan})
    assert line == "test        spearman nan (all predictions or all scores are equal)"
