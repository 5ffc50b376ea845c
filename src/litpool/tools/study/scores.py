"""The score of each cell: a linear probe's answers, or Spearman's correlation of cosines."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, combinations
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from litpool import InputError
from litpool.tools.study import geometry
from litpool.tools.study.baselines import answer_logistic
from litpool.tools.study.examples import Examples, Labels, fits
from litpool.tools.study.geometry import Geometry
from litpool.tools.study.grid import Cell
from litpool.tools.study.ridge import STRENGTHS, Probes, Sums, solve, standardize, sum_up
from litpool.tools.study.statistics import (
    Array,
    Design,
    Numbers,
    label_score,
    label_values,
    spearman_values,
)
from litpool.tools.study.vectors import Vectors, follow, release

MAX_WORKERS = 4  # cells in memory at a time
MAX_GEOMETRY = 2_000  # texts that the geometry is computed from
MAX_WHITENING = 20_000  # train texts that the whitening is fitted on, which bounds its memory


class Row(NamedTuple):
    """A cell, or a baseline, and its score on R repeats of the scored rows."""

    cell: Cell
    whitened: bool
    C: float | None  # the probe's inverse regularization strength
    values: Array  # (R, n), points; their mean is the score
    right: Array | None  # (R, n), labels: 1 right, 0 wrong, or the share that is right
    inner: Array  # (R, K), the score without each fold, which a choice for that fold goes by
    overall: float  # the score that the choice on all rows goes by
    selectivity: float | None = None  # points more than with the labels of other texts

    @property
    def test(self) -> float:
        """The score in points."""
        return float(self.values.mean())


def load(vectors: NDArray[np.float32], device: str | torch.device) -> Tensor:
    """Copy a cell's vectors (..., d) from the file.

    Raises:
        InputError: A vector is not finite.
    """
    part = torch.from_numpy(np.array(vectors)).to(device)
    # The extremes show NaN and infinity in one pass; asking each number takes longer than its copy.
    if not torch.stack(part.aminmax()).isfinite().all():
        raise InputError(
            "some vectors are not finite; compute them in float32 instead of half precision"
        )
    return part


def score(
    cells: Sequence[Cell],
    files: Mapping[str, Vectors],
    examples: Examples,
    device: str | torch.device,
) -> list[Row]:
    """Score cells; only a few cells' vectors are in memory at a time.

    Args:
        cells: The cells.
        files: Their vectors, by split.
        examples: The rows.
        device: Where to compute.
    """
    score_cell = score_labels if examples.gold is None else _score_pairs

    def work(cell: Cell) -> list[Row]:
        vectors = {split: load(files[split][cell], device) for split in examples.splits}
        rows = score_cell(cell, vectors, examples)
        release(part[cell] for part in files.values())
        return rows

    # Cells side by side: a decomposition of a matrix hardly gains from a second thread.
    threads = torch.get_num_threads()
    workers = min(threads, MAX_WORKERS) if torch.device(device).type == "cpu" else 1
    torch.set_num_threads(threads // workers)
    pool = ThreadPoolExecutor(workers)
    try:
        rows = follow(pool.map(work, cells), "scoring", len(cells), "cell")
        return list(chain.from_iterable(rows))
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def score_labels(cell: Cell, parts: Mapping[str, Tensor], examples: Examples) -> list[Row]:
    """Fit the probes of a cell, all strengths, and answer each scored row without its fold."""
    assert examples.labels
    vectors = standardize(torch.cat([part[0] for part in parts.values()]))
    labels = examples.labels.to(vectors.device)
    if examples.design.fold_count == 1:
        repeats = [_probe_split(vectors, labels, list(examples.splits.values()))]
    else:
        repeats = [_probe_folds(vectors, labels, split) for split in examples.design.folds]
    control = labels._replace(targets=labels.control)
    scored = [_values(repeat.answers, labels, examples) for repeat in repeats]
    controls = [_values(repeat.control, control, examples)[0].mean() for repeat in repeats]
    values, right = (np.stack(parts) for parts in zip(*scored, strict=True))
    overall = torch.stack([repeat.overall for repeat in repeats]).mean(0)  # (strengths,)
    best = int(overall.argmax())  # the first of equals, the strongest
    inner = np.stack([repeat.inner for repeat in repeats]).round(4)
    selectivity = float(values.mean() - np.mean(controls))
    C = 1 / STRENGTHS[best]
    return [Row(cell, False, C, values, right, inner, float(overall[best]), selectivity)]


def _values(answers: Tensor, labels: Labels, examples: Examples) -> tuple[Array, Array]:
    """Return the values of the scored rows, and the share of each row's labels that is right."""
    gold = labels.indicators(labels.targets)[examples.scored].cpu().numpy()
    given = answers.cpu().numpy()
    wrong = np.abs(given - gold).sum(1) / (2 if labels.exclusive else gold.shape[1])
    return label_values(given, gold, labels.score), 1 - wrong


