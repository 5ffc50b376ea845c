"""Which weights learn how fast, and how the learning rate changes."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from litpool import InputError
from litpool.loops.optimizer import Recipe, configure, parameter_groups
from litpool.model.network import TextModel
from litpool.model.pooling import (
    AttentionPooling,
    ConcatPooling,
    LayerMixPooling,
    MeanPooling,
    PoolerOutput,
)

Build = Callable[..., TextModel]

EVERYTHING = partial(ConcatPooling, poolings=[LayerMixPooling, AttentionPooling, PoolerOutput])


def settings(network: TextModel, recipe: Recipe) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of each weight that is in a group; fails if one is in two."""
    names = {id(weight): name for name, weight in network.named_parameters()}
    by_name: dict[str, tuple[float, float]] = {}
    for group in parameter_groups(network, recipe):
        for weight in group["params"]:
            assert names[id(weight)] not in by_name
            by_name[names[id(weight)]] = (group["lr"], group["weight_decay"])
    return by_name


def rates(recipe: Recipe, network: TextModel, steps: int) -> list[float]:
    """The head's learning rate in each of the steps, and after them."""
    optimizer, schedule = configure(network, recipe, steps)
    values = []
    for _ in range(steps):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return [*values, optimizer.param_groups[0]["lr"]]


# ---- groups


@pytest.mark.parametrize("freeze", ["none", "embeddings", 1, "all"])
def test_each_trained_weight_is_in_one_group_and_no_frozen_one(
    freeze: int | str, build: Build
) -> None:
    network = build(EVERYTHING, freeze=freeze)
    trained = {name for name, weight in network.named_parameters() if weight.requires_grad}
    assert set(settings(network, Recipe(layer_decay=0.9, head_lr_factor=2.0))) == trained
    assert set(settings(network, Recipe())) == trained


@pytest.mark.parametrize("kind", ["bert", "modernbert", "deberta-v2"])
def test_biases_and_norms_have_no_weight_decay(kind: str, build: Build) -> None:
    groups = settings(build(AttentionPooling, kind), Recipe(weight_decay=0.1))
    for name, (_, decay) in groups.items():
        plain = name.endswith("bias") or "norm" in name.lower()
        assert decay == (0.0 if plain else 0.1), name
    assert {decay for _, decay in groups.values()} == {0.0, 0.1}


def test_without_layer_decay_there_are_two_groups(build: Build) -> None:
    groups = parameter_groups(build(), Recipe(lr=1e-3, weight_decay=0.1))
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(1e-3, 0.1), (1e-3, 0.0)]


@pytest.mark.parametrize(
    ("kind", "layer"),
    [
        ("bert", "encoder.layer"),
        ("distilbert", "transformer.layer"),
        ("modernbert", "layers"),
        ("electra", "encoder.layer"),
    ],
)
def test_layer_decay_by_hand(kind: str, layer: str, build: Build) -> None:
    groups = settings(
        build(AttentionPooling, kind), Recipe(lr=1.0, layer_decay=0.5, head_lr_factor=10.0)
    )
    expected = {
        "encoder.model.embeddings": 0.25,
        f"encoder.model.{layer}.0.": 0.5,
        f"encoder.model.{layer}.1.": 1.0,
        "encoder.model.final_norm": 1.0,  # ModernBERT's, on top of all layers
        "pooling.": 10.0,
        "head.": 10.0,
    }
    for name, (rate, _) in groups.items():
        (prefix,) = (prefix for prefix in expected if name.startswith(prefix))
        assert rate == pytest.approx(expected[prefix]), name
    assert {rate for rate, _ in groups.values()} == {0.25, 0.5, 1.0, 10.0}


def test_the_pooler_learns_as_fast_as_the_top_layer(build: Build) -> None:
    groups = settings(build(PoolerOutput), Recipe(lr=1.0, layer_decay=0.5))
    assert groups["encoder.model.pooler.dense.weight"][0] == 1.0


def test_embeddings_of_another_name_are_the_lowest_layer(build: Build) -> None:
    groups = settings(
        build(MeanPooling, "eurobert", num_key_value_heads=4), Recipe(lr=1.0, layer_decay=0.5)
    )
    assert groups["encoder.model.embed_tokens.weight"][0] == 0.25


def test_layer_decay_needs_layers_of_their_own(build: Build) -> None:
    network = build(MeanPooling, "albert")
    assert len(parameter_groups(network, Recipe())) == 2
    with pytest.raises(InputError, match=r"layer_decay=0\.9: albert's layers share weights"):
        parameter_groups(network, Recipe(layer_decay=0.9))


def test_with_the_encoder_frozen_the_head_is_trained(build: Build) -> None:
    assert set(settings(build(freeze="all"), Recipe())) == {"head.1.weight", "head.1.bias"}


