"""Linear probes on the vectors of all cells at once.

A cell is a pooling of a layer. Its probe is a logistic regression on standardized vectors, with the
objective of scikit-learn's `LogisticRegression(C=C)`: the sum of the log-losses + |weights|^2 /
(2 C), the intercept free. All cells and values of C are solved together by L-BFGS (Liu and Nocedal,
1989), each with its own step size.

The vectors are first rotated to their principal axes, which changes neither the objective nor a
prediction. Along these axes Boehning's bound on the curvature (1992) is a good preconditioner, and
some tens of steps are enough.
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

CS = (0.001, 0.01, 0.1, 1.0, 10.0)
MEMORY = 2**27  # bytes of train vectors per chunk, at least one cell; copies take 3 times as much
HISTORY = 10  # steps that L-BFGS remembers
GAP = 2e-6  # solved: the objective is this close to its minimum, as a share of it (an estimate)


class Split(NamedTuple):
    """Vectors (cells, n, d) and their labels: ints (n,), or 0 and 1 for multi-label (n, labels)."""

    vectors: Vectors
    labels: Tensor


class ProbeResult(NamedTuple):
    """The results of the probes of all cells."""

    C: Tensor  # (cells,), the best on validation; among equals the lowest, the most regularized
    validation: Tensor  # (cells,), accuracy in points
    predictions: Tensor  # (cells, n_test), labels; multi-label (cells, n_test, labels), 0 and 1
    correct: Tensor  # (cells, n_test), 1 or 0; multi-label: the share of labels that are right
    converged: Tensor  # (cells,), whether every C was solved


def probe(
    train: Split,
    validation: Split,
    test: Split,
    Cs: Sequence[float] = CS,
    device: str | torch.device = "cpu",
    progress: Callable[[int], None] = lambda cells: None,
    max_steps: int = 1000,
) -> ProbeResult:
    """Fit a probe on each cell with each C, choose C on validation, and score it on test.

    Args:
        train: What to fit the probes on.
        validation: What to choose C on.
        test: What to score.
        Cs: Inverse regularization strengths, as in scikit-learn.
        device: Where to compute: the CPU or a CUDA device.
        progress: Called with the number of cells finished since the last call.
        max_steps: Steps after which a probe that is not solved is used as it is, with a warning.

    Raises:
        InputError: A C is not over 0, a vector is not finite, or there is only one label.
    """
    Cs = sorted(Cs)
    _check(train, Cs)
    targets, softmax = _targets(train.labels)
    problem = Problem(targets.to(device), softmax, torch.tensor(Cs, device=device), max_steps)
    cells, rows, size = train.vectors.shape
    chunk = max(1, MEMORY // (4 * rows * (size + 4 * len(Cs))))  # cells at a time
    labels = [split.labels.to(device) for split in (validation, test)]
    chunks: list[ProbeResult] = []
    for start in range(0, cells, chunk):
        part = slice(start, start + chunk)
        vectors = [load(split.vectors, part, device) for split in (train, validation, test)]
        chunks.append(_probe_cells(problem, vectors, labels))
        progress(len(chunks[-1].C))
    result = ProbeResult(*(torch.cat(parts).cpu() for parts in zip(*chunks, strict=True)))
    if unsolved := int((~result.converged).sum()):
        warnings.warn(
            f"the probes of {unsolved} cells did not converge in {max_steps} steps", stacklevel=2
        )
    return result


def _check(train: Split, Cs: Sequence[float]) -> None:
    if not Cs or min(Cs) <= 0:
        raise InputError(f"Cs={list(Cs)}: give one or more numbers over 0")
    if train.labels.ndim == 1 and len(train.labels.unique()) < 2:
        raise InputError(
            "all rows of the train split have the same label; a probe needs two or more labels"
        )


def _targets(labels: Tensor) -> tuple[Tensor, bool]:
    """Return targets (n, 1, K), and whether the K columns form one softmax. Two labels: K = 1."""
    if labels.ndim == 2 or labels.max() == 1:
        return labels.view(len(labels), 1, -1).float(), False
    return F.one_hot(labels.long())[:, None].float(), True


def load(vectors: Vectors, cells: int | slice, device: str | torch.device) -> Tensor:
    """Copy one cell (n, d), or some cells (c, n, d), to float32."""
    part = vectors[cells]
    if not isinstance(part, Tensor):
        part = torch.from_numpy(np.array(part))  # reads the file
    part = part.to(device, torch.float32, copy=True)
    if not part.isfinite().all():
        raise InputError(
            "some vectors are not finite; compute them in float32 instead of half precision"
        )
    return part


def _probe_cells(
    problem: "Problem", vectors: Sequence[Tensor], labels: Sequence[Tensor]
) -> ProbeResult:
    """Probe some cells.

    Args:
        problem: What to solve.
        vectors: Those of train, validation and test, each (c, n, d); overwritten.
        labels: Those of validation and test.
    """
    train, validation, test = vectors
    mean = train.mean(1, keepdim=True)  # (c, 1, d)
    std = train.std(1, keepdim=True, correction=0)  # (c, 1, d)
    scale = torch.where(std > 1e-6 * mean.abs(), 1 / std, 0)
    train = _design(train, mean, scale)  # (c, n, d + 1)
    squares, axes = _principal_axes(train)
    weights, converged = problem.solve(train @ axes, squares)
    weights = (axes @ weights.flatten(2)).view_as(weights)  # (c, d + 1, S, K)

    predictions = problem.predict(_design(validation, mean, scale), weights)  # (c, n, S, K)
    accuracy = 100 * _correct(predictions, labels[0]).mean(1)  # (c, S)
    best = accuracy.argmax(1)  # (c,), the first of equals
    cells = torch.arange(len(best), device=best.device)
    weights = weights[cells, :, best].unsqueeze(2)  # (c, d + 1, 1, K)
    predictions = problem.predict(_design(test, mean, scale), weights)  # (c, n, 1, K)
    correct = _correct(predictions, labels[1]).squeeze(2)  # (c, n)
    predictions = predictions.view(-1, *labels[1].shape)
    return ProbeResult(problem.Cs[best], accuracy.amax(1), predictions, correct, converged.all(1))


def _design(vectors: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Standardize vectors and append a column of ones: (c, n, d) -> (c, n, d + 1)."""
    return F.pad(vectors.sub_(mean).mul_(scale), (0, 1), value=1)


