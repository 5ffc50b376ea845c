"""Scoring a split: metrics updated batch by batch, the same in every loop."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from torchmetrics import MeanMetric

from litpool import JobError
from litpool.loops import intervals, tensorboard
from litpool.tasks.task import Task

if TYPE_CHECKING:
    from datasets import Dataset


class Evaluation(nn.Module):
    """The metrics of one split. It is a module so that `to` moves them to the network's device.

    Args:
        task: Provides the metrics and the loss. An evaluation on validation also tunes it.
        split: Which split, such as `validation`.
        rows: The rows of that split.
    """

    def __init__(self, task: Task, split: str, rows: "Dataset") -> None:
        super().__init__()
        self.task = task
        self.split = split
        self.rows = rows
        self.prefix = "val" if split == "validation" else split
        self.metrics = task.metrics(rows)
        self.mean_loss = MeanMetric()
        self.matrix: Tensor | None = None  # the confusion matrix, once computed
        self.predictions: list[tuple[Tensor, Tensor]] = []  # row numbers, predictions of a batch

    def feed(self, batch: Mapping[str, Tensor], output: Tensor) -> None:
        """Add the network's output for a batch."""
        predictions = self.task.extract(output, batch)
        self.task.update(self.metrics, predictions, batch)
        self.mean_loss.update(self.task.loss(output, batch["labels"]), len(output))
        self.predictions.append((batch["index"], predictions))

    def compute(self) -> dict[str, float]:
        """Return every metric that is a single number, such as `val/accuracy`, in float32.

        The metrics cover the split as a whole, on all devices. Those with two slashes, such as
        `test/accuracy/low` or `val/f1/good`, are details, which have no curve.

        Raises:
            JobError: The loss is not finite.
        """
        loss = self.mean_loss.compute()
        if not loss.isfinite():  # the other metrics would be noise
            raise JobError(
                f"{self.prefix}/loss is {loss.item()}: training has diverged; "
                "lower model.recipe.lr, or set trainer.gradient_clip_val"
            )
        if self.split == "validation":
            self.task.tune(self.metrics)
        values = {**self.metrics.compute(), "loss": loss}
        self.matrix = values.get("confusion_matrix")
        with self.mean_loss.sync_context():
            rows = int(self.mean_loss.weight)  # on all devices
        details = intervals.details(values, rows, interval=self.split == "test")
        values |= {name: torch.tensor(value) for name, value in details.items()}
        return {
            f"{self.prefix}/{name}": value.float().item()
            for name, value in values.items()
            if value.ndim == 0
        }

    def show(self, writer: SummaryWriter, step: int) -> None:
        """Draw figures and tables in TensorBoard, after `compute`."""
        parts = zip(*self.predictions, strict=True)
        index, predictions = (torch.cat(part).cpu() for part in parts)
        rows = self.rows.select(index.unique().tolist())  # with several devices, this one's rows
        predictions = self.task.assemble(predictions, index)
        tensorboard.write_evaluation(
            writer, self.task, self.matrix, self.prefix, rows, predictions, step
        )
