"""The network end to end: every pooling gives vectors, and each trained weight a gradient."""

import inspect
from collections.abc import Callable
from functools import partial

import pytest
import torch
from architectures import KINDS
from datasets import Dataset
from torch import Tensor
from transformers import PretrainedConfig

from litpool import InputError
from litpool.model import pooling as poolings
from litpool.model.encoder import EncoderOptions
from litpool.model.markers import MarkerPooling
from litpool.model.network import TextModel
from litpool.model.pooling import (
    AttentionPooling,
    ClsPooling,
    ConcatPooling,
    FirstLastPooling,
    LastNPooling,
    LayerMixPooling,
    MaxPooling,
    MeanPooling,
    PoolerOutput,
    Pooling,
)
from litpool.tasks.classification import Classification
from litpool.tasks.multilabel import MultiLabelClassification
from litpool.tasks.task import Task

Batch = dict[str, Tensor]
Build = Callable[..., TextModel]
Tiny = Callable[..., tuple[EncoderOptions, PretrainedConfig]]

# Arguments for the poolings that need some, at least on two layers.
ARGUMENTS = {
    "LastNPooling": [partial(LastNPooling, n=1), partial(LastNPooling, n=3)],
    "ConcatPooling": [
        partial(ConcatPooling, poolings=[MeanPooling, MaxPooling, FirstLastPooling, PoolerOutput])
    ],
    "AttentionPooling": [AttentionPooling, partial(AttentionPooling, heads=4)],
    "LayerMixPooling": [LayerMixPooling, partial(LayerMixPooling, pooling=AttentionPooling)],
    "MeanPooling": [MeanPooling, partial(MeanPooling, special_tokens=False)],
}
CLASSES = [
    member
    for _, member in inspect.getmembers(poolings, inspect.isclass)
    if issubclass(member, Pooling) and member is not Pooling
]
POOLINGS = [pooling for member in CLASSES for pooling in ARGUMENTS.get(member.__name__, [member])]
NAMES = [str(getattr(pooling, "func", pooling).__name__) for pooling in POOLINGS]


