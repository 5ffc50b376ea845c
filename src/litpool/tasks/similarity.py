"""Similarity of texts that are encoded separately (a bi-encoder, Sentence-BERT, arXiv 1908.10084).

B rows, K texts in a row, F features of a pooled vector. Pairs have K = 2, and hard negatives come
after them. For prediction K may be 1: then the answers are the vectors.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, assert_never

from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from litpool import InputError
from litpool.tasks.contrastive import ContrastiveObjective
from litpool.tasks.cosine import CosineObjective
from litpool.tasks.objective import Objective
from litpool.tasks.outcome import Outcome
from litpool.tasks.scores import score_bounds
from litpool.tasks.softmax import Part, SoftmaxObjective
from litpool.tasks.task import Columns, Mistake, Task

if TYPE_CHECKING:
    from datasets import Dataset
    from torchmetrics import MetricCollection


class Similarity(Task):
    """Texts to vectors whose cosine is their similarity; all texts share one encoder and pooling.

    Args:
        text: The two columns with the texts of a pair; for `contrastive`, optionally followed by
            columns with hard negatives; to predict vectors, one column.
        label: The column with the score (`cosine`) or the label (`softmax`); `contrastive` needs
            no label.
        objective: `cosine`: the cosine is fitted to the score (mean squared error). `softmax`: a
            classifier on `combination` learns the labels, as in NLI. `contrastive`: of all texts in
            the batch, the second of a pair should be nearest to the first, and vice versa (InfoNCE,
            arXiv 1807.03748); equal texts are never negatives of each other. Each device uses only
            its own batch.
        score_range: The lowest and the highest possible score; they become the cosines 0 and 1.
        combination: What the classifier of `softmax` reads: any of `u`, `v`, `|u-v|` and `u*v`
            (SBERT's table 6).
        temperature: What the cosines of `contrastive` are divided by; the lower it is, the more the
            nearest texts count.
    """

    state_attributes = ("labels",)
    encoding_attributes = ("texts", "label", "labels", "objective", "bounds")

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
                f"task.text={self.texts}: {objective} needs two columns; "
                "hard negatives are for contrastive"
            )
        if not temperature > 0:
            raise InputError(f"task.temperature={temperature}: give a number over 0, such as 0.05")
        if not combination:
            raise InputError("task.combination is empty: name some of u, v, |u-v|, u*v")
        self.gives_vectors = len(self.texts) == 1
        self.objective = objective
        self.numeric = objective == "cosine"
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

    def learn(self, splits: Mapping[str, "Dataset"]) -> None:
        """Check that there are pairs and that the objective can use their labels."""
        if len(self.texts) < 2:
            raise InputError(
                f"task.text={self.texts}: pairs need two columns, as in [sentence1, sentence2]"
            )
        self.labels = self.goal.learn(splits) or self.labels

    def encode(
        self, rows: Mapping[str, list[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> dict[str, list[Any]]:
        """Return, per row, the token ids of K texts, each truncated to `max_length`; `labels`."""
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

    def targets(self, labels: Sequence[Any]) -> list[Any]:
        """Return scores scaled to cosines, or the position of each label among the names."""
        return self.goal.targets(labels)

    def head(self, in_features: int) -> nn.Module:
        return self.goal.head(in_features)

    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """Return the objective's loss; `labels` are (B,), for `contrastive` (B, K)."""
        return self.goal.loss(output, labels)

    def metrics(self, rows: "Dataset") -> "MetricCollection":
        return self.goal.metrics()

    def extract(self, output: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the objective's predictions for pairs; vectors (B, 1, F) for single texts."""
        return output if self.gives_vectors else self.goal.extract(output)

    def update(
        self, metrics: "MetricCollection", predictions: Tensor, batch: Mapping[str, Tensor]
    ) -> None:
        self.goal.update(metrics, predictions, batch["labels"])

    def decode(self, predictions: Tensor, rows: Columns) -> list[dict[str, Any]]:
        """Return the cosine of each pair, and its label if there are any; or each text's vector."""
        if self.gives_vectors:
            return [{"vector": vector} for vector in predictions.squeeze(1).tolist()]
        return self.goal.decode(predictions, rows)

    def mistakes(self, predictions: Tensor, rows: "Dataset") -> list[Mistake]:
        """Return errors of the cosine, wrong labels, or texts that are nearest to a wrong one."""
        return self.goal.mistakes(predictions, rows)

    def outcome(self, predictions: Tensor, rows: "Dataset") -> Outcome | None:
        """Return cosines and scores, or how sure the labels are; nothing for `contrastive`."""
        return self.goal.outcome(predictions, rows)
