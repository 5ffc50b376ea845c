"""Broken config files; values that parse but do not work, such as null and NaN."""

import difflib
import inspect
import math
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import yaml
from jsonargparse import ArgumentParser, Namespace

from litpool import InputError, trust
from litpool.data.module import TextDataModule

SECTIONS = ("model", "model.encoder", "model.recipe", "data", "trainer")

LEAST = {
    "gradient_clip_val": 0,
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "log_every_n_steps": 0,
    "max_epochs": -1,
    "max_steps": -1,
}

NOT_ZERO = (
    "val_check_interval",
    "limit_train_batches",
    "limit_val_batches",
    "limit_test_batches",
)

EPOCHS = 3  # the default; Lightning's is 1,000

UNSUPPORTED = {
    "overfit_batches": "use data.max_rows instead",  # it would change the order of the rows
    "limit_predict_batches": "give `predict` a shorter --input",
    "barebones": "leave it out",
}


def check_file(name: str) -> None:
    """Refuse a config that is a folder or a broken file; the parser would not say which, or where.

    Args:
        name: The config. What is neither file nor folder is left to the parser: it may be YAML.

    Raises:
        InputError: It is not a file of YAML in UTF-8.
    """
    if not name:
        raise InputError("config: name a YAML file, such as --config configs/debug.yaml")
    if os.path.isdir(name):
        raise InputError(f"config={name}: a folder; name a YAML file in it")
    if not os.path.isfile(name):
        path = Path(name)
        if path.suffix in (".yaml", ".yml"):
            files = [str(file) for file in path.parent.glob("*.y*ml")]
            near = difflib.get_close_matches(name, files, n=1)
            advice = f"did you mean {near[0]}?" if near else "name a YAML file"
            raise InputError(f"config={name}: no such file; {advice}")
        return
    content = Path(name).read_bytes()
    try:
        yaml.safe_load(content.decode())
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"config={name}: line {line} is not UTF-8; save it as UTF-8") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "this file"
        raise InputError(
            f"config={name}: {place} is not valid YAML ({error.problem}); check the indentation, "
            "brackets and quotes up to there"
        ) from error
    except yaml.YAMLError as error:
        raise InputError(f"config={name}: not a YAML file ({error}); name another") from error


def check(config: Namespace, parser: ArgumentParser) -> None:
    """Refuse values that the parser accepts, but that fail later or are ignored.

    Raises:
        InputError: A value cannot be used.
    """
    for section in SECTIONS:
        if not isinstance(config[section], Namespace):
            raise InputError(f"{section}={config[section]}: give a mapping such as {{key: value}}")
    _check_nulls(config, parser)
    check_leaves(config)
    for name in ("text", "label"):
        value = config.task.get("init_args", {}).get(name)
        if value in ("", []):
            raise InputError(f"task.{name}={value!r}: give the name of a column")
    _check_trainer(config.trainer)
    if not 0 <= int(config.seed_everything) < 2**32:
        raise InputError(f"seed_everything={config.seed_everything}: give 0 to {2**32 - 1}")


def check_leaves(config: Namespace) -> None:
    """Refuse single values that no key can have.

    Raises:
        InputError: A value is NaN, contains a NUL character, or is too large.
    """
    for key, value in trust.walk(config):
        if isinstance(value, float) and math.isnan(value):
            raise InputError(f"{key}=nan: give a number")
        if isinstance(value, str) and "\0" in value:
            raise InputError(f"{key}={value!r}: contains a NUL character; remove it")
        if isinstance(value, int) and abs(value) >= 2**48:  # products must fit in 64 bits
            raise InputError(f"{key}={value}: too large; give a smaller number")


def set_epochs(flags: Namespace) -> int | None:
    """Train for a few epochs if nothing else ends the run; return their number, or else None."""
    limits = (flags.max_epochs, flags.max_time, flags.fast_dev_run or None)
    if limits != (None, None, None) or flags.max_steps != -1:
        return None
    flags.max_epochs = max(EPOCHS, flags.min_epochs or 0)
    return int(flags.max_epochs)


