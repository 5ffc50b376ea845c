"""What a checkpoint contains beside the weights, and how it is written and read.

It contains plain values only, loaded with `weights_only=True`. It is written to a temporary file
and then renamed, so that a file with its name is always complete. Weights that are not finite are
neither written nor read.
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
    """Return what is needed beside the weights to rebuild the network and its answers anywhere.

    Classes of this package are named without their module, so that you can move files and rename
    the package.
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
    """Change a checkpoint of any version to what this version writes, and return it.

    Version 0.1.0 stored the job under the package's name and named classes with their modules.
    """
    if "job" in checkpoint:
        return checkpoint
    for package, value in checkpoint.items():
        if isinstance(value, dict) and "encoder" in value:
            checkpoint["job"] = job = checkpoint.pop(package)
            job["config"] = short_names(job.get("config"), package)
            break
    return checkpoint


def short_names(config: Any, package: str) -> Any:
    """Return a config that names a package's poolings and tasks without their modules."""
    if isinstance(config, list):
        return [short_names(value, package) for value in config]
    if not isinstance(config, Mapping):
        return config
    shortened = {key: short_names(value, package) for key, value in config.items()}
    path = str(shortened.get("class_path"))
    if path.startswith((f"{package}.model.", f"{package}.tasks.")):
        shortened["class_path"] = path.rpartition(".")[2]
    return shortened


def rng_state() -> dict[str, torch.Tensor]:
    """Return the state of the random number generators of the CPU and of the GPU in use."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_rng(state: Mapping[str, torch.Tensor]) -> None:
    """Restore what `rng_state` returned."""
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


PREVIOUS = "last.prev.ckpt"
"""The previous last.ckpt, from which a run resumes if the current one cannot be read."""

UNFINISHED = ".part"
"""The ending of a file's name while it is being written."""


def write(checkpoint: Mapping[str, Any], path: str | Path) -> None:
    """Write a checkpoint so that a kill at any moment leaves the old file or the new one.

    An existing last.ckpt becomes last.prev.ckpt.

    Raises:
        JobError: The weights are not finite; nothing is written.
    """
    path = Path(path)
    if name := not_finite(checkpoint["state_dict"]):
        raise JobError(
            f"{name} is not finite: training has diverged, so {path} was not written; "
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
            _link(path, path.with_name(PREVIOUS))
        os.replace(part, path)
        _sync_folder(path.parent)


def _link(path: Path, other: Path) -> None:
    """Give a file a second name. On a file system without links it loses the first."""
    link = other.with_name(other.name + UNFINISHED)
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:
        os.replace(path, other)
    else:
        os.replace(link, other)


def _sync_folder(folder: Path) -> None:
    """Make new names survive a power failure, if the system can sync folders."""
    with contextlib.suppress(OSError):  # Windows and some network file systems cannot
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_unfinished(folder: Path) -> None:
    """Delete the checkpoints that killed runs had not finished writing."""
    for path in folder.glob(f"*.ckpt{UNFINISHED}"):
        path.unlink(missing_ok=True)


def not_finite(weights: Mapping[str, torch.Tensor]) -> str | None:
    """Return the name of the first weight that is not finite as a float32, if there is one."""
    for name, weight in weights.items():
        real = torch.view_as_real(weight) if weight.is_complex() else weight
        if real.is_floating_point() and not real.float().isfinite().all():
            return name.removeprefix("network.")
    return None


def resumable(path: str) -> tuple[str, dict[str, Any], str | None]:
    """Read the checkpoint to resume from: `path`, or last.prev.ckpt if last.ckpt is damaged.

    Returns:
        The path of the checkpoint; its job; and, if the path is another, what is wrong with `path`.

    Raises:
        InputError: Neither can be read.
    """
    reason = None
    try:
        checkpoint = load(path)
    except InputError as error:
        previous = Path(path).with_name(PREVIOUS)
        if Path(path).name != "last.ckpt" or not previous.is_file():
            raise
        path, reason = str(previous), str(error)
        checkpoint = load(path)
    _check_training_state(checkpoint, Path(path))
    return path, checkpoint["job"], reason


def _check_training_state(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Refuse to resume from a checkpoint of another loop, or without the best one so far."""
    if "loops" not in checkpoint:
        raise InputError(
            f"ckpt_path={path}: it has no state of Lightning's loop; if fit_plain or fit_hf wrote "
            "it, resume with that command, otherwise from last.ckpt in the same folder"
        )
    states = checkpoint.get("callbacks")
    for state in states.values() if isinstance(states, dict) else []:
        best = state.get("best_model_path") if isinstance(state, dict) else None
        if not isinstance(best, str) or not best:
            continue
        moved = path.with_name(Path(best).name)  # the run folder may have been moved
        if not (moved.is_file() or Path(best).is_file()):
            raise InputError(
                f"ckpt_path={path}: the best checkpoint so far, {moved}, is missing; "
                "put it back, or train anew"
            )


def read(path: str) -> dict[str, Any]:
    """Read the job in a checkpoint, which `contents` returned.

    Raises:
        InputError: The checkpoint cannot be used; see `load`.
    """
    return load(path)["job"]


def load(path: str) -> dict[str, Any]:
    """Load a checkpoint with its weights, on the CPU and mapped from the file.

    Raises:
        InputError: The file does not exist, is incomplete, was not written by litpool, or has
            weights that are not finite.
    """
    if not Path(path).is_file():
        raise InputError(
            f"ckpt_path={path}: no such file; "
            "checkpoints are at RUN/checkpoints/best.ckpt and last.ckpt"
        )
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # the file may contain anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"ckpt_path={path}: damaged or incomplete ({reason[:120]}); train or copy it again"
        ) from error
    if not isinstance(checkpoint, dict) or not _is_ours(upgrade(checkpoint)):
        raise InputError(
            f"ckpt_path={path}: not written by litpool; use a checkpoint that `fit` wrote"
        )
    if name := not_finite(checkpoint["state_dict"]):
        raise InputError(
            f"ckpt_path={path}: {name} is not finite, because training diverged; "
            "use an earlier checkpoint"
        )
    return checkpoint


def _is_ours(checkpoint: Mapping[str, Any]) -> bool:
    """Return whether a checkpoint has the structure that `contents` and the loops give it."""
    job = checkpoint.get("job")
    weights = checkpoint.get("state_dict")
    if not isinstance(job, dict) or not isinstance(weights, dict):
        return False
    config = job.get("config")
    files = job.get("tokenizer")
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
    """Restore the encoder's config from the job in a checkpoint.

    Raises:
        InputError: It is not the config of a known encoder.
    """
    try:
        fields = json.loads(job["encoder"])
        return AutoConfig.for_model(fields.pop("model_type"), **fields)
    except Exception as error:  # the file may contain anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"ckpt_path: its encoder cannot be built ({reason})") from error
