"""Scoring a split: metrics fed batch by batch, the same in every loop."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from torchmetrics import MeanMetric

from litpool import JobError
from litpool.loops import run
from litpool.tasks.task import Task

if TYPE_CHECKING:  # slow to import, and not needed until there are rows
    from datasets import Dataset


class Evaluation(nn.Module):
    """The metrics of one split; a module, so that they can be moved to the network's device.

    Args:
        task: Gives the metrics and the loss.
        split: Which split, such as `validation`.
        rows: Its rows.
    """

    def __init__(self, task: Task, split: str, rows: "Dataset") -> None:
        super().__init__()
        self.task, self.rows = task, rows
        self.prefix = {"validation": "val"}.get(split, split)
        self.metrics, self.mean_loss = task.metrics(split, rows), MeanMetric()
        self.kept: list[tuple[Tensor, Tensor]] = []  # (row numbers, what the task keeps of the output) of each batch

    def feed(self, batch: Mapping[str, Tensor], output: Tensor) -> None:
        """Take in the network's output for a batch."""
        kept = self.task.extract(output, batch)
        self.task.update(self.metrics, kept, batch)
        self.mean_loss.update(self.task.loss(output, batch["labels"]), len(output))
        self.kept.append((batch["index"], kept))

    def compute(self) -> dict[str, float]:
        """Every metric that is one number, over the whole split and all devices, such as `val/accuracy`; in float32.

        Raises:
            JobError: The loss is not finite.
        """
        loss = self.mean_loss.compute()
        if not loss.isfinite():  # the other metrics would be drawn from noise
            mend = "lower model.recipe.lr, or set trainer.gradient_clip_val"
            raise JobError(f"{self.prefix}/loss is {loss.item()}, the weights have diverged; {mend}")
        computed = {**self.metrics.compute(), "loss": loss}
        return {f"{self.prefix}/{name}": value.float().item() for name, value in computed.items() if value.ndim == 0}

    def show(self, writer: SummaryWriter, step: int) -> None:
        """Draw the confusion matrix and the wrong answers for TensorBoard."""
        index, kept = (torch.cat(parts).cpu() for parts in zip(*self.kept, strict=True))
        run.draw(writer, self.task, self.metrics, self.prefix, step)
        rows = self.rows.select(index.unique().tolist())  # of several devices this one's
        run.tell_mistakes(writer, self.task, self.prefix, rows, self.task.assemble(kept, index), step)
