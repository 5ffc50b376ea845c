"""The rows of a study: texts, labels or scores, and how they are resampled."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from litpool.data.module import TextDataModule
from litpool.tasks.similarity import Similarity
from litpool.tools.study.baselines import Fit
from litpool.tools.study.options import Resampling, StudyOptions
from litpool.tools.study.statistics import Array, Design, LabelScore, Numbers
from litpool.tools.study.vectors import order

SPLITS = ("train", "validation", "test")
FOLDS = 5
REPEATS = 4
MANY_ROWS = 3_000  # rows from which two repeats are enough
FEW_TEST_ROWS = 100  # a published test split with fewer joins the other rows
FREQUENT = 0.8  # the share of the majority class from which accuracy says little


class Labels(NamedTuple):
    """The labels of all rows as targets, and how answers are scored."""

    targets: Tensor  # (n, labels), 0 or 1
    control: Tensor  # (n, labels), the labels of other texts
    exclusive: bool  # one label a row; otherwise any number of them
    score: LabelScore

    def to(self, device: torch.device) -> "Labels":
        """Move the targets to a device."""
        return self._replace(targets=self.targets.to(device), control=self.control.to(device))

    def indicators(self, positive: Tensor) -> Tensor:
        """Return what `statistics.label_values` compares, from (..., n, labels) of 0 and 1."""
        if self.exclusive or self.score == "macro_f1":
            return positive
        return torch.cat([positive, 1 - positive], dim=-1)

    def answers(self, outputs: Tensor) -> Tensor:
        """Return the indicators of the answers to outputs (..., n, labels)."""
        if self.exclusive:
            return F.one_hot(outputs.argmax(-1), outputs.shape[-1]).to(outputs.dtype)
        return self.indicators((outputs > 0.5).to(outputs.dtype))


class Examples(NamedTuple):
    """The rows of all splits, one after the other. Pairs have `gold`, all others `labels`."""

    texts: list[list[str]]  # K columns of n
    splits: dict[str, slice]
    gold: Array | None  # (n,)
    labels: Labels | None
    scored: slice  # the rows that are scored: those of test, or all
    design: Design  # of the scored rows

    @property
    def unit(self) -> str:
        """The word for rows in the verdict."""
        return "examples" if self.gold is None else "pairs"

    @property
    def metric(self) -> str:
        """The name of the score."""
        return "spearman" if self.labels is None else self.labels.score

    @property
    def resampling(self) -> str:
        """How the rows are resampled: split or kfold."""
        return "kfold" if self.design.fold_count > 1 else "split"

    @property
    def choosing(self) -> int:
        """The number of rows that a choice goes by."""
        if self.design.fold_count > 1:
            return (
                len(self.design.clusters) * (self.design.fold_count - 1) // self.design.fold_count
            )
        if self.gold is not None:
            return self.scored.start
        part = self.splits["validation"]
        return part.stop - part.start


def read(data: TextDataModule, options: StudyOptions) -> Examples:
    """Read the texts and labels of the tokenized splits, in the order of their vectors."""
    task, group = data.task, data.source.group
    names = list(dict.fromkeys([*task.texts, task.label, *([group] if group else [])]))
    rows = {  # all rows of a split at once: one by one takes seconds
        split: data.rows[split].select_columns(names).select(order(data.encoded[split]))[:]
        for split in SPLITS
        if split in data.encoded
    }
    ends = np.cumsum([len(part[task.label]) for part in rows.values()]).tolist()
    splits = dict(zip(rows, map(slice, [0, *ends], ends), strict=True))
    whole = choose_resampling(options.resampling, data) == "kfold"
    scored = slice(0, ends[-1]) if whole else splits["test"]
    values = {name: [value for part in rows.values() for value in part[name]] for name in names}
    columns, answers = [values[name] for name in task.texts], values[task.label]
    texts = number_clusters(list(zip(*columns, strict=True)))
    clusters = number_clusters(values[group]) if group else texts
    gold, labels = None, None
    strata: Numbers | None = None
    if isinstance(task, Similarity):
        gold = np.array([float(str(score)) for score in answers])
    else:
        labels = read_labels(torch.tensor(task.targets(answers)), texts, splits, options)
        if labels.exclusive:
            strata = labels.targets.argmax(1).numpy()
    design = Design(
        draw_folds(clusters, strata, options.seed)
        if whole
        else np.zeros((1, scored.stop - scored.start), np.int64),
        number_clusters(clusters[scored].tolist()),
        None if labels is None or labels.score == "accuracy" or strata is None else strata[scored],
    )
    return Examples(columns, splits, gold, labels, scored, design)


def read_labels(
    labels: Tensor, texts: Numbers, splits: Mapping[str, slice], options: StudyOptions
) -> Labels:
    """Turn labels (n,) or (n, labels) into targets, and draw those of the control task."""
    exclusive = labels.ndim == 1
    targets = (F.one_hot(labels) if exclusive else labels).float()
    train = targets[splits["train"]]
    score = options.score
    if score == "auto":
        share = train.mean(0)
        majority = share.max() if exclusive else torch.maximum(share, 1 - share).mean()
        score = "macro_f1" if majority > FREQUENT else "accuracy"
    # Equal texts get the label of one other text.
    first = np.unique(texts, return_index=True)[1]
    shuffled = np.random.default_rng(options.seed).permutation(first)
    return Labels(targets, targets[shuffled[texts]], exclusive, score)


def fits(examples: Examples) -> Iterator[Fit]:
    """List the fits of a baseline: one for the split, or one for each fold of the first repeat."""
    if examples.design.fold_count == 1:
        yield Fit(*(np.arange(part.start, part.stop) for part in examples.splits.values()))
        return
    folds, count = examples.design.folds[0], examples.design.fold_count
    for fold in range(count):
        choosing = folds == (fold + 1) % count
        rest = (folds != fold) & ~choosing
        yield Fit(*map(np.flatnonzero, (rest, choosing, folds == fold)))


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
    numbers, _ = pd.factorize(pd.Index(values, tupleize_cols=False), use_na_sentinel=False)
    return numbers


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
