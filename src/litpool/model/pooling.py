"""Pooling: from the encoder's token states to one vector per text. One small class per pooling.

To add a pooling, write one class here, in a file next to this one, or in a module of your own, and
one row in its test. `fit` accepts it by name; `study` includes it if it has no weights, with the
arguments that `variants` returns.

Shapes: B rows, T tokens in a row, D the encoder's hidden size, L its number of layers.

Padding, on either side, never counts and gets no gradient, whatever it contains, even NaN. A row
without a token to pool gives zeros. The output has the dtype of the hidden states.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from litpool import InputError


class Pooling(nn.Module, ABC):
    """Turns an encoder's hidden states (B, T, D) into pooled vectors (B, out_features).

    Args:
        hidden_size: D.
        num_layers: L; the embeddings do not count as a layer.
    """

    needs_hidden_states: bool = False  # True: forward needs every layer, not only the last
    needs_pooler_output: bool = False

    def __init__(self, hidden_size: int, num_layers: int) -> None:
        super().__init__()
        self.out_features = hidden_size

    @abstractmethod
    def forward(
        self,
        hidden_states: Sequence[Tensor],  # each (B, T, D): embeddings [0] to last [-1], or (last,)
        attention_mask: Tensor,  # (B, T), 1 at real tokens and 0 at padding; int, bool or float
        special_tokens_mask: Tensor | None = None,  # (B, T), 1 at [CLS], [SEP], padding...
        pooler_output: Tensor | None = None,  # (B, D)
        input_ids: Tensor | None = None,  # (B, T)
    ) -> Tensor:  # (B, out_features)
        """Pool a batch."""

    @classmethod
    def variants(cls, num_layers: int) -> list[dict[str, Any]]:
        """Return the arguments that a study tries, one dictionary per variant; {} for defaults."""
        return [{}]

    @property
    def pools_one_layer(self) -> bool:
        """Whether it pools a single layer, so that a study can apply it to every layer."""
        return not (self.needs_hidden_states or self.needs_pooler_output)

    @property
    def has_weights(self) -> bool:
        """Whether it has weights to learn; without them, a study can use a frozen encoder."""
        return any(True for _ in self.parameters())

    def extra_repr(self) -> str:
        """Return what follows the class's name: by default the settings, as in `n=2`."""
        return " ".join(f"{name}={value}" for name, value in plain_settings(self).items())

    def describe(self) -> str:
        """Return the name in a study, such as `LastNPooling n=2`; with the module if not ours."""
        kind = type(self)
        is_ours = kind.__module__.startswith("litpool.")
        name = kind.__name__ if is_ours else f"{kind.__module__}.{kind.__qualname__}"
        return f"{name} {self.extra_repr()}".rstrip()


def plain_settings(module: nn.Module) -> dict[str, Any]:
    """Return a module's public attributes with plain values, except those of every pooling."""
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, bool | int | float | str | list)
        and name not in ("training", "out_features")
        and not name.startswith("_")
    }


def _blank(pooled: Tensor, attention_mask: Tensor) -> Tensor:
    """Zero the rows of `pooled` (B, D) that have no token in `attention_mask` (B, T)."""
    return pooled.masked_fill(~attention_mask.bool().any(1, keepdim=True), 0)


def _fill(hidden: Tensor, attention_mask: Tensor, value: float) -> Tensor:
    """Overwrite padding in `hidden` (B, T, D) with `value`. A product would keep NaN: 0 * NaN."""
    return hidden.masked_fill(~attention_mask.bool().unsqueeze(-1), value)


def _weighted_mean(hidden: Tensor, weights: Tensor, power: float = 1) -> Tensor:
    """Sum `hidden` (B, T, D) with `weights` (B, T), divided by (total weight)**power: (B, D)."""
    # Half precision is summed in float32: long texts would overflow float16.
    weights = weights.to(torch.promote_types(hidden.dtype, torch.float32))
    total = weights.sum(1, keepdim=True).clamp(min=1)  # (B, 1), clamped for rows without a token
    pooled = (_fill(hidden, weights, 0) * weights.unsqueeze(-1)).sum(1) / total**power
    return pooled.to(hidden.dtype)


