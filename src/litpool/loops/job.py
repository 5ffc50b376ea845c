"""A training run for the plain loop and the Hugging Face Trainer, and the result of every loop."""

import math
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from litpool import interrupt
from litpool.loops import outputs
from litpool.loops.checkpoint import contents, load, write
from litpool.loops.evaluation import Evaluation
from litpool.loops.log import Curves, Log, Logs
from litpool.loops.optimizer import Recipe
from litpool.model.network import TextModel
from litpool.tasks.task import Task

if TYPE_CHECKING:  # the plain loop imports nothing of Lightning
    from litpool.data.module import TextDataModule

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Flags:
    """The Trainer flags: a `trainer:` section as Lightning's Trainer interprets it.

    Args:
        device: Where to train.
        precision: `32-true`, `bf16-mixed` or `16-mixed`.
        epochs: How many epochs; -1 for no limit.
        max_steps: How many optimizer steps at most; -1 for no limit.
        accumulate: Batches per optimizer step.
        clip: The largest gradient norm; infinite for no clipping.
        check_epochs: Epochs from one evaluation to the next; None to count `check_batches` across
            epochs.
        check_batches: Batches from one evaluation to the next; a float is a share of an epoch.
        patience: Evaluations without improvement before training stops; None to train to the end.
        log_steps: Optimizer steps from one point of a curve to the next.
        progress: Whether to show a progress bar.
    """

    device: torch.device
    precision: str
    epochs: int
    max_steps: int
    accumulate: int
    clip: float
    check_epochs: int | None
    check_batches: int | float
    patience: int | None
    log_steps: int
    progress: bool

    def steps(self, batches: int) -> int:
        """Return the optimizer steps of a training run with so many batches per epoch."""
        if self.epochs == -1:
            return self.max_steps
        steps = math.ceil(batches / self.accumulate) * self.epochs
        return steps if self.max_steps == -1 else min(steps, self.max_steps)

    def due(self, epoch: int, batch: int, batches: int) -> bool:
        """Return whether to evaluate after a batch, counted from 1, of an epoch, counted from 0."""
        if self.check_epochs is None:
            return (epoch * batches + batch) % int(self.check_batches) == 0
        if isinstance(self.check_batches, float):
            every = max(1, int(batches * self.check_batches))
        else:
            every = self.check_batches
        return (epoch + 1) % self.check_epochs == 0 and batch % every == 0


@dataclass(frozen=True)
class Result:
    """The result of a training run.

    Args:
        metrics: Metrics of the best checkpoint on validation and, if there is one, on test.
        best: The best checkpoint; None if training ended before its first evaluation.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    best: Path | None = None


@dataclass
class Job:
    """A training run that either of two loops can drive.

    Args:
        network: The network to train.
        recipe: Optimizer and schedule.
        data: Provides the batches.
        flags: The Trainer flags.
        folder: The run folder.
        config: The config of the command, to be saved in checkpoints.
        writer: Writes for TensorBoard; None to write nothing.
        recorder: A log that receives every step as well.
    """

    network: TextModel
    recipe: Recipe
    data: "TextDataModule"
    flags: Flags
    folder: Path
    config: dict[str, Any]
    writer: SummaryWriter | None = None
    recorder: Log | None = None

    def __post_init__(self) -> None:
        curves = Log()
        if self.writer is not None:
            curves = Curves(partial(outputs.write_scalars, self.writer), self.flags.log_steps)
        self.log = Logs(curves, self.recorder or Log())
        self.best: dict[str, float] = {}  # the metrics of best.ckpt

    @property
    def task(self) -> Task:
        """The task, which data and network share."""
        return self.data.task

    @property
    def checkpoints(self) -> Path:
        """The folder of best.ckpt and last.ckpt."""
        return self.folder / "checkpoints"

    def autocast(self) -> torch.autocast:
        """Return the context for forward passes and the loss, with the precision of the flags.

        Like Lightning's, it does not cache weights, so that all loops compute the same.
        """
        dtype = torch.float16 if self.flags.precision == "16-mixed" else torch.bfloat16
        enabled = self.flags.precision != "32-true"
        return torch.autocast(
            self.flags.device.type, dtype=dtype, enabled=enabled, cache_enabled=False
        )

    def to_device(self, batch: Batch) -> Batch:
        """Copy a batch to the device."""
        return {key: value.to(self.flags.device, non_blocking=True) for key, value in batch.items()}

    @torch.no_grad()
    def evaluate(self, split: str, step: int) -> dict[str, float]:
        """Score validation or test, without dropout, and write the metrics to TensorBoard."""
        validates = split == "validation"
        loader = self.data.val_dataloader() if validates else self.data.test_dataloader()
        evaluation = Evaluation(self.task, split, self.data.rows[split]).to(self.flags.device)
        self.network.eval()
        for batch in map(self.to_device, loader):
            with self.autocast():
                evaluation.feed(batch, self.network(batch))
            self.stop_if_interrupted(step if validates else 0)
        self.network.train()
        metrics = evaluation.compute()
        if self.writer is not None:
            outputs.write_scalars(self.writer, metrics, step)
            evaluation.show(self.writer, step)
        return metrics

    def keep(self, metrics: dict[str, float], step: int) -> bool:
        """Write last.ckpt and, if the metrics are the best so far, best.ckpt; return whether so."""
        monitor = self.task.monitor
        sign = 1 if self.task.monitor_mode == "max" else -1
        better = not self.best or sign * metrics[monitor] > sign * self.best[monitor]
        self.save("last", metrics, step)
        if better:
            self.best = metrics
            self.save("best", metrics, step)
        return better

    def save(self, name: str, metrics: dict[str, float], step: int) -> None:
        """Write a checkpoint that Lightning's `test` and `predict` can read."""
        weights = self.network.state_dict()
        checkpoint = {
            "pytorch-lightning_version": outputs.versions()["lightning"],
            "epoch": 0,
            "global_step": step,
            "state_dict": {f"network.{key}": value for key, value in weights.items()},
            **contents(self.network, self.task, self.data.tokenizer_files, self.config, metrics),
        }
        write(checkpoint, self.checkpoints / f"{name}.ckpt")

    def stop_if_interrupted(self, step: int) -> None:
        """After SIGINT or SIGTERM, write last.ckpt if any step was taken, and end the run."""
        if interrupt.received():
            last = self.checkpoints / "last.ckpt"
            if step:
                self.save("last", {}, step)
            if last.exists():
                interrupt.advise(f"interrupted; the weights so far are in {last}")
            interrupt.check()

    def finish(self, step: int) -> Result:
        """Score the best checkpoint on the test split, if both exist."""
        if not self.best:  # training ended before its first evaluation
            self.save("last", {}, step)
            return Result()
        best = self.checkpoints / "best.ckpt"
        checkpoint = load(str(best))
        weights = checkpoint["state_dict"]
        self.network.load_state_dict(
            {key.removeprefix("network."): value for key, value in weights.items()}
        )
        self.task.load_state_dict(checkpoint["job"]["task"])
        test = self.evaluate("test", step) if "test" in self.data.rows else {}
        return Result(self.best | test, best)
