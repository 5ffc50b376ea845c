"""What a frozen study covers: each pooling without weights, at every layer where that applies."""

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

Make = Callable[[int, int], Pooling]

STATIC = "static embeddings, mean"


class Cell(NamedTuple):
    """A pooling of a layer."""

    pooling: str
    layer: int | None  # 0 the embeddings, L the last; None: several layers, or the pooler output
    module: Pooling
    static: bool = False  # of the word embeddings alone, without positions and norm: a baseline

    @property
    def name(self) -> str:
        """What the verdict calls it."""
        return self.pooling if self.layer is None else f"{self.pooling} of layer {self.layer}"


def list_cells(encoder: Encoder, pooler: bool, asked: Sequence[Make]) -> list[Cell]:
    """List all cells, each once; the mean of the static embeddings comes last.

    Args:
        encoder: Its config and its word embeddings give the sizes.
        pooler: Whether it gives a pooler output.
        asked: Poolings to study besides those that `list_poolings` finds; they come first.
    """
    size, layers = encoder.config.hidden_size, encoder.config.num_hidden_layers
    found = [
        pooling
        for pooling in list_poolings(size, layers)
        if pooler or not pooling.needs_pooler_output
    ]
    wanted = [make(size, layers) for make in asked]
    modules = {module.describe(): module for module in [*wanted, *found]}
    cells = [
        Cell(name, layer, module)
        for name, module in modules.items()
        for layer in (range(layers + 1) if module.pools_one_layer else [None])
    ]
    words = encoder.model.get_input_embeddings()
    assert isinstance(words, nn.Embedding)
    static = MeanPooling(words.embedding_dim, 0, special_tokens=False)
    return [*cells, Cell(STATIC, None, static, static=True)]


def list_poolings(hidden_size: int, num_layers: int) -> list[Pooling]:
    """List every pooling that a study can try unasked: no weights, and no arguments to choose.

    These are litpool's own, and those of the user's modules that have been imported. The poolings
    of one layer come first, each group in the order of definition.
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
    """Build a pooling; None if it needs other arguments, or refuses this encoder (InputError)."""
    try:
        # Checked apart from the call, so that a TypeError inside the class is not swallowed.
        inspect.signature(kind).bind(hidden_size, num_layers, **arguments)
    except TypeError:
        return None
    try:
        return kind(hidden_size, num_layers, **arguments)
    except InputError:
        return None


def _concrete_classes(base: type[Any]) -> Iterator[type[Pooling]]:
    for kind in base.__subclasses__():
        # Only what a config could name: neither local classes nor those of a module since reloaded.
        module = sys.modules.get(kind.__module__)
        importable = getattr(module, kind.__name__, None) is kind
        if importable and not inspect.isabstract(kind):
            yield kind
        yield from _concrete_classes(kind)


def settings(pooling: nn.Module) -> list[Any]:
    """What sets a pooling's vectors apart: for each of its modules the class, settings and code."""
    found: list[Any] = []
    for part in pooling.modules():
        code = _code(type(part))  # type: ignore[arg-type]  # mypy takes the class for unhashable
        found.append([type(part).__qualname__, plain_settings(part), code])
    return found


@cache
def _code(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):  # not from a file
        return ""


def check_asked(asked: Sequence[Make], options: EncoderOptions, config: PretrainedConfig) -> None:
    """Refuse poolings that must learn or that this encoder lacks, before any weights are loaded.

    Raises:
        InputError: A pooling has weights, or needs a pooler output that there is not.
    """
    with torch.device("meta"):
        for pooling in (make(config.hidden_size, config.num_hidden_layers) for make in asked):
            if pooling.has_weights:
                raise InputError(
                    f"study.poolings: {pooling.describe()} has weights that must learn; the frozen "
                    "encoder takes poolings without, such as ConcatPooling of MeanPooling and "
                    "MaxPooling"
                )
            if pooling.needs_pooler_output:
                Encoder(options, config, pretrained=False, pooler=True)


def pool(cells: Sequence[Cell], encoder: Encoder, batch: Mapping[str, Tensor]) -> list[Tensor]:
    """Compute the vectors of a batch in each cell.

    Args:
        cells: Which poolings of which layers.
        encoder: Returns all layers.
        batch: Texts, (B, T) or (B, K, T), on the encoder's device.

    Returns:
        One tensor per cell, (B, K, d); K is 1 where a row has one text.
    """
    texts = {key: batch[key].flatten(0, -2) for key in TOKEN_INPUTS if key in batch}  # (B * K, T)
    hidden_states, pooler_output = encoder(texts)  # each (B * K, T, D)
    masks = (texts["attention_mask"], texts.get("special_tokens_mask"))
    words = encoder.model.get_input_embeddings()(texts["input_ids"])
    shortcuts = _shortcuts(cells, hidden_states, masks)
    vectors = []
    for cell in cells:
        pooled = shortcuts.get((cell.pooling, cell.layer))
        if pooled is None:
            if cell.static:
                layers = (words,)
            elif cell.layer is None:
                layers = hidden_states
            else:
                layers = (hidden_states[cell.layer],)
            pooled = cell.module(layers, *masks, pooler_output, texts["input_ids"])
        vectors.append(pooled.unflatten(0, (len(batch["input_ids"]), -1)))
    return vectors


def _shortcuts(
    cells: Sequence[Cell], hidden_states: Sequence[Tensor], masks: tuple[Tensor, Tensor | None]
) -> dict[tuple[str, int | None], Tensor]:
    """Pool at once what need not go token by token: (B, D) by the pooling's name and the layer.

    One product per layer gives all weighted sums of its tokens. A pooling's weights are what it
    returns for unit vectors, one per token. A mean of layers and tokens takes each layer's mean.
    """
    modules = {
        cell.pooling: cell.module
        for cell in cells
        if _states(cell.module, "is_weighted_sum") and not cell.static
    }
    rows, tokens, _ = hidden_states[0].shape
    unit = torch.eye(tokens, device=hidden_states[0].device, dtype=hidden_states[0].dtype)
    unit = unit.expand(rows, -1, -1)  # (B, T, T)
    weights = [module((unit,), *masks) for module in modules.values()]  # each (B, T)
    product = torch.stack(weights, dim=1)  # (B, poolings, T)
    sums = [
        (product @ hidden).unbind(1) for hidden in hidden_states
    ]  # per layer and pooling: (B, D)
    pooled: dict[tuple[str, int | None], Tensor] = {
        (name, layer): by_pooling[place]
        for layer, by_pooling in enumerate(sums)
        for place, name in enumerate(modules)
    }
    mean = [*modules].index("MeanPooling")
    means = [by_pooling[mean].unsqueeze(1) for by_pooling in sums]  # (B, 1, D): a text of one token
    has_tokens = masks[0].any(1, keepdim=True)  # (B, 1)
    for cell in cells:
        if _states(cell.module, "is_mean_of_layers"):
            pooled[cell.pooling, None] = cell.module(means, has_tokens)
    return pooled


def _states(pooling: Pooling, shortcut: str) -> bool:
    """Whether the class itself states it: a subclass may have another `forward`."""
    return bool(vars(type(pooling)).get(shortcut, False))
