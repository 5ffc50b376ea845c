"""Whether encoder, pooling and task fit together, checked before data or weights are read."""

import torch
from transformers import PretrainedConfig

from litpool import InputError
from litpool.model.encoder import Encoder, EncoderOptions, max_length
from litpool.model.pooling import MeanPooling, Pooling
from litpool.tasks.task import Task

SHORTENING = ("canine", "funnel", "perceiver")


def check_compatibility(
    task: Task, pooling: Pooling, options: EncoderOptions, config: PretrainedConfig, length: int
) -> None:
    """Refuse what the encoder does not support; this builds nothing but on the meta device.

    Args:
        task: The task.
        pooling: The pooling, on the meta device.
        options: Which encoder, and how it starts.
        config: The config of that encoder.
        length: How many tokens of a text to keep.

    Raises:
        InputError: Texts may be too long for the encoder, or it does not support the pooling or
            the freezing.
    """
    if config.model_type in SHORTENING:
        raise InputError(
            f"model.encoder.name={options.name}: {config.model_type} merges tokens on the way, so "
            "its layers have states of different lengths; use an encoder such as BERT"
        )
    limit = max_length(config) or length
    if not 3 <= length <= limit:
        raise InputError(f"data.max_length={length}: this encoder accepts 3 to {limit} tokens")
    if task.on_tokens and type(pooling) is not MeanPooling:  # the default, which is not used either
        raise InputError(
            f"model.pooling={type(pooling).__name__}: {type(task).__name__} works on tokens and "
            "uses no pooling; leave it out"
        )
    with torch.device("meta"):
        Encoder(options, config, pretrained=False, pooler=pooling.needs_pooler_output)
