"""Lightning's callbacks, loggers and strategies: what litpool refuses, and what others need."""

import difflib
import enum
import importlib.util
import re
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning
import yaml
from jsonargparse import Namespace
from lightning.pytorch import (
    LightningModule,
    Trainer,
    callbacks,
    loggers,
    profilers,
    strategies,
)
from lightning.pytorch.callbacks import Callback, ModelPruning

from litpool import InputError, JobError
from litpool.classes import class_name

NEEDS_FUNCTION = "it needs a function, and a config names classes only; subclass it"
NOTEBOOK = "it is for notebooks; use ddp"
REFUSED = {
    "BackboneFinetuning": "it unfreezes `model.backbone`, which no model here has; "
    "use model.encoder.freeze and model.recipe.layer_decay",
    "BaseFinetuning": "it does nothing by itself; use model.encoder.freeze, or subclass it",
    "BasePredictionWriter": "it does nothing by itself; use `predict --output FILE`",
    "BatchSizeFinder": "it changes data.batch_size after the steps were counted; "
    "set data.batch_size",
    "Checkpoint": "it does nothing by itself; use ModelCheckpoint",
    "LearningRateFinder": "it looks for `model.lr`, which no model here has; set model.recipe.lr",
    "OnExceptionCheckpoint": "litpool writes last.ckpt after an exception itself; leave it out",
    "SpikeDetection": "Lightning cannot load its checkpoints; leave it out: "
    "litpool stops at a loss that is not finite",
    "StochasticWeightAveraging": "it averages after the last validation, so best.ckpt would not "
    "hold the average; use WeightAveraging or EMAWeightAveraging",
    "ThroughputMonitor": f"{NEEDS_FUNCTION}, or see train/tokens_per_second",
    "ddp_fork": NOTEBOOK,
    "ddp_notebook": NOTEBOOK,
    "ddp_spawn": NOTEBOOK,
    "ModelParallelStrategy": "litpool writes checkpoints in one file, and it shards them; use fsdp",
}
"""Why a fit with one of these does not work."""

KEYS = [f"trainer.{name}" for name in ("callbacks", "logger", "plugins", "profiler", "strategy")]

# What jsonargparse's messages look like
ERRORS = re.compile(r"^(?:(\S+): )?.*?\bErrors: (.*?) Given value type: .*?Given value: (.*)")
OTHER_TYPE = re.compile("$|Expected a <class|Not a valid subclass|a class path|a dict")
CLASS_PATH = re.compile(r"class_path'?[=:] ?'([\w.]+)'")

# Lightning's Timer has an enum as a default, which YAML cannot represent otherwise.
yaml.SafeDumper.add_multi_representer(
    enum.Enum, lambda dumper, value: dumper.represent_data(value.value)
)


def check(flags: Namespace) -> None:
    """Refuse callbacks, loggers and strategies that do not work here.

    Raises:
        InputError: One of them is on the list.
    """
    for key in ("callbacks", "logger", "strategy"):
        for name in _names(flags[key]):
            if reason := _refusal(name):
                raise InputError(f"trainer.{key}={name}: {reason}")
    for key in ("profiler", "strategy"):
        for name in _names(flags[key]):
            option = f"trainer.{key}={name}"
            if name.startswith("{"):  # the parser could make no class of it, so it is a text
                raise InputError(f"{option}: not a class that can be created; name another")
            if re.search("xla|tpu", name.lower()) and not importlib.util.find_spec("torch_xla"):
                raise InputError(f"{option}: it is for TPUs and needs the package torch_xla")
    if isinstance(flags.strategy, str) and flags.strategy in strategies.__all__:
        # The option is a text or a class, so the parser takes a class's name for a text.
        example = f"'{{class_path: {flags.strategy}}}'"
        raise InputError(f"trainer.strategy={flags.strategy}: name a class as {example}")


def _names(value: Any) -> Iterator[str]:
    """Yield the names of the classes, without their modules, that an option of the trainer has."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from _names(item)
    elif isinstance(value, Namespace | Mapping):
        yield class_name(value)
    elif isinstance(value, str):
        yield value


def _refusal(name: str) -> str | None:
    """Return why a class or a strategy is refused; ddp_spawn_find_... is a variant of ddp_spawn."""
    return REFUSED.get(re.sub("_find_unused_parameters_(true|false)$", "", name))


def explain(message: str) -> str | None:
    """Return the true reason in jsonargparse's message about a callback, logger or strategy.

    Its message holds one reason for each type that the option accepts.
    """
    match = ERRORS.search(" ".join(message.split()))
    if match is None or match[1] not in (None, *KEYS):
        return None
    reasons = [
        reason for reason in re.split(r"(?:^| )- ", match[2]) if not OTHER_TYPE.match(reason)
    ]
    if not reasons:
        return None
    reason = re.sub(r"Problem with given class_path '[\w.]+': ", "", reasons[0])
    path = CLASS_PATH.search(match[3])
    name = path[1].rpartition(".")[2] if path else match[3].strip("[']")
    if reason.startswith("Expected a dot import path string"):
        packages = (callbacks, loggers, profilers, strategies)
        names = [name for package in packages for name in package.__all__]
        nearest = difflib.get_close_matches(name, names, n=1)
        question = f"; did you mean {nearest[0]!r}?" if nearest else ""
        reason = f"unknown class; name one of Lightning's, or your own as MODULE.CLASS{question}"
    option = f"{match[1]}={name}" if match[1] else name
    return f"{option}: {_refusal(name) or reason}"


def report(error: Exception) -> InputError | JobError | None:
    """Return the report of an error that Lightning raised, or that a bad checkpoint caused.

    Lightning and its plugins raise errors of many types about flags that do not fit together. An
    error raised by other code may be a bug, so it keeps its traceback: the answer is None.
    """
    frames = traceback.extract_tb(error.__traceback__)
    reason = f"{type(error).__name__}: {error}"[:300]
    if any(Path(frame.filename).name == "checkpoint_connector.py" for frame in frames) or any(
        frame.name == "restore_rng" for frame in frames
    ):
        return InputError(
            f"ckpt_path: its training state cannot be restored ({reason}); "
            "resume from another checkpoint, or train anew"
        )
    if any("/torch/distributed/" in Path(frame.filename).as_posix() for frame in frames):
        return JobError(
            "another process of this run has ended or cannot be reached; once that is fixed, "
            f"resume with --ckpt_path RUN/checkpoints/last.ckpt ({reason})"
        )
    if Path(frames[-1].filename).is_relative_to(Path(lightning.__file__).parent):
        return JobError(f"Lightning: {reason}")
    return None


class BuildNetwork(Callback):
    """Builds the network before other callbacks are set up; Lightning builds it after them."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Build the network, unless it is built already."""
        pl_module.configure_model()


def needed_first(callbacks: list[Callback]) -> list[Callback]:
    """Return what must come before these callbacks."""
    prunes = any(isinstance(callback, ModelPruning) for callback in callbacks)
    return [BuildNetwork()] if prunes else []
