"""Metrics of the test split for the model card, with intervals, and what 8 bits cost.

Accuracy and Spearman's correlation have the intervals that `test` prints. For the others, one group
of rows is left out at a time (the delete-a-group jackknife), which works for every metric, also for
those that are no mean over rows, such as ranks.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor

from litpool import InputError, JobError
from litpool.commands import Run
from litpool.loops.intervals import details
from litpool.tools.export.graph import Model

GROUPS = 20
LEAST_ROWS = 2 * GROUPS
LEAST_SPEED = 2.0  # of 8 bits; less is not what they are for

Network = Callable[[Mapping[str, Tensor]], Tensor]


@dataclass
class Score:
    """A metric of the test split with its 95% interval; None for too few rows."""

    name: str
    value: float
    interval: tuple[float, float] | None


@dataclass
class Scores:
    """The metrics of a network, or why there are none.

    Args:
        rows: How many rows were scored.
        scores: The metrics.
        reason: Why there are none.
    """

    rows: int = 0
    scores: tuple[Score, ...] = ()
    reason: str = ""


@dataclass
class Predictions:
    """What a network predicts for the test split: a prediction, label and row per example."""

    predictions: Tensor
    labels: Tensor
    index: Tensor
    seconds: float


def read_test(run: Run) -> str:
    """Read the test split; return why that is impossible, or nothing."""
    try:
        run.read("test")
    except InputError as error:
        return f"the test split cannot be read: {error}"
    return ""


@torch.no_grad()
def predict(run: Run, model: Model, network: Network) -> Predictions:
    """Return the predictions of a network, and the seconds that it took."""
    parts = []
    seconds = 0.0
    for batch in run.data.test_dataloader():
        start = time.perf_counter()
        output = network(batch)
        seconds += time.perf_counter() - start
        parts.append((model.task.extract(output, batch), batch["labels"], batch["index"]))
    predictions, labels, index = (torch.cat(part) for part in zip(*parts, strict=True))
    return Predictions(predictions, labels, index, seconds)


def compute(run: Run, model: Model, made: Predictions, rows: Tensor) -> dict[str, Tensor]:
    """Return all metrics over some rows, the confusion matrix too."""
    task = model.task
    chosen = torch.isin(made.index, rows)
    metrics = task.metrics(run.data.rows["test"])
    batch = {"labels": made.labels[chosen], "index": made.index[chosen]}
    task.update(metrics, made.predictions[chosen], batch)
    return metrics.compute()


def measure(run: Run, model: Model, made: Predictions, rows: Tensor) -> dict[str, float]:
    """Return the metrics over some rows, without those of single labels."""
    values = compute(run, model, made, rows)
    names = [name for name, value in values.items() if value.ndim == 0 and "/" not in name]
    return {name: float(values[name]) for name in names}


def score(run: Run, model: Model) -> Scores:
    """Return the metrics of the network on the test split."""
    if reason := read_test(run):
        return Scores(reason=reason)
    made = predict(run, model, model.network)
    rows = made.index.unique()
    parts = leave_out(lambda chosen: measure(run, model, made, chosen), rows)
    known = details(compute(run, model, made, rows), len(rows), interval=True)
    scores = []
    for name, (value, interval) in parts.items():
        if f"{name}/low" in known:
            interval = (known[f"{name}/low"], known[f"{name}/high"])
        scores.append(Score(name, value, interval))
    return Scores(len(rows), tuple(scores))


def leave_out(
    metric: Callable[[Tensor], dict[str, float]], rows: Tensor
) -> dict[str, tuple[float, tuple[float, float] | None]]:
    """Return each metric over all rows, and its interval."""
    values = metric(rows)
    if len(rows) < LEAST_ROWS:
        return {name: (value, None) for name, value in values.items()}
    order = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
    groups = order.tensor_split(GROUPS)
    without = [metric(order[~torch.isin(order, group)]) for group in groups]
    width = float(student.ppf(0.975, GROUPS - 1))
    result: dict[str, tuple[float, tuple[float, float] | None]] = {}
    for name, value in values.items():
        estimates = np.array([part[name] for part in without])
        error = np.sqrt((GROUPS - 1) * estimates.var())
        result[name] = (value, (value - width * error, value + width * error))
    return result


@dataclass
class Cost:
    """What a quantized network costs and gains.

    Args:
        metric: The metric that chose the checkpoint, such as `accuracy`.
        before: Its value for the network.
        after: Its value for the quantized network.
        interval: The 95% interval of the difference, after minus before; None for too few rows.
        speed: How many times as fast as the network it is.
        size: Bytes of the graph before and after.
    """

    metric: str
    before: float
    after: float
    interval: tuple[float, float] | None
    speed: float
    size: tuple[int, int]

    @property
    def warning(self) -> str:
        """Say that it is slow; empty if it is not."""
        if self.speed >= LEAST_SPEED:
            return ""
        return (
            f"8 bits are {self.speed:.1f} times as fast as the network on this machine, less than "
            f"{LEAST_SPEED:g} times; another processor may differ"
        )

    def __str__(self) -> str:
        difference = f"{self.after - self.before:+.4f}"
        if self.interval:
            difference += f" (95% {self.interval[0]:+.4f} to {self.interval[1]:+.4f})"
        before, after = (size / 1e6 for size in self.size)
        return (
            f"test {self.metric} {self.before:.4f} before, {self.after:.4f} after: {difference}; "
            f"{self.speed:.1f} times as fast, {after:.1f} MB instead of {before:.1f}"
        )


def cost(run: Run, model: Model, quantized: Network, size: tuple[int, int]) -> Cost:
    """Compare a quantized network with the network on the test split.

    Args:
        run: The job, whose test split measures.
        model: The network.
        quantized: The quantized network.
        size: Bytes of the graph before and after.

    Raises:
        InputError: There is no test split to measure with.
        JobError: The metric is more than one point worse.
    """
    if reason := read_test(run):
        raise InputError(f"quantize=int8: {reason}; its cost cannot be measured without")
    made = [predict(run, model, network) for network in (model.network, quantized)]
    name = model.task.monitor.partition("/")[2]

    def difference(rows: Tensor) -> dict[str, float]:
        before, after = (measure(run, model, part, rows)[name] for part in made)
        return {"before": before, "after": after, "difference": after - before}

    values = leave_out(difference, made[0].index.unique())
    result = Cost(
        name,
        values["before"][0],
        values["after"][0],
        values["difference"][1],
        made[0].seconds / max(made[1].seconds, 1e-9),
        size,
    )
    loss = values["difference"][0] * (1 if model.task.monitor_mode == "max" else -1)
    point = 1.0 if model.task.on_tokens else 0.01  # question answering scores in percent
    if not loss >= -point:
        raise JobError(f"quantize=int8: {result}; more than 1 point worse, so nothing was written")
    return result
