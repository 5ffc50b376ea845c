"""From the vectors of the tokens, by default the last layer's, to one vector of the text: one small class a pooling.

Padding has no say and gets no gradient, wherever it stands and whatever it holds, even NaN. A row with nothing to pool
gives zeros. Hidden states keep their dtype. B rows, T tokens in a row, D the encoder's width, L its number of layers.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from litpool import InputError


class Pooling(nn.Module, ABC):
    """What turns an encoder's hidden states (B, T, D) into pooled vectors (B, out_features)."""

    needs_hidden_states: bool = False  # True: forward wants every layer; False: the last one is enough
    needs_pooler_output: bool = False

    def __init__(self, width: int, num_layers: int) -> None:  # D and L, the embeddings not counted as a layer
        super().__init__()
        self.out_features = width

    @abstractmethod
    def forward(
        self,
        hidden_states: Sequence[Tensor],  # each (B, T, D), embeddings [0] to last layer [-1], or only (last,)
        attention_mask: Tensor,  # (B, T), 1 at real tokens and 0 at padding; int, bool or float
        special_tokens_mask: Tensor | None = None,  # (B, T), 1 at [CLS], [SEP], padding...
        pooler_output: Tensor | None = None,  # (B, D)
        input_ids: Tensor | None = None,  # (B, T)
    ) -> Tensor:  # (B, out_features)
        """Pool a batch."""


def _blank(pooled: Tensor, attention_mask: Tensor) -> Tensor:
    """Zero the rows of `pooled` (B, D) that have no token in `attention_mask` (B, T)."""
    return pooled.masked_fill(~attention_mask.bool().any(1, keepdim=True), 0)


def _fill(hidden: Tensor, attention_mask: Tensor, value: float) -> Tensor:
    """Put `value` in the place of padding in `hidden` (B, T, D). Zero times NaN is NaN, so multiplying would not do."""
    return hidden.masked_fill(~attention_mask.bool().unsqueeze(-1), value)


def _weighted_mean(hidden: Tensor, weights: Tensor, power: float = 1) -> Tensor:
    """Sum of the tokens of `hidden` (B, T, D) by `weights` (B, T), over the sum of the weights to `power` -> (B, D)."""
    weights = weights.to(torch.promote_types(hidden.dtype, torch.float32))  # half precision is added up in float32
    total = weights.sum(1, keepdim=True).clamp(min=1)  # (B, 1), clamped for rows without a token
    return ((_fill(hidden, weights, 0) * weights.unsqueeze(-1)).sum(1) / total**power).to(hidden.dtype)


class ClsPooling(Pooling):
    """The first real token, [CLS] in BERT's family (arXiv 1810.04805): sentence-transformers' 'cls'.

    SimCSE's evaluation calls it 'cls_before_pooler'; its 'cls' and BERT-flow's go through the pooler: PoolerOutput.
    """

    def forward(self, hidden_states: Sequence[Tensor], attention_mask: Tensor, *_: object, **__: object) -> Tensor:
        first = attention_mask.int().argmax(1)  # (B,), argmax gives the first of equals
        return _blank(hidden_states[-1][torch.arange(first.shape[0], device=first.device), first], attention_mask)


class PoolerOutput(Pooling):
    """The encoder's own pooler_output, in BERT [CLS] through a dense layer and tanh; InputError if it gives none.

    BERT takes position 0 for it, so under left padding it comes from a padding token.
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
            raise InputError("PoolerOutput: this encoder gives no pooler output; use ClsPooling or MeanPooling instead")
        return _blank(pooler_output, attention_mask)


class MeanPooling(Pooling):
    """Mean of the tokens: 'mean' of Sentence-BERT (arXiv 1908.10084), 'avg' of SimCSE and BERT-flow.

    Args:
        special_tokens: Whether [CLS], [SEP] and the like count; False needs special_tokens_mask (else InputError).
    """

    def __init__(self, width: int, num_layers: int, special_tokens: bool = True) -> None:
        super().__init__(width, num_layers)
        self.special_tokens = special_tokens

    def forward(
        self,
        hidden_states: Sequence[Tensor],
        attention_mask: Tensor,
        special_tokens_mask: Tensor | None = None,
        pooler_output: Tensor | None = None,
        input_ids: Tensor | None = None,
    ) -> Tensor:
        if self.special_tokens:
            return _weighted_mean(hidden_states[-1], attention_mask.bool())
        if special_tokens_mask is None:
            raise InputError("MeanPooling: special_tokens=False, but the batch has no special_tokens_mask; add it")
        return _weighted_mean(hidden_states[-1], attention_mask.bool() & ~special_tokens_mask.bool())


class MaxPooling(Pooling):
    """Largest value of each feature: 'max' of InferSent (arXiv 1705.02364), whose version 1 counts padding's zeros."""

    def forward(self, hidden_states: Sequence[Tensor], attention_mask: Tensor, *_: object, **__: object) -> Tensor:
        return _blank(_fill(hidden_states[-1], attention_mask, -torch.inf).amax(1), attention_mask)


