"""An encoder's weights, loaded from files or random, and what can be wrong with them."""

import pickle
from typing import Any

import transformers
from safetensors import SafetensorError
from transformers import PretrainedConfig

from litpool import InputError, reason
from litpool.demo.encoder import locate

# Unusable files, and configs that transformers does not check before it builds the model.
BUILD_ERRORS = (
    OSError, ValueError, RuntimeError, EOFError, SafetensorError, pickle.UnpicklingError, KeyError,
    AssertionError,
)  # fmt: skip


def build(
    name: str | None, config: PretrainedConfig, arguments: dict[str, Any]
) -> tuple["transformers.PreTrainedModel", dict[str, list[str]]]:
    """Return the model and the weights that are missing from its files or that it does not use.

    Without a name, the weights are random.
    """
    arguments = {**arguments, "config": config, "trust_remote_code": False}
    try:
        if name is None:
            model = transformers.AutoModel.from_config(**arguments)
            return model, {"missing_keys": [], "unexpected_keys": []}
        model, info = transformers.AutoModel.from_pretrained(
            locate(name), output_loading_info=True, **arguments
        )
    except BUILD_ERRORS as error:
        problem = "model.encoder: cannot be built"
        if name:
            problem = f"model.encoder.name={name}: its weights cannot be loaded"
        raise InputError(
            f"{problem} ({reason(error)}); check the files and model.encoder.overrides"
        ) from error
    loading = {key: sorted(info[key]) for key in ("missing_keys", "unexpected_keys")}
    missing = [key for key in loading["missing_keys"] if not key.startswith("pooler.")]
    if missing:
        raise InputError(
            f"model.encoder.name={name}: {len(missing)} weights are not in its files, such as "
            f"{missing[0]}, and would be random; use a complete encoder, and no overrides that "
            "add layers"
        )
    return model, loading


def check_pooler(model: "transformers.PreTrainedModel", missing: list[str]) -> None:
    """Refuse a model without a pooler, or with one whose weights are missing from the files."""
    if getattr(model, "pooler", None) is None:
        raise InputError(
            f"PoolerOutput: {model.config.model_type} has no pooler; use ClsPooling or MeanPooling"
        )
    if missing:
        raise InputError(
            "PoolerOutput: these weights have no pooler, so it would start at random; "
            "use ClsPooling or MeanPooling"
        )
