"""The statistics against scipy and hand-worked cases, and their error rates in simulations."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from litpool import InputError
from litpool.tools.study import statistics
from litpool.tools.study.probes import Split, probe
from litpool.tools.study.statistics import (
    accuracy,
    analyze,
    bootstrap,
    estimates,
    examples_needed,
    holm,
    observe,
    spearman,
)

KINDS = ("Cls", "Mean", "Max", "Min", "LastToken", "FirstLast", "LastN", "Attention")
POOLINGS = [f"{kind}Pooling of layer 6" for kind in KINDS]


def graded(cells: int = 3, pairs: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Predictions (cells, pairs) of falling quality and gold scores with many ties."""
    generator = np.random.default_rng(seed)
    gold = np.round(generator.uniform(0, 5, pairs))
    noise = generator.normal(size=(cells, pairs)) * np.linspace(1, 3, cells)[:, None]
    return np.round(gold + noise, 1), gold


def right(share: float, examples: int, generator: np.random.Generator) -> np.ndarray:
    return (generator.random(examples) < share).astype(float)


# Scores


def test_accuracy_is_a_share_in_points() -> None:
    outcomes = np.array([[1, 0, 1, 1], [0.5, 0.5, 0, 1]])
    assert observe(outcomes, accuracy).tolist() == [75, 50]
    assert accuracy(outcomes, np.array([[0.0], [3], [1], [0]])).tolist() == [[25], [37.5]]


def test_spearman_is_scipys_in_each_resample_with_ties() -> None:
    predicted, gold = graded()
    score = spearman(gold)
    for cell, points in enumerate(observe(predicted, score)):
        assert points == pytest.approx(100 * spearmanr(predicted[cell], gold).statistic)
    counts = next(statistics._draws(60, 25, seed=3))
    points = score(predicted, counts)
    for number in range(25):
        rows = np.repeat(np.arange(60), counts[:, number].astype(int))
        expected = [100 * spearmanr(row[rows], gold[rows]).statistic for row in predicted]
        assert points[:, number] == pytest.approx(expected)


def test_spearman_of_equal_predictions_is_zero() -> None:
    assert observe(np.ones((1, 4)), spearman(np.array([1.0, 2, 3, 4]))).tolist() == [0]


# Resamples


def test_all_cells_and_all_chunk_sizes_have_the_same_resamples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    predicted, gold = graded()
    outcomes = np.stack([predicted[0], predicted[0], predicted[1]])
    points = bootstrap(outcomes, spearman(gold), resamples=50, seed=1)
    assert (points[0] == points[1]).all()
    assert (points[0] != points[2]).any()
    monkeypatch.setattr(statistics, "CHUNK", 60 * 7)
    chunked = bootstrap(outcomes, spearman(gold), resamples=50, seed=1)
    assert chunked == pytest.approx(points, abs=1e-9)
    assert (bootstrap(outcomes, spearman(gold), resamples=50, seed=2) != points).any()


def test_a_resample_draws_as_many_examples_as_there_are() -> None:
    counts = np.concatenate(list(statistics._draws(30, 40, seed=0)), axis=1)
    assert counts.shape == (30, 40)
    assert (counts.sum(0) == 30).all()


def test_the_interval_of_an_accuracy_is_that_of_a_binomial() -> None:
    outcomes = np.zeros((1, 1000))
    outcomes[0, :800] = 1
    (estimate,) = estimates(outcomes, accuracy)
    reach = 1.96 * 100 * np.sqrt(0.8 * 0.2 / 1000)  # 2.5 points
    assert estimate.value == 80
    assert (estimate.low, estimate.high) == pytest.approx((80 - reach, 80 + reach), abs=0.15)


# Comparisons


def test_holm_is_worked_out_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([]) == []


def test_examples_needed_is_the_textbooks() -> None:
    # 30 % of paired outcomes differ, half in each direction, so the variance is 0.3. For 5 points
    # that is (1.96 + 0.84)^2 x 0.3 / 0.05^2 = 942 examples.
    error = 100 * np.sqrt(0.3 / 500)
    assert examples_needed(error, 500, 5) == pytest.approx(942, rel=0.002)


