"""Linear probes on the vectors of all cells at once.

A cell is a pooling of a layer. Its probe is a logistic regression on standardized vectors with the objective of
scikit-learn's `LogisticRegression(C=strength)`: the sum of the log-losses + |weights|^2 / (2 strength), the intercept
free. All cells and strengths are solved together by L-BFGS (Liu and Nocedal, 1989), each with its own step size.
Vectors are first turned to their principal axes, which changes neither the objective nor a prediction; along them the
bound on the curvature of Boehning (1992) tells the first guess of each step, and some tens of steps are enough.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from litpool import InputError

Vectors = Tensor | NDArray[np.floating]  # (cells, n, d), in memory or a memmap, of any float type

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
MEMORY = (
    2**27
)  # bytes of train vectors that are worked on at a time, at least one cell; copies take 3 times as much
MEMORIES = 10  # steps that L-BFGS remembers
GAP = 2e-6  # estimated distance of the objective to its minimum, as a share of it, below which a problem is solved


class Split(NamedTuple):
    """Vectors (cells, n, d) and their labels: ints (n,), or for several labels at once 0 and 1 (n, labels)."""

    vectors: Vectors
    labels: Tensor


class Probed(NamedTuple):
    """What the probes of all cells found."""

    strength: Tensor  # (cells,), the one that was best on validation, of equals the lowest: the most regularized
    validation: Tensor  # (cells,), accuracy in points
    predicted: Tensor  # (cells, n_test), labels; with several labels at once (cells, n_test, labels) of 0 and 1
    correct: Tensor  # (cells, n_test), 1 or 0; with several labels at once the share of decisions that are right
    converged: Tensor  # (cells,), whether all its problems were solved


def probe(
    train: Split,
    validation: Split,
    test: Split,
    strengths: Sequence[float] = STRENGTHS,
    device: str | torch.device = "cpu",
    progress: Callable[[int], None] = lambda cells: None,
    max_steps: int = 1000,
) -> Probed:
    """Fit a probe on each cell with each strength; of these take the best on validation, and score it on test.

    Args:
        train: What the probes are fitted on.
        validation: What the strength is chosen on.
        test: What is scored.
        strengths: Inverse strengths of the regularization, scikit-learn's C.
        device: Where it is computed: the CPU or a CUDA device.
        progress: Called with the number of cells that were finished since the last call.
        max_steps: After which a problem that is not solved is left as it is, with a warning.

    Raises:
        InputError: A strength is not over 0, a vector is not finite, or there is one label only.
    """
    strengths = sorted(strengths)
    _check(train, strengths)
    targets, softmax = _targets(train.labels)
    problem = Problem(
        targets.to(device), softmax, torch.tensor(strengths, device=device), max_steps
    )
    size = max(
        1, MEMORY // (4 * train.vectors.shape[1] * (train.vectors.shape[2] + 4 * len(strengths)))
    )
    labels = [split.labels.to(device) for split in (validation, test)]
    found: list[Probed] = []
    for start in range(0, train.vectors.shape[0], size):
        cells = slice(start, start + size)
        vectors = [load(split.vectors, cells, device) for split in (train, validation, test)]
        found.append(_probe_cells(problem, vectors, labels))
        progress(len(found[-1].strength))
    probed = Probed(*(torch.cat(parts).cpu() for parts in zip(*found, strict=True)))
    if short := int((~probed.converged).sum()):
        warnings.warn(
            f"the probes of {short} cells did not converge in {max_steps} steps", stacklevel=2
        )
    return probed


def _check(train: Split, strengths: Sequence[float]) -> None:
    if not strengths or min(strengths) <= 0:
        raise InputError(f"strengths {list(strengths)}: give one or more numbers over 0")
    if train.labels.ndim == 1 and len(train.labels.unique()) < 2:
        raise InputError(
            "all rows of the train split have the same label; a probe needs two or more"
        )


def _targets(labels: Tensor) -> tuple[Tensor, bool]:
    """Targets (n, 1, K), and whether the K columns are parts of one softmax; two labels need one column only."""
    if labels.ndim == 2 or labels.max() == 1:
        return labels.view(len(labels), 1, -1).float(), False
    return F.one_hot(labels.long())[:, None].float(), True


def load(vectors: Vectors, cells: int | slice, device: str | torch.device) -> Tensor:
    """A copy of a cell, (n, d), or of some, (c, n, d), in float32."""
    part = vectors[cells]
    part = (
        part if isinstance(part, Tensor) else torch.from_numpy(np.array(part))
    )  # read from the memmap
    part = part.to(device, torch.float32, copy=True)
    if not part.isfinite().all():
        raise InputError(
            "some vectors are not finite; compute them in float32 instead of half precision"
        )
    return part


def _probe_cells(problem: "Problem", vectors: Sequence[Tensor], labels: Sequence[Tensor]) -> Probed:
    """Probe some cells: the three splits' vectors (c, n, d), which are overwritten, and the labels of the last two."""
    train, validation, test = vectors
    mean, std = train.mean(1, keepdim=True), train.std(1, keepdim=True, correction=0)  # (c, 1, d)
    scale = torch.where(std > 1e-6 * mean.abs(), 1 / std, 0)
    train = _design(train, mean, scale)  # (c, n, d + 1)
    squares, axes = _principal_axes(train)
    weights, converged = problem.solve(train @ axes, squares)
    weights = (axes @ weights.flatten(2)).view_as(weights)  # (c, d + 1, S, K)

    predicted = problem.predict(_design(validation, mean, scale), weights)  # (c, n, S, K)
    accuracy = 100 * _correct(predicted, labels[0]).mean(1)  # (c, S)
    best = accuracy.argmax(1)  # (c,), the first of equals
    chosen = weights[torch.arange(len(best), device=best.device), :, best].unsqueeze(
        2
    )  # (c, d + 1, 1, K)
    predicted = problem.predict(_design(test, mean, scale), chosen)  # (c, n, 1, K)
    correct, predicted = (
        _correct(predicted, labels[1]).squeeze(2),
        predicted.view(-1, *labels[1].shape),
    )
    return Probed(problem.strengths[best], accuracy.amax(1), predicted, correct, converged.all(1))


