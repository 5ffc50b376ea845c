"""How the vectors of a cell, a pooling of a layer, lie in space; and the cosine of pairs, as they are or whitened.

Vectors are (cells, n, d) tensors or arrays of any float type, a memmap too. One cell at a time is in memory.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from litpool import InputError
from litpool.tools.study.probes import Vectors, load


class Geometry(NamedTuple):
    """The geometry of the vectors of one cell."""

    anisotropy: float  # -1 to 1; 0 where directions are spread evenly, 1 where all are the same
    uniformity: float  # -8 to 0 (-4 or so is the best that can be had in many dimensions); lower is more even
    alignment: float | None  # 0 to 4, lower is closer; None without positive pairs
    effective_rank: float  # 1 to d, dimensions in use; 0 where all vectors are the same


class Whitening(NamedTuple):
    """What makes the train vectors of each cell uncorrelated and equally spread: (vectors - mean) @ matrix."""

    mean: Tensor  # (cells, d)
    matrix: Tensor  # (cells, d, d), 0 in the directions in which the train vectors do not vary


def measure(
    vectors: Vectors,
    positives: tuple[Vectors, Vectors] | None = None,
    pairs: int = 20_000,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Callable[[int], None] = lambda cells: None,
) -> list[Geometry]:
    """The geometry of each cell.

    Args:
        vectors: (cells, n, d), of any texts.
        positives: Two of (cells, m, d), whose rows are texts that mean the same.
        pairs: Pairs of different rows that are drawn, the same for all cells; all there are, if they are not more.
        seed: Of the draw.
        device: Where it is computed: the CPU or a CUDA device.
        progress: Called with 1 after each cell.

    Raises:
        InputError: There are fewer than two rows.
    """
    first, second = (rows.to(device) for rows in _draw_pairs(vectors.shape[1], pairs, seed))
    found = []
    for cell in range(len(vectors)):
        loaded = load(vectors, cell, device)
        unit = F.normalize(loaded, dim=1)
        close = None
        if positives is not None and positives[0].shape[1]:
            close = alignment(*(load(part, cell, device) for part in positives))
        rank = effective_rank(loaded)
        found.append(
            Geometry(anisotropy(unit, first, second), uniformity(unit, first, second), close, rank)
        )
        progress(1)
    return found


def _draw_pairs(rows: int, pairs: int, seed: int) -> tuple[Tensor, Tensor]:
    """Row numbers of pairs of different rows, each (pairs,) or fewer."""
    if rows < 2:
        raise InputError(
            f"the geometry of {rows} text{'s' * (rows != 1)} cannot be told; give two or more"
        )
    if rows * (rows - 1) // 2 <= pairs:
        first, second = torch.triu_indices(rows, rows, offset=1)
        return first, second
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(rows, (pairs,), generator=generator)
    return first, (first + torch.randint(1, rows, (pairs,), generator=generator)) % rows


def anisotropy(unit: Tensor, first: Tensor, second: Tensor) -> float:
    """Mean cosine of random pairs (Ethayarajh, arXiv 1909.00512), of unit vectors (n, d) and two rows of numbers."""
    return float((unit[first] * unit[second]).sum(1).mean(dtype=torch.float64))


def uniformity(unit: Tensor, first: Tensor, second: Tensor) -> float:
    """Logarithm of the mean of exp(-2 |x - y|^2) over random pairs (Wang and Isola, arXiv 2005.10242)."""
    distance = (unit[first] - unit[second]).square().sum(1)  # (pairs,)
    return float((-2 * distance).double().exp().mean().log())


def alignment(first: Tensor, second: Tensor) -> float:
    """Mean |x - y|^2 of pairs that mean the same, made unit vectors (arXiv 2005.10242): two of (m, d)."""
    distance = (F.normalize(first, dim=1) - F.normalize(second, dim=1)).square().sum(1)  # (m,)
    return float(distance.mean(dtype=torch.float64))


def effective_rank(vectors: Tensor) -> float:
    """The exponential of the entropy of the centred vectors' singular values (n, d), made shares of their sum.

    Roy and Vetterli, The effective rank: a measure of effective dimensionality, EUSIPCO 2007.
    """
    centred = vectors.double() - vectors.double().mean(0)
    squares = torch.linalg.eigvalsh(
        centred.mT @ centred if len(centred) > centred.shape[1] else centred @ centred.mT
    )
    singular = squares.clamp(min=0).sqrt()
    singular = singular[singular > 1e-7 * singular.max()]  # the others are rounding, or zero
    shares = singular / singular.sum()
    return float(torch.special.entr(shares).sum().exp()) if len(shares) else 0.0


def fit_whitening(vectors: Vectors, device: str | torch.device = "cpu") -> Whitening:
    """The whitening of each cell's train vectors (cells, n, d) by their principal axes (arXiv 2103.15316).

    Directions without variance, as there are with fewer than d + 1 texts, are dropped.
    """
    fitted = [_whiten(load(vectors, cell, device).double()) for cell in range(len(vectors))]
    return Whitening(*map(torch.stack, zip(*fitted, strict=True)))


def _whiten(vectors: Tensor) -> tuple[Tensor, Tensor]:
    mean = vectors.mean(0)
    centred = vectors - mean
    variances, axes = torch.linalg.eigh(centred.mT @ centred / len(vectors))  # (d,), (d, d)
    kept = variances > 1e-10 * variances.max()
    return mean.float(), (axes * torch.where(kept, variances, torch.inf).rsqrt()).float()


def cosine(
    first: Vectors,
    second: Vectors,
    whitening: Whitening | None = None,
    device: str | torch.device = "cpu",
) -> Tensor:
    """Cosine similarity (cells, n) of the vectors (cells, n, d) of the two texts of each pair; 0 with a zero vector."""
    rows = []
    for cell in range(len(first)):
        left, right = load(first, cell, device), load(second, cell, device)  # (n, d)
        if whitening is not None:
            left, right = (
                (part - whitening.mean[cell]) @ whitening.matrix[cell] for part in (left, right)
            )
        rows.append(F.cosine_similarity(left, right, dim=1).cpu())
    return torch.stack(rows)
