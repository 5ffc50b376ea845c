"""Each pooling against values worked out by hand, and the promises that all of them keep.

A new pooling needs one row in HAND. Most values come from one small batch: three transformer
layers, hidden size 2.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jsonargparse
import pytest
import torch
from torch import Tensor, nn

from litpool import InputError
from litpool.classes import import_classes
from litpool.model.markers import MarkerPooling
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

HIDDEN_SIZE, LAYERS = 2, 3
Make = Callable[[int, int], Pooling]


class Batch(NamedTuple):
    """The four arguments of Pooling.forward."""

    hidden_states: tuple[Tensor, ...]
    attention_mask: Tensor
    special_tokens_mask: Tensor
    pooler_output: Tensor

    def with_hidden(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        return self._replace(hidden_states=tuple(change(h) for h in self.hidden_states))


def hand_batch(padding: float = 99.0) -> Batch:
    """Two texts, [CLS] word [SEP] and [CLS] [SEP]."""
    pad = [padding, padding]
    embeddings = [
        [[0, 3], [3, 0], [0, 0], pad],
        [[4, 4], [0, 0], pad, pad],
    ]  # means: [1, 1] and [2, 2]
    first = [[[3, 0], [0, 0], [3, 3], pad], [[0, 2], [2, 0], pad, pad]]  # [2, 1] and [1, 1]
    second = [[[0, 6], [0, 0], [0, 0], pad], [[8, 0], [0, 0], pad, pad]]  # [0, 2] and [4, 0]
    last = [[[1, 8], [4, 2], [7, -1], pad], [[2, 6], [-4, 10], pad, pad]]  # [4, 3] and [-1, 8]
    return Batch(
        tuple(torch.tensor(h, dtype=torch.float32) for h in (embeddings, first, second, last)),
        torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]]),
        torch.tensor([[1, 0, 1, 1], [1, 1, 1, 1]]),
        torch.tensor([[5.0, -5.0], [0.5, 1.0]]),
    )


def doubling_attention(hidden_size: int, num_layers: int) -> AttentionPooling:
    """Attention without projections: a token weighs 2 to the power of its first feature."""
    pooling = AttentionPooling(hidden_size, num_layers)
    with torch.no_grad():
        pooling.query.zero_()[..., 0] = math.log(2) * math.sqrt(hidden_size)
        pooling.attention.in_proj_weight.copy_(torch.eye(hidden_size).repeat(3, 1))
        pooling.attention.out_proj.weight.copy_(torch.eye(hidden_size))
    return pooling


HAND: dict[str, tuple[Make, list[list[float]]]] = {
    "cls": (ClsPooling, [[1, 8], [2, 6]]),
    "pooler": (PoolerOutput, [[5, -5], [0.5, 1]]),
    "mean": (MeanPooling, [[4, 3], [-1, 8]]),
    "mean of words": (lambda w, n: MeanPooling(w, n, special_tokens=False), [[4, 2], [0, 0]]),
    "max": (MaxPooling, [[7, 8], [2, 10]]),
    "min": (MinPooling, [[1, -1], [-4, 6]]),
    "mean sqrt len": (MeanSqrtLenPooling, [[12 / 3**0.5, 9 / 3**0.5], [-2 / 2**0.5, 16 / 2**0.5]]),
    "weighted mean": (WeightedMeanPooling, [[30 / 6, 9 / 6], [-6 / 3, 26 / 3]]),
    "last token": (LastTokenPooling, [[7, -1], [-4, 10]]),
    "attention": (
        doubling_attention,
        [[962 / 146, -80 / 146], [124 / 65, 394 / 65]],
    ),  # weights 2 16 128, 64 1
    "first last": (FirstLastPooling, [[3, 2], [0, 4.5]]),
    "last 2": (lambda w, n: LastNPooling(w, n, n=2), [[2, 2.5], [1.5, 4]]),
    "last 4": (LastNPooling, [[1.75, 1.75], [1.5, 2.75]]),
    "mix": (LayerMixPooling, [[1.75, 1.75], [1.5, 2.75]]),
    "mix, max": (lambda w, n: LayerMixPooling(w, n, pooling=MaxPooling), [[2.5, 4.25], [3.5, 3]]),
    "concat": (
        lambda w, n: ConcatPooling(w, n, poolings=[MeanPooling, MaxPooling]),
        [[4, 3, 7, 8], [-1, 8, 2, 10]],
    ),
    "concat in concat": (
        lambda w, n: ConcatPooling(w, n, poolings=[MAKERS["concat"], MinPooling]),
        [[4, 3, 7, 8, 1, -1], [-1, 8, 2, 10, -4, 6]],
    ),
    "concat of all sorts": (
        lambda w, n: ConcatPooling(w, n, poolings=[FirstLastPooling, PoolerOutput, ClsPooling]),
        [[3, 2, 5, -5, 1, 8], [0, 4.5, 0.5, 1, 2, 6]],
    ),
}
MAKERS: dict[str, Make] = {name: make for name, (make, _) in HAND.items()} | {
    "attention, 2 heads": lambda w, n: AttentionPooling(w, n, heads=2),
    "mix, attention": lambda w, n: LayerMixPooling(w, n, pooling=AttentionPooling),
    "mix, mean of words": lambda w, n: LayerMixPooling(w, n, pooling=HAND["mean of words"][0]),
}
LEARNED = ["mix", "mix, max", "attention, 2 heads", "mix, attention"]
every_pooling = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
with_parameters = pytest.mark.parametrize("make", [MAKERS[name] for name in LEARNED], ids=LEARNED)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def random_batch(
    *lengths: int, hidden_size: int = 4, left: bool = False, dtype: torch.dtype = torch.float32
) -> Batch:
    """Rows of these lengths, padded to one more than the longest; first and last are special."""
    size, generator = max(lengths) + 1, torch.Generator().manual_seed(1)
    mask, special = torch.zeros(len(lengths), size), torch.ones(len(lengths), size)
    hidden = torch.full((LAYERS + 1, len(lengths), size, hidden_size), 7.0)
    for row, length in enumerate(lengths):
        start = size - length if left else 0
        mask[row, start : start + length] = 1
        special[row, start + 1 : start + length - 1] = 0
        hidden[:, row, start : start + length] = torch.randn(
            LAYERS + 1, length, hidden_size, generator=generator
        )
    pooler_output = torch.randn(len(lengths), hidden_size, generator=generator)
    return Batch(tuple(hidden.to(dtype)), mask.long(), special.long(), pooler_output.to(dtype))


def with_gradients(batch: Batch) -> Batch:
    leaves = batch.with_hidden(lambda h: h.detach().clone().requires_grad_())
    return leaves._replace(pooler_output=batch.pooler_output.detach().clone().requires_grad_())


def gradients(pooling: Pooling, batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients of the summed squared output, by hidden states and pooler output; by parameters."""
    pooling.zero_grad()
    pooling(*batch).square().sum().backward()
    inputs = [*batch.hidden_states, batch.pooler_output]
    return [x.grad for x in inputs if x.grad is not None], [
        p.grad for p in pooling.parameters() if p.grad is not None
    ]


