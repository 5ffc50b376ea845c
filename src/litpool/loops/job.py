"""A training as the plain loop and the Hugging Face Trainer get it, and what every loop returns."""

import math
from dataclasses import dataclass, field
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

if TYPE_CHECKING:  # a LightningDataModule, of which the loops use the batches only
    from litpool.data.module import TextDataModule

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Flags:
    """How long, how precise, how often: a `trainer:` section as Lightning's Trainer understands it."""

    device: torch.device
    precision: str  # 32-true, bf16-mixed or 16-mixed
    epochs: int  # -1 for no limit
    max_steps: int  # optimizer steps, -1 for no limit
    accumulate: int  # batches to an optimizer step
    clip: float  # the largest norm of the gradient, infinite for no clipping
    check_epochs: (
        int | None
    )  # epochs between evaluations; None: `check_batches` are counted on across epochs
    check_batches: (
        int | float
    )  # batches between evaluations, or, below or at 1.0, the share of an epoch
    patience: (
        int | None
    )  # evaluations without a better one before training stops; None: it never does
    log_steps: int  # steps between lines of the log
    progress: bool  # whether there is a progress bar

    def steps(self, batches: int) -> int:
        """Optimizer steps of the whole training, whose epochs have that many batches."""
        if self.epochs == -1:
            return self.max_steps
        steps = math.ceil(batches / self.accumulate) * self.epochs
        return steps if self.max_steps == -1 else min(steps, self.max_steps)

    def due(self, epoch: int, batch: int, batches: int) -> bool:
        """Whether to evaluate after that batch (1 is the first) of that epoch (0 is the first)."""
        if self.check_epochs is None:
            return (epoch * batches + batch) % int(self.check_batches) == 0
        share = isinstance(self.check_batches, float)
        every = max(1, int(batches * self.check_batches)) if share else int(self.check_batches)
        return (epoch + 1) % self.check_epochs == 0 and batch % every == 0


@dataclass(frozen=True)
class Result:
    """What a training ends with.

    Args:
        metrics: Of the best checkpoint, on validation and, where there is one, on the test split.
        best: The best checkpoint; None if training ended before an evaluation was due.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    best: Path | None = None


@dataclass
class Job:
    """A training, whichever loop drives it.

    Args:
        network: What is trained.
        recipe: Optimizer and schedule.
        data: The batches.
        flags: How long, how precise, how often.
        folder: The run folder.
        config: The command's config, kept in checkpoints.
        writer: Writes for TensorBoard, if at all.
        recorder: Gets every step as well, if there is one.
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
        curves = Curves(self.writer, self.flags.log_steps) if self.writer else Log()
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
        """The precision of forward passes, the loss included. Lightning does without the cache, so all loops do."""
        dtype = torch.float16 if self.flags.precision == "16-mixed" else torch.bfloat16
        enabled = self.flags.precision != "32-true"
        return torch.autocast(
            self.flags.device.type, dtype=dtype, enabled=enabled, cache_enabled=False
        )

    def to_device(self, batch: Batch) -> Batch:
        """The batch on the device."""
        return {key: value.to(self.flags.device, non_blocking=True) for key, value in batch.items()}

    @torch.no_grad()
    def evaluate(self, split: str, step: int) -> dict[str, float]:
        """Score a split, validation or test, and write the metrics to TensorBoard; dropout is off meanwhile."""
        loader = (
            self.data.val_dataloader() if split == "validation" else self.data.test_dataloader()
        )
        evaluation = Evaluation(self.task, split, self.data.rows[split]).to(self.flags.device)
        self.network.eval()
        for batch in map(self.to_device, loader):
            with self.autocast():
                evaluation.feed(batch, self.network(batch))
            self.stop_if_interrupted(step if split == "validation" else 0)
        self.network.train()
        metrics = evaluation.compute()
        if self.writer is not None:
            outputs.write_scalars(self.writer, metrics, step)
            evaluation.show(self.writer, step)
        return metrics

    def keep(self, metrics: dict[str, float], step: int) -> bool:
        """Write last.ckpt, and best.ckpt as well if no evaluation was better; returns whether that is so."""
        monitor, sign = self.task.monitor, 1 if self.task.monitor_mode == "max" else -1
        better = not self.best or sign * metrics[monitor] > sign * self.best[monitor]
        self.save("last", metrics, step)
        if better:
            self.best = metrics
            self.save("best", metrics, step)
        return better

    def save(self, name: str, metrics: dict[str, float], step: int) -> None:
        """Write a checkpoint as Lightning's `test` and `predict` read it."""
        checkpoint = {
            "pytorch-lightning_version": outputs.versions()["lightning"],
            "epoch": 0,
            "global_step": step,
            "state_dict": {
                f"network.{key}": value for key, value in self.network.state_dict().items()
            },
            **contents(self.network, self.task, self.data.tokenizer_files, self.config, metrics),
        }
        write(checkpoint, self.checkpoints / f"{name}.ckpt")

    def stop_if_interrupted(self, step: int) -> None:
        """If SIGINT or SIGTERM came, write last.ckpt, once a step has been taken, and end the run."""
        if interrupt.received():
            last = self.checkpoints / "last.ckpt"
            if step:
                self.save("last", {}, step)
            if last.exists():
                interrupt.advise(f"interrupted; the weights so far are in {last}")
            interrupt.check()

    def finish(self, step: int) -> Result:
        """Score the best checkpoint on the test split, if there are both."""
        if not self.best:  # training ended before an evaluation was due
            self.save("last", {}, step)
            return Result()
        best = self.checkpoints / "best.ckpt"
        saved = load(str(best))
        self.network.load_state_dict(
            {key.removeprefix("network."): value for key, value in saved["state_dict"].items()}
        )
        self.task.load_state_dict(saved["job"]["task"])
        test = self.evaluate("test", step) if "test" in self.data.rows else {}
        return Result(self.best | test, best)
