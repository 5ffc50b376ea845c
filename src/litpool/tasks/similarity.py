"""Similarity of texts that are encoded separately (a bi-encoder, Sentence-BERT, arXiv 1908.10084).

B rows, K texts in a row, F features of a pooled vector. Pairs have K = 2, and hard negatives come
after them. For prediction K may be 1: then the answers are the vectors.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, assert_never

from torch import Tensor, nn
from torchmetrics import MetricCollection
from transformers import PreTrainedTokenizerBase

from litpool import InputError
from litpool.tasks.contrastive import ContrastiveObjective
from litpool.tasks.cosine import CosineObjective
from litpool.tasks.objective import Objective
from litpool.tasks.scores import score_bounds
from litpool.tasks.softmax import Part, SoftmaxObjective
from litpool.tasks.task import Mistake, Task

if TYPE_CHECKING:  # slow to import, and not needed until there are rows
    from datasets import Dataset


class Similarity(Task):
    """Texts to vectors whose cosine is their similarity; all texts share one encoder and pooling.

    Args:
        text: The two columns with the texts of a pair; for `contrastive`, optionally followed by
            columns with hard negatives; to predict vectors, one column.
        label: The column with the score (`cosine`) or the label (`softmax`); `contrastive` needs
            none.
        objective: `cosine`: the cosine is fitted to the score (mean squared error). `softmax`: a
            classifier on `combination` learns the labels, as in NLI. `contrastive`: of all texts in
            the batch, the second of a pair should be nearest to the first, and the other way round
            (InfoNCE, arXiv 1807.03748); equal texts are never negatives of each other. Each device
            uses only its own batch.
        score_range: The lowest and the highest possible score; they become the cosines 0 and 1.
        combination: What the classifier of `softmax` reads: any of `u`, `v`, `|u-v|` and `u*v`
            (SBERT's table 6).
        temperature: What the cosines of `contrastive` are divided by; the lower it is, the more the
            nearest texts count.
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
                f"task.text={self.texts}: {objective} takes two columns; "
                "hard negatives are for contrastive"
            )
        if not temperature > 0:
            raise InputError(f"task.temperature={temperature}: give a number over 0, such as 0.05")
        if not combination:
            raise InputError("task.combination is empty: name some of u, v, |u-v|, u*v")
        self.objective = objective
        self.bounds = score_bounds(score_range)
        self.combination = combination
        self.temperature = temperature
        self.monitor = self.goal.monitor
        self.mistake_measure = self.goal.mistake_measure

    @property
    def goal(self) -> Objective:
        """The objective, with the task's settings and the labels it has learned so far."""
        match self.objective:
            case "cosine":
                return CosineObjective(self.label, self.bounds)
            case "softmax":
                return SoftmaxObjective(self.label, self.labels, self.combination)
            case "contrastive":
                return ContrastiveObjective(self.texts, self.temperature)
            case _:
                assert_never(self.objective)

    @property
    def gives_vectors(self) -> bool:
        """Whether there are single texts, whatever the objective."""
        return len(self.texts) == 1

    def learn(self, splits: Mapping[str, "Dataset"]) -> None:
        """Check that there are pairs and that the objective can use their labels."""
        if len(self.texts) < 2:
            raise InputError(
                f"task.text={self.texts}: pairs take two columns, as in [sentence1, sentence2]"
            )
        self.labels = self.goal.learn(splits) or self.labels

    def encode(
        self, rows: Mapping[str, list[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> dict[str, list[Any]]:
        """A list of K texts' token ids for each row, each truncated to `max_length`; `labels`."""
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
        encoded: dict[str, list[Any]] = {}
        for key in texts[0]:
            columns = [text[key] for text in texts]
            encoded[key] = [list(row) for row in zip(*columns, strict=True)]
        labels = self.goal.encode_labels(rows)
        if labels is not None:
            encoded["labels"] = labels
        return encoded

    def encoding_key(self) -> list[Any]:
        """Columns, label names, and how scores are scaled."""
        name = type(self).__name__
        return [name, self.texts, self.label, self.labels, self.objective, self.bounds]

    def targets(self, labels: Sequence[Any]) -> list[Any]:
        """The cosines that scores stand for, or the positions of labels among the names."""
        return self.goal.targets(labels)

    def head(self, in_features: int) -> nn.Module:
        """The objective's head on vectors (B, K, F)."""
        return self.goal.head(in_features)

    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """The objective's loss; `labels` are (B,), for `contrastive` (B, K)."""
        return self.goal.loss(output, labels)

    def metrics(self, rows: "Dataset") -> MetricCollection:
        """The objective's metrics."""
        return self.goal.metrics()

    def extract(self, output: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """The objective's predictions for pairs; the vectors (B, 1, F) of single texts."""
        return output if self.gives_vectors else self.goal.extract(output)

    def update(
        self, metrics: MetricCollection, predictions: Tensor, batch: Mapping[str, Tensor]
    ) -> None:
        """Update the metrics."""
        self.goal.update(metrics, predictions, batch["labels"])

    def decode(self, predictions: Tensor, rows: "Dataset") -> list[dict[str, Any]]:
        """The cosine of each pair, and its label if there are any; the vector of single texts."""
        if self.gives_vectors:
            return [{"vector": vector} for vector in predictions.squeeze(1).tolist()]
        return self.goal.decode(predictions, rows)

    def mistakes(self, predictions: Tensor, rows: "Dataset") -> list[Mistake]:
        """Errors of the cosine, wrong labels, or first texts that are nearest to a wrong text."""
        return self.goal.mistakes(predictions, rows)

    def state_dict(self) -> dict[str, Any]:
        """Label names."""
        return {"labels": self.labels}