# -- what each one computes ------------------------------------------------------------------------


def test_every_pooling_has_a_row_and_inherits_from_pooling_alone() -> None:
    import_classes()
    every = Pooling.__subclasses__()  # those that tools and other tests define, too
    ours = {kind for kind in every if kind.__module__.startswith("litpool.model.")}
    found = ours - {MarkerPooling}  # it reads token ids, and has tests of its own
    assert {type(make(HIDDEN_SIZE, LAYERS)) for make, _ in HAND.values()} == found
    assert {c.__bases__ for c in found} == {(Pooling,)}


def test_pooling_itself_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Pooling(HIDDEN_SIZE, LAYERS)  # type: ignore[abstract]


@pytest.mark.parametrize(("make", "expected"), HAND.values(), ids=HAND)
def test_values_are_those_worked_out_by_hand(make: Make, expected: list[list[float]]) -> None:
    torch.testing.assert_close(
        make(HIDDEN_SIZE, LAYERS)(*hand_batch()), torch.tensor(expected, dtype=torch.float32)
    )


def test_weighted_mean_counts_positions_over_real_tokens_even_around_a_hole() -> None:
    hidden, mask = torch.tensor([[[3.0], [50.0], [6.0]]]), torch.tensor([[1, 0, 1]])
    assert WeightedMeanPooling(1, LAYERS)((hidden,), mask).tolist() == [
        [5.0]
    ]  # (1 * 3 + 2 * 6) / 3


