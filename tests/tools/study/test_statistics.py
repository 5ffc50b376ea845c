"""The statistics against scipy, scikit-learn and hand-worked cases, and their error rates."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, spearmanr
from sklearn.metrics import balanced_accuracy_score, f1_score

from litpool.tools.study.statistics import (
    DRAWS,
    Design,
    Estimate,
    estimate,
    label_score,
    label_values,
    simultaneous,
    spearman_values,
)

sys.path.append(str(Path(__file__).parents[3] / "bench"))


def design(rows: int, clusters: int | None = None) -> Design:
    numbers = np.arange(rows) % (clusters or rows)
    return Design(np.zeros((1, rows), np.int64), numbers)


def folds(rows: int, repeats: int = 4, count: int = 5, seed: int = 0) -> Design:
    generator = np.random.default_rng(seed)
    each = [generator.permutation(np.arange(rows) % count) for _ in range(repeats)]
    return Design(np.stack(each), np.arange(rows))


def discordant(gains: int, losses: int, rows: int) -> np.ndarray:
    """How much more the first of two cells is right than the second, (1, rows)."""
    right = np.zeros((1, rows))
    right[0, :gains], right[0, gains : gains + losses] = 1, -1
    return right


def compare(gains: int, losses: int, rows: int) -> Estimate:
    right = discordant(gains, losses, rows)
    return estimate(100 * right, design(rows), right)


@pytest.fixture
def ranks() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two predictions and gold scores with many ties."""
    generator = np.random.default_rng(0)
    gold = np.round(generator.uniform(0, 5, 300))
    first = np.round(gold + 1.5 * generator.normal(size=300), 1)
    return first, np.round(gold + 2.5 * generator.normal(size=300), 1), gold


@pytest.fixture
def labels() -> tuple[np.ndarray, np.ndarray]:
    """Answers and true labels, one of them rare."""
    generator = np.random.default_rng(0)
    gold = generator.choice(3, 400, p=[0.8, 0.15, 0.05])
    return np.where(generator.random(400) < 0.7, gold, generator.choice(3, 400)), gold


# Values


def test_the_mean_of_values_is_spearmans_correlation_and_their_error_the_bootstraps(ranks) -> None:
    first, second, gold = ranks
    values = [spearman_values(part, gold) for part in (first, second)]
    for part, own in zip((first, second), values, strict=True):
        assert own.mean() == pytest.approx(100 * spearmanr(part, gold).statistic)
    generator = np.random.default_rng(1)
    resampled = [
        spearmanr(first[rows], gold[rows]).statistic - spearmanr(second[rows], gold[rows]).statistic
        for rows in generator.integers(300, size=(1000, 300))
    ]
    error = estimate((values[0] - values[1])[None], design(300)).error
    assert error == pytest.approx(100 * np.std(resampled), rel=0.08)


def test_without_variation_the_correlation_is_zero() -> None:
    assert spearman_values(np.ones(4), np.arange(4.0)).tolist() == [0] * 4


@pytest.mark.parametrize(
    ("name", "score"),
    [
        ("macro_f1", lambda gold, answers: f1_score(gold, answers, average="macro")),
        ("balanced_accuracy", balanced_accuracy_score),
        ("accuracy", lambda gold, answers: (gold == answers).mean()),
    ],
)
def test_label_scores_are_scikit_learns_and_their_error_the_bootstraps(labels, name, score) -> None:
    answers, gold = labels
    indicators = np.eye(3)[answers], np.eye(3)[gold]
    values = label_values(*indicators, name)
    assert values.mean() == pytest.approx(100 * score(gold, answers))
    hits = indicators[0] * indicators[1]
    counts = torch.tensor(np.stack([part.sum(0) for part in (hits, *indicators)]))
    assert float(label_score(counts, name)) == pytest.approx(values.mean())
    generator = np.random.default_rng(1)
    resampled = [
        score(gold[rows], answers[rows]) for rows in generator.integers(400, size=(1000, 400))
    ]
    error = estimate(values[None], design(400)).error
    assert error == pytest.approx(100 * np.std(resampled), rel=0.08)


# Standard errors


def test_rows_of_a_cluster_count_together() -> None:
    values = np.tile(np.random.default_rng(0).normal(size=50), 4)[None]
    copies = estimate(values, design(200, clusters=50))
    once = estimate(values[:, :50], design(50))
    assert copies.error == pytest.approx(once.error)
    assert copies.df == 49


def test_folds_add_the_variance_of_the_train_set() -> None:
    """The formula of Nadeau and Bengio, on fold differences that vary more than their rows do."""
    split = folds(500, repeats=2)
    shifts = np.random.default_rng(0).normal(size=(2, 5))
    values = np.take_along_axis(shifts, split.folds, axis=1)
    result = estimate(values, split)
    assert result.error == pytest.approx(np.sqrt((1 / 10 + 1 / 4) * shifts.var(ddof=1)))
    assert result.df == 9


def test_folds_are_never_more_certain_than_their_rows() -> None:
    right = discordant(5, 0, 600)
    split = folds(600)
    once, repeated = (
        estimate(100 * np.repeat(right, len(kind.folds), 0), kind, right)
        for kind in (design(600), split)
    )
    assert repeated.error > 1.2 * once.error
    assert repeated.p() > 0.05


@pytest.mark.parametrize(
    ("gains", "losses"), [(5, 0), (6, 0), (8, 1), (9, 2), (10, 2), (12, 4), (15, 5), (17, 6)]
)
def test_few_discordant_rows_are_not_more_certain_than_the_exact_test(gains, losses) -> None:
    result = compare(gains, losses, 600)
    exact = binomtest(gains, gains + losses).pvalue
    assert result.p() >= exact - 1e-9
    assert (result.interval()[0] > 0) == (result.p() < 0.05)
    assert result.p() < exact + 0.03


