"""An encoder's weights: loaded from files or random, and what can be wrong with them."""

import pickle
from typing import Any

import transformers  # whose classes load when they are asked for, and the models' are slow
from safetensors import SafetensorError
from transformers import PretrainedConfig

from litpool import InputError
from litpool.demo.encoder import locate

BUILD_ERRORS = (  # of files that are no use, and of configs that transformers does not check before it builds
    OSError, ValueError, RuntimeError, EOFError, SafetensorError, pickle.UnpicklingError, KeyError, AssertionError,
)  # fmt: skip


def build(
    name: str | None, config: PretrainedConfig, arguments: dict[str, Any]
) -> tuple["transformers.PreTrainedModel", dict[str, list[str]]]:
    """The model, with random weights if there is no name; which weights the files lack, and which the model."""
    try:
        if name is None:
            return transformers.AutoModel.from_config(
                config, trust_remote_code=False, **arguments
            ), {
                "missing_keys": [],
                "unexpected_keys": [],
            }
        model, info = transformers.AutoModel.from_pretrained(
            locate(name),
            config=config,
            output_loading_info=True,
            trust_remote_code=False,
            **arguments,
        )
    except BUILD_ERRORS as error:
        where = (
            f"model.encoder.name={name}: its weights cannot be loaded"
            if name
            else "model.encoder: cannot be built"
        )
        raise InputError(
            f"{where} ({reason(error)}); check the files and model.encoder.overrides"
        ) from error
    loading = {key: sorted(info[key]) for key in ("missing_keys", "unexpected_keys")}
    if missing := [key for key in loading["missing_keys"] if not key.startswith("pooler.")]:
        raise InputError(
            f"model.encoder.name={name}: {len(missing)} weights are not in its files, such as {missing[0]}, and would "
            "be random; take the folder of a whole encoder, and no overrides that add layers"
        )
    return model, loading


def reason(error: Exception) -> str:
    """What a library says about an error, in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def check_pooler(model: "transformers.PreTrainedModel", missing: list[str]) -> None:
    """Refuse a model without a pooler, or with one whose weights were missing from the files."""
    if getattr(model, "pooler", None) is None:
        raise InputError(
            f"PoolerOutput: {model.config.model_type} has no pooler; use ClsPooling or MeanPooling"
        )
    if missing:
        raise InputError(
            "PoolerOutput: these weights have no pooler, so it would start at random; use ClsPooling or MeanPooling"
        )
