"""How well the first text of a pair finds the second among all second texts of a split."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

CHUNK = 1024  # first texts to compare with all candidates at once


class Retrieval(Metric):
    """Recall at 1, 5 and 10 and mean reciprocal rank among all distinct second texts and negatives.

    Candidates that are equally near share the mean of their ranks, so that equal vectors score
    no better than chance. Other partners of the same first text do not count against it.
    torchmetrics' own retrieval metrics break ties by position and need a row for every candidate.
    """

    vectors: list[Tensor]
    identities: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("vectors", default=[], dist_reduce_fx="cat")
        self.add_state("identities", default=[], dist_reduce_fx="cat")

    def update(self, vectors: Tensor, identities: Tensor) -> None:
        """Add the vectors (B, K, F) of a batch, and the identities (B, K) of their texts."""
        self.vectors.append(vectors.float())
        self.identities.append(identities)

    def compute(self) -> dict[str, Tensor]:
        """Return `recall@1`, `recall@5`, `recall@10` and `mrr`, each from 0 to 1."""
        rank = ranks(dim_zero_cat(self.vectors), dim_zero_cat(self.identities))
        recalls = {f"recall@{k}": (rank <= k).double().mean() for k in (1, 5, 10)}
        return {**recalls, "mrr": (1 / rank).mean()}


def ranks(vectors: Tensor, identities: Tensor) -> Tensor:
    """Return the rank, from 1, of each second text among the candidates for its first, (N,).

    Args:
        vectors: The pair, then hard negatives, (N, K, F).
        identities: Numbers that are equal for equal texts, (N, K).
    """
    unit = F.normalize(vectors, dim=-1)
    device = unit.device

    # The C distinct candidates: of equal texts, the first.
    names, where = identities[:, 1:].flatten().unique(return_inverse=True)  # (C,), (N * (K - 1),)
    places = torch.arange(len(where), device=device)
    first_place = torch.full((len(names),), len(where), device=device)
    first_place = first_place.scatter_reduce(0, where, places, "amin")  # (C,)
    candidates = unit[:, 1:].flatten(0, 1)[first_place]  # (C, F)

    # Which candidates are partners of which first text.
    own = where.unflatten(0, (len(unit), -1))[:, 0]  # (N,)
    firsts, group = identities[:, 0].unique(return_inverse=True)
    partner = torch.zeros(len(firsts), len(names), dtype=torch.bool, device=device)
    partner[group, own] = True

    chunks = []
    for rows in torch.arange(len(unit), device=device).split(CHUNK):
        scores = unit[rows, 0] @ candidates.T  # (n, C)
        right = scores.gather(1, own[rows, None])  # (n, 1)
        others = ~partner[group[rows]]
        ahead = ~(scores <= right)  # so NaN, which finds nothing, ranks last
        level = scores == right
        chunks.append(1 + (ahead & others).sum(1) + (level & others).sum(1) / 2)
    return torch.cat(chunks).double()