class MinPooling(Pooling):
    """Smallest value of each feature: like mean and maximum a power mean, to be concatenated (arXiv 1803.01400)."""

    def forward(self, hidden_states: Sequence[Tensor], attention_mask: Tensor, *_: object, **__: object) -> Tensor:
        return _blank(_fill(hidden_states[-1], attention_mask, torch.inf).amin(1), attention_mask)


class MeanSqrtLenPooling(Pooling):
    """Sum of n tokens over the root of n (arXiv 1803.11175): sentence-transformers' 'mean_sqrt_len_tokens'."""

    def forward(self, hidden_states: Sequence[Tensor], attention_mask: Tensor, *_: object, **__: object) -> Tensor:
        return _weighted_mean(hidden_states[-1], attention_mask.bool(), power=0.5)  # its cosines are those of the mean


class WeightedMeanPooling(Pooling):
    """Mean by the weights 1, 2, .. n of real tokens (SGPT, arXiv 2202.08904): sentence-transformers' 'weightedmean'."""

    def forward(self, hidden_states: Sequence[Tensor], attention_mask: Tensor, *_: object, **__: object) -> Tensor:
        mask = attention_mask.bool()  # (B, T)
        return _weighted_mean(hidden_states[-1], mask.cumsum(1) * mask)  # SGPT's model cards count left padding, too


class LastTokenPooling(Pooling):
    """The last real token, [SEP] in BERT's family: sentence-transformers' 'lasttoken'."""

    def forward(self, hidden_states: Sequence[Tensor], attention_mask: Tensor, *_: object, **__: object) -> Tensor:
        last = attention_mask.shape[1] - 1 - attention_mask.flip(1).int().argmax(1)  # (B,)
        return _blank(hidden_states[-1][torch.arange(last.shape[0], device=last.device), last], attention_mask)


class AttentionPooling(Pooling):
    """Multi-head attention of one learned query over the tokens: the core of Set Transformer's PMA (arXiv 1810.00825).

    Args:
        heads: Number of attention heads, which must divide the encoder's width (else InputError).
    """

    def __init__(self, width: int, num_layers: int, heads: int = 1) -> None:
        super().__init__(width, num_layers)
        if heads < 1 or width % heads:
            allowed = ", ".join(str(n) for n in range(1, width + 1) if width % n == 0)
            raise InputError(f"AttentionPooling: heads={heads} does not divide the width {width}; use one of {allowed}")
        self.query = nn.Parameter(torch.randn(1, 1, width) * 0.02)  # small: attention starts out nearly even
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, hidden_states: Sequence[Tensor], attention_mask: Tensor, *_: object, **__: object) -> Tensor:
        hidden = _fill(hidden_states[-1], attention_mask, 0).to(self.query.dtype)  # (B, T, D)
        mask = attention_mask.bool()  # (B, T)
        ignored = ~mask & mask.any(1, keepdim=True)  # (B, T), none in a row without tokens: plain softmax gives NaN
        query = self.query.expand(hidden.shape[0], -1, -1)  # (B, 1, D)
        pooled = self.attention(query, hidden, hidden, key_padding_mask=ignored, need_weights=False)[0]  # (B, 1, D)
        return _blank(pooled.squeeze(1), mask).to(hidden_states[-1].dtype)


