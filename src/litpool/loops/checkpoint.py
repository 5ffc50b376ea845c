"""What a checkpoint carries beside the weights, and how it is read: plain values, loaded with `weights_only=True`."""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PretrainedConfig

from litpool import InputError, __version__
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


def read(path: str) -> dict[str, Any]:
    """What `contents` wrote into a checkpoint.

    Raises:
        InputError: There is no such file, it is not whole, or it is not one of litpool's.
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
    if not isinstance(checkpoint, dict) or "litpool" not in checkpoint:
        raise InputError(f"ckpt_path={path}: not written by litpool; give a file that `fit` wrote")
    return checkpoint["litpool"]


def encoder_config(saved: Mapping[str, Any]) -> PretrainedConfig:
    """The encoder's config that a checkpoint holds."""
    fields = json.loads(saved["encoder"])
    return AutoConfig.for_model(fields.pop("model_type"), **fields)