def test_mean_sqrt_len_and_mean_have_the_same_cosines() -> None:
    batch = random_batch(2, 5, 9, hidden_size=8)
    a, b = (
        nn.functional.normalize(p(8, LAYERS)(*batch)) for p in (MeanPooling, MeanSqrtLenPooling)
    )
    torch.testing.assert_close(a @ a.T, b @ b.T)


def test_max_sends_its_gradient_to_the_largest_token_only() -> None:
    hidden = torch.tensor([[[1.0], [5.0], [2.0]]], requires_grad=True)
    MaxPooling(1, LAYERS)((hidden,), torch.ones(1, 3)).sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.flatten().tolist() == [0, 1, 0]


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_equals_a_computation_head_by_head(heads: int) -> None:
    hidden_size, batch = 8, random_batch(3, 5, hidden_size=8)
    pooling = AttentionPooling(hidden_size, LAYERS, heads=heads)
    nn.init.normal_(pooling.query)
    nn.init.normal_(pooling.attention.in_proj_bias)
    nn.init.normal_(pooling.attention.out_proj.bias)
    wq, wk, wv = pooling.attention.in_proj_weight.chunk(3)
    bq, bk, bv = pooling.attention.in_proj_bias.chunk(3)
    rows = []
    for row, length in enumerate((3, 5)):
        tokens = batch.hidden_states[-1][row, :length]  # (length, hidden_size), the padding cut off
        q, k, v = wq @ pooling.query.flatten() + bq, tokens @ wk.T + bk, tokens @ wv.T + bv
        parts = []
        for part in torch.arange(hidden_size).chunk(heads):
            scores = (k[:, part] * q[part]).sum(1) / len(part) ** 0.5
            weights = scores.exp() / scores.exp().sum()
            parts.append((weights[:, None] * v[:, part]).sum(0))
        rows.append(
            pooling.attention.out_proj.weight @ torch.cat(parts) + pooling.attention.out_proj.bias
        )
    torch.testing.assert_close(pooling(*batch), torch.stack(rows))


def test_layer_mix_weighs_by_softmax_and_scale() -> None:
    pooling = LayerMixPooling(HIDDEN_SIZE, LAYERS)
    with torch.no_grad():
        pooling.logits.copy_(torch.tensor([1.0, 2.0, 1.0, 4.0]).log())  # softmax: 1/8 2/8 1/8 4/8
        pooling.scale.fill_(4)
    # by the means of the layers: 4/8 * (1 [1, 1] + 2 [2, 1] + 1 [0, 2] + 4 [4, 3]) and so on
    torch.testing.assert_close(pooling(*hand_batch()), torch.tensor([[10.5, 8.5], [2.0, 18.0]]))


def test_layer_mix_hands_the_special_tokens_mask_on() -> None:
    pooling = LayerMixPooling(
        HIDDEN_SIZE, LAYERS, pooling=lambda w, n: MeanPooling(w, n, special_tokens=False)
    )
    torch.testing.assert_close(
        pooling(*hand_batch()), torch.tensor([[1.75, 0.5], [0, 0]])
    )  # the word: [7, 2] / 4


def test_layer_mix_takes_the_size_of_its_pooling() -> None:
    pooling = LayerMixPooling(
        4, LAYERS, pooling=lambda w, n: ConcatPooling(w, n, poolings=[MeanPooling, ClsPooling])
    )
    assert pooling.out_features == 8
    assert pooling(*random_batch(3)).shape == (1, 8)


