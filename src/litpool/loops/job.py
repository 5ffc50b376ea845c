"""A training run for the plain loop and the Hugging Face Trainer, and the result of every loop."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.tensorboard import SummaryWriter

from litpool import InputError, interrupt, program
from litpool.loops import outputs, tensorboard
from litpool.loops.checkpoint import (
    SaveClock,
    SaveOptions,
    contents,
    load,
    network_weights,
    restore_rng,
    rng_state,
    write,
)
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
class Progress:
    """How far a training run is, at the end of an optimizer step.

    Args:
        epoch: The current epoch, counted from 0.
        batch: How many batches of this epoch are done.
        step: How many optimizer steps are done.
        due: Whether an evaluation is due before training continues.
        waited: How many evaluations in a row brought no improvement.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    due: bool = False
    waited: int = 0


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
        logs: Further logs that receive every step.
        command: The command that can resume this run.
        options: Its further options, such as ` --trust my_poolings`.
        save_options: When to write last.ckpt between evaluations.
        checkpoint: The checkpoint to resume from, as `load` returns it.
    """

    network: TextModel
    recipe: Recipe
    data: "TextDataModule"
    flags: Flags
    folder: Path
    config: dict[str, Any]
    writer: SummaryWriter | None = None
    logs: Sequence[Log] = ()
    command: str = "fit_plain"
    options: str = ""
    save_options: SaveOptions = field(default_factory=SaveOptions)
    checkpoint: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        curves = []
        if self.writer is not None:
            draw = partial(tensorboard.write_scalars, self.writer)
            curves.append(Curves(draw, self.flags.log_steps))
        self.log = Logs(*curves, *self.logs)
        self.best: dict[str, float] = {}  # the metrics of best.ckpt
        self.progress = Progress()
        self.clock = SaveClock(self.save_options)

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

    # ---- progress

    def start(self, optimizer: Optimizer, schedule: LRScheduler, scaler: Any = None) -> Progress:
        """Prepare to save the state of a run, and restore that of the run to resume.

        Args:
            optimizer: Updates the network's weights.
            schedule: Changes its learning rate.
            scaler: Scales gradients for float16, if at all.

        Returns:
            The progress, which `advance` and `validate` update.
        """
        self.states = {"optimizer": optimizer, "schedule": schedule, "scaler": scaler}
        self.rng = rng_state()
        if self.checkpoint is not None:
            try:
                self._restore(self.checkpoint)
            except Exception as error:  # the file may contain anything
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                raise InputError(
                    f"ckpt_path: its training state cannot be restored ({reason}); "
                    "resume from another checkpoint, or train again"
                ) from error
        return self.progress

    def _restore(self, checkpoint: dict[str, Any]) -> None:
        """Restore weights, optimizer, schedule, progress and random state."""
        stored = checkpoint["job"]["progress"]
        self.network.load_state_dict(network_weights(checkpoint))
        for name, state in self.states.items():
            if state is not None:
                state.load_state_dict(stored[name])
        self.best = {name: float(value) for name, value in stored["best"].items()}
        self.progress = Progress(**stored["counts"])
        self.clock.restart(self.progress.step)
        self.rng = checkpoint["job"]["rng"]
        restore_rng(self.rng)

    def advance(self, batch: int, batches: int) -> None:
        """Count an optimizer step, and write last.ckpt if it is time.

        Args:
            batch: How many batches of the epoch are done.
            batches: How many an epoch has.
        """
        progress = self.progress
        progress.step += 1
        progress.due = self.flags.due(progress.epoch, batch, batches)
        progress.epoch += batch == batches
        progress.batch = batch % batches
        self.rng = rng_state()
        if self.clock.due(progress.step) and not progress.due:
            self.save("last", {})

    def is_done(self, steps: int) -> bool:
        """Return whether training ends here, after so many steps or without improvement."""
        patience = self.flags.patience
        return self.progress.step >= steps or (
            patience is not None and self.progress.waited >= patience
        )

    def stop_if_interrupted(self, save: bool = True) -> None:
        """After SIGINT or SIGTERM, write last.ckpt if any step was taken, and end the run.

        Args:
            save: Whether to write it; not in the final test, whose weights are those of best.ckpt.
        """
        if not interrupt.received():
            return
        last = self.checkpoints / "last.ckpt"
        if save and self.progress.step:
            self.save("last", {})
        if last.exists():
            resume = f"{program()} {self.command} --ckpt_path {last}{self.options}"
            interrupt.advise(f"interrupted; resume with: {resume}")
        interrupt.check()

    # ---- evaluation

    def validate(self) -> dict[str, float]:
        """Score the validation split; write last.ckpt and, if it is the best so far, best.ckpt."""
        metrics = self.evaluate("validation")
        monitor = self.task.monitor
        sign = 1 if self.task.monitor_mode == "max" else -1
        better = not self.best or sign * metrics[monitor] > sign * self.best[monitor]
        self.progress.due = False
        self.progress.waited = 0 if better else self.progress.waited + 1
        if better:
            self.best = metrics
            self.save("best", metrics)
        self.save("last", metrics)
        return metrics

    @torch.no_grad()
    def evaluate(self, split: str) -> dict[str, float]:
        """Score validation or test, without dropout, and write the metrics to TensorBoard."""
        validates = split == "validation"
        step = self.progress.step
        loader = self.data.val_dataloader() if validates else self.data.test_dataloader()
        evaluation = Evaluation(self.task, split, self.data.rows[split]).to(self.flags.device)
        self.network.eval()
        for number, batch in enumerate(map(self.to_device, loader), start=1):
            with self.autocast():
                evaluation.feed(batch, self.network(batch))
            self.log.scored(split, number, len(loader), len(batch["input_ids"]))
            self.stop_if_interrupted(save=validates)
        self.network.train()
        metrics = evaluation.compute()
        if self.writer is not None:
            tensorboard.write_scalars(self.writer, metrics, step)
            evaluation.show(self.writer, step)
        return metrics

    def save(self, name: str, metrics: dict[str, float]) -> None:
        """Write a checkpoint: best.ckpt to score and predict with, last.ckpt also to resume."""
        weights = self.network.state_dict()
        checkpoint = {
            "pytorch-lightning_version": outputs.versions()["lightning"],
            "epoch": 0,
            "global_step": self.progress.step,
            "state_dict": {f"network.{key}": value for key, value in weights.items()},
            **contents(
                self.network,
                self.task,
                self.data.tokenizer_files,
                self.config,
                metrics,
                self.data.fingerprint,
            ),
        }
        if name == "last":
            states = {key: state.state_dict() for key, state in self.states.items() if state}
            counts = asdict(self.progress)
            checkpoint["job"]["command"] = self.command
            checkpoint["job"]["progress"] = {**states, "counts": counts, "best": self.best}
            checkpoint["job"]["rng"] = self.rng
        write(checkpoint, self.checkpoints / f"{name}.ckpt")
        self.clock.restart(self.progress.step)

    def finish(self) -> Result:
        """Write last.ckpt unless that is done; score best.ckpt on the test split, if both exist."""
        if self.clock.step < self.progress.step:  # no evaluation followed the last step
            self.save("last", {})
        if not self.best:
            return Result()
        best = self.checkpoints / "best.ckpt"
        checkpoint = load(str(best))
        self.network.load_state_dict(network_weights(checkpoint))
        self.task.load_state_dict(checkpoint["job"]["task"])
        test = self.evaluate("test") if "test" in self.data.rows else {}
        return Result(self.best | test, best)
