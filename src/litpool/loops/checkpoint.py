"""What a checkpoint contains besides the weights, and how it is written and read.

It contains plain values only, loaded with `weights_only=True`. It is written to a temporary file
and then renamed, so that a file with its name is always complete. Weights that are not finite are
neither written nor read.
"""

import contextlib
import json
import math
import os
import pickle
import pickletools
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PretrainedConfig

from litpool import InputError, JobError, __version__, interrupt, reason
from litpool.disk import UNFINISHED, make_folder, replacing
from litpool.model.network import TextModel
from litpool.tasks.task import Task


def contents(
    network: TextModel,
    task: Task,
    tokenizer_files: Mapping[str, bytes],
    config: Mapping[str, Any],
    metrics: Mapping[str, float],
    rows: str | None = None,
) -> dict[str, Any]:
    """Return what is needed besides the weights to rebuild the network and its answers anywhere.

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
            "rows": rows,
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


def short_names(config: Any, package: str, applies: Callable[[str], bool] = bool) -> Any:
    """Return a config that names a package's poolings and tasks without their modules.

    Args:
        config: Plain values.
        package: The package's name.
        applies: Returns whether to shorten a class path; by default all of the package are.
    """
    if isinstance(config, list):
        return [short_names(value, package, applies) for value in config]
    if not isinstance(config, Mapping):
        return config
    shortened = {key: short_names(value, package, applies) for key, value in config.items()}
    path = str(shortened.get("class_path"))
    if path.startswith((f"{package}.model.", f"{package}.tasks.")) and applies(path):
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


@dataclass
class SaveOptions:
    """When to write last.ckpt, beside after each validation.

    Args:
        minutes: Write last.ckpt every so many minutes; null to leave it to validation.
        steps: Write last.ckpt every so many optimizer steps; null to leave it to validation.

    Raises:
        InputError: A number is not above 0.
    """

    minutes: float | None = 10.0
    steps: int | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not value > 0:
                raise InputError(f"save.{name}={value}: give a number over 0, or null")


class SaveClock:
    """Says when it is time to write last.ckpt.

    Args:
        options: After how many minutes or steps.
    """

    def __init__(self, options: SaveOptions) -> None:
        self.seconds = 60 * (options.minutes or math.inf)
        self.steps = options.steps or math.inf
        self.restart(0)

    def restart(self, step: int) -> None:
        """Count from this step, after which a checkpoint was written."""
        self.time = time.monotonic()
        self.step = step

    def due(self, step: int) -> bool:
        """Return whether it is time, after this step."""
        return step - self.step >= self.steps or time.monotonic() - self.time >= self.seconds


PREVIOUS = "last.prev.ckpt"
"""The previous last.ckpt, from which a run resumes if the current one cannot be read."""


def write(checkpoint: Mapping[str, Any], path: str | Path) -> None:
    """Write a checkpoint so that a kill at any moment leaves the old file or the new one.

    An existing last.ckpt becomes last.prev.ckpt.

    Raises:
        JobError: The weights are not finite, or the disk is full, for example. The files are as
            before.
    """
    path = Path(path)
    if name := not_finite(checkpoint["state_dict"]):
        raise JobError(
            f"{name} is not finite: training has diverged, so {path} was not written; "
            "lower model.recipe.lr"
        )
    make_folder(path.parent)
    with interrupt.writing:
        with replacing(path) as part:
            _save(checkpoint, part)
            if path.name == "last.ckpt" and path.exists():
                _link(path, path.with_name(PREVIOUS))
        _sync_folder(path.parent)


def _save(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Save a file, and wait until it is on the disk; raise OSError if it cannot be written.

    last.prev.ckpt stays as it is until then.
    """
    with open(path, "wb") as file:
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:  # torch's zip writer, after the OSError of the file
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise
        file.flush()
        os.fsync(file.fileno())


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
        if not real.is_floating_point() or not real.numel():
            continue
        extremes = torch.stack(real.float().aminmax())  # NaN if any is; quick, as it copies nothing
        if not extremes.isfinite().all():
            return name.removeprefix("network.")
    return None


def resumable(path: str, command: str) -> tuple[str, dict[str, Any], str | None]:
    """Read the checkpoint to resume from: `path`, or last.prev.ckpt if last.ckpt is damaged.

    Args:
        path: The checkpoint.
        command: The command that resumes.

    Returns:
        The path of the checkpoint; its job; and, if the path is another, what is wrong with `path`.

    Raises:
        InputError: Neither can be read, or another command wrote it.
    """
    problem = None
    try:
        checkpoint = load(path)
    except InputError as error:
        previous = Path(path).parent / PREVIOUS
        if Path(path).name != "last.ckpt" or not previous.is_file():
            raise
        path, checkpoint, problem = str(previous), load(str(previous)), str(error)
    lightning = "optimizer_states" in checkpoint
    writer = "fit" if lightning else checkpoint["job"].get("command")
    if writer is None:
        raise InputError(
            f"ckpt_path={path}: contains only weights, so no training can resume from it; "
            "use last.ckpt"
        )
    if writer != command:
        raise InputError(f"ckpt_path={path}: written by {writer}; resume it with {writer}")
    _check_best(checkpoint, Path(path))
    return path, checkpoint["job"], problem


