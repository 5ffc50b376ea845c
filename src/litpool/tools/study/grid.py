"""The grid of a frozen study: each pooling without weights, at each layer it can pool."""

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from litpool import InputError
from litpool.model.encoder import Encoder, EncoderOptions
from litpool.model.network import TOKEN_INPUTS
from litpool.model.pooling import MeanPooling, Pooling, plain_settings

PoolingFactory = Callable[[int, int], Pooling]  # of the hidden size and the number of layers

STATIC = "static embeddings, mean"


class Cell(NamedTuple):
    """One pooling, applied to one layer."""

    pooling: str
    layer: int | None  # 0: embeddings, L: last layer; None: several layers, or the pooler output
    module: Pooling
    static: bool = False  # pools the bare word embeddings, without positions and norm: a baseline

    @property
    def name(self) -> str:
        """The name in the verdict, such as `MeanPooling of layer 6`."""
        return self.pooling if self.layer is None else f"{self.pooling} of layer {self.layer}"


def list_cells(
    encoder: Encoder, has_pooler: bool, extra_poolings: Sequence[PoolingFactory]
) -> list[Cell]:
    """List all cells, each once; the mean of the static embeddings comes last.

    Args:
        encoder: Its config and its word embeddings give the sizes.
        has_pooler: Whether the encoder returns a pooler output.
        extra_poolings: Poolings to study besides those of `list_poolings`; they come first.
    """
    hidden_size, num_layers = encoder.config.hidden_size, encoder.config.num_hidden_layers
    poolings = [make(hidden_size, num_layers) for make in extra_poolings]
    for pooling in list_poolings(hidden_size, num_layers):
        if has_pooler or not pooling.needs_pooler_output:
            poolings.append(pooling)
    cells = [
        Cell(name, layer, pooling)
        for name, pooling in {pooling.describe(): pooling for pooling in poolings}.items()
        for layer in (range(num_layers + 1) if pooling.pools_one_layer else [None])
    ]
    embeddings = encoder.model.get_input_embeddings()
    assert isinstance(embeddings, nn.Embedding)
    static = MeanPooling(embeddings.embedding_dim, 0, special_tokens=False)
    return [*cells, Cell(STATIC, None, static, static=True)]


def list_poolings(hidden_size: int, num_layers: int) -> list[Pooling]:
    """List every pooling that has no weights and needs no arguments.

    These are litpool's own, and those in the user's modules that have been imported. Poolings of
    one layer come first; each group is in the order of definition.
    """
    poolings = []
    with torch.random.fork_rng(devices=[]):  # drawing weights only to reject them changes no result
        for kind in _concrete_classes(Pooling):
            for arguments in kind.variants(num_layers):
                pooling = _build(kind, hidden_size, num_layers, arguments)
                if pooling is not None and not pooling.has_weights:
                    poolings.append(pooling)
    return sorted(poolings, key=lambda pooling: not pooling.pools_one_layer)


def _build(
    kind: type[Pooling], hidden_size: int, num_layers: int, arguments: dict[str, Any]
) -> Pooling | None:
    """Build a pooling; return None if it needs other arguments or raises InputError."""
    try:
        # A check of its own, so that a TypeError inside the class is not swallowed.
        inspect.signature(kind).bind(hidden_size, num_layers, **arguments)
    except TypeError:
        return None
    try:
        return kind(hidden_size, num_layers, **arguments)
    except InputError:
        return None


def _concrete_classes(base: type[Any]) -> Iterator[type[Pooling]]:
    for kind in base.__subclasses__():
        # Only what a config could name: no local classes, and none that a reload has replaced.
        module = sys.modules.get(kind.__module__)
        importable = getattr(module, kind.__name__, None) is kind
        if importable and not inspect.isabstract(kind):
            yield kind
        yield from _concrete_classes(kind)


def settings(pooling: nn.Module) -> list[Any]:
    """List what its vectors depend on: for each of its modules the class, settings and code."""
    facts: list[Any] = []
    for module in pooling.modules():
        kind: type = type(module)
        facts.append([kind.__qualname__, plain_settings(module), _code(kind)])
    return facts


@cache
def _code(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):  # the class is not defined in a file
        return ""


def build_unloaded(poolings: Sequence[PoolingFactory], config: PretrainedConfig) -> list[Pooling]:
    """Build poolings without memory for weights: enough to ask them what they are."""
    with torch.device("meta"):
        return [make(config.hidden_size, config.num_hidden_layers) for make in poolings]


def check_poolings(
    factories: Sequence[PoolingFactory], options: EncoderOptions, config: PretrainedConfig
) -> None:
    """Refuse poolings that have weights or that this encoder lacks, before any weights are loaded.

    Raises:
        InputError: A pooling has weights, or needs a pooler output and the encoder has none.
    """
    poolings = build_unloaded(factories, config)
    for pooling in poolings:
        if pooling.has_weights:
            raise InputError(
                f"study.poolings: {pooling.describe()} has weights, and the frozen arm "
                "trains nothing; move it to study.tuned and add finetuned to study.arms"
            )
    check_pooler(poolings, options, config)


def check_pooler(
    poolings: Sequence[Pooling], options: EncoderOptions, config: PretrainedConfig
) -> None:
    """Refuse a pooling of the pooler output if the encoder has none.

    Raises:
        InputError: The encoder has no pooler.
    """
    if any(pooling.needs_pooler_output for pooling in poolings):
        with torch.device("meta"):
            Encoder(options, config, pretrained=False, pooler=True)


def pool(cells: Sequence[Cell], encoder: Encoder, batch: Mapping[str, Tensor]) -> list[Tensor]:
    """Compute the vectors of a batch for each cell.

    Args:
        cells: Which poolings of which layers.
        encoder: An encoder that returns all layers.
        batch: Texts, (B, T) or (B, K, T), on the encoder's device.

    Returns:
        One tensor per cell, (B, K, d); K is 1 if a row has one text.
    """
    texts = {key: batch[key].flatten(0, -2) for key in TOKEN_INPUTS if key in batch}  # (B * K, T)
    hidden_states, pooler_output = encoder(texts)  # each (B * K, T, D)
    masks = (texts["attention_mask"], texts.get("special_tokens_mask"))
    word_embeddings = encoder.model.get_input_embeddings()(texts["input_ids"])
    vectors = []
    for cell in cells:
        if cell.static:
            layers = (word_embeddings,)
        elif cell.layer is None:
            layers = hidden_states
        else:
            layers = (hidden_states[cell.layer],)
        pooled = cell.module(layers, *masks, pooler_output, texts["input_ids"])
        vectors.append(pooled.unflatten(0, (len(batch["input_ids"]), -1)))
    return vectors