def score_answers(cell: Cell, answers: Tensor, examples: Examples) -> Row:
    """Score the answers (n, labels), 0 and 1, of a baseline to all rows.

    In K-fold, a fold's choice goes by the other folds' rows.
    """
    labels, design = examples.labels, examples.design
    assert labels
    answers = labels.indicators(answers)
    values, right = _values(answers[examples.scored], labels, examples)
    if design.fold_count == 1:
        part = examples.splits["validation"]
        gold = labels.indicators(labels.targets)[part]
        overall = float(label_score(_count(answers[None, part], gold), labels.score)[0])
        inner = np.full((1, 1), overall)
    else:
        overall, inner = float(values.mean()), _without_folds(values, design)
    values, right = (np.broadcast_to(part, design.folds.shape) for part in (values, right))
    return Row(cell, False, None, values, right, inner, overall)


def score_logistic(cell: Cell, parts: Mapping[str, NDArray[np.float32]], examples: Examples) -> Row:
    """Score a logistic regression on a cell's vectors, by split (1, n, d)."""
    labels = examples.labels
    assert labels
    vectors = standardize(torch.cat([load(part[0], "cpu") for part in parts.values()])).numpy()
    equal = labels.score != "accuracy"
    answers = answer_logistic(vectors, labels.targets, fits(examples), labels.exclusive, equal)
    return score_answers(cell, answers, examples)


def _without_folds(values: Array, design: Design) -> Array:
    """Return the mean of values (n,) over the rows outside each fold: (R, K)."""
    return np.array(
        [
            [values[split != fold].mean() for fold in range(design.fold_count)]
            for split in design.folds
        ]
    )


class _Repeat(NamedTuple):
    """The answers of one repeat of the folds, or of one split."""

    answers: Tensor  # (n, columns), indicators
    control: Tensor  # the same for the control task
    inner: Array  # (K,)
    overall: Tensor  # (strengths,)


def _probe_split(vectors: Tensor, labels: Labels, parts: Sequence[slice]) -> _Repeat:
    """Fit on train, choose the strength on validation, and answer test."""
    train, validation, test = parts
    targets = torch.cat([labels.targets, labels.control], dim=1)
    probes = solve(sum_up(vectors[train], targets[train]), labels.score != "accuracy")
    count = labels.targets.shape[1]
    gold = labels.indicators(labels.targets)
    overall = label_score(
        _count(labels.answers(probes.outputs(vectors[validation])[..., :count]), gold[validation]),
        labels.score,
    )
    outputs = probes.outputs(vectors[test])[overall.argmax()]
    return _Repeat(
        labels.answers(outputs[:, :count]),
        labels.answers(outputs[:, count:]),
        np.array([float(overall.max())]),
        overall,
    )


def _probe_folds(vectors: Tensor, labels: Labels, split: Numbers) -> _Repeat:
    """Answer each fold with fits on the others; choose its strength without it.

    A fit without two folds serves the choice for both: it answers the one for the other.
    """
    count = labels.targets.shape[1]
    targets = torch.cat([labels.targets, labels.control], dim=1)
    gold = labels.indicators(labels.targets)
    folds = [torch.from_numpy(np.flatnonzero(split == fold)) for fold in range(split.max() + 1)]
    parts = [vectors[fold] for fold in folds]
    sums = [sum_up(part, targets[fold]) for part, fold in zip(parts, folds, strict=True)]
    total = Sums(*(torch.stack(values).sum(0) for values in zip(*sums, strict=True)))
    equal = labels.score != "accuracy"
    pairs: dict[tuple[int, int], Probes] = {}
    for one, two in combinations(range(len(folds)), 2):
        rest = total.without(sums[one], sums[two]).of_labels(count)  # the control has no choice
        pairs[one, two] = pairs[two, one] = solve(rest, equal)
    # For each fold the counts of the answers to the others, which its choice goes by.
    choosing = gold.new_zeros(len(folds), 3, len(STRENGTHS), gold.shape[1])
    for fold, (rows, part) in enumerate(zip(folds, parts, strict=True)):
        others = [other for other in range(len(folds)) if other != fold]
        probes = zip(*(pairs[fold, other] for other in others), strict=True)
        outputs = Probes(*map(torch.cat, probes)).outputs(part)  # one product for all of them
        counts = _count(labels.answers(outputs), gold[rows]).unflatten(1, (len(others), -1))
        choosing[others] += counts.transpose(0, 1)
    inner = label_score(choosing.transpose(0, 1), labels.score)  # (folds, strengths)
    answers, control = torch.zeros_like(gold), torch.zeros_like(gold)
    outer = torch.zeros_like(choosing[0])
    for fold, (rows, part) in enumerate(zip(folds, parts, strict=True)):
        outputs = solve(total.without(sums[fold]), equal).outputs(part)
        everything = labels.answers(outputs[..., :count])  # (strengths, n, columns)
        outer += _count(everything, gold[rows])
        best = inner[fold].argmax()
        answers[rows] = everything[best]
        control[rows] = labels.answers(outputs[best, :, count:])
    return _Repeat(
        answers, control, inner.amax(1).numpy(force=True), label_score(outer, labels.score)
    )