def test_five_discordant_rows_of_600_are_not_enough() -> None:
    assert compare(5, 0, 600).claim(1.0) == "not shown"


def test_two_cells_with_the_same_answers_are_equivalent_only_with_enough_rows() -> None:
    assert compare(0, 0, 30).claim(1.0) == "not shown"
    assert compare(0, 0, 1000).claim(1.0) == "equivalent"


def test_few_rows_of_a_rare_label_are_uncertain_where_labels_weigh_equally() -> None:
    right = discordant(0, 0, 500)
    strata = np.array([1] * 5 + [0] * 495)
    errors = [
        estimate(100 * right, design(500)._replace(strata=part), right).error
        for part in (None, strata)
    ]
    assert errors[1] > 20 * errors[0]


# Claims


def test_the_interval_the_p_value_and_the_claim_agree() -> None:
    for value in np.linspace(-3, 3, 61):
        result = Estimate(float(value), 0.35, 200, np.zeros(2))
        low, high = result.interval()
        claim = result.claim(margin=1.0)
        assert (low > 0) == (claim == "beats")
        assert (high < 0) == (claim == "behind")
        if claim == "equivalent":
            assert low > -1
            assert high < 1
        assert (result.p() < 0.05) == (claim in ("beats", "behind"))


def test_rows_needed_is_the_textbooks() -> None:
    # 30 % of paired outcomes differ, half in each direction, so the variance is 0.3. For 5 points
    # that is (1.96 + 0.84)^2 x 0.3 / 0.05^2 = 942 rows.
    result = Estimate(0.0, 100 * np.sqrt(0.3 / 500), 10_000, np.zeros(2))
    assert result.rows_needed(500, 5) == 940


# Tables


def test_a_table_of_one_line_has_the_interval_of_the_line() -> None:
    right = discordant(90, 60, 800)
    alone = estimate(100 * right, design(800), right)
    (line,) = simultaneous([alone], seed=0)
    assert (line.low, line.high) == pytest.approx(alone.interval(), abs=0.1)
    assert line.p == pytest.approx(alone.p(), abs=0.01)


def test_copies_of_a_line_cost_nothing_and_independent_lines_cost_what_bonferroni_says() -> None:
    generator = np.random.default_rng(0)
    lines = [estimate(generator.normal(size=(1, 2000)), design(2000)) for _ in range(10)]
    alone = simultaneous(lines[:1], 0)[0]
    assert simultaneous(lines[:1] * 10, 0)[0].high == pytest.approx(alone.high, abs=0.003)
    widened = simultaneous(lines, 0)[0]
    # The 0.25% quantile instead of the 2.5%: 2.80 instead of 1.96.
    ratio = (widened.high - widened.low) / (alone.high - alone.low)
    assert ratio == pytest.approx(2.80 / 1.96, rel=0.03)


def test_intervals_and_adjusted_p_values_agree() -> None:
    generator = np.random.default_rng(0)
    lines = [
        estimate(shift + generator.normal(size=(1, 500)), design(500))
        for shift in np.linspace(0, 0.25, 40)
    ]
    table = simultaneous(lines, 0)
    assert [line.p < 0.05 for line in table] == [line.low > 0 or line.high < 0 for line in table]
    assert 0 < sum(line.p < 0.05 for line in table) < 40
    assert min(line.p for line in table) >= 1 / (DRAWS + 1)


def test_a_line_that_cannot_vary_has_no_interval() -> None:
    same = estimate(np.zeros((1, 50)), design(50))
    other = estimate(np.random.default_rng(0).normal(size=(1, 50)), design(50))
    assert simultaneous([same, other], 0)[0][1:] == (None, None, None)


# Simulated studies, where the truth is known


@pytest.mark.slow
@pytest.mark.parametrize("m", [50, 200, 600, 2000])
@pytest.mark.parametrize("setting", ["null", "unlike", "profiles", "spread"])
def test_the_announced_interval_covers_the_truth(setting: str, m: int) -> None:
    import simulate_study

    studies = [simulate_study.simulate_split(setting, m, seed) for seed in range(1000)]
    result = simulate_study.summarize(studies)
    assert result.coverage - result.error >= 0.93
    assert result.width <= 1.3
    assert abs(result.bias) <= (1.0 if m == 50 else 0.5)  # a row is 2 points at m = 50
    if setting == "null":
        assert result.claims["beats"] <= 50


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["null", "noise"])
@pytest.mark.parametrize("n", [50, 200, 600])
def test_the_announced_interval_covers_the_truth_with_probes_fitted_again(
    setting: str, n: int
) -> None:
    import simulate_study

    studies = [simulate_study.simulate_folds(setting, n, seed) for seed in range(100)]
    result = simulate_study.summarize(studies)
    assert result.coverage - result.error >= 0.93
    assert result.width <= 1.3
    if setting == "null":
        assert result.claims["beats"] <= 8


@pytest.mark.slow
def test_five_points_are_found_with_2000_rows_and_a_baseline_as_good_gets_its_caution() -> None:
    import simulate_study

    found = [simulate_study.simulate_split("five points", 2000, seed) for seed in range(200)]
    assert simulate_study.summarize(found).claims["beats"] >= 180
    missing = [simulate_study.simulate_split("caution", 200, seed) for seed in range(400)]
    assert simulate_study.summarize(missing).claims["beats"] <= 20
