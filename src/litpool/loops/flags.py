"""The flags of Lightning's Trainer that the other two loops have counterparts for; any other flag is refused."""

import inspect
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import TensorBoardLogger

from litpool import InputError
from litpool.loops.recorder import Recorder
from litpool.tasks.task import Task

CARRIED = {
    *("accelerator", "devices", "precision", "logger", "callbacks", "default_root_dir", "deterministic", "benchmark"),
    *("max_epochs", "max_steps", "accumulate_grad_batches", "gradient_clip_val"),
    *("val_check_interval", "check_val_every_n_epoch", "log_every_n_steps", "enable_progress_bar"),
    *("num_sanity_val_steps", "enable_model_summary", "use_distributed_sampler", "enable_autolog_hparams"),  # app's own
}


@dataclass(frozen=True)
class Flags:
    """How long, how precise, how often: a `trainer:` section as Lightning's Trainer understands it."""

    device: torch.device
    precision: str  # 32-true, bf16-mixed or 16-mixed
    epochs: int  # -1 for no limit
    max_steps: int  # optimizer steps, -1 for no limit
    accumulate: int  # batches to an optimizer step
    clip: float  # the largest norm of the gradient, infinite for no clipping
    check_epochs: int | None  # epochs between evaluations; None: `check_batches` are counted on across epochs
    check_batches: int | float  # batches between evaluations, or, below or at 1.0, the share of an epoch
    patience: int | None  # evaluations without a better one before training stops; None: it never does
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


def read_flags(given: Mapping[str, Any], trainer: pl.Trainer, task: Task, loop: str) -> Flags:
    """Take the flags from Lightning's Trainer, which has understood them.

    Args:
        given: The `trainer:` section as it was given, with all defaults.
        trainer: The Trainer made of it.
        task: Whose monitor decides on the best checkpoint and on stopping.
        loop: The name of the loop, for what is said about a flag that it does not have.

    Raises:
        InputError: A flag that is set has no counterpart.
    """
    known = inspect.signature(pl.Trainer).parameters
    for name, value in given.items():
        if name not in CARRIED and value != known[name].default:
            raise _no_counterpart(f"{name}={value}", loop)
    if trainer.num_devices != 1:
        raise _no_counterpart(f"devices={trainer.num_devices}", loop, "set trainer.devices=1")
    if trainer.precision not in ("32-true", "bf16-mixed", "16-mixed"):
        raise _no_counterpart(f"precision={trainer.precision}", loop, "use 32-true, bf16-mixed or 16-mixed")
    if not all(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers):
        raise _no_counterpart(f"logger={given['logger']}", loop, "use TensorBoardLogger or false")
    if trainer.max_epochs == -1 and trainer.max_steps == -1:
        raise InputError("trainer.max_epochs=-1: the schedule must know its end; set max_epochs or max_steps")
    return Flags(
        device=trainer.strategy.root_device,
        precision=trainer.precision,
        epochs=trainer.max_epochs if trainer.max_epochs is not None else -1,
        max_steps=trainer.max_steps,
        accumulate=trainer.accumulate_grad_batches,
        clip=trainer.gradient_clip_val or math.inf,
        check_epochs=trainer.check_val_every_n_epoch,
        check_batches=_cadence(trainer, loop),
        patience=_patience(given["callbacks"] or [], task, loop),
        log_steps=trainer.log_every_n_steps,  # type: ignore[attr-defined]
        progress=sys.stderr.isatty() if given["enable_progress_bar"] is None else given["enable_progress_bar"],
    )


def _no_counterpart(flag: str, loop: str, mend: str = "leave it out, or train with `fit`") -> InputError:
    return InputError(f"trainer.{flag}: {loop} has no counterpart; {mend}")


def _cadence(trainer: pl.Trainer, loop: str) -> int | float:
    every = trainer.val_check_interval
    if not isinstance(every, int | float):
        raise _no_counterpart(f"val_check_interval={every}", loop, "give a number of batches")
    window = trainer.accumulate_grad_batches
    if every != 1.0 and window > 1 and (isinstance(every, float) or every % window):
        mend = f"give a multiple of accumulate_grad_batches={window}"
        raise _no_counterpart(f"val_check_interval={every}", loop, mend)
    return every


def _patience(callbacks: list[Mapping[str, Any]], task: Task, loop: str) -> int | None:
    """The patience of EarlyStopping, the one callback of Lightning's that is carried over."""
    patience = None
    for callback in callbacks:
        name, options = callback["class_path"].rpartition(".")[2], callback.get("init_args", {})
        if name == Recorder.__name__:
            continue
        if name != EarlyStopping.__name__:
            raise _no_counterpart(f"callbacks: {name}", loop)
        carried = {"monitor": task.monitor, "mode": task.monitor_mode, "patience": options.get("patience", 3)}
        for key, default in inspect.signature(EarlyStopping).parameters.items():
            if options.get(key, default.default) != carried.get(key, default.default) and key != "verbose":
                mend = f"use {key}={carried[key]}" if key in carried else "leave it out"
                raise _no_counterpart(f"callbacks: EarlyStopping.{key}={options[key]}", loop, mend)
        patience = carried["patience"]
    return patience
