"""Finding the second text of a pair by the first, among all second texts: the loss of a batch, the score of a split."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

CHUNK = 1024  # first texts that are compared with all candidates at once


def contrastive_loss(vectors: Tensor, identities: Tensor, temperature: float) -> Tensor:
    """InfoNCE in both directions, from vectors (B, K, F) and the identities (B, K) of their texts.

    A first text chooses among all seconds and hard negatives, a second among all firsts. Left out of the choice is what
    no one could tell from the right one: a text that is itself, or that stands elsewhere as its partner.
    """
    unit = F.normalize(vectors.float(), dim=-1)
    firsts, seconds = unit[:, 0], unit[:, 1]  # each (B, F)
    candidates = torch.cat([seconds, unit[:, 2:].flatten(0, 1)])  # (B * (K - 1), F)
    first, second = identities[:, 0], identities[:, 1]  # each (B,)
    names = torch.cat([second, identities[:, 2:].flatten()])  # (B * (K - 1),)
    partners = first[:, None] == first[None, :]  # (B, B): rows with the same first text
    answers = (partners.float() @ (second[:, None] == names[None, :]).float()).bool()  # (B, C): partner of the first
    right = torch.arange(len(first), device=first.device)
    forward = (firsts @ candidates.T / temperature).masked_fill(
        _others(answers | (first[:, None] == names[None, :])), -torch.inf
    )
    questions = ((second[:, None] == second[None, :]).float() @ partners.float()).bool()  # (B, B)
    backward = (seconds @ firsts.T / temperature).masked_fill(
        _others(questions | (second[:, None] == first[None, :])), -torch.inf
    )
    return (F.cross_entropy(forward, right) + F.cross_entropy(backward, right)) / 2


def _others(same: Tensor) -> Tensor:
    """The mask without its diagonal, where the right one stands."""
    return same & ~torch.eye(*same.shape, dtype=torch.bool, device=same.device)


class Retrieval(Metric):
    """Recall at 1, 5 and 10 and mean reciprocal rank of the second text among all distinct second texts and negatives.

    Candidates that are equally near share the mean of their ranks, so that equal vectors find nothing. Other partners
    of the same first text do not count against it.
    """

    full_state_update = False
    higher_is_better = True
    vectors: list[Tensor]
    identities: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("vectors", default=[], dist_reduce_fx="cat")
        self.add_state("identities", default=[], dist_reduce_fx="cat")

    def update(self, vectors: Tensor, identities: Tensor) -> None:
        """Take in the vectors (B, K, F) of the texts of a batch, and the identities (B, K) of the texts."""
        self.vectors.append(vectors.float())
        self.identities.append(identities)

    def compute(self) -> dict[str, Tensor]:
        """`recall@1`, `recall@5`, `recall@10` and `mrr`, each from 0 to 1."""
        rank = ranks(dim_zero_cat(self.vectors), dim_zero_cat(self.identities))
        recalls = {f"recall@{k}": (rank <= k).double().mean() for k in (1, 5, 10)}
        return {**recalls, "mrr": (1 / rank).mean()}


def ranks(vectors: Tensor, identities: Tensor) -> Tensor:
    """The rank, from 1, of each second text for its first, (N,), from vectors (N, K, F) and identities (N, K)."""
    unit = F.normalize(vectors, dim=-1)
    names, where = identities[:, 1:].flatten().unique(return_inverse=True)  # (C,), (N * (K - 1),)
    first_seen = torch.full((len(names),), len(where), device=where.device).scatter_reduce(
        0, where, torch.arange(len(where), device=where.device), "amin"
    )
    candidates = unit[:, 1:].flatten(0, 1)[first_seen]  # (C, F)
    own = where.unflatten(0, (len(unit), -1))[:, 0]  # (N,)
    firsts, group = identities[:, 0].unique(return_inverse=True)
    partner = torch.zeros(len(firsts), len(names), dtype=torch.bool, device=own.device)
    partner[group, own] = True
    found = []
    for rows in torch.arange(len(unit), device=own.device).split(CHUNK):
        scores = unit[rows, 0] @ candidates.T  # (n, C)
        right = scores.gather(1, own[rows, None])  # (n, 1)
        others = ~partner[group[rows]]
        ahead, level = ~(scores <= right), scores == right  # what is no number is ahead: it has found nothing
        found.append(1 + (ahead & others).sum(1) + (level & others).sum(1) / 2)
    return torch.cat(found).double()
