"""What the outputs would be if something served the model with a common mistake.

`verify` compares the outputs of an export or a server with these, and so can name the mistake.
"""

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from litpool.model.encoder import max_length
from litpool.model.pooling import (
    ClsPooling,
    FirstLastPooling,
    LastNPooling,
    LastTokenPooling,
    LayerMixPooling,
    MaxPooling,
    MeanPooling,
    MeanSqrtLenPooling,
    PoolerOutput,
    Pooling,
    WeightedMeanPooling,
)
from litpool.tools.export.golden import outputs
from litpool.tools.export.graph import Graph, Model

FEATURES = 16
"""How many numbers of an output are kept: enough to tell mistakes apart, few enough to store."""

LENGTHS = (32, 64, 128, 256, 384, 512, 1024)

POOLINGS: dict[str, Callable[[int, int], Pooling]] = {
    "[CLS]": ClsPooling,
    "the mean of the tokens": MeanPooling,
    "the mean without special tokens": lambda size, layers: MeanPooling(size, layers, False),
    "the maximum": MaxPooling,
    "the last token": LastTokenPooling,
    "the mean with the square root of the length": MeanSqrtLenPooling,
    "the weighted mean": WeightedMeanPooling,
}

Rows = list[list[str]]
Signature = dict[str, list[Any]]


def signatures(graph: Graph, model: Model, rows: Rows) -> dict[str, Signature]:
    """Return the first numbers and the length of each output, by the mistake that gives them.

    Mistakes that change nothing for these texts are left out.
    """
    right = signature(outputs(graph, model, model.encode(rows)))
    made = {name: signature(vectors) for name, vectors in _alternatives(graph, model, rows)}
    return {name: value for name, value in made.items() if value != right}


def signature(vectors: Sequence[Tensor]) -> Signature:
    """Return the first numbers of each output, its length as a vector, and its size."""
    flat = [vector.flatten().double() for vector in vectors]
    return {
        "first": [[float(f"{x:.7g}") for x in vector[:FEATURES].tolist()] for vector in flat],
        "norm": [float(f"{vector.norm().item():.7g}") for vector in flat],
        "size": [len(vector) for vector in flat],
    }


def _alternatives(graph: Graph, model: Model, rows: Rows) -> Iterator[tuple[str, list[Tensor]]]:
    encoded = model.encode(rows)

    def run(columns: dict[str, list[Any]] = encoded) -> list[Tensor]:
        return outputs(graph, model, columns)

    if not model.task.on_tokens:
        for name, pooling in _other_poolings(model.network.pooling, model):
            with _replaced(model.network, "pooling", pooling):
                yield name, run()
        if model.output != "vectors":
            with _replaced(model.network, "head", nn.Identity()):
                yield "the head (Dense) is missing: these are pooled vectors", run()
    if any(model.prefixes.values()):
        yield "the prefix is missing", run(model.encode(rows, prefix=False))
    elif model.output == "vectors":
        for prefix in ("query: ", "passage: "):
            changed = [[prefix + text for text in row] for row in rows]
            yield f"a prefix is added: {prefix!r}", run(model.encode(changed))
    if model.output != "spans":
        for length in _other_lengths(model):
            name = f"texts are cut off at {length} tokens instead of {model.max_length}"
            yield name, run(model.encode(rows, max_length=length))
    for name, tokenizer in _other_tokenizers(model):
        with _replaced(model, "tokenizer", tokenizer):
            yield name, run(model.encode(rows))
    if "token_type_ids" in encoded and any(map(any, encoded["token_type_ids"])):
        zeros = [[0] * len(row) for row in encoded["token_type_ids"]]
        yield "token types are missing", run({**encoded, "token_type_ids": zeros})
    if len(model.columns) == 2 and model.output != "spans":
        yield "the two texts are swapped", run(model.encode([row[::-1] for row in rows]))


def _other_lengths(model: Model) -> list[int]:
    """Return lengths to which a server may cut texts, as far as the encoder has positions."""
    limit = max_length(model.network.encoder.config) or LENGTHS[-1]
    lengths = {*LENGTHS, model.max_length // 2, limit} - {model.max_length}
    return sorted(length for length in lengths if 8 <= length <= min(limit, LENGTHS[-1]))


def _other_poolings(pooling: Pooling, model: Model) -> Iterator[tuple[str, Pooling]]:
    """Yield other poolings, whose vectors fit the head."""
    config = model.network.encoder.config
    size, layers = config.hidden_size, config.num_hidden_layers
    fits = model.output == "vectors" or pooling.out_features == size
    own = pooling.describe()
    for name, kind in POOLINGS.items():
        other = kind(size, layers).eval()
        if not fits or other.describe() == own:
            continue
        note = f"pooled as {name} instead of {own}"
        if isinstance(pooling, PoolerOutput) and isinstance(other, ClsPooling):
            note = "the pooler (Dense) is missing: [CLS] without it"
        last = isinstance(pooling, FirstLastPooling | LastNPooling | LayerMixPooling)
        if last and isinstance(other, MeanPooling) and other.special_tokens:
            note = f"the last layer alone instead of {own}"
        yield note, other
    if isinstance(pooling, MeanPooling | MaxPooling) and fits:
        yield "padding is pooled as well", _WithPadding(pooling)


class _WithPadding(Pooling):
    """A pooling that takes padding for tokens."""

    def __init__(self, pooling: Pooling) -> None:
        super().__init__(pooling.out_features, 0)
        self.pooling = pooling

    def forward(
        self, hidden_states: Sequence[Tensor], attention_mask: Tensor, *rest: Any, **more: Any
    ) -> Tensor:
        return self.pooling(hidden_states, torch.ones_like(attention_mask), *rest, **more)


def _other_tokenizers(model: Model) -> Iterator[tuple[str, Any]]:
    """Yield tokenizers with other settings."""
    backend = getattr(model.tokenizer, "backend_tokenizer", None)
    if backend is None:
        return
    settings = json.loads(backend.to_str())
    changed = copy.deepcopy(settings)
    if _keep_case(changed):
        yield "texts are not lower-cased", _with(model, changed)
    else:
        changed["normalizer"] = {
            "type": "Sequence",
            "normalizers": [{"type": "Lowercase"}, *filter(None, [settings["normalizer"]])],
        }
        yield "texts are lower-cased", _with(model, changed)
    changed = copy.deepcopy(settings)
    changed["post_processor"] = None
    yield "[CLS] and [SEP] are missing", _with(model, changed)
    if model.new_ids:
        changed = copy.deepcopy(settings)
        kept = [token for token in settings["added_tokens"] if token["id"] not in model.new_ids]
        changed["added_tokens"] = kept
        tokenizer = _with(model, changed)
        tokenizer.extra_special_tokens = []
        yield "added tokens are missing", tokenizer
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.truncation_side = "left" if tokenizer.truncation_side == "right" else "right"
    yield f"long texts lose their {tokenizer.truncation_side} end", tokenizer


def _keep_case(settings: Any) -> bool:
    """Make a tokenizer's settings keep upper case; return whether they did not."""
    normalizer = settings["normalizer"] or {}
    changed = False
    for part in normalizer.get("normalizers", [normalizer]):
        if part.get("type") == "Lowercase":
            part.update(type="NFC")
            changed = True
        elif part.get("lowercase"):
            part["lowercase"] = False
            changed = True
    return changed


def _with(model: Model, settings: Any) -> Any:
    """Return the tokenizer with other settings."""
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(settings))  # has no setter
    return tokenizer


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)