def _count(answers: Tensor, gold: Tensor) -> Tensor:
    """Count hits, answers and truths of each label: (3, strengths, columns)."""
    hits, predicted = (answers * gold).sum(-2), answers.sum(-2)
    return torch.stack([hits, predicted, gold.sum(-2).expand_as(hits)])


def _score_pairs(cell: Cell, parts: Mapping[str, Tensor], examples: Examples) -> list[Row]:
    """Rank the pairs by their cosines, raw and, if there is a train split, whitened."""
    rows = [score_cosines(cell, False, cosines(parts), examples)]
    if "train" in parts:
        train = sample(parts["train"].flatten(0, 1), MAX_WHITENING)
        whitening = geometry.fit_whitening(train)
        whitened = {split: whitening.apply(part) for split, part in parts.items()}
        rows.append(score_cosines(cell, True, cosines(whitened), examples))
    return rows


def cosines(parts: Mapping[str, Tensor]) -> Array:
    """Return the cosines (n,) of all pairs, from vectors (2, n, d) by split."""
    values = [F.cosine_similarity(first, second) for first, second in parts.values()]
    return torch.cat(values).double().cpu().numpy()


def score_cosines(cell: Cell, whitened: bool, cosines: Array, examples: Examples) -> Row:
    """Score the cosines (n,) of all pairs. The choice goes by the pairs that are not scored.

    In K-fold, a fold's choice goes by the other folds' pairs.
    """
    design, scored, gold = examples.design, examples.scored, examples.gold
    assert gold is not None
    values = spearman_values(cosines[scored], gold[scored])
    if design.fold_count == 1:
        rest = slice(0, scored.start)
        overall = float(spearman_values(cosines[rest], gold[rest]).mean())
        inner = np.full((1, 1), overall)
    else:
        overall, inner = float(values.mean()), _without_folds(values, design)
    values = np.broadcast_to(values, design.folds.shape)
    return Row(cell, whitened, None, values, None, inner.round(4), overall)


def measure_geometry(
    whitened: bool,
    vectors: NDArray[np.float32],
    train: NDArray[np.float32] | None,
    examples: Examples,
) -> Geometry:
    """Measure the geometry of a cell's test vectors (K, n, d), of at most 2,000 texts.

    Args:
        whitened: Whether to whiten them first, as fitted on train.
        vectors: The cell's vectors of the test split.
        train: Its vectors of the train split, if there are any.
        examples: The rows.
    """
    test = load(vectors, "cpu")
    if whitened:
        assert train is not None
        whitening = geometry.fit_whitening(sample(load(train, "cpu").flatten(0, 1), MAX_WHITENING))
        test = whitening.apply(test)
    texts = test.transpose(0, 1).flatten(0, 1)  # row by row
    positives = None
    if examples.gold is not None:
        positives = _closest(test, examples.gold[examples.splits["test"]])
    return geometry.measure(sample(texts), positives)


def sample(vectors: Tensor, size: int = MAX_GEOMETRY) -> Tensor:
    """Take at most `size` rows of (n, d), evenly spaced."""
    return vectors[:: -(-len(vectors) // size)]


def _closest(pairs: Tensor, gold: Array) -> tuple[Tensor, Tensor]:
    """Take the pairs (2, n, d) with the top quarter of scores: two of (m, d)."""
    count = max(1, min(MAX_GEOMETRY, len(gold) // 4))
    top = np.argsort(-gold, kind="stable")[:count]
    first, second = pairs[:, torch.from_numpy(top)]
    return first, second