def _principal_axes(design: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of squares along each axis (c, d + 1), and the axes (c, d + 1, d + 1).

    The column of ones stays as it is.
    """
    squares, axes = torch.linalg.eigh((design.mT @ design)[:, :-1, :-1])
    axes = F.pad(axes, (0, 1, 0, 1))
    axes[:, -1, -1] = 1
    return F.pad(squares.clamp(min=0), (0, 1), value=design.shape[1]), axes


def _correct(predictions: Tensor, labels: Tensor) -> Tensor:
    """Return the share of right predictions (c, n, S, K): (c, n, S).

    Labels are (n,), then K is 1, or (n, K).
    """
    return (predictions == labels.view(len(labels), 1, -1)).double().mean(-1)


class Problem(NamedTuple):
    """Logistic regressions on the same labels, with S values of C."""

    targets: Tensor  # (n, 1, K), 0 and 1
    softmax: bool  # True: the K columns form one softmax; False: each is a sigmoid of its own
    Cs: Tensor  # (S,)
    max_steps: int

    def logits(self, design: Tensor, weights: Tensor) -> Tensor:
        """Map (c, n, d + 1) and weights (c, d + 1, S, K) to (c, n, S, K)."""
        return (design @ weights.flatten(2)).unflatten(2, weights.shape[2:])

    def predict(self, design: Tensor, weights: Tensor) -> Tensor:
        """Return the label (c, n, S, 1), or 0 or 1 for each sigmoid (c, n, S, K)."""
        logits = self.logits(design, weights)
        return logits.argmax(-1, keepdim=True) if self.softmax else (logits > 0).long()

    def loss(self, logits: Tensor, weights: Tensor) -> Tensor:
        """Return the objective (c, S), summed in float64."""
        losses = logits.logsumexp(-1) if self.softmax else F.softplus(logits).sum(-1)
        losses = losses - (logits * self.targets).sum(-1)  # (c, n, S)
        penalty = weights[:, :-1].double().square().sum((1, 3)) / 2 / self.Cs
        return losses.sum(1, dtype=torch.float64) + penalty

    def gradient(self, design: Tensor, logits: Tensor, weights: Tensor) -> Tensor:
        """Return the gradient of the objective by the weights, (c, d + 1, S, K)."""
        residual = (logits.softmax(-1) if self.softmax else logits.sigmoid()) - self.targets
        gradient = (design.mT @ residual.flatten(2)).view_as(weights)
        gradient[:, :-1] += weights[:, :-1] / self.Cs[:, None]
        return gradient

    def solve(self, design: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
        """Solve the problems for a design along its principal axes.

        Returns:
            Weights (c, d + 1, S, K), and which problems were solved (c, S).
        """
        cells, _, size = design.shape
        bound = 0.5 if self.softmax else 0.25  # of a loss's second derivative by a logit
        regularized = F.pad(squares.new_ones(size - 1), (0, 1))  # (d + 1,), 0 for the intercept
        penalty = regularized[:, None, None] / self.Cs[:, None]  # (d + 1, S, 1)
        bounds = bound * squares[..., None, None] + penalty  # (c, d + 1, S, 1)
        weights = design.new_zeros(cells, size, len(self.Cs), self.targets.shape[-1])
        logits = self.logits(design, weights)
        loss = self.loss(logits, weights)
        gradient = self.gradient(design, logits, weights)
        history: list[Update] = []
        solved = torch.zeros_like(loss, dtype=torch.bool)
        for _ in range(self.max_steps):
            direction = -_precondition(gradient, history, bounds)
            slope = _dot(gradient, direction)  # (c, S); on a parabola, -2 x the loss still to go
            solved = -slope / 2 < GAP * loss
            if solved.all():
                break
            logit_direction = self.logits(design, direction)
            step, loss = self._search(loss, slope, (logits, logit_direction), (weights, direction))
            logits = logits + _spread(step) * logit_direction
            move = _spread(step) * direction
            weights = weights + move
            last_gradient = gradient
            gradient = self.gradient(design, logits, weights)
            history = [*history[1 - HISTORY :], _update(move, gradient - last_gradient)]
        return weights, solved

    def _search(
        self,
        loss: Tensor,
        slope: Tensor,
        logits: tuple[Tensor, Tensor],
        weights: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Find the first of 1, 1/2, 1/4... that lowers each loss enough (Armijo, 1966), else 0.

        Args:
            loss: The loss at the start, (c, S).
            slope: Its derivative by the step, (c, S).
            logits: The logits at the start, and their direction.
            weights: The weights at the start, and their direction.

        Returns:
            The step and the loss after it, each (c, S).
        """
        step = torch.ones_like(slope)
        slack = 1e-7 * loss.abs()  # what rounding may add
        for _ in range(20):
            new_loss = self.loss(
                *(start + _spread(step) * direction for start, direction in (logits, weights))
            )
            fails = ~(new_loss <= loss + 1e-4 * step * slope + slack)  # NaN fails
            if not fails.any():
                break
            step = torch.where(fails, step / 2, step)
        return torch.where(fails, 0, step), torch.where(fails, loss, new_loss)


class Update(NamedTuple):
    """A step of L-BFGS, as its memory needs it."""

    move: Tensor  # of the weights, (c, d + 1, S, K)
    change: Tensor  # of the gradient along it, (c, d + 1, S, K)
    inverse: Tensor  # 1 / (move . change), (c, S); 0 if the step says nothing on the curvature


def _dot(left: Tensor, right: Tensor) -> Tensor:
    """Sum the products of two (c, d + 1, S, K) to (c, S)."""
    return (left * right).sum((1, 3))


def _spread(values: Tensor) -> Tensor:
    """Reshape (c, S) to (c, 1, S, 1)."""
    return values[:, None, :, None]


def _update(move: Tensor, change: Tensor) -> Update:
    product = _dot(move, change)
    tells = product > 1e-10 * _dot(change, change).sqrt()
    return Update(move, change, torch.where(tells, 1 / product, 0))


def _precondition(gradient: Tensor, history: Sequence[Update], bounds: Tensor) -> Tensor:
    """Multiply the gradient by an estimate of the inverse Hessian, from past steps and bounds."""
    if not history:
        return gradient / bounds
    shares = []
    for move, change, inverse in reversed(history):
        shares.append(inverse * _dot(move, gradient))
        gradient = gradient - _spread(shares[-1]) * change
    _, change, inverse = history[-1]
    curvature = inverse * _dot(change, change / bounds)  # of the last step
    scale = torch.where(inverse > 0, 1 / curvature, 1)
    direction = _spread(scale) * gradient / bounds
    for (move, change, inverse), share in zip(history, reversed(shares), strict=True):
        direction = direction + _spread(share - inverse * _dot(change, direction)) * move
    return direction
