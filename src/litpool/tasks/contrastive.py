"""The objective `contrastive` of Similarity: each text of a pair should find the other."""

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from litpool.tasks.objective import Objective, cosine
from litpool.tasks.task import Columns, Mistake

if TYPE_CHECKING:
    from datasets import Dataset
    from torchmetrics import MetricCollection


class ContrastiveObjective(Objective):
    """InfoNCE over the batch (arXiv 1807.03748); the labels are identities, equal for equal texts.

    Args:
        texts: The columns of the pair, then those of hard negatives.
        temperature: What the cosines are divided by.
    """

    monitor = "val/mrr"

    def __init__(self, texts: list[str], temperature: float) -> None:
        self.texts = texts
        self.temperature = temperature

    def encode_labels(self, rows: Mapping[str, list[Any]]) -> list[Any] | None:
        """Return the identities of each row's K texts."""
        columns = [[identity(text) for text in rows[column]] for column in self.texts]
        return [list(row) for row in zip(*columns, strict=True)]

    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """Return InfoNCE in both directions, of vectors (B, K, F) and identities (B, K)."""
        return contrastive_loss(output, labels, self.temperature)

    def metrics(self) -> "MetricCollection":
        """Return recall at 1, 5 and 10, and mean reciprocal rank."""
        from torchmetrics import MetricCollection

        from litpool.tasks.metrics.retrieval import Retrieval

        return MetricCollection([Retrieval()], compute_groups=False)

    def decode(self, predictions: Tensor, rows: Columns) -> list[dict[str, Any]]:
        return [{"cosine": value} for value in cosine(predictions[:, :2]).tolist()]

    def mistakes(self, predictions: Tensor, rows: "Dataset") -> list[Mistake]:
        """Return rows whose first text is nearer to another row's second text than to its own."""
        first, second = F.normalize(predictions.float(), dim=-1)[:, :2].unbind(1)  # each (N, F)
        texts = rows[self.texts[1]][:]
        mistakes = []
        for row, scores in enumerate(first @ second.T):  # (N,)
            nearest = int(scores.argmax())
            if texts[nearest] != texts[row]:
                error = float(scores[nearest] - scores[row])
                mistakes.append(Mistake(row, texts[row], texts[nearest], error))
        return sorted(mistakes, key=lambda mistake: -mistake.measure)


def identity(text: str) -> int:
    """Return a number that is equal for equal texts only: 63 bits of the text's hash."""
    return int.from_bytes(hashlib.blake2b(text.strip().encode(), digest_size=8).digest()) >> 1


def contrastive_loss(vectors: Tensor, identities: Tensor, temperature: float) -> Tensor:
    """Return InfoNCE in both directions, from vectors (B, K, F) and their texts' identities (B, K).

    A first text chooses among all second texts and hard negatives, a second text among all first
    texts. A candidate that would also be right is left out: one that equals the text itself, or
    that is its partner in another row.
    """
    unit = F.normalize(vectors.float(), dim=-1)
    firsts, seconds = unit[:, 0], unit[:, 1]  # each (B, F)
    candidates = torch.cat([seconds, unit[:, 2:].flatten(0, 1)])  # (C, F), C = B * (K - 1)
    first, second = identities[:, 0], identities[:, 1]  # each (B,)
    names = torch.cat([second, identities[:, 2:].flatten()])  # (C,)
    same_first = first[:, None] == first[None, :]  # (B, B)
    same_second = second[:, None] == second[None, :]  # (B, B)

    # (B, C): whether a candidate equals the first text or is its partner in any row
    partner = (same_first.float() @ (second[:, None] == names[None, :]).float()).bool()
    excluded = _off_diagonal(partner | (first[:, None] == names[None, :]))
    forward = (firsts @ candidates.T / temperature).masked_fill(excluded, -torch.inf)

    # (B, B): the same for a second text, which chooses among the first texts
    partner = (same_second.float() @ same_first.float()).bool()
    excluded = _off_diagonal(partner | (second[:, None] == first[None, :]))
    backward = (seconds @ firsts.T / temperature).masked_fill(excluded, -torch.inf)

    right = torch.arange(len(first), device=first.device)
    return (F.cross_entropy(forward, right) + F.cross_entropy(backward, right)) / 2


def _off_diagonal(mask: Tensor) -> Tensor:
    """Return the mask without its diagonal, where the right choices are."""
    return mask & ~torch.eye(*mask.shape, dtype=torch.bool, device=mask.device)
