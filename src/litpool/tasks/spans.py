"""Spans of a context: from the logits of tokens to the best answers in characters."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

SPANS = 20  # candidates to keep for a window, and for a row


def best_spans(output: Tensor, offsets: Tensor, max_answer_length: int) -> Tensor:
    """Return the best spans of each window, (B, 21, 3): score, first character, end.

    No answer comes first; its characters are -1, and so are those of missing candidates.

    Args:
        output: Logits of starts and ends, (B, T, 2); [CLS], the first token, stands for no answer.
        offsets: The tokens' characters, (B, T, 2); [0, 0] for tokens that cannot be in an answer.
        max_answer_length: The most tokens in a span.
    """
    possible = offsets[..., 1:] > offsets[..., :1]  # (B, T, 1)
    start, end = output.double().masked_fill(~possible, float("-inf")).unbind(-1)  # each (B, T)
    max_span_length = min(max_answer_length, output.shape[1])  # L
    padded = F.pad(end, (0, max_span_length - 1), value=float("-inf"))
    ends = padded.unfold(1, max_span_length, 1)  # (B, T, L): at t the ends t, t + 1, ...
    scores = (start.unsqueeze(-1) + ends).flatten(1)  # (B, T * L)
    score, place = F.pad(scores, (0, SPANS), value=float("-inf")).topk(SPANS)  # each (B, 20)

    first = (place // max_span_length).clamp(max=output.shape[1] - 1)
    last = (first + place % max_span_length).clamp(max=output.shape[1] - 1)
    characters = torch.stack(
        [offsets[..., 0].gather(1, first), offsets[..., 1].gather(1, last)], dim=-1
    )  # (B, 20, 2)
    characters = characters.masked_fill(score.isinf().unsqueeze(-1), -1)
    spans = torch.cat([score.unsqueeze(-1), characters.double()], -1)  # (B, 20, 3)
    no_answer = output[:, 0].double().sum(-1, keepdim=True)  # (B, 1)
    no_answer = F.pad(no_answer, (0, 2), value=-1)  # (B, 3)
    return torch.cat([no_answer.unsqueeze(1), spans], 1)


def merge_windows(windows: Tensor, index: Tensor) -> Tensor:
    """Return the best distinct spans of each row: from windows (N, 21, 3) to rows (R, 21, 3).

    The score of no answer is the lowest of all windows, as in BERT's run_squad.py, since any
    window may contain the answer.

    Args:
        windows: What `best_spans` returned.
        index: The row number of each window, (N,).
    """
    rows, owner = index.unique(return_inverse=True)  # (R,), (N,)
    no_answer = windows.new_zeros(len(rows))
    no_answer = no_answer.scatter_reduce(0, owner, windows[:, 0, 0], "amin", include_self=False)

    # Every candidate of every window, (M,).
    real = windows[:, 1:, 1] >= 0  # (N, 20)
    owner = owner.unsqueeze(-1).expand_as(real)[real]
    score, start, end = windows[:, 1:][real].unbind(-1)

    # The K distinct candidates, as numbers that combine row, start and end, with their best score.
    reach = int(windows[..., 1:].max()) + 2  # more than any character's number
    keys = (owner * reach + start.long()) * reach + end.long()
    spans, place = keys.unique(return_inverse=True)  # (K,), (M,)
    score = score.new_zeros(len(spans)).scatter_reduce(0, place, score, "amax", include_self=False)

    # Sort by row, then by score.
    order = score.argsort(descending=True, stable=True)
    order = order[(spans // reach**2)[order].argsort(stable=True)]
    score, spans = score[order], spans[order]
    owner = spans // reach**2

    # Keep the best 20 of each row.
    rank = torch.arange(len(owner), device=owner.device) - torch.searchsorted(owner, owner)
    best = rank < SPANS
    candidates = torch.stack([score, spans // reach % reach, spans % reach], -1)  # (K, 3)
    missing = windows.new_tensor([float("-inf"), -1, -1])
    merged = missing.repeat(len(rows), SPANS + 1, 1)  # (R, 21, 3)
    merged[:, 0, 0] = no_answer
    merged[owner[best], 1 + rank[best]] = candidates[best]
    return merged


def span_texts(spans: Tensor, contexts: Sequence[str]) -> list[str]:
    """Return the text of one span per row, (R, 3); empty for no answer."""
    pairs = zip(spans.tolist(), contexts, strict=True)
    return [span_answer(span, context)["answer"] for span, context in pairs]


def span_answer(span: Sequence[float], context: str) -> dict[str, Any]:
    """Return the answer as `predict` writes it, from probability, first character and end."""
    start, end = int(span[1]), int(span[2])
    text = context[max(start, 0) : max(end, 0)]
    return {"answer": text, "start": start, "end": end, "probability": round(span[0], 4)}
