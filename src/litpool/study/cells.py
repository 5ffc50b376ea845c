"""What is studied: the poolings without weights of their own, each of every layer, and those over several layers."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from litpool import InputError
from litpool.model.encoder import Encoder, EncoderOptions
from litpool.model.markers import MarkerPooling
from litpool.model.network import TOKEN_INPUTS
from litpool.model.pooling import (
    AttentionPooling,
    ClsPooling,
    ConcatPooling,
    FirstLastPooling,
    LastNPooling,
    LastTokenPooling,
    LayerMixPooling,
    MaxPooling,
    MeanPooling,
    MeanSqrtLenPooling,
    MinPooling,
    PoolerOutput,
    Pooling,
    WeightedMeanPooling,
)

Make = Callable[[int, int], Pooling]

OF_A_LAYER: tuple[Make, ...] = (
    ClsPooling,
    MeanPooling,
    partial(MeanPooling, special_tokens=False),
    MaxPooling,
    MinPooling,
    MeanSqrtLenPooling,
    WeightedMeanPooling,
    LastTokenPooling,
)
LINEAR = (ClsPooling, MeanPooling, MeanSqrtLenPooling, WeightedMeanPooling, LastTokenPooling)
OF_MEANS = (FirstLastPooling, LastNPooling)
STATIC = "static embeddings, mean"


class Cell(NamedTuple):
    """A pooling of a layer."""

    pooling: str
    layer: int | None  # 0 the embeddings, L the last; None: of several layers, or of the pooler output
    module: Pooling
    static: bool = False  # of the word embeddings as they are, without positions and norm: a baseline

    @property
    def name(self) -> str:
        """What the verdict calls it."""
        return self.pooling if self.layer is None else f"{self.pooling} of layer {self.layer}"


def list_cells(encoder: Encoder, pooler: bool, asked: Sequence[Make]) -> list[Cell]:
    """All cells, each once; the static embeddings' mean comes last.

    Args:
        encoder: Its config and its word embeddings say how many and how wide.
        pooler: Whether it gives a pooler output.
        asked: Poolings that are studied as well.
    """
    size, layers = encoder.config.hidden_size, encoder.config.num_hidden_layers
    makes = [*OF_A_LAYER, *([PoolerOutput] if pooler else []), FirstLastPooling]
    makes += [partial(LastNPooling, n=n) for n in (2, 4) if n <= layers]
    modules = {describe(module): module for module in (make(size, layers) for make in (*asked, *makes))}
    cells = [
        Cell(name, layer, module)
        for name, module in modules.items()
        for layer in ([None] if module.needs_hidden_states or module.needs_pooler_output else range(layers + 1))
    ]
    words = encoder.model.get_input_embeddings()
    assert isinstance(words, nn.Embedding)
    return [*cells, Cell(STATIC, None, MeanPooling(words.embedding_dim, 0, special_tokens=False), static=True)]


def describe(pooling: Pooling) -> str:
    """The name of a pooling with what sets it apart."""
    if isinstance(pooling, ConcatPooling):
        names = [describe(part) for part in pooling.poolings if isinstance(part, Pooling)]
        return " + ".join(names) if len(names) > 1 else f"ConcatPooling of {names[0]}"
    if isinstance(pooling, LastNPooling):
        return f"LastNPooling n={pooling.n}"
    if isinstance(pooling, MeanPooling) and not pooling.special_tokens:
        return "MeanPooling without special tokens"
    if isinstance(pooling, AttentionPooling) and pooling.attention.num_heads > 1:
        return f"AttentionPooling heads={pooling.attention.num_heads}"
    if isinstance(pooling, MarkerPooling):
        return f"MarkerPooling at {' '.join(pooling.markers)}"
    if isinstance(pooling, LayerMixPooling) and not isinstance(pooling.pooling, MeanPooling):
        return f"LayerMixPooling of {describe(pooling.pooling)}"
    if not type(pooling).__module__.startswith("litpool."):  # a user's own
        own = f"{type(pooling).__module__}.{type(pooling).__qualname__}"
        return " ".join([own, *(f"{name}={value}" for name, value in _plain(pooling).items())])
    return type(pooling).__name__


def settings(pooling: nn.Module) -> list[Any]:
    """What sets the vectors of a pooling apart: its class, that of each part, their settings and their code."""
    parts = [*pooling.modules()]
    return [[type(part).__qualname__, _plain(part), _code(type(part))] for part in parts]  # type: ignore[arg-type]


def _plain(module: nn.Module) -> dict[str, Any]:
    plain, left_out = (bool, int, float, str, list), ("training", "out_features")
    return {k: v for k, v in vars(module).items() if isinstance(v, plain) and k not in left_out and k[0] != "_"}


@cache
def _code(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):  # not from a file
        return ""


def check_asked(asked: Sequence[Make], options: EncoderOptions, config: PretrainedConfig) -> None:
    """Refuse poolings that the encoder cannot give or that would have to learn, before any weights are loaded.

    Raises:
        InputError: A pooling has weights, or is of the pooler output where there is no pooler.
    """
    with torch.device("meta"):
        for pooling in (make(config.hidden_size, config.num_hidden_layers) for make in asked):
            if any(True for _ in pooling.parameters()):
                raise InputError(
                    f"study.poolings: {describe(pooling)} has weights that must learn; the frozen encoder takes "
                    "poolings without, such as ConcatPooling of MeanPooling and MaxPooling"
                )
            if pooling.needs_pooler_output:
                Encoder(options, config, pretrained=False, pooler=True)


def pool(cells: Sequence[Cell], encoder: Encoder, batch: Mapping[str, Tensor]) -> list[Tensor]:
    """The vectors of a batch in each cell.

    Args:
        cells: Which.
        encoder: Gives all layers.
        batch: Texts, (B, T) or (B, K, T), on the encoder's device.

    Returns:
        One for each cell, (B, K, d); K is 1 where a row has one text.
    """
    texts = {key: batch[key].flatten(0, -2) for key in TOKEN_INPUTS if key in batch}  # each (B * K, T)
    hidden_states, pooler_output = encoder(texts)  # each (B * K, T, D)
    masks = (texts["attention_mask"], texts.get("special_tokens_mask"))
    words = encoder.model.get_input_embeddings()(texts["input_ids"])
    sums = _weighted_sums(cells, hidden_states, masks)
    found = []
    for cell in cells:
        layers = (words,) if cell.static else hidden_states if cell.layer is None else (hidden_states[cell.layer],)
        pooled = sums.get((cell.pooling, cell.layer))
        pooled = cell.module(layers, *masks, pooler_output, texts["input_ids"]) if pooled is None else pooled
        found.append(pooled.unflatten(0, (len(batch["input_ids"]), -1)))
    return found


def _weighted_sums(
    cells: Sequence[Cell], hidden_states: Sequence[Tensor], masks: tuple[Tensor, Tensor | None]
) -> dict[tuple[str, int | None], Tensor]:
    """Those poolings that are weighted sums of the tokens: one product a layer gives all of them.

    Their weights are what they make of unit vectors, one a token. Those that average over layers and tokens may do the
    tokens first.
    """
    modules = {cell.pooling: cell.module for cell in cells if type(cell.module) in LINEAR and not cell.static}
    rows, tokens, _ = hidden_states[0].shape
    unit = torch.eye(tokens, device=hidden_states[0].device, dtype=hidden_states[0].dtype).expand(rows, -1, -1)
    weights = torch.stack([module((unit,), *masks) for module in modules.values()], dim=1)  # (B, poolings, T)
    sums = [(weights @ hidden).unbind(1) for hidden in hidden_states]  # a layer: (B, D) a pooling
    found = {(name, layer): row[place] for layer, row in enumerate(sums) for place, name in enumerate(modules)}
    means = [row[[*modules].index("MeanPooling")].unsqueeze(1) for row in sums]  # each (B, 1, D), a text of one token
    return found | {
        (cell.pooling, None): cell.module(means, masks[0].any(1, keepdim=True))
        for cell in cells
        if type(cell.module) in OF_MEANS
    }
