"""Spans of a context: from characters to tokens, window by window, and from tokens back to characters."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Span = tuple[int, int]  # its first character and the one after its last

SPANS = 20  # candidates that are kept of a window, and of a row
NOWHERE = (0, 0)  # the characters of a token in which no answer stands
NO_SPAN = [float("-inf"), -1, -1]


def window_columns(encoded: Any, window: int, context: str) -> dict[str, Any]:
    """The columns of one window."""
    spans = zip(encoded["offset_mapping"][window], encoded.sequence_ids(window), strict=True)
    offsets = [trimmed(context, span) if text == 1 else NOWHERE for span, text in spans]
    ids = {name: encoded[name][window] for name in ("input_ids", "token_type_ids") if name in encoded}
    return ids | {"special_tokens_mask": [int(end == 0) for _, end in offsets], "offsets": offsets}


def trimmed(context: str, span: Span) -> Span:
    """The characters without white space around them, which some tokenizers count to a token."""
    start, end = span
    while start < end and context[start].isspace():
        start += 1
    while start < end and context[end - 1].isspace():
        end -= 1
    return (start, end) if start < end else NOWHERE


def positions(offsets: list[Span], context: str, golds: list[tuple[str, int]]) -> list[int]:
    """The first and last token of the answer, or twice [CLS]."""
    if not golds:
        return [0, 0]
    text, at = golds[0]
    start, end = trimmed(context, (at, at + len(text)))
    spans = [span for span in offsets if span[1]]
    if not (spans and spans[0][0] <= start and end <= spans[-1][1]):
        return [0, 0]
    tokens = [token for token, (first, last) in enumerate(offsets) if last > start and first < end]
    return [tokens[0], tokens[-1]] if tokens else [0, 0]


def best_spans(output: Tensor, offsets: Tensor, longest: int) -> Tensor:
    """The best spans of each window, (B, 21, 3) of score, first character, end; no answer first, -1 where none is left.

    Args:
        output: Logits of starts and ends, (B, T, 2); those of [CLS], at the first token, are of no answer.
        offsets: The tokens' characters, (B, T, 2), [0, 0] where no answer can stand.
        longest: Tokens that a span may have.
    """
    possible = offsets[..., 1:] > offsets[..., :1]  # (B, T, 1)
    start, end = output.double().masked_fill(~possible, float("-inf")).unbind(-1)  # each (B, T)
    width = min(longest, output.shape[1])
    ends = F.pad(end, (0, width - 1), value=float("-inf")).unfold(1, width, 1)  # (B, T, width): t, t + 1, ...
    scores = (start.unsqueeze(-1) + ends).flatten(1)  # (B, T * width)
    score, at = F.pad(scores, (0, SPANS), value=float("-inf")).topk(SPANS)  # each (B, 20)
    first = (at // width).clamp(max=output.shape[1] - 1)
    last = (first + at % width).clamp(max=output.shape[1] - 1)
    characters = torch.stack([offsets[..., 0].gather(1, first), offsets[..., 1].gather(1, last)], -1)  # (B, 20, 2)
    characters = characters.masked_fill(score.isinf().unsqueeze(-1), -1)
    spans = torch.cat([score.unsqueeze(-1), characters.double()], -1)  # (B, 20, 3)
    none = F.pad(output[:, 0].double().sum(-1, keepdim=True), (0, 2), value=-1)  # (B, 3)
    return torch.cat([none.unsqueeze(1), spans], 1)


def merged(kept: Tensor, index: Tensor) -> Tensor:
    """The best spans of all windows of a row, each once, (N, 21, 3) to (R, 21, 3) by the rows' numbers (N,).

    The score of no answer is the lowest of the windows', as in BERT's run_squad.py: any window may hold the answer.
    """
    rows, owner = index.unique(return_inverse=True)  # (R,), (N,)
    whole = kept.new_tensor(NO_SPAN).repeat(len(rows), SPANS + 1, 1)  # (R, 21, 3)
    whole[:, 0, 0] = kept.new_zeros(len(rows)).scatter_reduce(0, owner, kept[:, 0, 0], "amin", include_self=False)
    real = kept[:, 1:, 1] >= 0  # (N, 20)
    owner = owner.unsqueeze(-1).expand_as(real)[real]  # (M,)
    score, start, end = kept[:, 1:][real].unbind(-1)  # each (M,)
    reach = int(kept[..., 1:].max()) + 2  # more than any character's number
    spans, place = ((owner * reach + start.long()) * reach + end.long()).unique(return_inverse=True)  # (K,): each once
    score = score.new_zeros(len(spans)).scatter_reduce(0, place, score, "amax", include_self=False)  # (K,)
    order = score.argsort(descending=True, stable=True)
    order = order[(spans // reach**2)[order].argsort(stable=True)]  # by row, then the best first
    score, spans = score[order], spans[order]
    owner = spans // reach**2
    rank = torch.arange(len(owner), device=owner.device) - torch.searchsorted(owner, owner)
    best = rank < SPANS
    found = torch.stack([score, spans // reach % reach, spans % reach], -1)  # (K, 3)
    whole[owner[best], 1 + rank[best]] = found[best]
    return whole


def span_texts(spans: Tensor, contexts: Sequence[str]) -> list[str]:
    """The text of one span a row, (R, 3), empty for no answer."""
    places = spans[:, 1:].long().tolist()  # (R, 2)
    return [context[max(start, 0) : max(end, 0)] for (start, end), context in zip(places, contexts, strict=True)]


def span_answer(span: Sequence[float], context: str) -> dict[str, Any]:
    """An answer as it is written for a person, of probability, first character and end."""
    start, end = int(span[1]), int(span[2])
    return {"answer": context[max(start, 0) : max(end, 0)], "start": start, "end": end, "probability": span[0]}
