"""The embeddings of added tokens: how they start, and how to train only them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from torch import nn
from transformers import PreTrainedModel

Start = Literal["pieces", "mean_resizing", "random"]


def grow(
    model: PreTrainedModel, vocab_size: int, new_ids: Mapping[int, Sequence[int]], start: Start
) -> None:
    """Give the model at least `vocab_size` embeddings; the old ones do not change by a bit.

    Args:
        model: The model whose input embeddings (V, D) grow; they never shrink.
        vocab_size: How many embeddings are needed.
        new_ids: Ids of new tokens, with the ids of their pieces; some may be spare ids that the
            model already has an embedding for.
        start: `pieces`: the mean of the embeddings of the token's pieces, if it has any. Other
            embeddings, and all with `mean_resizing`, are drawn from a normal distribution with the
            mean and the covariance of the old ones (Hewitt, 2021); with `random`, around zero with
            the config's `initializer_range`.
    """
    embeddings = model.get_input_embeddings()
    assert isinstance(embeddings, nn.Embedding)
    if vocab_size > embeddings.num_embeddings:
        embeddings = model.resize_token_embeddings(vocab_size, mean_resizing=start != "random")
    if start == "pieces":
        with torch.no_grad():
            for new_id, pieces in new_ids.items():
                if pieces:
                    embeddings.weight[new_id] = embeddings.weight[list(pieces)].mean(0)  # (D,)


def train_only(weight: nn.Parameter, rows: Iterable[int]) -> None:
    """Train only these rows of `weight` (V, D): the others get no gradient.

    Without weight decay they do not change by a bit: AdamW steps by the mean of the gradients over
    the root of the mean of their squares, which is 0 if all gradients were 0.
    """
    frozen = torch.ones(len(weight), 1, dtype=torch.bool)
    frozen[list(rows)] = False
    weight.requires_grad_(True)
    weight.register_hook(lambda gradient: gradient.masked_fill(frozen.to(gradient.device), 0))
