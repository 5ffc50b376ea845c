"""What a checkpoint contributes to the command line: its path, and the config stored in it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from litpool import InputError


def stored_config(saved: Mapping[str, Any], command: str, trains: bool) -> dict[str, Any]:
    """Return the part of a checkpoint's config that a command uses.

    Args:
        saved: The job in the checkpoint.
        command: The command.
        trains: Whether it resumes the training, and so uses the trainer's flags as well.

    Raises:
        InputError: The config has no mapping where a job has one.
    """
    config = saved["config"]
    stored = selection(config, ["seed_everything", "task", "model", "data"])
    for key in ("encoder", "pooling", "recipe"):  # text would be the path of another config
        _check_mapping(f"model.{key}", config["model"].get(key, {}))
    if trains:
        flags = config.get("trainer", {})
        _check_mapping("trainer", flags)
        callbacks = [item for item in flags.get("callbacks") or [] if not _is_recorder(item)]
        stored["trainer"] = {**flags, "callbacks": callbacks or None}
    if command == "predict":  # its rows may have another format than the training files
        names = ["batch_size", "max_length", "prefix", "tokenizer"]
        stored["data"] = selection(config["data"], names)
    return stored


def selection(section: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Return the keys of a section that it has."""
    return {key: section[key] for key in keys if key in section}


def refuse_links(run: Path) -> None:
    """Refuse links in place of what a resumed run overwrites: the folder may be someone else's."""
    for name in ("config.yaml", "hparams.yaml", "metrics.json"):
        if (run / name).is_symlink():
            raise InputError(f"{run / name}: a symbolic link; remove it")


def _check_mapping(key: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise InputError(f"{key}={value}: a checkpoint must have a mapping here")


def _is_recorder(callback: Any) -> bool:
    """Return whether a callback is from `compare` of version 0.1.0; a resumed run does without."""
    return isinstance(callback, dict) and str(callback.get("class_path")).endswith("Recorder")


def paths_in(values: Sequence[str | None]) -> list[str]:
    """Return the paths in the values of an option; a value may be a list, such as `[a, b]`."""
    paths: list[str] = []
    for value in values:
        if value is None:
            continue
        parts = yaml.safe_load(value) if value.startswith("[") and value.endswith("]") else [value]
        paths += map(str, parts)
    return paths