def test_a_comparison_is_paired() -> None:
    generator = np.random.default_rng(0)
    base = right(0.7, 2000, generator)
    better = base.copy()
    better[np.flatnonzero(base == 0)[:40]] = 1  # right in 40 more, wrong in none
    analysis = analyze(POOLINGS[:2], np.stack([base, better]), accuracy, baseline=0)
    (comparison,) = analysis.against_baseline
    assert comparison.difference == pytest.approx(2)
    error = 100 * np.sqrt(0.02 * 0.98 / 2000)  # 0.31; unpaired it would be 1.4
    assert comparison.error == pytest.approx(error, rel=0.03)
    assert comparison.low > 1.3
    assert comparison.high < 2.7


def test_p_is_never_zero_and_one_for_equals() -> None:
    outcomes = np.stack([np.zeros(100), np.ones(100), np.zeros(100)])
    analysis = analyze(POOLINGS[:3], outcomes, accuracy, baseline=0, resamples=999)
    # Two tests, so the smaller p is 2 x 1/1000.
    assert [comparison.p for comparison in analysis.against_baseline] == [0.002, 1]
    assert analysis.lead is not None
    assert analysis.lead.p == 0.001


def test_the_best_must_differ_from_each_of_the_others() -> None:
    """The runner-up is well behind, but a third, noisier cell may not be."""
    generator = np.random.default_rng(0)
    base = right(0.6, 400, generator)
    best, runner_up = base.copy(), base.copy()
    best[np.flatnonzero(base == 0)[:24]] = 1  # 6 points ahead of base, in few examples
    outcomes = np.stack([best, runner_up, generator.permutation(base)])
    analysis = analyze(POOLINGS[:3], outcomes, accuracy, baseline=1)
    alone = [
        analyze(POOLINGS[:2], outcomes[[0, other]], accuracy, 1).against_baseline[0].p
        for other in (1, 2)
    ]
    assert analysis.lead is not None
    assert alone[0] < 0.001 < 0.05 < alone[1] == analysis.lead.p


# Verdicts


def test_the_verdict_names_the_pooling_that_beats_cls() -> None:
    generator = np.random.default_rng(0)
    gold = generator.uniform(0, 5, 1379)
    predicted = gold + generator.normal(size=(2, 1379)) * np.array([[2.0], [1.4]])
    analysis = analyze(
        POOLINGS[:2], predicted, spearman(gold), baseline=0, unit="pairs", resamples=2000
    )
    (comparison,) = analysis.against_baseline
    interval = f"95% CI {comparison.low:.1f} to {comparison.high:.1f}"
    assert analysis.verdict == (
        "Here MeanPooling of layer 6 beats ClsPooling of layer 6 by "
        f"{comparison.difference:.1f} points ({interval}, p < 0.001, 1,379 pairs)"
    )


def test_the_verdict_says_how_many_examples_would_show_a_difference() -> None:
    generator = np.random.default_rng(1)
    base = right(0.7, 200, generator)
    other = base.copy()
    flipped = generator.permutation(200)[:20]
    # 10 % differ: 7.85 x 0.1 / 0.02^2 = 1962 at most, minus the squared difference.
    other[flipped] = 1 - base[flipped]
    analysis = analyze(POOLINGS[:2], np.stack([base, other]), accuracy, baseline=0)
    assert analysis.verdict in {
        "no pooling is distinguishable from [CLS] with 200 examples; "
        f"about {number:,} would show a difference of 2 points"
        for number in (1900, 2000)
    }


def test_the_verdict_asks_for_a_smaller_difference_where_this_one_would_have_been_seen() -> None:
    generator = np.random.default_rng(0)
    base = right(0.7, 8000, generator)
    other = base.copy()
    flipped = generator.permutation(8000)[:800]
    other[flipped] = right(0.7, 800, generator)
    analysis = analyze(POOLINGS[:2], np.stack([base, other]), accuracy, baseline=0)
    assert analysis.verdict.endswith("would show a difference of 0.5 points")


def test_the_verdict_says_that_cls_is_ahead() -> None:
    generator = np.random.default_rng(0)
    outcomes = np.stack([right(share, 1000, generator) for share in (0.9, 0.7, 0.8)])
    analysis = analyze(POOLINGS[:3], outcomes, accuracy, baseline=0)
    lead = analysis.lead
    assert lead is not None
    assert analysis.verdict == (
        f"Here ClsPooling of layer 6 is ahead of all others by {lead.difference:.1f} points or "
        f"more (95% CI {lead.low:.1f} to {lead.high:.1f} against MaxPooling of layer 6, "
        "p < 0.001, 1,000 examples)"
    )


