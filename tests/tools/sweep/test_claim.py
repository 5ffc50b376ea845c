"""The sentence at the end: what it claims must hold on fresh seeds and fresh test rows."""

import numpy as np
import pytest
from scipy.stats import t

from litpool.tools.sweep import claim

SEEDS, TRIALS, GROUPS = 5, 20, 40


def results(right, groups=GROUPS):
    """What `score_rows` returns for trainings whose answers are right or wrong, (S, N)."""
    rows = right.shape[1]
    member = np.eye(groups)[np.arange(rows) % groups]  # (N, G)
    without = (right.sum(1, keepdims=True) - right @ member) / (rows - member.sum(0))
    return [
        {"test": test, "without": list(others), "rows": rows, "clusters": rows}
        for test, others in zip(right.mean(1), without, strict=True)
    ]


def test_the_interval_is_worked_out_by_hand():
    """Two seeds, two groups: 1 and 3 points ahead; without a group 1 or 3 points on average."""
    first = np.array([[0.51, 0.50, 0.52], [0.53, 0.52, 0.54]])
    second = np.full((2, 3), 0.50)
    found = claim.difference(first, second, rows=1000)
    over_seeds = 2 / 2  # the variance of 1 and 3 is 2
    over_rows = (2 - 1) * 1.0 + 2 * 0.1**2  # the mean gains without a group are 1 and 3
    reach = t.ppf(0.975, 1) * np.sqrt(over_seeds + over_rows)
    np.testing.assert_allclose(found, (2, 2 - reach, 2 + reach), rtol=1e-6)


def test_the_variance_over_rows_is_that_of_the_mean():
    """With one row in each group, the jackknife is the textbook formula."""
    rng = np.random.default_rng(0)
    gains = rng.choice([-1.0, 0.0, 1.0], size=(1, 50)).repeat(2, axis=0)
    zero = results(np.zeros((2, 50)), groups=50)
    found = claim.compare(results(gains, groups=50), zero)
    row_error = 100**2 * gains[0].var(ddof=1) / 50 + 2 * (100 / 50) ** 2
    np.testing.assert_allclose(found.high - found.value, t.ppf(0.975, 49) * np.sqrt(row_error))


def test_the_sentence_says_what_the_interval_shows():
    rng = np.random.default_rng(1)
    worse = rng.random((SEEDS, 800)) < 0.6
    better = worse | (rng.random((SEEDS, 800)) < 0.3)

    def sentence(first, second):
        return claim.sentence("lr=1e-3", "accuracy", results(first), results(second))

    assert sentence(better, worse).startswith("lr=1e-3 beats the config as it is by 1")
    assert " points behind the config as it is (95% CI -1" in sentence(worse, better)
    same = (
        "lr=1e-3 is not shown to differ from the config as it is: +0.0 points (95% CI -0.4 to 0.4"
    )
    assert sentence(worse, worse).startswith(same)
    assert "5 fresh seeds each, 800 test rows, one train split)" in sentence(worse, worse)
    few = sentence(better[:, :19], worse[:, :19])
    assert few.startswith("No claim about lr=1e-3: ")
    assert "beats" not in few


def test_an_undefined_score_allows_no_claim():
    undefined = results(np.zeros((SEEDS, 100)))
    undefined[2]["without"][5] = float("nan")
    said = claim.sentence("lr=1", "spearman", undefined, results(np.ones((SEEDS, 100))))
    assert said == "No claim about lr=1: the test spearman of a training is not defined"


def simulate(rng, rows, seed_sd=0.1, taste=0.5, noise=1.0, effect=0.0):
    """Simulate a sweep; return what it claims about the winner.

    A training gets a row right if a sum is positive: how easy the row is, how much the config likes
    it, the luck of the seed, which all rows share, and the luck of the row in this training. Each
    config likes other rows; none is better on the whole, but for `effect`.
    """

    def right(easy, likes, gain=0.0):
        luck = noise * rng.normal(size=len(easy)) + seed_sd * rng.normal()
        return 1 + 1.5 * easy + taste * likes + gain + luck > 0

    easy = rng.normal(size=rows // 2)
    validation = [right(easy, rng.normal(size=rows // 2)).mean() for _ in range(TRIALS)]
    if np.argmax(validation) == 0:
        return "the config as it is"
    easy, *likes = rng.normal(size=(3, rows))
    winner, default = (
        np.array([right(easy, liked, gain) for _ in range(SEEDS)])
        for liked, gain in zip(likes, (effect, 0.0), strict=True)
    )
    return claim.compare(results(winner), results(default)).verdict


SETTINGS = {
    "few rows": {"rows": 60},
    "rows like configs": {"rows": 800, "taste": 1.0, "noise": 0.0, "seed_sd": 0.0},
    "seeds matter": {"rows": 800, "taste": 0.0, "seed_sd": 0.4},
    "only seeds matter": {"rows": 800, "taste": 0.0, "noise": 0.0, "seed_sd": 0.4},
    "almost equal": {"rows": 200, "taste": 0.05, "noise": 0.05, "seed_sd": 0.01},
    "both": {"rows": 400, "seed_sd": 0.2},
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_of_200_sweeps_without_an_effect_at_most_16_announce_a_winner(setting):
    rng = np.random.default_rng(0)
    verdicts = [simulate(rng, **SETTINGS[setting]) for _ in range(200)]
    assert verdicts.count("beats") <= 16


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
def test_of_4000_sweeps_without_an_effect_at_most_3_5_percent_announce_a_winner(setting):
    """2.5% are allowed; the rest is four standard errors of a simulation of this size."""
    rng = np.random.default_rng(1)
    verdicts = [simulate(rng, **SETTINGS[setting]) for _ in range(4000)]
    assert verdicts.count("beats") <= 140


def test_an_effect_is_found():
    rng = np.random.default_rng(0)
    verdicts = [simulate(rng, rows=1000, effect=0.4) for _ in range(50)]
    assert verdicts.count("beats") >= 40
