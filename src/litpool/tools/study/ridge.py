"""Linear probes in closed form: ridge regression on indicators of the labels.

A fit needs only sums over its rows: products of vectors with each other and with the labels. Each
fold's sums are computed once, and a fit without some folds takes the total minus theirs. What is
left is a Cholesky factorization for each strength. So repeated K-fold, and the choice nested in it,
cost little more than one fit.

Where the score weights labels equally, the outputs are shifted and scaled so that each label's own
rows and all other rows are on average the same distance from the boundary; otherwise a rare label
would never be predicted.
"""

from typing import NamedTuple

import torch
from torch import Tensor

STRENGTHS = (10.0, 1.0, 0.1, 0.01)  # x rows, on standardized vectors; strongest first


class Sums(NamedTuple):
    """What a fit needs to know of some rows."""

    rows: Tensor  # (), their number
    vectors: Tensor  # (d,)
    targets: Tensor  # (labels,)
    squares: Tensor  # (d, d)
    products: Tensor  # (d, labels)

    def without(self, *others: "Sums") -> "Sums":
        """Leave out the rows of others."""
        parts = zip(self, *others, strict=True)
        return Sums(*(total - sum(rest) for total, *rest in parts))

    def of_labels(self, count: int) -> "Sums":
        """Keep the first labels only."""
        return self._replace(targets=self.targets[:count], products=self.products[:, :count])


class Probes(NamedTuple):
    """The probes of all strengths, on standardized vectors."""

    weights: Tensor  # (strengths, d, labels)
    bias: Tensor  # (strengths, 1, labels)

    def outputs(self, vectors: Tensor) -> Tensor:
        """Map (n, d) to (strengths, n, labels)."""
        weights = self.weights.transpose(0, 1)  # one product for all is faster than one for each
        outputs = (vectors @ weights.flatten(1)).unflatten(1, weights.shape[1:])
        return outputs.transpose(0, 1) + self.bias


def standardize(vectors: Tensor) -> Tensor:
    """Give each number of (n, d) mean 0 and variance 1, or 0 where it does not vary."""
    vectors = vectors - vectors.mean(0)
    scale = vectors.std(0, correction=0)
    return vectors * torch.where(scale > 1e-6 * scale.max(), 1 / scale, 0)


def sum_up(vectors: Tensor, targets: Tensor) -> Sums:
    """Sum up rows: vectors (n, d) and targets (n, labels), 0 or 1."""
    return Sums(
        torch.tensor(float(len(vectors)), device=vectors.device),
        vectors.sum(0),
        targets.sum(0),
        vectors.mT @ vectors,
        vectors.mT @ targets,
    )


def solve(sums: Sums, equal_labels: bool) -> Probes:
    """Fit probes with all strengths.

    Args:
        sums: Of the rows to fit on.
        equal_labels: Whether a rare label counts as much as a frequent one.
    """
    mean, share = sums.vectors / sums.rows, sums.targets / sums.rows
    covariance = sums.squares / sums.rows - torch.outer(mean, mean)
    products = sums.products / sums.rows - torch.outer(mean, share)
    ridges = covariance.repeat(len(STRENGTHS), 1, 1)  # (strengths, d, d)
    ridges.diagonal(dim1=1, dim2=2).add_(torch.tensor(STRENGTHS, device=mean.device)[:, None])
    factors = torch.linalg.cholesky(ridges)
    weights = torch.cholesky_solve(products.expand(len(STRENGTHS), -1, -1), factors)
    center = mean @ weights  # (strengths, labels)
    if not equal_labels:
        return Probes(weights, (share - center).unsqueeze(1))
    own = (sums.products / sums.targets.clamp(min=1)).mT  # (labels, d), the mean of a label's rows
    others = (sums.vectors - sums.products.mT) / (sums.rows - sums.targets).clamp(min=1)[:, None]
    at_own, at_others = (torch.einsum("ld,sdl->sl", part, weights) for part in (own, others))
    scale = 1 / (at_own - at_others).clamp(min=1e-6)
    # A label without rows to learn from is never predicted.
    bias = torch.where(sums.targets > 0, 0.5 - scale * (at_own + at_others) / 2, -torch.inf)
    return Probes(weights * scale[:, None], bias.unsqueeze(1))
