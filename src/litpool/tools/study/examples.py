"""The rows of a study: texts, labels or scores, and how they are resampled."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from litpool.data.module import TextDataModule
from litpool.tasks.similarity import Similarity
from litpool.tools.study import folds
from litpool.tools.study.baselines import Fit
from litpool.tools.study.options import StudyOptions
from litpool.tools.study.statistics import Array, Design, LabelScore, Numbers
from litpool.tools.study.vectors import order

SPLITS = ("train", "validation", "test")
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
    task = data.task
    columns: list[list[str]] = [[] for _ in task.texts]
    splits: dict[str, slice] = {}
    answers: list[object] = []
    groups: list[object] = []
    group = data.source.group
    for split in SPLITS:
        if split in data.encoded:
            names = list(dict.fromkeys([*task.texts, task.label, *([group] if group else [])]))
            table = data.rows[split].select_columns(names).select(order(data.encoded[split]))
            rows = table[:]  # all at once: one by one takes seconds
            splits[split] = slice(len(answers), len(answers) + len(table))
            answers += rows[task.label]
            groups += rows[group] if group else []
            for column, name in zip(columns, task.texts, strict=True):
                column += rows[name]
    texts = folds.number_clusters(list(zip(*columns, strict=True)))
    clusters = folds.number_clusters(groups) if group else texts
    whole = folds.choose_resampling(options.resampling, data) == "kfold"
    scored = slice(0, len(answers)) if whole else splits["test"]
    gold, labels = None, None
    strata: Numbers | None = None
    if isinstance(task, Similarity):
        gold = np.array([float(str(score)) for score in answers])
    else:
        labels = read_labels(torch.tensor(task.targets(answers)), texts, splits, options)
        if labels.exclusive:
            strata = labels.targets.argmax(1).numpy()
    design = Design(
        folds.draw_folds(clusters, strata, options.seed)
        if whole
        else np.zeros((1, scored.stop - scored.start), np.int64),
        folds.number_clusters(clusters[scored].tolist()),
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
