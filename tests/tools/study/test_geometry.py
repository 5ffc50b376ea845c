"""Geometry and cosines against values worked out by hand."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from litpool import InputError
from litpool.tools.study.geometry import alignment, effective_rank, fit_whitening, measure

# Of its 6 pairs, 4 are at right angles and 2 are opposite.
CROSS = torch.tensor([[3.0, 0], [0, 1], [-2, 0], [0, -0.5]])

SHARES_3_TO_1 = math.exp(0.75 * math.log(4 / 3) + 0.25 * math.log(4))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_cross_is_worked_out_by_hand() -> None:
    cross = measure(CROSS)
    assert cross.anisotropy == pytest.approx((4 * 0 + 2 * -1) / 6)
    assert cross.uniformity == pytest.approx(math.log((4 * math.exp(-4) + 2 * math.exp(-8)) / 6))
    assert cross.alignment is None


def test_alignment_is_worked_out_by_hand() -> None:
    first = torch.tensor([[2.0, 0], [0, 3], [1, 1]])
    second = torch.tensor([[0.0, 1], [0, 1], [-2, -2]])
    assert alignment(first, second) == pytest.approx((2 + 0 + 4) / 3)
    assert measure(CROSS, positives=(first, second)).alignment == pytest.approx(2)


@pytest.mark.parametrize(
    ("vectors", "rank"),
    [
        ([[1.0, 0], [-1, 0], [0, 1], [0, -1]], 2),  # two equal singular values
        ([[5.0, 2], [6, 2], [9, 2]], 1),  # a line that does not go through 0
        ([[3.0, 0], [-3, 0], [0, 1], [0, -1]], SHARES_3_TO_1),
        ([[1.0, 2], [1, 2], [1, 2]], 0),
        ([[0.0, 0, 0, 0, 0], [1, 2, 3, 4, 5]], 1),  # fewer texts than dimensions
    ],
)
def test_effective_rank_is_worked_out_by_hand(vectors: list[list[float]], rank: float) -> None:
    assert effective_rank(torch.tensor(vectors)) == pytest.approx(rank, abs=1e-5)


def test_effective_rank_of_noise_is_nearly_its_dimension() -> None:
    vectors = random(4000, 20)
    assert 19.8 < effective_rank(vectors) <= 20
    singular = torch.linalg.svdvals(vectors.double() - vectors.double().mean(0))
    assert effective_rank(vectors) == pytest.approx(
        float(torch.special.entr(singular / singular.sum()).sum().exp())
    )


def test_a_sample_of_pairs_measures_nearly_the_same_as_all_pairs() -> None:
    vectors = random(400, 16) + 0.5
    all_pairs = measure(vectors, pairs=10**6)
    sample = measure(vectors, pairs=5000)
    assert sample == measure(vectors, pairs=5000)
    assert sample != measure(vectors, pairs=5000, seed=1)
    assert sample.anisotropy == pytest.approx(all_pairs.anisotropy, abs=0.02)
    assert sample.uniformity == pytest.approx(all_pairs.uniformity, abs=0.1)
    unit = F.normalize(vectors, dim=1)
    mean_cosine = float((unit @ unit.T).triu(1).sum() / (400 * 399 / 2))
    assert all_pairs.anisotropy == pytest.approx(mean_cosine, abs=1e-5)


def test_no_text_is_paired_with_itself() -> None:
    assert measure(torch.eye(50), pairs=1000).anisotropy == 0


@pytest.mark.parametrize(("rows", "message"), [(0, "0 texts: "), (1, "1 text: ")])
def test_fewer_than_two_texts_are_refused(rows: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        measure(torch.zeros(rows, 3))


# Whitening


def test_whitened_train_vectors_are_uncorrelated_and_equally_spread() -> None:
    vectors = random(500, 6) @ random(6, 6, seed=1) * torch.logspace(0, 3, 6) + 7
    mean, matrix = fit_whitening(vectors)
    whitened = (vectors - mean).double() @ matrix.double()
    covariance = whitened.mT @ whitened / 500
    assert torch.allclose(covariance, torch.eye(6).double(), atol=1e-3)


def test_whitening_is_worked_out_by_hand() -> None:
    # Mean [10, 1], variances 1/2 and 2, uncorrelated.
    whitening = fit_whitening(torch.tensor([[11.0, 1], [9, 1], [10, 3], [10, -1]]))
    # [1, 2] and [2, 0] become [1.41, 1.41] and [2.83, 0].
    whitened = whitening.apply(torch.tensor([[11.0, 3], [12, 1]]))
    assert float(F.cosine_similarity(*whitened, dim=0)) == pytest.approx(math.sqrt(0.5), abs=1e-5)


def test_whitening_drops_directions_without_variance() -> None:
    narrow = random(300, 3)
    # Two copies and a constant.
    wide = torch.cat([narrow, narrow[:, :2], torch.full((300, 1), 4.0)], 1)
    cosines = [
        F.cosine_similarity(whitened[:100], whitened[100:200], dim=1)
        for whitened in (fit_whitening(part).apply(part) for part in (wide, narrow))
    ]
    assert torch.allclose(*cosines, atol=1e-3)  # copies change nothing


def test_whitening_of_fewer_texts_than_dimensions_is_finite() -> None:
    whitening = fit_whitening(random(10, 50))
    assert torch.linalg.matrix_rank(whitening.matrix) == 9
    assert whitening.apply(random(5, 50, seed=1)).isfinite().all()
    assert fit_whitening(torch.ones(4, 3)).matrix.tolist() == torch.zeros(3, 3).tolist()
