"""The embeddings of added tokens: how their rows start, and how they alone are trained."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from torch import nn
from transformers import PreTrainedModel

Start = Literal["pieces", "mean_resizing", "random"]


def grow(model: PreTrainedModel, rows: int, new: Mapping[int, Sequence[int]], start: Start) -> None:
    """Make sure that the embeddings have so many rows; the old ones stay bit for bit what they are.

    Args:
        model: Whose input embeddings (V, D) grow; they never shrink.
        rows: How many there shall be at least.
        new: The rows of new tokens, each with those of its pieces; some may be rows that the model has to spare.
        start: `pieces`: the mean of the pieces' embeddings, where a token has pieces that were known. Other rows, and
            all with `mean_resizing`, are drawn from a normal distribution with the mean and the covariance of the old
            ones (Hewitt, 2021); with `random`, around zero with the config's `initializer_range`.
    """
    embeddings = model.get_input_embeddings()
    assert isinstance(embeddings, nn.Embedding)
    if rows > embeddings.num_embeddings:
        embeddings = model.resize_token_embeddings(rows, mean_resizing=start != "random")
    if start == "pieces":
        with torch.no_grad():
            for row, pieces in new.items():
                if pieces:
                    embeddings.weight[row] = embeddings.weight[list(pieces)].mean(0)  # (D,)


def train_only(weight: nn.Parameter, rows: Iterable[int]) -> None:
    """Let no gradient reach the other rows of `weight` (V, D); they stay as they are if it has no weight decay either.

    AdamW steps by the mean of the gradients over the root of that of their squares, which is 0 where there were none.
    """
    kept = torch.ones(len(weight), 1, dtype=torch.bool)
    kept[list(rows)] = False
    weight.requires_grad_(True)
    weight.register_hook(lambda gradient: gradient.masked_fill(kept.to(gradient.device), 0))
