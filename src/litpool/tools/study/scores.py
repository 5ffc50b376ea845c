"""The score of each cell: a linear probe's accuracy, or Spearman's correlation of cosines."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from litpool.data.module import TextDataModule
from litpool.tasks.similarity import Similarity
from litpool.tools.study import geometry, statistics
from litpool.tools.study.geometry import Geometry
from litpool.tools.study.grid import Cell
from litpool.tools.study.probes import Split, load, probe
from litpool.tools.study.statistics import Score
from litpool.tools.study.vectors import order, progress_bar, release

SPLITS = ("train", "validation", "test")
MAX_GEOMETRY = 2_000  # test texts that the geometry is computed from
MAX_WHITENING = 20_000  # train texts that the whitening is fitted on, which bounds its memory

Parts = Mapping[str, NDArray[np.float32]]  # by split: (cells, K, n, d)


class Examples(NamedTuple):
    """The examples of each split. Pairs have `gold`, all others `labels`."""

    texts: dict[str, list[list[str]]]  # K columns of n
    gold: dict[str, NDArray[np.float64]]  # (n,)
    labels: dict[str, Tensor]  # (n,), or (n, labels) for multi-label tasks
    score: Score  # of the outcomes on test

    @property
    def unit(self) -> str:
        """The word for examples in the verdict."""
        return "pairs" if self.gold else "examples"


class Row(NamedTuple):
    """A cell and its score."""

    cell: Cell
    whitened: bool
    C: float | None  # the probe's inverse regularization strength
    validation: float | None  # points; None without a validation split
    outcomes: NDArray[np.float64]  # (n,), on test: 1 right, 0 wrong; for pairs the cosines
    geometry: Geometry | None


def read(data: TextDataModule) -> Examples:
    """Read the texts and labels of the tokenized splits, in the order of their vectors."""
    task = data.task
    texts, answers = {}, {}
    for split in SPLITS:
        if split in data.encoded:
            rows = data.rows[split].select(order(data.encoded[split]))
            texts[split] = [list(rows[column]) for column in task.texts]
            answers[split] = list(rows[task.label])
    if not isinstance(task, Similarity):
        labels = {split: torch.tensor(task.targets(part)) for split, part in answers.items()}
        return Examples(texts, {}, labels, statistics.accuracy)
    gold = {split: np.array([float(score) for score in part]) for split, part in answers.items()}
    return Examples(texts, gold, {}, statistics.spearman(gold["test"]))


def probe_cells(
    cells: Sequence[Cell],
    parts: Parts,
    labels: Mapping[str, Tensor],
    seed: int,
    device: str | torch.device,
) -> list[Row]:
    """Fit a linear probe on each cell.

    Args:
        cells: The cells.
        parts: Their vectors, with K = 1.
        labels: By split, (n,) or (n, labels).
        seed: The seed of the pairs sampled for the geometry.
        device: Where to compute.
    """
    train, validation, test = (Split(parts[split][:, 0], labels[split]) for split in SPLITS)
    with progress_bar(len(cells), "probing") as bar:

        def progress(count: int) -> None:
            bar.update(count)
            release(parts.values())

        probes = probe(train, validation, test, device=device, progress=progress)
    rows = []
    for index, cell in enumerate(cells):
        shape = geometry.measure(_sample(load(test.vectors, index, device)), seed=seed)
        release(parts.values())
        C, validation_score = float(probes.C[index]), float(probes.validation[index])
        outcomes = probes.correct[index].double().numpy()
        rows.append(Row(cell, False, C, validation_score, outcomes, shape))
    return rows


def compare_cells(
    cells: Sequence[Cell],
    parts: Parts,
    gold: Mapping[str, NDArray[np.float64]],
    seed: int,
    device: str | torch.device,
) -> list[Row]:
    """Compute the cosines of pairs in each cell, raw and, if there is a train split, whitened.

    Only one cell's vectors are in memory at a time.

    Args:
        cells: The cells.
        parts: Their vectors, with K = 2; at least those of test.
        gold: The scores of each split.
        seed: The seed of the pairs sampled for the geometry.
        device: Where to compute.
    """
    rows = []
    with progress_bar(len(cells), "comparing") as bar:
        for index, cell in enumerate(cells):
            vectors = {
                split: load(parts[split], index, device)  # (2, n, d)
                for split in ("validation", "test")
                if split in parts
            }
            rows.append(_compare(cell, False, vectors, gold, seed))
            if "train" in parts:
                train = load(parts["train"], index, device).flatten(0, 1)
                whitening = geometry.fit_whitening(_sample(train, MAX_WHITENING))
                vectors = {split: whitening.apply(part) for split, part in vectors.items()}
                rows.append(_compare(cell, True, vectors, gold, seed))
            release(parts.values())
            bar.update(1)
    return rows


def _compare(
    cell: Cell,
    whitened: bool,
    vectors: Mapping[str, Tensor],
    gold: Mapping[str, NDArray[np.float64]],
    seed: int,
) -> Row:
    cosines = {
        split: F.cosine_similarity(first, second, dim=1).double().cpu().numpy()  # (n,)
        for split, (first, second) in vectors.items()
    }
    validation = None
    if "validation" in cosines:
        score = statistics.spearman(gold["validation"])
        validation = float(statistics.observe(cosines["validation"][None], score)[0])
    texts = vectors["test"].transpose(0, 1).flatten(0, 1)  # (2n, d), pair by pair
    positives = _closest(vectors["test"], gold["test"])
    shape = geometry.measure(_sample(texts), positives, seed=seed)
    return Row(cell, whitened, None, validation, cosines["test"], shape)


def _sample(vectors: Tensor, size: int = MAX_GEOMETRY) -> Tensor:
    """Take at most `size` rows of (n, d), evenly spaced."""
    return vectors[:: -(-len(vectors) // size)]


def _closest(pairs: Tensor, gold: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
    """Take the pairs (2, n, d) with the top quarter of scores: two of (m, d)."""
    count = max(1, min(MAX_GEOMETRY, len(gold) // 4))
    top = np.argsort(-gold, kind="stable")[:count]
    first, second = pairs[:, torch.from_numpy(top)]
    return first, second
