"""One training of the fine-tuned arm, by the Lightning loop or the Hugging Face Trainer.

Only the scores remain.
"""

import contextlib
import copy
import math
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
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
from litpool.tools.study.options import Loop

WRITERS = (ModelCheckpoint, LearningRateMonitor, DeviceStatsMonitor)  # nothing they write is kept


def train(
    module: TextModule, config: Mapping[str, Any], loop: Loop, seed: int, scratch: Path
) -> tuple[float, float]:
    """Train, and score the weights that were best on validation.

    Args:
        module: A fresh module; its data are tokenized.
        config: The job; its `trainer` section has all defaults.
        loop: Which loop trains.
        seed: The seed of the weights of pooling and head, of dropout, and of the order of rows.
        scratch: A folder for the best weights; the caller deletes it.

    Returns:
        The task's monitored metric on validation and on test.

    Raises:
        InputError: The trainer's flags do not fit this training.
    """
    with quiet():
        seed_everything(seed, verbose=False)
        if loop == "lightning":
            metrics = _train_lightning(module, config, scratch).metrics
        else:
            metrics = _train_huggingface(module, config, scratch).metrics
    monitor = module.task.monitor
    if monitor not in metrics:
        raise InputError(
            "trainer: training ended before the first evaluation, so no weights are the best; "
            "train longer, or set val_check_interval"
        )
    test = f"test/{monitor.partition('/')[2]}"
    return _finite(metrics[monitor]), _finite(metrics[test])


def _finite(score: float | None) -> float:
    """Return the score, or 0 for an undefined correlation, such as that of constant outputs."""
    return score if score is not None and math.isfinite(score) else 0.0


def check_flags(module: TextModule, section: Mapping[str, Any], loop: Loop) -> None:
    """Refuse trainer flags that the loop does not support, or that leave no weights to score.

    Raises:
        InputError: A flag is not supported.
    """
    if section["fast_dev_run"]:
        raise InputError(
            f"trainer.fast_dev_run={section['fast_dev_run']}: it keeps no weights to score; "
            "use max_steps"
        )
    if loop == "huggingface":
        with quiet():
            _flags(module, section, _trainer(section, Path(".")))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings about what is intended: fewer layers, and a folder that is not empty."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*pretrained layers are used")
        warnings.filterwarnings("ignore", ".*Checkpoint directory .* exists and is not empty.*")
        yield


def _trainer(section: Mapping[str, Any], scratch: Path, *callbacks: pl.Callback) -> pl.Trainer:
    """Build the section's Lightning Trainer, with other output."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(pl.Trainer, "trainer", instantiate=False)
    # A copy, since the parser replaces the values in lists: the callbacks.
    values = parser.parse_object({"trainer": {**copy.deepcopy(section), "logger": False}})
    arguments = vars(parser.instantiate(values).trainer)
    kept = [part for part in arguments["callbacks"] or [] if not isinstance(part, WRITERS)]
    show_progress = sys.stdout.isatty()
    bars = [TQDMProgressBar(leave=False)] if show_progress else []
    arguments |= {
        "callbacks": [*kept, *callbacks, *bars],
        "default_root_dir": str(scratch),
        "enable_checkpointing": True,
        "enable_progress_bar": show_progress,
    }
    return pl.Trainer(**arguments)


def _train_lightning(module: TextModule, config: Mapping[str, Any], scratch: Path) -> Result:
    task = module.task
    best = ModelCheckpoint(
        scratch, "best", monitor=task.monitor, mode=task.monitor_mode, save_weights_only=True
    )
    return lightning.fit(_trainer(config["trainer"], scratch, best), module)


def _flags(module: TextModule, section: Mapping[str, Any], trainer: pl.Trainer) -> Flags:
    section = {
        **section,
        "logger": False,
        "enable_checkpointing": None,
        "enable_progress_bar": sys.stderr.isatty(),
    }
    return read_flags(section, trainer, module.task, "the Hugging Face Trainer")


def _train_huggingface(module: TextModule, config: Mapping[str, Any], scratch: Path) -> Result:
    from litpool.loops import huggingface

    flags = _flags(module, config["trainer"], _trainer(config["trainer"], scratch))
    network = module.build(flags.device)
    job = Job(network, module.recipe, module.data, flags, scratch, dict(config))
    return huggingface.fit(job)