def test_nothing_to_train_is_refused(build: Build) -> None:
    network = build().requires_grad_(False)
    with pytest.raises(InputError, match="nothing is left to train"):
        parameter_groups(network, Recipe())


# ---- the optimizer


def test_the_optimizer_is_adamw_as_the_recipe_says(build: Build) -> None:
    optimizer, _ = configure(
        build(), Recipe(lr=1e-3, warmup=0, betas=(0.8, 0.95), eps=1e-6), steps=10
    )
    assert isinstance(optimizer, torch.optim.AdamW)
    for group in optimizer.param_groups:
        assert (group["lr"], group["betas"], group["eps"]) == (1e-3, (0.8, 0.95), 1e-6)


@pytest.mark.parametrize("fused", [True, False])
def test_the_first_step_by_hand(fused: bool, build: Build) -> None:
    network = build(freeze="all")
    weight, bias = (network.get_parameter(f"head.1.{name}") for name in ("weight", "bias"))
    before = weight.detach().clone()
    optimizer, _ = configure(
        network, Recipe(lr=0.1, weight_decay=0.5, warmup=0, schedule="constant"), 10, fused
    )
    weight.grad, bias.grad = torch.full_like(weight, 3.0), torch.full_like(bias, -2.0)
    optimizer.step()
    # Adam's first step is the sign of the gradient; the bias does not decay
    torch.testing.assert_close(weight, before * (1 - 0.1 * 0.5) - 0.1)
    torch.testing.assert_close(bias, torch.full_like(bias, 0.1))


# ---- the schedule


@pytest.mark.parametrize("warmup", [0.2, 4])
def test_linear_rises_from_0_and_falls_to_0(warmup: float, build: Build) -> None:
    lr = rates(Recipe(lr=1.0, warmup=warmup), build(), 20)
    assert lr == pytest.approx([n / 4 for n in range(4)] + [(20 - n) / 16 for n in range(4, 21)])


def test_cosine_by_hand(build: Build) -> None:
    lr = rates(Recipe(lr=2.0, warmup=0.2, schedule="cosine"), build(), 20)
    assert lr[:5] == pytest.approx([0, 0.5, 1, 1.5, 2])
    assert lr[12] == pytest.approx(1)  # half-way between 4 and 20
    assert lr[8] == pytest.approx(1 + math.cos(math.pi / 4))
    assert lr[20] == pytest.approx(0)


def test_constant_stays_after_the_warmup(build: Build) -> None:
    assert rates(Recipe(lr=1.0, warmup=2, schedule="constant"), build(), 6) == pytest.approx(
        [0, 0.5, 1, 1, 1, 1, 1]
    )


def test_without_warmup_the_first_step_has_the_full_rate(build: Build) -> None:
    assert rates(Recipe(lr=1.0, warmup=0), build(), 4) == pytest.approx([1, 0.75, 0.5, 0.25, 0])


@pytest.mark.parametrize(
    ("warmup", "peak"), [(0.1, 1), (0.5, 5), (0.99, 10), (1, 1), (1.0, 1), (7, 7)]
)
def test_warmup_is_a_share_below_1_and_a_number_of_steps_from_1(
    warmup: float, peak: int, build: Build
) -> None:
    lr = rates(Recipe(lr=1.0, warmup=warmup), build(), 10)
    assert lr.index(max(lr)) == min(peak, 9 if warmup == 0.99 else peak)
    assert lr[0] == 0


def test_layers_keep_their_distance_all_along(build: Build) -> None:
    optimizer, schedule = configure(build(), Recipe(lr=1.0, layer_decay=0.5, warmup=0.5), 8)
    for step in range(8):
        rates = sorted({group["lr"] for group in optimizer.param_groups})
        assert rates == pytest.approx(
            [top * max(rates) for top in ([0.25, 0.5, 1.0] if step else [0.0])]
        )
        optimizer.step()
        schedule.step()


# ---- what cannot be


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("lr", value) for value in (0, -1e-5, math.nan, math.inf)],
        *[("weight_decay", value) for value in (-0.1, math.nan, math.inf)],
        *[("warmup", value) for value in (-0.1, math.nan, math.inf)],
        *[("layer_decay", value) for value in (0, 1.1, -0.5, math.nan)],
        *[("head_lr_factor", value) for value in (0, -1, math.nan)],
        *[("betas", value) for value in ((0.9, 1.0), (-0.1, 0.9))],
        *[("eps", value) for value in (0, -1e-8)],
        ("schedule", "polynomial"),
    ],
)
def test_a_value_out_of_bounds_is_named(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"^model\.recipe\.{name}=") as error:
        Recipe(**{name: value})
    assert str(value) in str(error.value)
    assert "\n" not in str(error.value)


def test_values_at_the_bounds_are_allowed() -> None:
    Recipe(weight_decay=0, warmup=0, layer_decay=1, betas=(0.0, 0.0))
