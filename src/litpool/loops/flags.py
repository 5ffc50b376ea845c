"""The flags of Lightning's Trainer that the other two loops have counterparts for; any other flag is refused."""

import inspect
import math
import sys
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import TensorBoardLogger

from litpool import InputError
from litpool.loops.job import Flags
from litpool.tasks.task import Task

CARRIED = {
    *(
        "accelerator",
        "devices",
        "precision",
        "logger",
        "callbacks",
        "default_root_dir",
        "deterministic",
        "benchmark",
    ),
    *("max_epochs", "max_steps", "accumulate_grad_batches", "gradient_clip_val"),
    *("val_check_interval", "check_val_every_n_epoch", "log_every_n_steps", "enable_progress_bar"),
    *(
        "num_sanity_val_steps",
        "enable_model_summary",
        "use_distributed_sampler",
        "enable_autolog_hparams",
    ),  # app's own
}


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
        raise _no_counterpart(
            f"precision={trainer.precision}", loop, "use 32-true, bf16-mixed or 16-mixed"
        )
    if not all(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers):
        raise _no_counterpart(f"logger={given['logger']}", loop, "use TensorBoardLogger or false")
    if trainer.max_epochs == -1 and trainer.max_steps == -1:
        raise InputError(
            "trainer.max_epochs=-1: the schedule must know its end; set max_epochs or max_steps"
        )
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
        progress=sys.stderr.isatty()
        if given["enable_progress_bar"] is None
        else given["enable_progress_bar"],
    )


def _no_counterpart(
    flag: str, loop: str, mend: str = "leave it out, or train with `fit`"
) -> InputError:
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
        if name != EarlyStopping.__name__:
            raise _no_counterpart(f"callbacks: {name}", loop)
        carried = {
            "monitor": task.monitor,
            "mode": task.monitor_mode,
            "patience": options.get("patience", 3),
        }
        for key, default in inspect.signature(EarlyStopping).parameters.items():
            if (
                options.get(key, default.default) != carried.get(key, default.default)
                and key != "verbose"
            ):
                mend = f"use {key}={carried[key]}" if key in carried else "leave it out"
                raise _no_counterpart(f"callbacks: EarlyStopping.{key}={options[key]}", loop, mend)
        patience = carried["patience"]
    return patience