class ClsPooling(Pooling):
    """The first real token, [CLS] in BERT and its relatives (arXiv 1810.04805).

    It is 'cls' in sentence-transformers and 'cls_before_pooler' in SimCSE's evaluation. SimCSE's
    'cls' and BERT-flow's go through the pooler: see PoolerOutput.
    """

    def forward(
        self, hidden_states: Sequence[Tensor], attention_mask: Tensor, *_: object, **__: object
    ) -> Tensor:
        first = attention_mask.int().argmax(1)  # (B,), argmax takes the first of equals
        rows = torch.arange(first.shape[0], device=first.device)
        return _blank(hidden_states[-1][rows, first], attention_mask)


class PoolerOutput(Pooling):
    """The encoder's own pooler_output: in BERT, [CLS] through a dense layer and tanh.

    BERT reads it from position 0, so under left padding it comes from a padding token.

    Raises:
        InputError: In `forward`, if the encoder returned no pooler output.
    """

    needs_pooler_output = True

    def forward(
        self,
        hidden_states: Sequence[Tensor],
        attention_mask: Tensor,
        special_tokens_mask: Tensor | None = None,
        pooler_output: Tensor | None = None,
        input_ids: Tensor | None = None,
    ) -> Tensor:
        if pooler_output is None:
            raise InputError(
                "PoolerOutput: this encoder returns no pooler output; "
                "use ClsPooling or MeanPooling instead"
            )
        return _blank(pooler_output, attention_mask)


class MeanPooling(Pooling):
    """Mean of the tokens: 'mean' in Sentence-BERT (arXiv 1908.10084), 'avg' in SimCSE, BERT-flow.

    Args:
        special_tokens: Whether [CLS], [SEP] and the like count.

    Raises:
        InputError: In `forward`, if special_tokens=False and there is no special_tokens_mask.
    """

    def __init__(self, hidden_size: int, num_layers: int, special_tokens: bool = True) -> None:
        super().__init__(hidden_size, num_layers)
        self.special_tokens = special_tokens

    def forward(
        self,
        hidden_states: Sequence[Tensor],
        attention_mask: Tensor,
        special_tokens_mask: Tensor | None = None,
        pooler_output: Tensor | None = None,
        input_ids: Tensor | None = None,
    ) -> Tensor:
        counted = attention_mask.bool()  # (B, T)
        if not self.special_tokens:
            if special_tokens_mask is None:
                raise InputError(
                    "MeanPooling: special_tokens=False, "
                    "but the batch has no special_tokens_mask; add it"
                )
            counted = counted & ~special_tokens_mask.bool()
        return _weighted_mean(hidden_states[-1], counted)

    @classmethod
    def variants(cls, num_layers: int) -> list[dict[str, Any]]:
        return [{}, {"special_tokens": False}]

    def extra_repr(self) -> str:
        return "" if self.special_tokens else "without special tokens"


class MaxPooling(Pooling):
    """Largest value of each feature: 'max' in InferSent (arXiv 1705.02364).

    InferSent's version 1 also counts the zeros of padding; this does not.
    """

    def forward(
        self, hidden_states: Sequence[Tensor], attention_mask: Tensor, *_: object, **__: object
    ) -> Tensor:
        largest = _fill(hidden_states[-1], attention_mask, -torch.inf).amax(1)  # (B, D)
        return _blank(largest, attention_mask)


class MinPooling(Pooling):
    """Smallest value of each feature; like the mean and the max, a power mean (arXiv 1803.01400).

    That paper concatenates several of them: see ConcatPooling.
    """

    def forward(
        self, hidden_states: Sequence[Tensor], attention_mask: Tensor, *_: object, **__: object
    ) -> Tensor:
        smallest = _fill(hidden_states[-1], attention_mask, torch.inf).amin(1)  # (B, D)
        return _blank(smallest, attention_mask)


class MeanSqrtLenPooling(Pooling):
    """Sum of n tokens over the square root of n (arXiv 1803.11175).

    It is 'mean_sqrt_len_tokens' in sentence-transformers. Its cosines equal those of the mean.
    """

    def forward(
        self, hidden_states: Sequence[Tensor], attention_mask: Tensor, *_: object, **__: object
    ) -> Tensor:
        return _weighted_mean(hidden_states[-1], attention_mask.bool(), power=0.5)


