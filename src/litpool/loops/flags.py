"""The flags of Lightning's Trainer for the other two loops, which refuse unsupported ones."""

import inspect
import math
import sys
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import TensorBoardLogger

from litpool import InputError
from litpool.classes import class_name
from litpool.loops.job import Flags
from litpool.tasks.task import Task

COUNTERPARTS = {
    "accelerator",
    "devices",
    "precision",
    "logger",
    "callbacks",
    "default_root_dir",
    "deterministic",
    "benchmark",
    "max_epochs",
    "max_steps",
    "accumulate_grad_batches",
    "gradient_clip_val",
    "val_check_interval",
    "check_val_every_n_epoch",
    "log_every_n_steps",
    "enable_progress_bar",
    # the command line sets these
    "num_sanity_val_steps",
    "enable_model_summary",
    "use_distributed_sampler",
    "enable_autolog_hparams",
}


def read_flags(section: Mapping[str, Any], trainer: pl.Trainer, task: Task, loop: str) -> Flags:
    """Read the flags from Lightning's Trainer, which has already interpreted them.

    Args:
        section: The `trainer:` section of the config, all defaults included.
        trainer: The Trainer made from it.
        task: Its monitored metric selects the best checkpoint and stops training.
        loop: The name of the loop, for messages.

    Raises:
        InputError: A flag has no counterpart in this loop.
    """
    parameters = inspect.signature(pl.Trainer).parameters
    for name, value in section.items():
        if name not in COUNTERPARTS and value != parameters[name].default:
            raise _no_counterpart(f"{name}={value}", loop)
    if trainer.num_devices != 1:
        raise _no_counterpart(f"devices={trainer.num_devices}", loop, "set trainer.devices=1")
    if trainer.precision not in ("32-true", "bf16-mixed", "16-mixed"):
        fix = "use 32-true, bf16-mixed or 16-mixed"
        raise _no_counterpart(f"precision={trainer.precision}", loop, fix)
    if not all(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers):
        fix = "use TensorBoardLogger or false"
        raise _no_counterpart(f"logger={section['logger']}", loop, fix)
    progress = section["enable_progress_bar"]
    connected: Any = trainer  # its connectors set attributes that mypy does not see
    return Flags(
        device=trainer.strategy.root_device,
        precision=trainer.precision,
        epochs=-1 if trainer.max_epochs is None else trainer.max_epochs,
        max_steps=trainer.max_steps,
        accumulate=trainer.accumulate_grad_batches,
        clip=trainer.gradient_clip_val or math.inf,
        check_epochs=trainer.check_val_every_n_epoch,
        check_batches=_check_batches(trainer, loop),
        patience=_patience(section["callbacks"] or [], task, loop),
        log_steps=connected.log_every_n_steps,
        progress=sys.stderr.isatty() if progress is None else progress,
    )


def _no_counterpart(
    flag: str, loop: str, fix: str = "leave it out, or train with `fit`"
) -> InputError:
    return InputError(f"trainer.{flag}: {loop} has no counterpart; {fix}")


def _check_batches(trainer: pl.Trainer, loop: str) -> int | float:
    """Return how often to evaluate; within an epoch, an optimizer step must end there."""
    interval = trainer.val_check_interval
    if not isinstance(interval, int | float):
        raise _no_counterpart(f"val_check_interval={interval}", loop, "give a number of batches")
    window = trainer.accumulate_grad_batches
    within_epoch = interval != 1.0
    if within_epoch and window > 1 and (isinstance(interval, float) or interval % window):
        fix = f"give a multiple of accumulate_grad_batches={window}"
        raise _no_counterpart(f"val_check_interval={interval}", loop, fix)
    return interval


def _patience(callbacks: list[Mapping[str, Any]], task: Task, loop: str) -> int | None:
    """Return the patience of EarlyStopping, the only callback with a counterpart."""
    patience = None
    for callback in callbacks:
        name = class_name(callback)
        if name != EarlyStopping.__name__:
            raise _no_counterpart(f"callbacks: {name}", loop)
        options = callback.get("init_args", {})
        patience = options.get("patience", 3)
        required = {"monitor": task.monitor, "mode": task.monitor_mode, "patience": patience}
        for key, parameter in inspect.signature(EarlyStopping).parameters.items():
            expected = required.get(key, parameter.default)
            if key == "verbose" or options.get(key, parameter.default) == expected:
                continue
            fix = f"use {key}={expected}" if key in required else "leave it out"
            raise _no_counterpart(f"callbacks: EarlyStopping.{key}={options[key]}", loop, fix)
    return patience
