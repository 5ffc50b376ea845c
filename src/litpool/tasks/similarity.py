"""Similarity of texts that are encoded each by itself (a bi-encoder, Sentence-BERT, arXiv 1908.10084).

B rows, K texts in a row, F features of a pooled vector. Pairs are K = 2; single texts, K = 1, can be predicted, and
then the answers are the vectors.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MetricCollection, PearsonCorrCoef, SpearmanCorrCoef
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score
from transformers import PreTrainedTokenizerBase

from litpool import InputError
from litpool.tasks.retrieval import Retrieval, contrastive_loss
from litpool.tasks.task import Mistake, Task, check_known, check_scores, label_names, linear_head, score_bounds

if TYPE_CHECKING:  # slow to import, and not needed until there are rows
    from datasets import Dataset

Part = Literal["u", "v", "|u-v|", "u*v"]
MONITORS = {"cosine": "val/spearman", "softmax": "val/accuracy", "contrastive": "val/mrr"}


class Similarity(Task):
    """Texts to vectors, whose cosine is their similarity; both texts of a pair go through the same encoder and pooling.

    Args:
        text: The two columns with the texts of a pair; for `contrastive`, after these, any number of columns with hard
            negatives; for predicting vectors, one column.
        label: The column with the score (`cosine`) or the label (`softmax`); `contrastive` needs none.
        objective: `cosine`: the cosine is fitted to the score (mean squared error). `softmax`: a classifier on
            `combination` learns the labels, as of NLI. `contrastive`: of all texts in the batch, the second of the pair
            shall be nearest to the first, and the other way round (InfoNCE, arXiv 1807.03748); equal texts are never
            negatives of each other. A device sees its own batch only.
        score_range: The lowest and the highest score there can be; they become the cosines 0 and 1.
        combination: What the classifier of `softmax` stands on: of `u`, `v`, `|u-v|` and `u*v` (SBERT's table 6).
        temperature: What the cosines of `contrastive` are divided by; the lower, the more the nearest count.
    """

    def __init__(
        self,
        text: str | list[str] = ["sentence1", "sentence2"],  # noqa: B006 (the parser reads it)
        label: str = "score",
        objective: Literal["cosine", "softmax", "contrastive"] = "cosine",
        score_range: tuple[float, float] = (0.0, 1.0),
        combination: list[Part] = ["u", "v", "|u-v|"],  # noqa: B006
        temperature: float = 0.05,
    ) -> None:
        super().__init__(text, "" if objective == "contrastive" else label)
        if len(self.texts) > 2 and objective != "contrastive":
            raise InputError(
                f"task.text={self.texts}: {objective} takes two columns; hard negatives are for contrastive"
            )
        if not temperature > 0:
            raise InputError(f"task.temperature={temperature}: give a number over 0, such as 0.05")
        if not combination:
            raise InputError("task.combination is empty: name some of u, v, |u-v|, u*v")
        self.objective, self.combination, self.temperature = objective, combination, temperature
        bounds = score_bounds(score_range)
        assert bounds
        self.bounds = bounds
        self.monitor = MONITORS[objective]
        self.mistake_measure = "confidence" if objective == "softmax" else "error"

    @property
    def gives_vectors(self) -> bool:
        """Of single texts, whatever the objective."""
        return len(self.texts) == 1

    def learn(self, splits: Mapping[str, "Dataset"]) -> None:
        """Check that there are pairs, and their scores; for `softmax`, the label names."""
        if len(self.texts) < 2:
            raise InputError(f"task.text={self.texts}: pairs take two columns, as in [sentence1, sentence2]")
        if self.objective == "cosine":
            check_scores(splits, self.label, self.bounds)
        if self.objective == "softmax":
            names = {split: [str(value) for value in rows[self.label][:]] for split, rows in splits.items()}
            self.labels = self.labels or label_names(names, self.label)
            check_known(names, self.labels, self.label)

    def encode(
        self, rows: Mapping[str, list[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> dict[str, list[Any]]:
        """For each row a list of K texts' token ids, each cut at `max_length`, and the `labels` of the objective."""
        texts = [
            tokenizer(
                rows[column],
                truncation=True,
                max_length=max_length,
                return_attention_mask=False,
                return_special_tokens_mask=True,
            )
            for column in self.texts
        ]
        encoded: dict[str, list[Any]] = {
            key: [list(row) for row in zip(*(text[key] for text in texts), strict=True)] for key in texts[0]
        }
        if self.objective == "contrastive":
            columns = [[_identity(text) for text in rows[column]] for column in self.texts]
            encoded["labels"] = [list(row) for row in zip(*columns, strict=True)]
        elif self.label in rows:
            encoded["labels"] = self.targets(rows[self.label])
        return encoded

    def targets(self, labels: Sequence[Any]) -> list[Any]:
        """The cosines that scores stand for, or the positions of labels among the names."""
        if self.objective == "softmax":
            position = {name: index for index, name in enumerate(self.labels)}
            return [position[str(label)] for label in labels]
        low, high = self.bounds
        return [(float(label) - low) / (high - low) for label in labels]

    def head(self, width: int) -> nn.Module:
        """Nothing, (B, K, F) as it is; for `softmax` the cosine and the logits of the labels, (B, 1 + C)."""
        return SoftmaxHead(width, len(self.labels), self.combination) if self.objective == "softmax" else nn.Identity()

    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """The objective's loss of what the head gives; `labels` are (B,), for `contrastive` (B, K)."""
        if self.objective == "cosine":
            return F.mse_loss(cosine(output), labels.float())
        if self.objective == "softmax":
            return F.cross_entropy(output[:, 1:], labels)
        return contrastive_loss(output, labels, self.temperature)

    def extract(self, output: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Of pairs with scores the cosine, (B,); else the output as it is."""
        pairs = self.objective == "cosine" and output.shape[1] == 2
        return cosine(output) if pairs else output

    def metrics(self, split: str, rows: "Dataset") -> MetricCollection:
        """Correlations of cosine and score; accuracy and macro F1 of labels; or recall@k and mean reciprocal rank."""
        if self.objective == "cosine":
            return MetricCollection(
                {"spearman": SpearmanCorrCoef(), "pearson": PearsonCorrCoef()}, compute_groups=False
            )
        if self.objective == "softmax":
            count = len(self.labels)
            accuracy, f1 = MulticlassAccuracy(count, average="micro"), MulticlassF1Score(count, average="macro")
            return MetricCollection({"accuracy": accuracy, "f1": f1}, compute_groups=False)
        return MetricCollection([Retrieval()], compute_groups=False)

    def update(self, metrics: MetricCollection, kept: Tensor, batch: Mapping[str, Tensor]) -> None:
        """Feed the metrics."""
        metrics.update(kept[:, 1:] if self.objective == "softmax" else kept, batch["labels"])

    def decode(self, kept: Tensor, rows: "Dataset") -> list[dict[str, Any]]:
        """The cosine of each pair, and the label if there are labels; of single texts the vector."""
        if self.gives_vectors:
            return [{"vector": vector} for vector in kept.squeeze(1).tolist()]
        if self.objective != "softmax":
            cosines = kept if kept.ndim == 1 else cosine(kept[:, :2])
            return [{"cosine": value} for value in cosines.tolist()]
        probabilities = kept[:, 1:].float().softmax(-1)  # (N, C)
        answers = zip(kept[:, 0].tolist(), probabilities.argmax(-1).tolist(), probabilities.tolist(), strict=True)
        return [
            {"cosine": value, "label": self.labels[best], "probabilities": dict(zip(self.labels, row, strict=True))}
            for value, best, row in answers
        ]

    def mistakes(self, kept: Tensor, rows: "Dataset") -> list[Mistake]:
        """The largest errors of the cosine; wrong labels; or firsts whose nearest text is not their second."""
        if self.objective == "contrastive":
            return self._misled(kept, rows)
        targets = torch.tensor(self.targets(rows[self.label]))
        if self.objective == "softmax":
            measure, predicted = kept[:, 1:].float().softmax(-1).max(-1)  # each (N,)
            wrong = predicted != targets
        else:
            predicted, wrong = kept.float(), torch.ones_like(targets, dtype=torch.bool)
            measure = (predicted - targets).abs()
        worst = [row for row in measure.argsort(descending=True).tolist() if wrong[row]]
        return [
            Mistake(row, self._told(targets[row]), self._told(predicted[row]), float(measure[row])) for row in worst
        ]

    def _told(self, value: Tensor) -> str:
        return f"{value:.2f}" if self.objective == "cosine" else self.labels[int(value)]

    def _misled(self, kept: Tensor, rows: "Dataset") -> list[Mistake]:
        first, second = F.normalize(kept.float(), dim=-1)[:, :2].unbind(1)  # each (N, F)
        texts = rows[self.texts[1]][:]
        found = []
        for row, scores in enumerate(first @ second.T):  # (N,)
            nearest = int(scores.argmax())
            if texts[nearest] != texts[row]:
                found.append(Mistake(row, texts[row], texts[nearest], float(scores[nearest] - scores[row])))
        return sorted(found, key=lambda mistake: -mistake.measure)

    def state_dict(self) -> dict[str, Any]:
        """Label names."""
        return {"labels": self.labels}


class SoftmaxHead(nn.Module):
    """The cosine of a pair and the logits of its label; single texts pass as they are.

    Args:
        width: F.
        labels: C.
        combination: What the linear layer stands on.
    """

    def __init__(self, width: int, labels: int, combination: Sequence[Part]) -> None:
        super().__init__()
        self.combination = combination
        self.linear = linear_head(width * len(combination), labels, dropout=0.0)

    def forward(self, vectors: Tensor) -> Tensor:
        if vectors.shape[1] == 1:
            return vectors  # (B, 1, F)
        u, v = vectors.unbind(1)  # each (B, F)
        parts = {"u": u, "v": v, "|u-v|": (u - v).abs(), "u*v": u * v}
        logits = self.linear(torch.cat([parts[part] for part in self.combination], dim=-1))  # (B, C)
        return torch.cat([cosine(vectors).unsqueeze(-1).to(logits.dtype), logits], dim=-1)


def cosine(vectors: Tensor) -> Tensor:
    """Cosine of the two vectors of each pair, (B, 2, F) to (B,), in float32."""
    first, second = vectors.float().unbind(1)
    return F.cosine_similarity(first, second, dim=-1)


def _identity(text: str) -> int:
    """A number that stands for a text, equal for equal texts: 63 bits of its hash."""
    return int.from_bytes(hashlib.blake2b(text.strip().encode(), digest_size=8).digest()) >> 1
