"""The recipe of all loops: which weights learn how fast, and how the learning rate changes."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import Any, Literal, get_args

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from litpool import InputError
from litpool.model.network import TextModel

Schedule = Literal["linear", "cosine", "constant"]


@dataclass
class Recipe:
    """AdamW (Loshchilov and Hutter, 2019) with warmup, a learning rate schedule and layer decay.

    Args:
        lr: The highest learning rate, that of the top layer.
        weight_decay: Decoupled weight decay. Biases and norms (all one-dimensional weights) have
            none.
        warmup: Steps in which the learning rate rises from 0: their number (1 or more), or a share
            of all steps (below 1).
        schedule: The learning rate after warmup: a line or a half cosine down to 0, or constant.
        layer_decay: Factor on the learning rate from each layer to the one below (ULMFiT, ELECTRA);
            1 for none.
        head_lr_factor: Factor on the learning rate of pooling and head.
        betas: AdamW's decay rates for the running means of the gradient and of its square.
        eps: AdamW's term in the denominator.
    """

    lr: float = 5e-5
    weight_decay: float = 0.01
    warmup: float = 0.1
    schedule: Schedule = "linear"
    layer_decay: float = 1.0
    head_lr_factor: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        rules = {
            "lr": (0 < self.lr < inf, "a number over 0"),
            "weight_decay": (0 <= self.weight_decay < inf, "0 or more"),
            "warmup": (0 <= self.warmup < inf, "0 or more"),
            "schedule": (self.schedule in get_args(Schedule), "linear, cosine or constant"),
            "layer_decay": (0 < self.layer_decay <= 1, "a number over 0 and at most 1"),
            "head_lr_factor": (0 < self.head_lr_factor < inf, "a number over 0"),
            "betas": (all(0 <= beta < 1 for beta in self.betas), "two numbers from 0 to below 1"),
            "eps": (0 < self.eps < inf, "a number over 0"),
        }
        for name, (valid, allowed) in rules.items():
            if not valid:
                raise InputError(f"model.recipe.{name}={getattr(self, name)}: give {allowed}")


def parameter_groups(network: TextModel, recipe: Recipe) -> list[dict[str, Any]]:
    """Group the trained weights by learning rate and weight decay, for `torch.optim`."""
    encoder = network.encoder
    # If only the embeddings of new tokens are trained, decay would change the others as well.
    embeddings = encoder.word_embeddings if encoder.new_rows_only else None
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for factor, weight in _lr_factors(network, recipe):
        if weight.requires_grad:
            decays = weight.ndim > 1 and weight is not embeddings
            settings = (recipe.lr * factor, recipe.weight_decay if decays else 0.0)
            groups.setdefault(settings, []).append(weight)
    if not groups:
        raise InputError("nothing is left to train: set model.encoder.freeze to less than all")
    return [
        {"params": weights, "lr": lr, "weight_decay": decay}
        for (lr, decay), weights in groups.items()
    ]


def _lr_factors(network: TextModel, recipe: Recipe) -> Iterator[tuple[float, nn.Parameter]]:
    """Yield every weight with its factor on the learning rate."""
    layers = network.encoder.layers()
    if recipe.layer_decay < 1 and not layers:
        kind = network.encoder.config.model_type
        raise InputError(
            f"model.recipe.layer_decay={recipe.layer_decay}: {kind}'s layers share weights; "
            "set it to 1"
        )
    depths = {
        weight: depth
        for depth, layer in enumerate(layers, start=1)
        for weight in layer.parameters()
    }
    for name, weight in network.named_parameters():
        if name.startswith("encoder."):
            outside = 0 if "embed" in name else len(layers)  # a pooler or a last norm is on top
            depth = depths.get(weight, outside)
            yield recipe.layer_decay ** (len(layers) - depth), weight
        else:
            yield recipe.head_lr_factor, weight


def configure(
    network: TextModel, recipe: Recipe, steps: int, fused: bool = True
) -> tuple[AdamW, LRScheduler]:
    """Create the optimizer, and the schedule to step after each optimizer step.

    Args:
        network: The network to train.
        recipe: The settings.
        steps: The optimizer steps of the whole training run.
        fused: Whether to use PyTorch's fused kernel. It is several times faster, but cannot clip
            the scaled gradients of float16.
    """
    groups = parameter_groups(network, recipe)
    optimizer = AdamW(groups, betas=recipe.betas, eps=recipe.eps, fused=fused)
    warmup = round(recipe.warmup * steps) if recipe.warmup < 1 else int(recipe.warmup)
    name = "constant_with_warmup" if recipe.schedule == "constant" else recipe.schedule
    schedule = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=steps)
    return optimizer, schedule