def test_the_verdict_does_not_call_worse_poolings_indistinguishable() -> None:
    generator = np.random.default_rng(0)
    base = right(0.8, 1000, generator)
    outcomes = np.stack([base, base, right(0.6, 1000, generator)])
    verdict = analyze(POOLINGS[:3], outcomes, accuracy, baseline=0).verdict
    assert verdict == "no pooling is better than [CLS] with 1,000 examples, and 1 of 2 worse"


@pytest.mark.parametrize(("baseline", "rival"), [(0, ", ClsPooling of layer 6 42.1"), (1, "")])
def test_nineteen_examples_are_too_few(baseline: int, rival: str) -> None:
    outcomes = np.zeros((2, 19))
    outcomes[0, :8] = outcomes[1, :12] = 1
    analysis = analyze(POOLINGS[:2], outcomes, accuracy, baseline, unit="examples")
    assert analysis.verdict == (
        "19 test examples are too few for intervals, 20 are needed; "
        f"MeanPooling of layer 6 scores highest, 63.2{rival}"
    )
    assert not analysis.against_baseline
    assert analysis.lead is None
    assert analysis.estimates[0].low is None


def test_a_single_pooling_has_nothing_to_be_compared_with() -> None:
    analysis = analyze(POOLINGS[:1], np.ones((1, 50)), accuracy, baseline=0)
    assert (
        analysis.verdict
        == "ClsPooling of layer 6 is the only pooling: there is nothing to compare it with"
    )


def test_outcomes_that_are_not_finite_are_refused() -> None:
    outcomes = np.ones((2, 30))
    outcomes[1, 3] = np.nan
    with pytest.raises(
        InputError, match="MeanPooling of layer 6: some of its test outcomes are not finite"
    ):
        analyze(POOLINGS[:2], outcomes, accuracy, baseline=0)


# Simulated studies


def null_study(
    seed: int, layers: int = 2, size: int = 12, sizes: tuple[int, ...] = (100, 60, 200)
) -> bool:
    """Return whether a study of 8 poolings with meaningless labels declares a difference.

    The poolings share most of their features, as those of one encoder do; the layer is chosen on
    validation.
    """
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(1, sum(sizes), size, generator=generator)
    vectors = shared + 0.7 * torch.randn(8 * layers, sum(sizes), size, generator=generator)
    labels = torch.randint(2, (sum(sizes),), generator=generator)
    parts = zip(vectors.split(sizes, 1), labels.split(sizes), strict=True)
    probed = probe(*(Split(*part) for part in parts), Cs=(0.01, 1.0))
    best = probed.validation.view(8, layers).argmax(1) + layers * torch.arange(8)
    outcomes = probed.correct[best].double().numpy()
    analysis = analyze(POOLINGS, outcomes, accuracy, 0, resamples=2000, seed=seed)
    return "distinguishable" not in analysis.verdict


@pytest.mark.slow
def test_at_most_seven_percent_of_studies_without_a_difference_declare_one() -> None:
    declared = sum(null_study(seed) for seed in range(200))
    assert declared <= 14


@pytest.mark.slow
@pytest.mark.parametrize("examples", [20, 50, 200])
def test_at_most_seven_percent_of_studies_of_pairs_without_a_difference_declare_one(
    examples: int,
) -> None:
    """Pairs of texts whose scores share their errors: Spearman, 8 poolings."""
    declared = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        gold = np.round(generator.uniform(0, 5, examples), 1)
        predicted = (
            gold + generator.normal(size=examples) + 0.7 * generator.normal(size=(8, examples))
        )
        analysis = analyze(POOLINGS, predicted, spearman(gold), 0, resamples=2000, seed=seed)
        declared += "distinguishable" not in analysis.verdict
    assert declared <= 14


@pytest.mark.slow
def test_five_points_are_found_with_2000_examples_in_95_percent_of_studies() -> None:
    """[CLS] is right in 75 %, one of 7 others in 80 %; two cells agree on 8 of 10 examples.

    They must agree on nearly 3 of 4 for this: the less they agree, the wider the interval of a
    difference.
    """
    count = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        # Where a cell finds the same examples hard as the others do.
        alike = generator.random((8, 2000)) < 0.7
        hardness = np.where(alike, generator.random(2000), generator.random((8, 2000)))
        outcomes = hardness < np.array([0.75, 0.80, *[0.75] * 6])[:, None]
        study = analyze(POOLINGS, outcomes, accuracy, 0, resamples=2000, seed=seed)
        wins = study.verdict.startswith("Here MeanPooling of layer 6 beats")
        count += wins and study.against_baseline[0].p < 0.05
    assert count >= 190