@pytest.mark.parametrize("pooling", POOLINGS, ids=NAMES)
def test_every_pooling_gives_a_vector_and_logits(
    pooling: Callable[..., Pooling], build: Build, batch: Batch
) -> None:
    network = build(pooling).eval()
    pooled = network.embed(batch)
    assert pooled.shape == (3, network.pooling.out_features)
    assert pooled.isfinite().all()
    assert network.head[-1].in_features == network.pooling.out_features
    assert torch.equal(network(batch), network.head(pooled))
    assert network(batch).shape == (3, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_every_architecture_goes_through_every_pooling(
    kind: str, build: Build, batch: Batch
) -> None:
    pooler = kind in ("bert", "roberta", "albert", "mpnet", "xlm-roberta")
    parts = [MeanPooling, MaxPooling, FirstLastPooling, *([PoolerOutput] if pooler else [])]
    for pooling in [*POOLINGS, partial(MarkerPooling, markers=["[S1]", "[S2]"])]:
        if getattr(pooling, "func", pooling) is ConcatPooling:
            pooling = partial(ConcatPooling, poolings=parts)
        if pooling is PoolerOutput and not pooler:
            with pytest.raises(InputError, match=f"{kind} has no pooler"):
                build(pooling, kind)
            continue
        network = build(pooling, kind)
        for marker in network.pooling.modules():
            if isinstance(marker, MarkerPooling):
                marker.ids.copy_(torch.tensor([10, 3]))
        loss = torch.nn.functional.cross_entropy(network(batch), batch["labels"])
        loss.backward()
        assert loss.isfinite()
        assert all(
            weight.grad is None or weight.grad.isfinite().all() for weight in network.parameters()
        )
        assert network.encoder.word_embeddings.grad is not None
        pooled = network.eval().embed(batch)
        alone = network.embed({key: batch[key][1:2, :5] for key in batch if key != "labels"})
        assert pooled.shape == (3, network.pooling.out_features)
        torch.testing.assert_close(pooled[1:2], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS, ids=NAMES)
def test_every_trained_weight_gets_a_finite_gradient(
    pooling: Callable[..., Pooling], build: Build, batch: Batch
) -> None:
    network = build(pooling)
    torch.nn.functional.cross_entropy(network(batch), batch["labels"]).backward()
    without = [name for name, weight in network.named_parameters() if weight.grad is None]
    assert not without  # DistributedDataParallel waits for each of them
    assert all(
        weight.grad is not None and weight.grad.isfinite().all() for weight in network.parameters()
    )


@pytest.mark.parametrize("freeze", ["none", "embeddings", 1, "all"])
@pytest.mark.parametrize(
    "kind", ["bert", "roberta", "distilbert", "electra", "mpnet", "deberta-v2", "modernbert"]
)
def test_the_trained_weights_of_each_architecture_get_a_gradient_and_the_frozen_ones_none(
    kind: str, freeze: int | str, build: Build, batch: Batch
) -> None:
    network = build(MeanPooling, kind, freeze=freeze)
    torch.nn.functional.cross_entropy(network(batch), batch["labels"]).backward()
    for name, weight in network.named_parameters():
        assert (weight.grad is not None) == weight.requires_grad, name


def test_albert_has_no_weight_without_a_gradient(build: Build, batch: Batch) -> None:
    network = build(MeanPooling, "albert")
    torch.nn.functional.cross_entropy(network(batch), batch["labels"]).backward()
    assert [name for name, weight in network.named_parameters() if weight.grad is None] == []


@pytest.mark.parametrize(
    ("pooling", "wanted"),
    [
        (MeanPooling, False),
        (FirstLastPooling, False),
        (PoolerOutput, True),
        (partial(ConcatPooling, poolings=[ClsPooling, PoolerOutput]), True),
    ],
    ids=["MeanPooling", "FirstLastPooling", "PoolerOutput", "ConcatPooling with PoolerOutput"],
)
def test_the_pooler_is_there_only_for_poolings_of_it(
    pooling: Callable[..., Pooling], wanted: bool, build: Build
) -> None:
    names = [name for name, _ in build(pooling).named_parameters() if "pooler" in name]
    assert bool(names) == wanted


def test_all_layers_are_asked_for_only_where_they_are_needed(build: Build) -> None:
    assert not build(MeanPooling).encoder.all_layers
    assert build(FirstLastPooling).encoder.all_layers
    assert build(
        partial(ConcatPooling, poolings=[MeanPooling, FirstLastPooling])
    ).encoder.all_layers


def test_a_pooler_output_without_pooler_is_refused_when_the_network_is_built(build: Build) -> None:
    with pytest.raises(InputError, match="distilbert has no pooler"):
        build(PoolerOutput, "distilbert")


def test_mean_pooling_is_the_mean_of_the_last_states(build: Build, batch: Batch) -> None:
    network = build(MeanPooling).eval()
    (states,), _ = network.encoder(batch)
    expected = torch.stack([states[0].mean(0), states[1, :5].mean(0), states[2, :3].mean(0)])
    torch.testing.assert_close(network.embed(batch), expected)


def test_special_tokens_are_known_to_the_pooling(build: Build, batch: Batch) -> None:
    network = build(partial(MeanPooling, special_tokens=False)).eval()
    (states,), _ = network.encoder(batch)
    expected = torch.stack([states[0, 1:8].mean(0), states[1, 1:4].mean(0), states[2, 1]])
    torch.testing.assert_close(network.embed(batch), expected)


def test_the_head_is_the_tasks(build: Build, batch: Batch) -> None:
    task: Task = MultiLabelClassification(label="label", dropout=0.25)
    task.learn({"train": Dataset.from_dict({"label": [["a"], ["b", "c"]]})})
    network = build(task=task)
    assert network(batch).shape == (3, 3)
    assert network.head[0].p == 0.25


def test_pooling_and_head_start_the_same_whatever_the_encoder(tiny: Tiny) -> None:
    task = Classification()
    task.learn({"train": Dataset.from_dict({"label": [0, 1]})})
    heads = []
    for kind in ("bert", "distilbert"):
        torch.manual_seed(7)
        heads.append(TextModel(task, AttentionPooling, *tiny(kind), pretrained=False))
    assert torch.equal(heads[0].pooling.query, heads[1].pooling.query)
    assert torch.equal(heads[0].head[-1].weight, heads[1].head[-1].weight)


def test_the_same_seed_builds_the_same_network(build: Build, batch: Batch) -> None:
    assert torch.equal(build().eval()(batch), build().eval()(batch))


def test_a_fresh_head_is_undecided(build: Build, batch: Batch) -> None:
    assert (build().eval()(batch).softmax(-1) - 0.5).abs().max() < 0.2
