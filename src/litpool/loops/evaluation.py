"""Scoring a split: metrics fed batch by batch, the same in every loop."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from torchmetrics import MeanMetric

from litpool.loops import run
from litpool.tasks.task import Task

if TYPE_CHECKING:  # slow to import, and not needed until there are rows
    from datasets import Dataset


class Evaluation(nn.Module):
    """The metrics of one split after the other; a module, so that it follows the network to its device.

    Args:
        task: Gives the metrics and the loss.
    """

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        self.metrics, self.mean_loss = task.metrics(), MeanMetric()
        self.outputs: list[tuple[Tensor, Tensor]] = []  # (row numbers, logits) of each batch

    def feed(self, batch: dict[str, Tensor], logits: Tensor) -> None:
        """Take in the logits of a batch."""
        self.task.update(self.metrics, logits, batch["labels"])
        self.mean_loss.update(self.task.loss(logits, batch["labels"]), len(logits))
        self.outputs.append((batch["index"], logits))

    def compute(self, prefix: str) -> dict[str, float]:
        """Every metric that is one number, over the whole split and all devices, such as `val/accuracy`."""
        computed = {**self.metrics.compute(), "loss": self.mean_loss.compute()}
        return {f"{prefix}/{name}": value.item() for name, value in computed.items() if value.ndim == 0}

    def show(self, writer: SummaryWriter, prefix: str, rows: "Dataset", step: int) -> None:
        """Draw the confusion matrix and the wrong answers for TensorBoard."""
        index, logits = (torch.cat(parts) for parts in zip(*self.outputs, strict=True))
        run.draw(writer, self.task, self.metrics, prefix, step)
        run.tell_mistakes(writer, self.task, prefix, rows, index, logits, step)

    def reset(self) -> None:
        """Make ready for the next split."""
        self.metrics.reset()
        self.mean_loss.reset()
        self.outputs.clear()
