"""The score of each cell from the vectors of three splits: a probe's accuracy, or Spearman's correlation of cosines."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from litpool.data.module import TextDataModule
from litpool.tasks.similarity import Similarity
from litpool.tools.study import geometry, statistics
from litpool.tools.study.geometry import Geometry
from litpool.tools.study.grid import Cell
from litpool.tools.study.probes import Split, Vectors, load, probe
from litpool.tools.study.statistics import Score
from litpool.tools.study.vectors import bar, order, release

SPLITS = ("train", "validation", "test")
TEXTS = 2_000  # of the test split, from which the geometry is computed
FITTED = 20_000  # texts of the train split that the whitening is fitted on, so that memory does not grow with them

Parts = Mapping[str, NDArray[np.float32]]  # by split: (cells, K, n, d)


class Examples(NamedTuple):
    """What is known of the examples of each split; `gold` is there for pairs, else `labels`."""

    texts: dict[str, list[list[str]]]  # K columns of n
    gold: dict[str, NDArray[np.float64]]  # (n,)
    labels: dict[str, torch.Tensor]  # (n,), or for several labels at once (n, labels)
    score: Score  # of the outcomes on test

    @property
    def unit(self) -> str:
        """What the verdict calls them."""
        return "pairs" if self.gold else "examples"


class Row(NamedTuple):
    """A cell and its score."""

    cell: Cell
    whitened: bool
    strength: float | None  # of the probe's regularization
    validation: float | None  # points; None where there is no such split
    outcomes: NDArray[np.float64]  # (n,), of test: right or wrong; or the cosines
    geometry: Geometry | None


def read(data: TextDataModule) -> Examples:
    """Texts and labels of the splits that are tokenized, in the order of their vectors."""
    task, splits = data.task, [split for split in SPLITS if split in data.encoded]
    rows = {split: data.rows[split].select(order(data.encoded[split])) for split in splits}
    texts = {split: [list(part[column]) for column in task.texts] for split, part in rows.items()}
    given = {split: list(part[task.label]) for split, part in rows.items()}
    if not isinstance(task, Similarity):
        labels = {split: torch.tensor(task.targets(values)) for split, values in given.items()}
        return Examples(texts, {}, labels, statistics.accuracy)
    gold = {split: np.array([float(value) for value in values]) for split, values in given.items()}
    return Examples(texts, gold, {}, statistics.spearman(gold["test"]))


def probe_cells(
    cells: Sequence[Cell],
    parts: Parts,
    labels: Mapping[str, Tensor],
    seed: int,
    device: str | torch.device,
) -> list[Row]:
    """A linear probe on each cell; `parts` hold vectors of one text a row, `labels` are (n,) or (n, labels)."""
    train, validation, test = (Split(parts[split][:, 0], labels[split]) for split in SPLITS)
    with bar(len(cells), "probing") as shown:

        def progress(done: int) -> None:
            shown.update(done)
            release(parts.values())

        probed = probe(train, validation, test, device=device, progress=progress)
    rows = []
    for number, cell in enumerate(cells):
        shape = measure(sample(load(test.vectors, number, device)), None, seed)
        release(parts.values())
        strength, accuracy = float(probed.strength[number]), float(probed.validation[number])
        rows.append(
            Row(cell, False, strength, accuracy, probed.correct[number].double().numpy(), shape)
        )
    return rows


def compare_cells(
    cells: Sequence[Cell],
    parts: Parts,
    gold: Mapping[str, NDArray[np.float64]],
    seed: int,
    device: str | torch.device,
) -> list[Row]:
    """Cosines of pairs in each cell, as they are and, where there is a train split, whitened on it.

    Args:
        cells: Which.
        parts: Two texts a row; of the splits that there are, test at least.
        gold: The scores of each split.
        seed: Of the pairs that the geometry is told from.
        device: Where it is computed.
    """
    rows = []
    with bar(len(cells), "comparing") as shown:
        for number, cell in enumerate(cells):
            for whitened in (False, True)[: 1 + ("train" in parts)]:
                rows.append(_compare(cell, number, parts, gold, whitened, seed, device))
            release(parts.values())
            shown.update(1)
    return rows


def _compare(
    cell: Cell,
    number: int,
    parts: Parts,
    gold: Mapping[str, NDArray[np.float64]],
    whitened: bool,
    seed: int,
    device: str | torch.device,
) -> Row:
    """One row; the vectors of one cell are in memory."""
    splits = [split for split in ("validation", "test") if split in parts]
    pairs = {split: load(parts[split], number, device) for split in splits}  # each (2, n, d)
    if whitened:
        fitted = sample(load(parts["train"], number, device).flatten(0, 1), FITTED)
        whitening = geometry.fit_whitening(fitted[None])
        pairs = {
            split: (part - whitening.mean[0].to(device)) @ whitening.matrix[0].to(device)
            for split, part in pairs.items()
        }
    cosines = {
        split: geometry.cosine(part[:1], part[1:]).double().numpy() for split, part in pairs.items()
    }  # (1, n)
    validation = None
    if "validation" in cosines:
        validation = float(
            statistics.observe(cosines["validation"], statistics.spearman(gold["validation"]))[0]
        )
    shape = measure(
        sample(pairs["test"].transpose(0, 1).flatten(0, 1)),
        closest(pairs["test"], gold["test"]),
        seed,
    )
    return Row(cell, whitened, None, validation, cosines["test"][0], shape)


def sample(vectors: Tensor, most: int = TEXTS) -> Tensor:
    """At most so many rows of (n, d), evenly spaced."""
    return vectors[:: -(-len(vectors) // most)]


def closest(pairs: Tensor, gold: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
    """The pairs of the top quarter of scores, for alignment: (2, n, d) -> two of (m, d)."""
    top = np.argsort(-gold, kind="stable")[: max(1, min(TEXTS, len(gold) // 4))]
    first, second = pairs[:, torch.from_numpy(top.copy())]
    return first, second


def measure(vectors: Tensor, positives: tuple[Tensor, Tensor] | None, seed: int) -> Geometry:
    """The geometry of vectors (n, d)."""
    device = vectors.device
    pairs: tuple[Vectors, Vectors] | None = (
        None if positives is None else (positives[0][None], positives[1][None])
    )
    return geometry.measure(vectors[None], pairs, seed=seed, device=device)[0]
