"""One training of the fine-tuned arm, by the Lightning loop or the Hugging Face Trainer; only the scores remain."""

import contextlib
import gc
import math
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import (
    DeviceStatsMonitor,
    LearningRateMonitor,
    ModelCheckpoint,
    TQDMProgressBar,
)

from litpool import InputError
from litpool.loops import lightning
from litpool.loops.flags import read_flags
from litpool.loops.job import Flags, Job, Result
from litpool.loops.lightning import TextModule

Loop = Literal["lightning", "huggingface"]
LEFT_OUT = (
    ModelCheckpoint,
    LearningRateMonitor,
    DeviceStatsMonitor,
)  # they write where nothing is kept


def train(
    module: TextModule, job: Mapping[str, Any], loop: Loop, seed: int, scratch: Path
) -> tuple[float, float]:
    """Train, and score the weights that were best on validation.

    Args:
        module: Fresh; says what is trained, and how; its data are tokenized.
        job: The config; its `trainer` section has all defaults.
        loop: Which one.
        seed: Of the weights of pooling and head, dropout, and the order of the rows.
        scratch: A folder for the best weights, which its owner deletes.

    Returns:
        The task's monitored metric on validation and on test.

    Raises:
        InputError: A flag of the trainer is no use for this.
    """
    with quiet():
        seed_everything(seed, verbose=False)
        metrics = (_lightning if loop == "lightning" else _huggingface)(
            module, job, scratch
        ).metrics
    monitor = module.task.monitor
    if monitor not in metrics:
        raise InputError(
            "trainer: training ended before an evaluation was due, so no weights are the best; train for longer, or "
            "set val_check_interval"
        )
    validation, test = metrics[monitor], metrics[f"test/{monitor.partition('/')[2]}"]
    return _known(validation), _known(test)


def _known(score: float | None) -> float:
    """The score; 0 in the place of a correlation that is not defined, as that of equal outputs."""
    return score if score is not None and math.isfinite(score) else 0.0


def free() -> None:
    """Give back the memory of a network that nothing but its trainer holds."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def check_flags(module: TextModule, section: Mapping[str, Any], loop: Loop) -> None:
    """Refuse flags of the trainer that the loop has no counterpart for, or that leave no weights to score.

    Raises:
        InputError: A flag has no counterpart, or the run would keep no weights.
    """
    if section["fast_dev_run"]:
        raise InputError(
            f"trainer.fast_dev_run={section['fast_dev_run']}: it keeps no weights to score; use max_steps"
        )
    if loop == "huggingface":
        with quiet():
            _flags(module, section, _trainer(section, Path(".")))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without warnings of what is meant to be: layers that are left out, a folder that is there."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*pretrained layers are used")
        warnings.filterwarnings("ignore", ".*Checkpoint directory .* exists and is not empty.*")
        yield


def _trainer(section: Mapping[str, Any], scratch: Path, *callbacks: pl.Callback) -> pl.Trainer:
    """A Lightning Trainer as the section says, but for what it would show and write."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(pl.Trainer, "trainer", instantiate=False)
    given = vars(
        parser.instantiate(parser.parse_object({"trainer": {**section, "logger": False}})).trainer
    )
    shown = sys.stdout.isatty()  # where Lightning's bar goes
    own = [callback for callback in given["callbacks"] or [] if not isinstance(callback, LEFT_OUT)]
    settings = {
        **given,
        "callbacks": [*own, *callbacks, *([TQDMProgressBar(leave=False)] if shown else [])],
        "default_root_dir": str(scratch),
        "enable_checkpointing": True,
        "enable_progress_bar": shown,
    }
    return pl.Trainer(**settings)


def _lightning(module: TextModule, job: Mapping[str, Any], scratch: Path) -> Result:
    task = module.task
    best = ModelCheckpoint(
        scratch, "best", monitor=task.monitor, mode=task.monitor_mode, save_weights_only=True
    )
    return lightning.fit(_trainer(job["trainer"], scratch, best), module)


def _flags(module: TextModule, section: Mapping[str, Any], trainer: pl.Trainer) -> Flags:
    given = {
        **section,
        "logger": False,
        "enable_checkpointing": None,
        "enable_progress_bar": sys.stderr.isatty(),
    }
    return read_flags(given, trainer, module.task, "the Hugging Face Trainer")


def _huggingface(module: TextModule, job: Mapping[str, Any], scratch: Path) -> Result:
    from litpool.loops import huggingface  # late: importing the Trainer takes its time

    flags = _flags(module, job["trainer"], _trainer(job["trainer"], scratch))
    network = module.build(flags.device)
    return huggingface.fit(Job(network, module.recipe, module.data, flags, scratch, dict(job)))
