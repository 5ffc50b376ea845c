"""What a checkpoint carries beside the weights, and how it is written and read.

It holds plain values, loaded with `weights_only=True`. It is written beside its place and moved there, so that a file
with its name is always whole; weights that are not finite are neither written nor read.
"""

import contextlib
import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PretrainedConfig

from litpool import InputError, JobError, __version__, interrupt
from litpool.model.network import TextModel
from litpool.tasks.task import Task


def contents(
    network: TextModel,
    task: Task,
    tokenizer_files: Mapping[str, bytes],
    config: Mapping[str, Any],
    metrics: Mapping[str, float],
) -> dict[str, Any]:
    """What it takes to rebuild the network and its answers on another machine, without the original weights."""
    return {
        "version": __version__,
        "config": dict(config),
        "task": task.state_dict(),
        "encoder": network.encoder.config.to_json_string(use_diff=False),
        "tokenizer": dict(tokenizer_files),
        "new_ids": network.encoder.new_ids,
        "metrics": dict(metrics),
        "rng": rng_state(),
    }


def rng_state() -> dict[str, torch.Tensor]:
    """Where the random numbers stand, of the CPU and of the GPU in use."""
    cuda = {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {}
    return {"cpu": torch.get_rng_state(), **cuda}


def restore_rng(state: Mapping[str, torch.Tensor]) -> None:
    """Go on with the random numbers where `rng_state` found them."""
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


PREVIOUS = "last.prev.ckpt"
"""The last.ckpt before the current one: what a run resumes from if that cannot be read."""

UNFINISHED = ".part"
"""What a file's name ends with while it is written."""


def write(checkpoint: Mapping[str, Any], path: str | Path) -> None:
    """Write a checkpoint so that a kill at any moment leaves the old file or the new one, and never half of one.

    A last.ckpt that is there becomes last.prev.ckpt.

    Raises:
        JobError: The weights are not finite; nothing is written.
    """
    path = Path(path)
    if name := _not_finite(checkpoint):
        raise JobError(
            f"{name} is not finite, the weights have diverged: {path} was not written; lower model.recipe.lr"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + UNFINISHED)
    try:
        with interrupt.writing, open(part, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    if path.name == "last.ckpt" and path.exists():
        _keep_as(path, path.with_name(PREVIOUS))
    os.replace(part, path)
    _sync_folder(path.parent)


def _keep_as(path: Path, other: Path) -> None:
    """Give a file a second name; where the file system has no links, the first name is gone until it is written."""
    link = other.with_name(other.name + UNFINISHED)
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:
        os.replace(path, other)
    else:
        os.replace(link, other)


def _sync_folder(folder: Path) -> None:
    """Make the new names last through a power failure, where the system can open folders."""
    with contextlib.suppress(PermissionError):  # Windows
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def remove_unfinished(folder: Path) -> None:
    """Delete what killed runs left of checkpoints that were being written."""
    for path in folder.glob(f"*.ckpt{UNFINISHED}"):
        path.unlink(missing_ok=True)


def _not_finite(checkpoint: Mapping[str, Any]) -> str | None:
    """The name of the first weight that holds NaN or infinity."""
    for name, weight in checkpoint["state_dict"].items():
        if weight.is_floating_point() and not weight.isfinite().all():
            return name.removeprefix("network.")
    return None


def resumable(path: str) -> tuple[str, str | None]:
    """The checkpoint to resume from.

    Returns:
        `path`, or last.prev.ckpt beside it if `path` is a last.ckpt that cannot be read; and then why.

    Raises:
        InputError: Neither can be read.
    """
    try:
        read(path)
    except InputError as error:
        previous = Path(path).with_name(PREVIOUS)
        if Path(path).name != "last.ckpt" or not previous.is_file():
            raise
        read(str(previous))
        return str(previous), str(error)
    return path, None


def read(path: str) -> dict[str, Any]:
    """What `contents` wrote into a checkpoint.

    Raises:
        InputError: There is no such file, it is not whole, it is not one of litpool's, or its weights are not finite.
    """
    if not Path(path).is_file():
        raise InputError(f"ckpt_path={path}: no such file; checkpoints are at RUN/checkpoints/best.ckpt and last.ckpt")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"ckpt_path={path}: not a whole checkpoint ({reason[:120]}); train or copy it again"
        ) from error
    if not _is_ours(checkpoint):
        raise InputError(f"ckpt_path={path}: not written by litpool; give a file that `fit` wrote")
    if name := _not_finite(checkpoint):
        raise InputError(f"ckpt_path={path}: {name} is not finite, that training diverged; give an earlier checkpoint")
    return checkpoint["litpool"]


def _is_ours(checkpoint: Any) -> bool:
    """Whether a file's content is built as `contents` and the loops build it."""
    saved = checkpoint.get("litpool") if isinstance(checkpoint, dict) else None
    weights = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    return (
        isinstance(saved, dict)
        and isinstance(weights, dict)
        and all(isinstance(weight, torch.Tensor) for weight in weights.values())
        and isinstance(saved.get("encoder"), str)
        and all(isinstance(saved.get(key), dict) for key in ("config", "task", "tokenizer", "metrics", "rng"))
        and all(isinstance(saved["config"].get(key), dict) for key in ("task", "model", "data"))
        and isinstance(saved["config"]["task"].get("class_path"), str)
    )


def encoder_config(saved: Mapping[str, Any]) -> PretrainedConfig:
    """The encoder's config that a checkpoint holds."""
    fields = json.loads(saved["encoder"])
    return AutoConfig.for_model(fields.pop("model_type"), **fields)