def _check_best(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Refuse to resume if best.ckpt is missing, or what a ModelCheckpoint of the user's wrote."""
    states = checkpoint.get("callbacks")
    progress = checkpoint["job"].get("progress")
    files = ["best.ckpt"] if isinstance(progress, dict) and progress.get("best") else []
    for state in states.values() if isinstance(states, dict) else []:
        if isinstance(state, dict) and isinstance(state.get("best_model_path"), str):
            files.append(state["best_model_path"])
    for file in filter(None, files):
        moved = path.with_name(Path(file).name)  # the run folder may have been moved
        if not (moved.is_file() or Path(file).is_file()):
            raise InputError(
                f"ckpt_path={path}: the best checkpoint so far, {moved}, is missing; "
                "put it back, or train again"
            )


def read(path: str) -> dict[str, Any]:
    """Read the job in a checkpoint, which `contents` returned.

    Raises:
        InputError: The checkpoint cannot be used; see `load`.
    """
    return load(path)["job"]


def in_run(path: str | Path, file: str = "best.ckpt") -> str:
    """Return the checkpoint of a run folder, or the path itself if it is not a run folder.

    Args:
        path: A run folder or a checkpoint.
        file: Which of the run's checkpoints.
    """
    found = os.path.join(path, "checkpoints", file)
    return found if os.path.isfile(found) else str(path)


def load(path: str, option: str = "ckpt_path") -> dict[str, Any]:
    """Load a checkpoint with its weights, on the CPU and mapped from the file.

    Args:
        path: The checkpoint.
        option: The option that names it, for error messages.

    Raises:
        InputError: The file does not exist, is incomplete, was not written by litpool, or has
            weights that are not finite.
    """
    if not Path(path).is_file():
        kind = "a folder" if os.path.isdir(path) else "no such file"
        raise InputError(
            f"{option}={path}: {kind}; checkpoints are at RUN/checkpoints/best.ckpt and last.ckpt"
        )
    try:
        _verify(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # the file may contain anything
        if _could_run_code(path, error):
            raise InputError(
                f"{option}={path}: contains more than plain values, which could run code, so it "
                "was not loaded; use a checkpoint that `fit` wrote"
            ) from error
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{option}={path}: damaged or incomplete ({first[:120]}); train or copy it again"
        ) from error
    if not isinstance(checkpoint, dict) or not _is_ours(upgrade(checkpoint)):
        raise InputError(
            f"{option}={path}: not written by litpool; use a checkpoint that `fit` wrote"
        )
    if name := not_finite(checkpoint["state_dict"]):
        raise InputError(
            f"{option}={path}: {name} is not finite, because training diverged; "
            "use an earlier checkpoint"
        )
    return checkpoint


def network_weights(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the weights in a checkpoint under the names that the network gives them."""
    weights = checkpoint["state_dict"]
    return {name.removeprefix("network."): weight for name, weight in weights.items()}


def load_weights(network: TextModel, content: Mapping[str, Any], path: str | Path) -> None:
    """Load the weights of a checkpoint; those of a head that the task does not need are left out.

    Raises:
        InputError: They do not fit the network.
    """
    weights = network_weights(content)
    if not list(network.head.parameters()):
        weights = {name: part for name, part in weights.items() if not name.startswith("head.")}
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            f"ckpt_path={path}: its weights do not fit this network ({reason(error)}); "
            "leave out --model"
        ) from error


def _verify(path: str) -> None:
    """Compare all records of a file with their checksums, which torch does not look at.

    Raises:
        zipfile.BadZipFile: A record differs, or the file is no zip file.
    """
    with zipfile.ZipFile(path) as archive:
        if name := archive.testzip():
            raise zipfile.BadZipFile(f"the checksum of its record {name} is wrong")


def _could_run_code(path: str, error: Exception) -> bool:
    """Return whether a file that cannot be loaded is a whole pickle, in a zip or by itself."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as file:
                return isinstance(error, pickle.UnpicklingError) and file.testzip() is None
        with open(path, "rb") as content:
            return any(operation.name == "STOP" for operation, *_ in pickletools.genops(content))
    except Exception:  # neither; the file may contain anything
        return False


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
        raise InputError(f"ckpt_path: its encoder cannot be built ({reason(error)})") from error