class WeightedMeanPooling(Pooling):
    """Mean of the n real tokens with the weights 1, 2, ... n (SGPT, arXiv 2202.08904).

    It is 'weightedmean' in sentence-transformers. The code on SGPT's model cards counts positions
    over left padding too; this counts real tokens only.
    """

    def forward(
        self, hidden_states: Sequence[Tensor], attention_mask: Tensor, *_: object, **__: object
    ) -> Tensor:
        mask = attention_mask.bool()  # (B, T)
        return _weighted_mean(hidden_states[-1], mask.cumsum(1) * mask)


class LastTokenPooling(Pooling):
    """The last real token, [SEP] in BERT and its relatives; sentence-transformers' 'lasttoken'."""

    def forward(
        self, hidden_states: Sequence[Tensor], attention_mask: Tensor, *_: object, **__: object
    ) -> Tensor:
        last = attention_mask.shape[1] - 1 - attention_mask.flip(1).int().argmax(1)  # (B,)
        rows = torch.arange(last.shape[0], device=last.device)
        return _blank(hidden_states[-1][rows, last], attention_mask)


class AttentionPooling(Pooling):
    """Multi-head attention of one learned query over the tokens.

    The core of pooling by multihead attention in Set Transformer (arXiv 1810.00825).

    Args:
        heads: Number of attention heads.

    Raises:
        InputError: `heads` does not divide the hidden size.
    """

    def __init__(self, hidden_size: int, num_layers: int, heads: int = 1) -> None:
        super().__init__(hidden_size, num_layers)
        if heads < 1 or hidden_size % heads:
            divisors = [n for n in range(1, hidden_size + 1) if hidden_size % n == 0]
            raise InputError(
                f"AttentionPooling: heads={heads} does not divide the hidden size {hidden_size}; "
                f"use one of {', '.join(map(str, divisors))}"
            )
        self.query = nn.Parameter(torch.randn(1, 1, hidden_size) * 0.02)  # small: starts near even
        self.attention = nn.MultiheadAttention(hidden_size, heads, batch_first=True)

    def forward(
        self, hidden_states: Sequence[Tensor], attention_mask: Tensor, *_: object, **__: object
    ) -> Tensor:
        hidden = _fill(hidden_states[-1], attention_mask, 0).to(self.query.dtype)  # (B, T, D)
        mask = attention_mask.bool()  # (B, T)
        # A row without a token ignores nothing here: a softmax over no token gives NaN.
        ignored = ~mask & mask.any(1, keepdim=True)  # (B, T)
        query = self.query.expand(hidden.shape[0], -1, -1)  # (B, 1, D)
        pooled, _weights = self.attention(
            query, hidden, hidden, key_padding_mask=ignored, need_weights=False
        )  # (B, 1, D)
        return _blank(pooled.squeeze(1), mask).to(hidden_states[-1].dtype)

    def extra_repr(self) -> str:
        heads = self.attention.num_heads
        return f"heads={heads}" if heads > 1 else ""


class FirstLastPooling(Pooling):
    """Mean over the tokens of the first layer, hidden_states[1], and of the last layer.

    The first layer is not the embeddings. It is 'first-last-avg' in BERT-whitening, and
    'avg_first_last' in SimCSE since 2022; SimCSE's paper used the embeddings and the last layer
    (see its issues 133 and 285). BERT-flow's 'last2avg' (avg-last-2) in fact does the same: its
    code averages the layers -0 and -1.
    """

    needs_hidden_states = True

    def forward(
        self, hidden_states: Sequence[Tensor], attention_mask: Tensor, *_: object, **__: object
    ) -> Tensor:
        return _weighted_mean((hidden_states[1] + hidden_states[-1]) / 2, attention_mask.bool())