class FirstLastPooling(Pooling):
    """Mean over the tokens of the first layer, hidden_states[1] and not the embeddings, and of the last layer.

    So do BERT-whitening's 'first-last-avg', SimCSE's 'avg_first_last' since 2022 (in its paper embeddings and last: see
    its issues 133 and 285) and, in fact, BERT-flow's 'last2avg' (avg-last-2), whose code takes the layers -0 and -1.
    """

    needs_hidden_states = True

    def forward(self, hidden_states: Sequence[Tensor], attention_mask: Tensor, *_: object, **__: object) -> Tensor:
        return _weighted_mean((hidden_states[1] + hidden_states[-1]) / 2, attention_mask.bool())


class LastNPooling(Pooling):
    """Mean over the last n layers and over the tokens: with n=2 SimCSE's 'avg_top2' (BERT-flow: see FirstLastPooling).

    Args:
        n: Number of layers, the embeddings counted as one: 1 to num_layers + 1 (else InputError).
    """

    needs_hidden_states = True

    def __init__(self, width: int, num_layers: int, n: int = 4) -> None:
        super().__init__(width, num_layers)
        if not 1 <= n <= num_layers + 1:
            raise InputError(f"LastNPooling: n={n} for an encoder of {num_layers} layers; use 1 to {num_layers + 1}")
        self.n = n

    def forward(self, hidden_states: Sequence[Tensor], attention_mask: Tensor, *_: object, **__: object) -> Tensor:
        mean = torch.stack([hidden_states[-i] for i in range(1, self.n + 1)]).mean(0)  # (B, T, D)
        return _weighted_mean(mean, attention_mask.bool())


class LayerMixPooling(Pooling):
    """Learned mix of the embeddings and all layers (ELMo, arXiv 1802.05365; AllenNLP's ScalarMix), then any pooling.

    Softmax weights times a scale, at first the plain mean; sentence-transformers' WeightedLayerPooling has neither.

    Args:
        pooling: The pooling of the mixed tokens, not one of all layers or of the pooler output (else InputError).
    """

    needs_hidden_states = True

    def __init__(self, width: int, num_layers: int, pooling: Callable[[int, int], Pooling] = MeanPooling) -> None:
        super().__init__(width, num_layers)
        self.pooling = part = pooling(width, num_layers)
        if part.needs_hidden_states or part.needs_pooler_output:
            raise InputError(f"LayerMixPooling: {type(part).__name__} cannot pool the one mixed layer; use MeanPooling")
        self.out_features = part.out_features
        self.logits = nn.Parameter(torch.zeros(num_layers + 1))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, hidden_states: Sequence[Tensor], attention_mask: Tensor, *rest: object, **more: object) -> Tensor:
        layers = zip(self.scale * self.logits.softmax(0), hidden_states, strict=True)  # L + 1 weights and (B, T, D)
        mixed = sum(weight * _fill(layer, attention_mask, 0) for weight, layer in layers)  # (B, T, D)
        return self.pooling((mixed,), attention_mask, *rest, **more)  # (B, out_features)


class ConcatPooling(Pooling):
    """Several poolings side by side, in the order given, as sentence-transformers' Pooling does with several modes.

    Args:
        poolings: The poolings, at least one (else InputError).
    """

    def __init__(self, width: int, num_layers: int, poolings: list[Callable[[int, int], Pooling]]) -> None:
        super().__init__(width, num_layers)
        if not poolings:
            raise InputError("ConcatPooling: poolings is empty; give at least one, as in [ClsPooling, MeanPooling]")
        self.poolings = nn.ModuleList(parts := [pooling(width, num_layers) for pooling in poolings])
        self.out_features = sum(part.out_features for part in parts)
        self.needs_hidden_states = any(part.needs_hidden_states for part in parts)
        self.needs_pooler_output = any(part.needs_pooler_output for part in parts)

    def forward(self, hidden_states: Sequence[Tensor], attention_mask: Tensor, *rest: object, **more: object) -> Tensor:
        return torch.cat([pool(hidden_states, attention_mask, *rest, **more) for pool in self.poolings], dim=-1)