@pytest.mark.parametrize(
    ("parts", "needs"),
    [
        ([MeanPooling, MaxPooling], (False, False)),
        ([MeanPooling, FirstLastPooling], (True, False)),
        ([PoolerOutput, MeanPooling], (False, True)),
        ([LayerMixPooling, PoolerOutput], (True, True)),
    ],
)
def test_concat_needs_what_any_of_its_parts_needs(
    parts: list[Make], needs: tuple[bool, bool]
) -> None:
    pooling = ConcatPooling(HIDDEN_SIZE, LAYERS, poolings=parts)
    assert (pooling.needs_hidden_states, pooling.needs_pooler_output) == needs


@pytest.mark.parametrize(
    "make", [MeanPooling, MaxPooling, MeanSqrtLenPooling, AttentionPooling, FirstLastPooling]
)
def test_order_of_tokens_does_not_matter_to(make: Make) -> None:
    batch, pooling = random_batch(5), make(4, LAYERS)
    shuffled = batch.with_hidden(lambda h: h[:, [3, 0, 4, 2, 1, 5]])
    torch.testing.assert_close(pooling(*shuffled), pooling(*batch))


@pytest.mark.parametrize("make", [ClsPooling, LastTokenPooling, WeightedMeanPooling])
def test_order_of_tokens_matters_to(make: Make) -> None:
    batch, pooling = random_batch(5), make(4, LAYERS)
    shuffled = batch.with_hidden(lambda h: h[:, [3, 0, 4, 2, 1, 5]])
    assert not torch.allclose(pooling(*shuffled), pooling(*batch))


NAMES: dict[str, str] = {
    "cls": "ClsPooling",
    "mean of words": "MeanPooling without special tokens",
    "last 2": "LastNPooling n=2",
    "attention": "AttentionPooling",
    "attention, 2 heads": "AttentionPooling heads=2",
    "mix": "LayerMixPooling",
    "mix, max": "LayerMixPooling of MaxPooling",
    "mix, mean of words": "LayerMixPooling of MeanPooling without special tokens",
    "concat": "MeanPooling + MaxPooling",
    "concat in concat": "MeanPooling + MaxPooling + MinPooling",
}


@pytest.mark.parametrize(("row", "name"), NAMES.items(), ids=NAMES)
def test_a_pooling_names_itself(row: str, name: str) -> None:
    assert MAKERS[row](4, LAYERS).describe() == name


def test_a_concatenation_of_one_is_not_named_like_that_one() -> None:
    pooling = ConcatPooling(4, LAYERS, poolings=[MeanPooling])
    assert pooling.describe() == "ConcatPooling of MeanPooling"


# -- what all of them promise ----------------------------------------------------------------------