class LastNPooling(Pooling):
    """Mean over the last n layers and over the tokens; n=2 is SimCSE's 'avg_top2'.

    For BERT-flow's 'last2avg' see FirstLastPooling.

    Args:
        n: Number of layers, counting the embeddings: 1 to num_layers + 1.

    Raises:
        InputError: `n` is out of that range.
    """

    needs_hidden_states = True

    def __init__(self, hidden_size: int, num_layers: int, n: int = 4) -> None:
        super().__init__(hidden_size, num_layers)
        if not 1 <= n <= num_layers + 1:
            raise InputError(
                f"LastNPooling: n={n} for an encoder of {num_layers} layers; "
                f"use 1 to {num_layers + 1}"
            )
        self.n = n

    def forward(
        self, hidden_states: Sequence[Tensor], attention_mask: Tensor, *_: object, **__: object
    ) -> Tensor:
        last = [hidden_states[-i] for i in range(1, self.n + 1)]  # n times (B, T, D)
        return _weighted_mean(torch.stack(last).mean(0), attention_mask.bool())

    @classmethod
    def variants(cls, num_layers: int) -> list[dict[str, Any]]:
        return [{"n": n} for n in (2, 4) if n <= num_layers]


class LayerMixPooling(Pooling):
    """Learned mix of the embeddings and all layers, then any pooling of the mixed tokens.

    Softmax weights times a scale, at first the plain mean: ELMo (arXiv 1802.05365), AllenNLP's
    ScalarMix. WeightedLayerPooling of sentence-transformers has neither softmax nor scale.

    Args:
        pooling: The pooling of the mixed tokens.

    Raises:
        InputError: `pooling` needs several layers or the pooler output.
    """

    needs_hidden_states = True

    def __init__(
        self,
        hidden_size: int,
        num_layers: int,
        pooling: Callable[[int, int], Pooling] = MeanPooling,
    ) -> None:
        super().__init__(hidden_size, num_layers)
        self.pooling = pooling(hidden_size, num_layers)
        if not self.pooling.pools_one_layer:
            raise InputError(
                f"LayerMixPooling: {type(self.pooling).__name__} cannot pool the one mixed layer; "
                "use MeanPooling"
            )
        self.out_features = self.pooling.out_features
        self.logits = nn.Parameter(torch.zeros(num_layers + 1))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(
        self, hidden_states: Sequence[Tensor], attention_mask: Tensor, *rest: object, **more: object
    ) -> Tensor:
        weights = self.scale * self.logits.softmax(0)  # (L + 1,)
        layers = zip(weights, hidden_states, strict=True)
        mixed = sum(weight * _fill(layer, attention_mask, 0) for weight, layer in layers)
        return self.pooling((mixed,), attention_mask, *rest, **more)  # (B, out_features)

    def extra_repr(self) -> str:
        return "" if self.pooling.describe() == "MeanPooling" else f"of {self.pooling.describe()}"


class ConcatPooling(Pooling):
    """Several poolings side by side, in the order of the list.

    The Pooling of sentence-transformers does the same with several modes.

    Args:
        poolings: The poolings, at least one.

    Raises:
        InputError: `poolings` is empty.
    """

    def __init__(
        self,
        hidden_size: int,
        num_layers: int,
        poolings: list[Callable[[int, int], Pooling]],
    ) -> None:
        super().__init__(hidden_size, num_layers)
        if not poolings:
            raise InputError(
                "ConcatPooling: poolings is empty; give at least one, as in "
                "[ClsPooling, MeanPooling]"
            )
        parts = [pooling(hidden_size, num_layers) for pooling in poolings]
        self.poolings = nn.ModuleList(parts)
        self.out_features = sum(part.out_features for part in parts)
        self.needs_hidden_states = any(part.needs_hidden_states for part in parts)
        self.needs_pooler_output = any(part.needs_pooler_output for part in parts)

    def forward(
        self, hidden_states: Sequence[Tensor], attention_mask: Tensor, *rest: object, **more: object
    ) -> Tensor:
        pooled = [pool(hidden_states, attention_mask, *rest, **more) for pool in self.poolings]
        return torch.cat(pooled, dim=-1)

    def extra_repr(self) -> str:
        return ""  # nn.Module already shows the parts

    def describe(self) -> str:
        names = [part.describe() for part in self.poolings if isinstance(part, Pooling)]
        return " + ".join(names) if len(names) > 1 else f"ConcatPooling of {names[0]}"