def check_end(config: Namespace) -> None:
    """Refuse a training without a number of steps, unless its learning rate needs none.

    Raises:
        InputError: Only `max_time` ends the run, or nothing does.
    """
    flags, recipe = config.trainer, config.model.recipe
    if flags.max_epochs not in (None, -1) or flags.max_steps != -1 or flags.fast_dev_run:
        return
    if flags.max_time is None and flags.max_epochs == -1:
        raise InputError(
            "trainer.max_epochs=-1: nothing ends the run; set max_steps or max_time as well"
        )
    if flags.max_time and (recipe.schedule != "constant" or 0 < recipe.warmup < 1):
        raise InputError(
            f"trainer.max_time={flags.max_time}: the learning rate schedule needs a number of "
            "steps; set trainer.max_epochs or trainer.max_steps as well, or "
            "model.recipe.schedule=constant and model.recipe.warmup=0"
        )


def _check_nulls(config: Namespace, parser: ArgumentParser) -> None:
    """Refuse null for options that have none; in a file, the parser lets it pass."""
    for action in parser._actions:
        if action.dest in config and config[action.dest] is None:
            _refuse_null(action.dest, getattr(action, "_typehint", None), action.default)
    for key, spec in trust.walk(config):
        if not isinstance(spec, Namespace | Mapping) or not isinstance(spec.get("class_path"), str):
            continue
        module, _, name = spec["class_path"].rpartition(".")
        kind = getattr(sys.modules.get(module), name, None)  # the parser has imported what it uses
        if kind is None:
            continue  # a value that only looks like a class, such as an override of the encoder
        for name, parameter in inspect.signature(kind).parameters.items():
            if spec.get("init_args", {}).get(name, parameter.default) is None:
                _refuse_null(f"{key}.{name}", parameter.annotation, parameter.default)


def _refuse_null(key: str, annotation: Any, default: Any) -> None:
    if default is not None and not re.search(r"\bNone\b|\bOptional\b", str(annotation)):
        raise InputError(f"{key}=null: leave it out for the default, {default}")


def _check_trainer(flags: Namespace) -> None:
    for name, least in LEAST.items():
        if flags[name] is not None and flags[name] < least:
            raise InputError(f"trainer.{name}={flags[name]}: give {least} or more")
    for name in NOT_ZERO:
        if flags[name] == 0:
            raise InputError(
                f"trainer.{name}=0: the run would have no metrics; give a number over 0"
            )
    for name in ("max_epochs", "max_steps"):
        if flags[name] == 0:
            raise InputError(f"trainer.{name}=0: nothing would be trained; give 1 or more")
    for name, instead in UNSUPPORTED.items():
        if flags[name]:
            raise InputError(f"trainer.{name}={flags[name]}: not supported; {instead}")
    if flags.enable_checkpointing is False:
        raise InputError(
            "trainer.enable_checkpointing=False: the test needs best.ckpt; leave it out"
        )


def check_interval(trainer: pl.Trainer, data: TextDataModule) -> None:
    """Refuse to validate less often than once in an epoch, unless epochs do not count.

    The training rows must be tokenized.

    Raises:
        InputError: An epoch has fewer batches than the interval.
    """
    interval = getattr(trainer, "val_check_interval", None)  # not set for an interval of time
    if not isinstance(interval, int) or trainer.check_val_every_n_epoch is None:
        return
    batches = len(data.train_dataloader()) // trainer.world_size
    limit = trainer.limit_train_batches
    if limit is not None:
        batches = int(batches * limit) if isinstance(limit, float) else min(batches, limit)
    if interval > batches and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        raise InputError(
            f"trainer.val_check_interval={interval}: an epoch has {batches} batches; give at most "
            "that, or set trainer.check_val_every_n_epoch=null to count across epochs"
        )
