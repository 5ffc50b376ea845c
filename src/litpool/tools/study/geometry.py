"""The geometry of one cell's vectors, and their whitening.

Vectors are (n, d) tensors in float32, on any device.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from litpool import InputError


class Geometry(NamedTuple):
    """The geometry of one cell's vectors."""

    anisotropy: float  # -1 to 1; 0: evenly spread directions, 1: all the same
    uniformity: float  # -8 to 0, lower is more even; about -4 is the best in many dimensions
    alignment: float | None  # 0 to 4, lower is closer; None without positive pairs
    effective_rank: float  # 1 to d, dimensions in use; 0 if all vectors are the same


class Whitening(NamedTuple):
    """A map after which the train vectors are uncorrelated and equally spread."""

    mean: Tensor  # (d,)
    matrix: Tensor  # (d, d), 0 in the directions in which the train vectors do not vary

    def apply(self, vectors: Tensor) -> Tensor:
        """Whiten vectors (..., d)."""
        return (vectors - self.mean) @ self.matrix


def measure(
    vectors: Tensor,
    positives: tuple[Tensor, Tensor] | None = None,
    pairs: int = 20_000,
    seed: int = 0,
) -> Geometry:
    """Measure the geometry of the vectors of any texts. A zero vector is at right angles to all.

    Args:
        vectors: (n, d).
        positives: Two of (m, d); each row holds the vectors of two texts with the same meaning.
        pairs: How many pairs of different rows to draw; all of them if there are no more.
        seed: The seed of the draw.

    Raises:
        InputError: There are fewer than two rows.
    """
    first, second = _draw_pairs(len(vectors), pairs, seed)
    unit = F.normalize(vectors, dim=1)
    cosines = (unit[first] * unit[second]).sum(1).double()  # (pairs,)
    return Geometry(
        # The mean cosine of random pairs (Ethayarajh, arXiv 1909.00512).
        anisotropy=float(cosines.mean()),
        # The logarithm of the mean of exp(-2 |x - y|^2), where |x - y|^2 = 2 - 2 cos, over random
        # pairs of unit vectors (Wang and Isola, arXiv 2005.10242).
        uniformity=float((4 * cosines - 4).exp().mean().log()),
        alignment=alignment(*positives) if positives else None,
        effective_rank=effective_rank(vectors),
    )


def _draw_pairs(rows: int, pairs: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw the row numbers of pairs of different rows: two of (pairs,) or fewer."""
    if rows < 2:
        texts = "text" if rows == 1 else "texts"
        raise InputError(f"{rows} {texts}: the geometry needs two or more; use more test texts")
    if rows * (rows - 1) // 2 <= pairs:
        first, second = torch.triu_indices(rows, rows, offset=1)
        return first, second
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(rows, (pairs,), generator=generator)
    shift = torch.randint(1, rows, (pairs,), generator=generator)
    return first, (first + shift) % rows


def alignment(first: Tensor, second: Tensor) -> float:
    """Return the mean |x - y|^2 of pairs with the same meaning, each scaled to length 1.

    Wang and Isola, arXiv 2005.10242.
    """
    return float(2 - 2 * F.cosine_similarity(first, second).double().mean())


def effective_rank(vectors: Tensor) -> float:
    """Return exp of the entropy of the centered vectors' singular values, as shares of their sum.

    Roy and Vetterli, The effective rank: a measure of effective dimensionality, EUSIPCO 2007.
    """
    centered = vectors.double()
    centered = centered - centered.mean(0)
    rows, columns = centered.shape
    gram = centered.mT @ centered if rows > columns else centered @ centered.mT  # the smaller one
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    singular = singular[singular > 1e-7 * singular.max()]  # the others are zero, or rounding errors
    shares = singular / singular.sum()
    return float(torch.special.entr(shares).sum().exp()) if len(shares) else 0.0


def fit_whitening(vectors: Tensor) -> Whitening:
    """Fit the whitening of train vectors (n, d) by their principal axes (arXiv 2103.15316).

    Directions without variance, as there always are with fewer than d + 1 texts, are dropped.
    """
    centered = vectors.to(torch.float64, copy=True)
    mean = centered.mean(0)
    centered -= mean
    variances, axes = torch.linalg.eigh(centered.mT @ centered / len(vectors))  # (d,), (d, d)
    varies = variances > 1e-10 * variances.max()
    matrix = axes * torch.where(varies, variances, torch.inf).rsqrt()
    return Whitening(mean.float(), matrix.float())