def _design(vectors: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Standardized vectors and the intercept's column of ones: (c, n, d) -> (c, n, d + 1)."""
    return F.pad(vectors.sub_(mean).mul_(scale), (0, 1), value=1)


def _principal_axes(design: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of squares along each axis (c, d + 1), and the axes (c, d + 1, d + 1); the column of ones stays as it is."""
    squares, axes = torch.linalg.eigh((design.mT @ design)[:, :-1, :-1])
    axes = F.pad(axes, (0, 1, 0, 1))
    axes[:, -1, -1] = 1
    return F.pad(squares.clamp(min=0), (0, 1), value=design.shape[1]), axes


def _correct(predicted: Tensor, labels: Tensor) -> Tensor:
    """The share of `predicted` (c, n, S, K) that is as in labels (n,), then K is 1, or (n, K) -> (c, n, S)."""
    return (predicted == labels.view(len(labels), 1, -1)).double().mean(-1)


class Problem(NamedTuple):
    """Logistic regressions on the same labels with S strengths of the regularization."""

    targets: Tensor  # (n, 1, K), 0 and 1
    softmax: (
        bool  # whether the K columns are parts of one softmax; else each is a sigmoid of its own
    )
    strengths: Tensor  # (S,), scikit-learn's C
    max_steps: int

    def logits(self, design: Tensor, weights: Tensor) -> Tensor:
        """(c, n, d + 1) and (c, d + 1, S, K) -> (c, n, S, K)."""
        return (design @ weights.flatten(2)).unflatten(2, weights.shape[2:])

    def predict(self, design: Tensor, weights: Tensor) -> Tensor:
        """The label (c, n, S, 1), or for each sigmoid 0 or 1 (c, n, S, K)."""
        logits = self.logits(design, weights)
        return logits.argmax(-1, keepdim=True) if self.softmax else (logits > 0).long()

    def loss(self, logits: Tensor, weights: Tensor) -> Tensor:
        """The objective (c, S), added up in float64."""
        losses = logits.logsumexp(-1) if self.softmax else F.softplus(logits).sum(-1)
        losses = losses - (logits * self.targets).sum(-1)  # (c, n, S)
        return (
            losses.sum(1, dtype=torch.float64)
            + weights[:, :-1].double().square().sum((1, 3)) / 2 / self.strengths
        )

    def gradient(self, design: Tensor, logits: Tensor, weights: Tensor) -> Tensor:
        """Of the objective by the weights, (c, d + 1, S, K)."""
        residual = (logits.softmax(-1) if self.softmax else logits.sigmoid()) - self.targets
        gradient = (design.mT @ residual.flatten(2)).view_as(weights)
        gradient[:, :-1] += weights[:, :-1] / self.strengths[:, None]
        return gradient

    def solve(self, design: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (c, d + 1, S, K), and which problems were solved (c, S), for a design along its principal axes."""
        cells, _, width = design.shape
        bound = 0.5 if self.softmax else 0.25  # of the second derivative of a loss by a logit
        penalty = (
            F.pad(squares.new_ones(width - 1), (0, 1))[:, None, None] / self.strengths[:, None]
        )  # (d + 1, S, 1)
        bounds = bound * squares[..., None, None] + penalty  # (c, d + 1, S, 1)
        weights = design.new_zeros(cells, width, len(self.strengths), self.targets.shape[-1])
        logits = self.logits(design, weights)
        loss, gradient = self.loss(logits, weights), self.gradient(design, logits, weights)
        history: list[tuple[Tensor, Tensor, Tensor]] = []
        solved = torch.zeros_like(loss, dtype=torch.bool)
        for _ in range(self.max_steps):
            direction = -_precondition(gradient, history, bounds)
            slope = _dot(gradient, direction)  # (c, S), twice the way to the minimum of a parabola
            solved = -slope / 2 < GAP * loss
            if solved.all():
                break
            change = self.logits(design, direction)
            step, loss = self._search(loss, slope, (logits, change), (weights, direction))
            logits, moved = logits + _spread(step) * change, _spread(step) * direction
            weights = weights + moved
            before, gradient = gradient, self.gradient(design, logits, weights)
            history = [*history[1 - MEMORIES :], _pair(moved, gradient - before)]
        return weights, solved

    def _search(
        self,
        loss: Tensor,
        slope: Tensor,
        logits: tuple[Tensor, Tensor],
        weights: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """The first of 1, 1/2, 1/4... that lowers each loss enough (Armijo, 1966), else 0; and the loss there."""
        step, slack = torch.ones_like(slope), 1e-7 * loss.abs()  # slack: what rounding may add
        for _ in range(20):
            found = self.loss(
                *(start + _spread(step) * change for start, change in (logits, weights))
            )
            fails = ~(found <= loss + 1e-4 * step * slope + slack)  # NaN fails
            if not fails.any():
                break
            step = torch.where(fails, step / 2, step)
        step = torch.where(fails, 0, step)
        return step, torch.where(fails, loss, found)


def _dot(left: Tensor, right: Tensor) -> Tensor:
    """Of (c, d + 1, S, K) each -> (c, S)."""
    return (left * right).sum((1, 3))


def _spread(values: Tensor) -> Tensor:
    """(c, S) -> (c, 1, S, 1)."""
    return values[:, None, :, None]


def _pair(moved: Tensor, change: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A step, the gradient's change along it, and 1 / their product, 0 where the step teaches nothing."""
    product = _dot(moved, change)
    return moved, change, torch.where(product > 1e-10 * _dot(change, change).sqrt(), 1 / product, 0)


def _precondition(
    gradient: Tensor, history: Sequence[tuple[Tensor, Tensor, Tensor]], bounds: Tensor
) -> Tensor:
    """The gradient times the inverse second derivative, as far as the steps so far and the bounds tell it."""
    if not history:
        return gradient / bounds
    shares = []
    for moved, change, inverse in reversed(history):
        shares.append(inverse * _dot(moved, gradient))
        gradient = gradient - _spread(shares[-1]) * change
    moved, change, inverse = history[-1]
    scale = torch.where(
        inverse > 0, 1 / (inverse * _dot(change, change / bounds)), 1
    )  # the last step's curvature
    direction = _spread(scale) * gradient / bounds
    for (moved, change, inverse), share in zip(history, reversed(shares), strict=True):
        direction = direction + _spread(share - inverse * _dot(change, direction)) * moved
    return direction
