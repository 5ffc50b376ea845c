"""How a study resamples: the published split, or repeated K-fold over all rows."""

from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np

from litpool.data.module import TextDataModule
from litpool.tasks.similarity import Similarity
from litpool.tools.study.options import Resampling
from litpool.tools.study.statistics import Numbers

FOLDS = 5
REPEATS = 4
MANY_ROWS = 3_000  # rows from which two repeats are enough
FEW_TEST_ROWS = 100  # a published test split with fewer joins the other rows


def choose_resampling(option: Resampling, data: TextDataModule) -> Resampling:
    """Return split or kfold.

    K-fold is the default where litpool itself divided the rows, where the test split is tiny, and
    where nothing but the test split is there to choose a pooling on.
    """
    if option != "auto":
        return option
    source = data.source.source
    divided = isinstance(source, list) or source == "docstrings" or Path(str(source)).is_file()
    alone = isinstance(data.task, Similarity) and data.encoded.keys() == {"test"}
    return "kfold" if divided or alone or len(data.rows["test"]) < FEW_TEST_ROWS else "split"


def number_clusters(values: Sequence[Hashable]) -> Numbers:
    """Give rows with equal values the same number, from 0."""
    numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
    return np.array([numbers[value] for value in values])


def draw_folds(clusters: Numbers, labels: Numbers | None, seed: int) -> Numbers:
    """Divide the rows into folds several times: (R, n), or zeros for fewer than two clusters.

    A cluster stays together. Those of each label, judged by their first row, are dealt out evenly.

    Args:
        clusters: The cluster of each row, (n,), from 0.
        labels: The label of each row, (n,), if there is one.
        seed: The seed of the folds.
    """
    _, first = np.unique(clusters, return_index=True)
    folds = min(FOLDS, len(first))
    generator = np.random.default_rng(seed)
    repeats = []
    for _ in range(REPEATS if len(clusters) < MANY_ROWS else 2):
        order = generator.permutation(len(first))
        if labels is not None:
            order = order[np.argsort(labels[first][order], kind="stable")]
        dealt = np.empty(len(first), np.int64)
        dealt[order] = np.arange(len(first)) % folds
        repeats.append(dealt[clusters])
    return np.stack(repeats)
