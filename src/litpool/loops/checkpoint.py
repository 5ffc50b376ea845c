"""What a checkpoint carries beside the weights, and how it is written and read.

It holds plain values, loaded with `weights_only=True`. It is written beside its place and moved there, so that a file
with its name is always whole; weights that are not finite are neither written nor read.
"""

import contextlib
import json
import os
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
    """What it takes, beside the weights, to rebuild the network and its answers on another machine.

    Classes of this package are named without their module, so that files can be moved and the package renamed.
    """
    return {
        "job": {
            "version": __version__,
            "config": short_names(config, __name__.partition(".")[0]),
            "task": task.state_dict(),
            "encoder": network.encoder.config.to_json_string(use_diff=False),
            "tokenizer": dict(tokenizer_files),
            "new_ids": network.encoder.new_ids,
            "metrics": dict(metrics),
            "rng": rng_state(),
        }
    }


def upgrade(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint of any version as this version writes it.

    Version 0.1.0 kept the job under the package's name and named classes with their modules.
    """
    if "job" not in checkpoint:
        package = next(
            (
                key
                for key, value in checkpoint.items()
                if isinstance(value, dict) and "encoder" in value
            ),
            "",
        )
        if package:
            checkpoint["job"] = job = checkpoint.pop(package)
            job["config"] = short_names(job.get("config"), package)
    return checkpoint


def short_names(config: Any, package: str) -> Any:
    """A config in which the classes of a package are named without their modules."""
    if isinstance(config, Mapping):
        found = {key: short_names(value, package) for key, value in config.items()}
        if str(found.get("class_path")).startswith(f"{package}."):
            found["class_path"] = found["class_path"].rpartition(".")[2]
        return found
    return [short_names(value, package) for value in config] if isinstance(config, list) else config


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
    if name := not_finite(checkpoint["state_dict"]):
        raise JobError(
            f"{name} is not finite, the weights have diverged: {path} was not written; "
            "lower model.recipe.lr"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + UNFINISHED)
    with interrupt.writing:
        try:
            with open(part, "wb") as file:
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
    """Make the new names last through a power failure, where the system can sync folders."""
    with contextlib.suppress(OSError):  # Windows, and some network file systems
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def remove_unfinished(folder: Path) -> None:
    """Delete what killed runs left of checkpoints that were being written."""
    for path in folder.glob(f"*.ckpt{UNFINISHED}"):
        path.unlink(missing_ok=True)


def not_finite(weights: Mapping[str, torch.Tensor]) -> str | None:
    """The name of the first weight that is not finite as a float32."""
    for name, weight in weights.items():
        real = torch.view_as_real(weight) if weight.is_complex() else weight
        if real.is_floating_point() and not real.float().isfinite().all():
            return name.removeprefix("network.")
    return None


def resumable(path: str) -> tuple[str, dict[str, Any], str | None]:
    """The checkpoint to resume from: `path`, or last.prev.ckpt beside a last.ckpt that is damaged.

    Returns:
        Its path; the job in it; and, if it is not `path`, what is wrong with `path`.

    Raises:
        InputError: Neither can be read.
    """
    try:
        return path, read(path), None
    except InputError as error:
        previous = Path(path).with_name(PREVIOUS)
        if Path(path).name != "last.ckpt" or not previous.is_file():
            raise
        return str(previous), read(str(previous)), str(error)


def read(path: str) -> dict[str, Any]:
    """What `contents` put into a checkpoint.

    Raises:
        InputError: As `load` does.
    """
    return load(path)["job"]


def load(path: str) -> dict[str, Any]:
    """A whole checkpoint, its weights on the CPU and mapped from the file.

    Raises:
        InputError: There is no such file, it is not whole, it is not one of litpool's, or its weights are not finite.
    """
    if not Path(path).is_file():
        raise InputError(
            f"ckpt_path={path}: no such file; checkpoints are at RUN/checkpoints/best.ckpt and last.ckpt"
        )
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # the file may hold anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"ckpt_path={path}: damaged or incomplete ({reason[:120]}); train or copy it again"
        ) from error
    if not isinstance(checkpoint, dict) or not _is_ours(upgrade(checkpoint)):
        raise InputError(f"ckpt_path={path}: not written by litpool; give a file that `fit` wrote")
    if name := not_finite(checkpoint["state_dict"]):
        raise InputError(
            f"ckpt_path={path}: {name} is not finite, because that training diverged; use an earlier checkpoint"
        )
    return checkpoint


def _is_ours(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a file's content is built as `contents` and the loops build it."""
    job, weights = checkpoint.get("job"), checkpoint.get("state_dict")
    if not isinstance(job, dict) or not isinstance(weights, dict):
        return False
    config, files = job.get("config"), job.get("tokenizer")
    return (
        all(isinstance(weight, torch.Tensor) for weight in weights.values())
        and isinstance(job.get("encoder"), str)
        and all(isinstance(job.get(key), dict) for key in ("task", "metrics", "rng"))
        and isinstance(job.get("new_ids", {}), dict)
        and isinstance(files, dict)
        and all(isinstance(name, str) for name in files)
        and all(isinstance(content, bytes) for content in files.values())
        and isinstance(config, dict)
        and all(isinstance(config.get(key), dict) for key in ("task", "model", "data"))
        and "source" in config["data"]
        and isinstance(config["task"].get("class_path"), str)
    )


def encoder_config(job: Mapping[str, Any]) -> PretrainedConfig:
    """The encoder's config that a checkpoint holds.

    Raises:
        InputError: It is not the config of a known encoder.
    """
    try:
        fields = json.loads(job["encoder"])
        return AutoConfig.for_model(fields.pop("model_type"), **fields)
    except Exception as error:  # the file may hold anything
        raise InputError(f"ckpt_path: its encoder cannot be built ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
