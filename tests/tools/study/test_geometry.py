"""Geometry and cosines against values worked out by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from litpool import InputError
from litpool.tools.study.geometry import alignment, cosine, effective_rank, fit_whitening, measure

CROSS = torch.tensor(
    [[3.0, 0], [0, 1], [-2, 0], [0, -0.5]]
)  # of its 6 pairs 4 are at right angles, 2 opposite


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_cross_is_worked_out_by_hand() -> None:
    (found,) = measure(CROSS[None])
    assert found.anisotropy == pytest.approx((4 * 0 + 2 * -1) / 6)
    assert found.uniformity == pytest.approx(math.log((4 * math.exp(-4) + 2 * math.exp(-8)) / 6))
    assert found.alignment is None


def test_alignment_is_worked_out_by_hand() -> None:
    first, second = (
        torch.tensor([[2.0, 0], [0, 3], [1, 1]]),
        torch.tensor([[0.0, 1], [0, 1], [-2, -2]]),
    )
    assert alignment(first, second) == pytest.approx((2 + 0 + 4) / 3)
    (found,) = measure(CROSS[None], positives=(first[None], second[None]))
    assert found.alignment == pytest.approx(2)
    (found,) = measure(CROSS[None], positives=(first[None, :0], second[None, :0]))
    assert found.alignment is None


@pytest.mark.parametrize(
    ("vectors", "rank"),
    [
        ([[1.0, 0], [-1, 0], [0, 1], [0, -1]], 2),  # two equal singular values
        ([[5.0, 2], [6, 2], [9, 2]], 1),  # a line that does not go through 0
        (
            [[3.0, 0], [-3, 0], [0, 1], [0, -1]],
            math.exp(0.75 * math.log(4 / 3) + 0.25 * math.log(4)),
        ),  # shares 3:1
        ([[1.0, 2], [1, 2], [1, 2]], 0),
        ([[0.0, 0, 0, 0, 0], [1, 2, 3, 4, 5]], 1),  # fewer texts than dimensions
    ],
)
def test_effective_rank_is_worked_out_by_hand(vectors: list[list[float]], rank: float) -> None:
    assert effective_rank(torch.tensor(vectors)) == pytest.approx(rank, abs=1e-5)


def test_effective_rank_of_noise_is_nearly_its_width() -> None:
    vectors = random(4000, 20)
    assert 19.8 < effective_rank(vectors) <= 20
    singular = torch.linalg.svdvals(vectors.double() - vectors.double().mean(0))
    assert effective_rank(vectors) == pytest.approx(
        float(torch.special.entr(singular / singular.sum()).sum().exp())
    )


def test_a_sample_of_pairs_tells_nearly_what_all_pairs_do() -> None:
    vectors = random(1, 400, 16) + 0.5
    (every,), (some,), (same,), (other,) = (
        measure(vectors, pairs=pairs, seed=seed)
        for pairs, seed in ((10**6, 0), (5000, 0), (5000, 0), (5000, 1))
    )
    assert some == same != other
    assert some.anisotropy == pytest.approx(every.anisotropy, abs=0.02)
    assert some.uniformity == pytest.approx(every.uniformity, abs=0.1)
    unit = F.normalize(vectors[0], dim=1)
    assert every.anisotropy == pytest.approx(
        float((unit @ unit.T).triu(1).sum() / (400 * 399 / 2)), abs=1e-5
    )


def test_no_text_is_paired_with_itself() -> None:
    (found,) = measure(torch.eye(50)[None], pairs=1000)
    assert found.anisotropy == 0


def test_each_cell_has_its_own_geometry_and_is_counted(tmp_path: Path) -> None:
    vectors = torch.stack([random(30, 4), random(30, 4) + 10])
    mapped = np.memmap(tmp_path / "vectors", np.float32, "w+", shape=(2, 30, 4))
    mapped[:] = vectors.numpy()
    done: list[int] = []
    found = measure(mapped, progress=done.append)
    assert done == [1, 1]
    assert found == measure(vectors)
    assert found[0].anisotropy < 0.2 < 0.9 < found[1].anisotropy
    assert found[1].uniformity > -0.5


@pytest.mark.parametrize(("rows", "said"), [(0, "0 texts"), (1, "1 text ")])
def test_fewer_than_two_texts_are_refused(rows: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        measure(torch.zeros(1, rows, 3))


# Pairs of texts


def test_cosine_is_worked_out_by_hand() -> None:
    first, second = (
        torch.tensor([[[3.0, 4], [1, 0], [0, 0]]]),
        torch.tensor([[[4.0, 3], [-2, 0], [1, 1]]]),
    )
    assert cosine(first, second)[0].tolist() == pytest.approx([0.96, -1, 0])


def test_whitened_train_vectors_are_uncorrelated_and_equally_spread() -> None:
    vectors = random(2, 500, 6) @ random(2, 6, 6, seed=1) * torch.logspace(0, 3, 6) + 7
    mean, matrix = fit_whitening(vectors)
    whitened = (vectors - mean[:, None]).double() @ matrix.double()
    covariance = whitened.mT @ whitened / 500
    assert torch.allclose(covariance, torch.eye(6).double().expand(2, 6, 6), atol=1e-3)


def test_whitened_cosine_is_worked_out_by_hand() -> None:
    train = torch.tensor(
        [[[11.0, 1], [9, 1], [10, 3], [10, -1]]]
    )  # mean [10, 1], variances 1/2 and 2, uncorrelated
    first, second = torch.tensor([[[11.0, 3]]]), torch.tensor([[[12.0, 1]]])
    found = cosine(
        first, second, fit_whitening(train)
    )  # [1, 2] and [2, 0] become [1.41, 1.41] and [2.83, 0]
    assert found[0].tolist() == pytest.approx([math.sqrt(0.5)], abs=1e-5)


def test_whitening_drops_directions_without_variance() -> None:
    narrow = random(1, 300, 3)
    wide = torch.cat(
        [narrow, narrow[..., :2], torch.full((1, 300, 1), 4.0)], 2
    )  # two copies and a constant
    found = cosine(wide[:, :100], wide[:, 100:200], fit_whitening(wide))
    expected = cosine(narrow[:, :100], narrow[:, 100:200], fit_whitening(narrow))
    assert torch.allclose(found, expected, atol=1e-3)  # whitening does not care for copies


def test_whitening_of_fewer_texts_than_dimensions_is_finite() -> None:
    vectors = random(1, 10, 50)
    whitening = fit_whitening(vectors)
    assert torch.linalg.matrix_rank(whitening.matrix[0]) == 9
    assert cosine(random(1, 5, 50, seed=1), random(1, 5, 50, seed=2), whitening).isfinite().all()
    assert fit_whitening(torch.ones(1, 4, 3)).matrix.tolist() == torch.zeros(1, 3, 3).tolist()
