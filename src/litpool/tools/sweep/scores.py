"""The test score of a training, also without each of several groups of rows.

The groups are the same in every training of a job. From them, `claim` estimates how much a
difference of two configs depends on the rows, for any metric (the delete-a-group jackknife).
"""

import random
from typing import Any

import torch
from torch import Tensor

from litpool.data.module import TextDataModule
from litpool.loops.lightning import TextModule

GROUPS = 40


def score_rows(module: TextModule) -> dict[str, Any]:
    """Return the test score of a module that has just been scored on the test split.

    Returns:
        `test`: the task's own metric. `without`: the same without each group of rows. `rows`: how
        many rows there are. `clusters`: how many of them are independent of each other.
    """
    data, task, evaluation = module.data, module.task, module.evaluation
    name = task.monitor.partition("/")[2]
    parts = [torch.cat(part).cpu() for part in zip(*evaluation.predictions, strict=True)]
    index, predictions = parts
    groups, clusters = assign(data)
    labels = _labels(data)
    own = groups[index]  # (N,), the group of each prediction

    def score(kept: Tensor) -> float:
        metrics = task.metrics(data.rows["test"])
        batch = {"index": index[kept], "labels": labels[index[kept]]}
        task.update(metrics, predictions[kept], batch)
        return float(metrics.compute()[name])

    everything = torch.ones(len(index), dtype=torch.bool)
    without = [score(own != group) for group in range(int(groups.max()) + 1)]
    rows = len(data.rows["test"])
    return {"test": score(everything), "without": without, "rows": rows, "clusters": clusters}


def assign(data: TextDataModule) -> tuple[Tensor, int]:
    """Return the group of each test row, (N,), and the number of clusters.

    Dependent rows (of one author, or with equal texts) form a cluster, and stay in one group.
    """
    rows = data.rows["test"]
    names = [*([data.source.group] if data.source.group else []), *data.task.group]
    columns = [name for name in names if name in rows.column_names][:1] or data.task.texts
    keys = [str(key) for key in zip(*(rows[column][:] for column in columns), strict=True)]
    clusters = list(dict.fromkeys(keys))
    random.Random(0).shuffle(clusters)
    group = {key: number % GROUPS for number, key in enumerate(clusters)}
    return torch.tensor([group[key] for key in keys]), len(clusters)


def _labels(data: TextDataModule) -> Tensor:
    """Return the labels of the test rows by the number of the row, (N, ...)."""
    encoded = data.encoded["test"]
    values = torch.tensor(encoded["labels"][:])
    labels = values.new_zeros((len(data.rows["test"]), *values.shape[1:]))
    labels[torch.tensor(encoded["index"][:])] = values
    return labels