@every_pooling
def test_left_padding_right_padding_and_none_give_the_same(make: Make) -> None:
    pooling, lengths = make(4, LAYERS), (3, 1, 6)
    right, left = random_batch(*lengths), random_batch(*lengths, left=True)
    torch.testing.assert_close(pooling(*left), pooling(*right))
    for row, length in enumerate(lengths):
        hidden = tuple(h[row : row + 1, :length] for h in right.hidden_states)
        masks = (mask[row : row + 1, :length] for mask in right[1:3])
        output = pooling(hidden, *masks, right.pooler_output[row : row + 1])
        torch.testing.assert_close(output[0], pooling(*right)[row])


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize(
    "make", [make for make, _ in HAND.values() if make is not HAND["mean of words"][0]]
)
def test_single_token_that_is_the_same_in_all_layers_is_the_pooled_vector(
    make: Make, left: bool
) -> None:
    token, pooling = torch.tensor([2.0, -3.0, 5.0, 7.0]), make(4, LAYERS)
    hidden = torch.full((1, 3, 4), 11.0)
    hidden[0, -1 if left else 0] = token
    mask = torch.tensor([[0, 0, 1] if left else [1, 0, 0]])
    output = pooling((hidden,) * (LAYERS + 1), mask, 1 - mask, token[None])
    torch.testing.assert_close(output, token.repeat(pooling.out_features // 4)[None])


@every_pooling
@pytest.mark.parametrize("lengths", [(3, 0, 2), (0, 0)])
def test_empty_row_gives_zeros_and_finite_gradients(make: Make, lengths: tuple[int, ...]) -> None:
    pooling = make(4, LAYERS)
    for parameter in pooling.parameters():
        nn.init.normal_(parameter)  # the biases, too, must not show in an empty row
    batch = with_gradients(random_batch(*lengths))
    output = pooling(*batch)
    empty = torch.tensor(lengths) == 0
    assert torch.equal(output[empty], torch.zeros_like(output[empty]))
    by_input, by_parameter = gradients(pooling, batch)
    assert all(g.isfinite().all() for g in by_input + by_parameter)
    assert all((g[empty] == 0).all() for g in by_input)


def test_attention_always_has_a_token_to_look_at() -> None:
    """Torch's fused attention survives a row with nothing, but a plain softmax gives NaN there."""
    pooling, calls = AttentionPooling(4, LAYERS), []
    pooling.attention.register_forward_pre_hook(
        lambda *call: calls.append(call[2]), with_kwargs=True
    )
    pooling(*random_batch(3, 0))
    assert calls[0]["key_padding_mask"].tolist() == [[False, False, False, True], [False] * 4]


@every_pooling
@pytest.mark.parametrize("garbage", [1e9, math.inf, math.nan])
@pytest.mark.parametrize("left", [False, True])
def test_padding_has_no_say_and_no_gradient(make: Make, garbage: float, left: bool) -> None:
    pooling, clean = make(4, LAYERS), with_gradients(random_batch(3, 0, 5, left=left))
    padding = clean.attention_mask == 0
    dirty = with_gradients(
        clean.with_hidden(lambda h: h.masked_fill(padding.unsqueeze(-1), garbage))
    )
    assert torch.equal(pooling(*dirty), pooling(*clean))
    (by_input, by_parameter), wanted = gradients(pooling, dirty), gradients(pooling, clean)
    torch.testing.assert_close((by_input, by_parameter), wanted)
    assert all((g[padding] == 0).all() for g in by_input if g.dim() == 3)


@every_pooling
def test_gradients_are_those_of_finite_differences(make: Make) -> None:
    batch, pooling = (
        with_gradients(random_batch(2, 3, dtype=torch.float64)),
        make(4, LAYERS).double(),
    )
    assert torch.autograd.gradcheck(
        lambda pooler_output, *hidden: pooling(hidden, *batch[1:3], pooler_output),
        (batch.pooler_output, *batch.hidden_states),
    )


@with_parameters
def test_every_parameter_learns(make: Make) -> None:
    pooling = make(4, LAYERS)
    _, by_parameter = gradients(pooling, random_batch(3, 5))
    assert len(by_parameter) == len(list(pooling.parameters()))
    assert all(g.abs().sum() > 0 for g in by_parameter)


@every_pooling
@pytest.mark.parametrize("cast_module", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dtype_of_the_hidden_states_is_kept(
    make: Make, cast_module: bool, dtype: torch.dtype
) -> None:
    pooling, batch = make(4, LAYERS), random_batch(3, 6)
    wanted = pooling(*batch)
    output = (pooling.to(dtype) if cast_module else pooling)(*random_batch(3, 6, dtype=dtype))
    assert output.dtype == dtype
    torch.testing.assert_close(output.float(), wanted, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("make", [MeanPooling, MeanSqrtLenPooling, WeightedMeanPooling])
def test_half_precision_sums_do_not_overflow(make: Make) -> None:
    hidden = torch.full((1, 2048, 1), 100.0)  # sums to 204800, and float16 ends at 65504
    output = make(1, LAYERS)((hidden.half(),), torch.ones(1, 2048))
    torch.testing.assert_close(
        output.float(), make(1, LAYERS)((hidden,), torch.ones(1, 2048)), rtol=1e-3, atol=0
    )


@every_pooling
@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.float32, torch.bfloat16])
def test_masks_of_any_dtype_give_the_same(make: Make, dtype: torch.dtype) -> None:
    pooling, batch = make(4, LAYERS), random_batch(3, 0, 300)  # 300: bfloat16 cannot count that far
    cast = batch._replace(attention_mask=batch[1].to(dtype), special_tokens_mask=batch[2].to(dtype))
    assert torch.equal(pooling(*cast), pooling(*batch))


@every_pooling
def test_strided_views_give_the_same_as_copies(make: Make) -> None:
    pooling, batch = make(4, LAYERS), random_batch(3, 0, 5)
    strided = Batch(
        tuple(h.transpose(0, 2).contiguous().transpose(0, 2) for h in batch.hidden_states),
        batch.attention_mask.T.contiguous().T,
        batch.special_tokens_mask.repeat_interleave(2, dim=1)[:, ::2],
        batch.pooler_output,
    )
    assert not strided.attention_mask.is_contiguous()
    torch.testing.assert_close(pooling(*strided), pooling(*batch))


class Whole(nn.Module):
    """Stands for the network around a pooling, with a signature that torch.export can bind."""

    def __init__(self, pooling: Pooling) -> None:
        super().__init__()
        self.pooling = pooling

    def forward(
        self, hidden_states: tuple[Tensor, ...], mask: Tensor, special: Tensor, pooler: Tensor
    ) -> Tensor:
        pooled: Tensor = self.pooling(hidden_states, mask, special, pooler)
        return pooled


@pytest.mark.parametrize(
    "name", ["cls", "weighted mean", "last token", "attention, 2 heads", "mix, max"]
)
def test_exported_graph_takes_other_batch_sizes_and_lengths(name: str) -> None:
    network = Whole(MAKERS[name](4, LAYERS)).eval()
    rows, tokens = torch.export.Dim("rows", max=64), torch.export.Dim("tokens", max=64)
    mask = {0: rows, 1: tokens}
    shapes = (mask,) * (LAYERS + 1), mask, mask, {0: rows}
    graph = torch.export.export(network, tuple(random_batch(3, 5, 2)), dynamic_shapes=shapes)
    other = random_batch(7, 0, 3, 9, 1, left=True)
    torch.testing.assert_close(graph.module()(*other), network(*other))


@every_pooling
def test_out_features_is_the_size_of_the_output(make: Make) -> None:
    pooling = make(4, LAYERS)
    assert pooling(*random_batch(3, 5)).shape == (2, pooling.out_features)


@every_pooling
def test_last_layer_alone_is_enough_unless_all_are_asked_for(make: Make) -> None:
    pooling, batch = make(4, LAYERS), random_batch(3, 5)
    only_last = batch._replace(hidden_states=batch.hidden_states[-1:])
    if pooling.needs_hidden_states:
        with pytest.raises((IndexError, ValueError)):  # rather than quietly pooling another thing
            pooling(*only_last)
    else:
        assert torch.equal(pooling(*only_last), pooling(*batch))


@every_pooling
def test_arguments_by_name_give_the_same_as_by_position(make: Make) -> None:
    pooling, batch = make(4, LAYERS), random_batch(3, 5)
    assert torch.equal(pooling(**batch._asdict()), pooling(*batch))


@with_parameters
def test_state_dict_restores_the_pooling(make: Make) -> None:
    first, second, batch = make(4, LAYERS), make(4, LAYERS), random_batch(3, 5)
    for parameter in first.parameters():
        nn.init.normal_(parameter)
    assert not torch.equal(second(*batch), first(*batch))
    second.load_state_dict(first.state_dict())
    assert torch.equal(second(*batch), first(*batch))


# -- unusable input --------------------------------------------------------------------------------

UNUSABLE: list[tuple[Callable[[], object], str]] = [
    (
        lambda: AttentionPooling(12, 6, heads=5),
        "heads=5 does not divide the hidden size 12; use one of 1, 2, 3, 4, 6, 12",
    ),
    (lambda: AttentionPooling(12, 6, heads=0), "heads=0 does not divide"),
    (lambda: AttentionPooling(12, 6, heads=-2), "heads=-2 does not divide"),
    (lambda: LastNPooling(12, 6, n=8), "n=8 for an encoder of 6 layers; use 1 to 7"),
    (lambda: LastNPooling(12, 6, n=0), "n=0 for an encoder of 6 layers; use 1 to 7"),
    (lambda: ConcatPooling(12, 6, poolings=[]), "poolings is empty; give at least one"),
    (
        lambda: LayerMixPooling(12, 6, pooling=LastNPooling),
        "LastNPooling cannot pool the one mixed layer",
    ),
    (
        lambda: LayerMixPooling(12, 6, pooling=PoolerOutput),
        "PoolerOutput cannot pool the one mixed layer",
    ),
    (
        lambda: PoolerOutput(HIDDEN_SIZE, LAYERS)(*hand_batch()[:3]),
        "no pooler output; use ClsPooling or MeanPooling",
    ),
    (
        lambda: MAKERS["mean of words"](HIDDEN_SIZE, LAYERS)(*hand_batch()[:2]),
        "special_tokens=False, but the batch has no",
    ),
]


@pytest.mark.parametrize(("attempt", "message"), UNUSABLE, ids=[message for _, message in UNUSABLE])
def test_input_error_says_in_one_line_what_is_wrong_and_allowed(
    attempt: Callable[[], object], message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        attempt()
    assert "\n" not in str(error.value)


def test_last_n_goes_from_the_last_layer_alone_down_to_the_embeddings() -> None:
    batch = random_batch(3, 5)
    torch.testing.assert_close(LastNPooling(4, LAYERS, n=1)(*batch), MeanPooling(4, LAYERS)(*batch))
    torch.testing.assert_close(
        LastNPooling(4, LAYERS, n=LAYERS + 1)(*batch), LayerMixPooling(4, LAYERS)(*batch)
    )


# -- others' code ----------------------------------------------------------------------------------

MODES: dict[str, Make] = {
    "cls": ClsPooling,
    "max": MaxPooling,
    "mean": MeanPooling,
    "mean_sqrt_len_tokens": MeanSqrtLenPooling,
    "weightedmean": WeightedMeanPooling,
    "lasttoken": LastTokenPooling,
}


@pytest.mark.slow  # the import takes seconds
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_sentence_transformers_pools_the_same(mode: str, left: bool) -> None:
    theirs = pytest.importorskip("sentence_transformers").sentence_transformer.modules.Pooling(
        4, pooling_mode=mode
    )
    batch = random_batch(3, 1, 6, left=left)
    features = {"token_embeddings": batch.hidden_states[-1], "attention_mask": batch.attention_mask}
    torch.testing.assert_close(
        MODES[mode](4, LAYERS)(*batch), theirs(features)["sentence_embedding"]
    )


class Network:
    """Stands for any class that takes a pooling from YAML."""

    def __init__(self, pooling: Make = MeanPooling) -> None:
        self.pooling = pooling(8, LAYERS)


@pytest.mark.parametrize(
    ("yaml", "expected"),
    [
        ("pooling: MaxPooling", MaxPooling(8, LAYERS)),
        (
            "pooling: {class_path: LayerMixPooling, init_args: {pooling: MaxPooling}}",
            MAKERS["mix, max"](8, LAYERS),
        ),
        (
            "pooling: {class_path: ConcatPooling, init_args: {poolings: "
            "[MeanPooling, {class_path: AttentionPooling, init_args: {heads: 4}}]}}",
            ConcatPooling(8, LAYERS, [MeanPooling, lambda w, n: AttentionPooling(w, n, heads=4)]),
        ),
    ],
)
def test_yaml_names_a_pooling_and_is_written_back_the_same(yaml: str, expected: Pooling) -> None:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Network, "network")
    config = parser.parse_string(f"network: {{{yaml}}}")
    again = parser.parse_string(parser.dump(config))
    for pooling in (parser.instantiate(c).network.pooling for c in (config, again)):
        assert repr(pooling) == repr(expected)
        attentions = [
            m.num_heads for m in pooling.modules() if isinstance(m, nn.MultiheadAttention)
        ]
        assert attentions == [
            m.num_heads for m in expected.modules() if isinstance(m, nn.MultiheadAttention)
        ]


def test_command_line_sets_the_options_of_a_nested_pooling() -> None:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Network, "network")
    arguments = ["--network.pooling=LayerMixPooling", "--network.pooling.pooling=AttentionPooling"]
    config = parser.parse_args([*arguments, "--network.pooling.pooling.heads=2"])
    assert parser.instantiate(config).network.pooling.pooling.attention.num_heads == 2
