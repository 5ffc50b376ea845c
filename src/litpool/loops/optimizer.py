"""The recipe: which weights learn how fast, and how the learning rate moves. The loops share it."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import Any, Literal, get_args

import torch
from torch.optim import AdamW
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from litpool import InputError
from litpool.model.network import TextModel

SCHEDULE = Literal["linear", "cosine", "constant"]


@dataclass
class Recipe:
    """AdamW (Loshchilov and Hutter, 2019) with warmup, a schedule stepped at each optimizer step, and layer decay.

    Args:
        lr: Highest learning rate, of the top layer.
        weight_decay: Decoupled weight decay; biases and norms (all one-dimensional weights) have none.
        warmup: Steps in which the learning rate rises from 0: their number (1 or more), or a share of all (below 1).
        schedule: How it goes on: down to 0 in a line or a half cosine, or constant.
        layer_decay: Factor on the learning rate from each layer to the one below (ULMFiT, ELECTRA); 1 for none.
        head_lr_factor: Factor on the learning rate of pooling and head.
        betas: AdamW's decay rates of the gradient's and the squared gradient's means.
        eps: AdamW's term in the denominator.
    """

    lr: float = 5e-5
    weight_decay: float = 0.01
    warmup: float = 0.1
    schedule: SCHEDULE = "linear"
    layer_decay: float = 1.0
    head_lr_factor: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        allowed = {
            "lr": (0 < self.lr < inf, "a number over 0"),
            "weight_decay": (0 <= self.weight_decay < inf, "0 or more"),
            "warmup": (0 <= self.warmup < inf, "0 or more"),
            "schedule": (self.schedule in get_args(SCHEDULE), "linear, cosine or constant"),
            "layer_decay": (0 < self.layer_decay <= 1, "a number over 0 and at most 1"),
            "head_lr_factor": (0 < self.head_lr_factor < inf, "a number over 0"),
            "betas": (all(0 <= beta < 1 for beta in self.betas), "two numbers from 0 to below 1"),
            "eps": (0 < self.eps < inf, "a number over 0"),
        }
        for name, (fine, bound) in allowed.items():
            if not fine:
                raise InputError(f"model.recipe.{name}={getattr(self, name)}: give {bound}")


def parameter_groups(network: TextModel, recipe: Recipe) -> list[dict[str, Any]]:
    """The trained weights, grouped by learning rate and weight decay, for `torch.optim`."""
    rows = (
        network.encoder.word_embeddings if network.encoder.new_rows_only else None
    )  # decay would move the old ones
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for factor, parameter in _lr_factors(network, recipe):
        if parameter.requires_grad:
            decay = recipe.weight_decay if parameter.ndim > 1 and parameter is not rows else 0.0
            groups.setdefault((recipe.lr * factor, decay), []).append(parameter)
    if not groups:
        raise InputError("nothing is left to train: set model.encoder.freeze to less than all")
    return [
        {"params": weights, "lr": lr, "weight_decay": decay}
        for (lr, decay), weights in groups.items()
    ]


def _lr_factors(network: TextModel, recipe: Recipe) -> Iterator[tuple[float, torch.nn.Parameter]]:
    layers = network.encoder.layers()
    if recipe.layer_decay < 1 and not layers:
        kind = network.encoder.config.model_type
        raise InputError(
            f"model.recipe.layer_decay={recipe.layer_decay}: {kind}'s layers share weights; set it to 1"
        )
    depth = {
        id(weight): number
        for number, layer in enumerate(layers, start=1)
        for weight in layer.parameters()
    }
    for name, parameter in network.named_parameters():
        if name.startswith("encoder."):
            lowest = 0 if "embed" in name else len(layers)  # a pooler or a last norm stands on top
            yield recipe.layer_decay ** (len(layers) - depth.get(id(parameter), lowest)), parameter
        else:
            yield recipe.head_lr_factor, parameter


def configure(
    network: TextModel, recipe: Recipe, steps: int, fused: bool = True
) -> tuple[AdamW, LRScheduler]:
    """Optimizer and schedule for training over that many optimizer steps; the schedule is stepped after each.

    Args:
        network: Whose weights are trained.
        recipe: How.
        steps: Optimizer steps of the whole training.
        fused: Whether to take PyTorch's fused kernel, several times faster; it cannot clip float16's scaled gradients.
    """
    optimizer = AdamW(
        parameter_groups(network, recipe), betas=recipe.betas, eps=recipe.eps, fused=fused
    )
    warmup = round(recipe.warmup * steps) if recipe.warmup < 1 else int(recipe.warmup)
    name = "constant_with_warmup" if recipe.schedule == "constant" else recipe.schedule
    return optimizer, get_scheduler(
        name, optimizer, num_warmup_steps=warmup, num_training_steps=steps
    )
