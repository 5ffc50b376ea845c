"""What a task is: one file that owns a job from the row to the answer."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn
from torchmetrics import MetricCollection
from transformers import PreTrainedTokenizerBase

if TYPE_CHECKING:  # slow to import, and not needed until there are rows
    from datasets import Dataset


class Mistake(NamedTuple):
    """A wrong answer: its row in the split, and how sure the network was of it."""

    row: int
    true: str
    predicted: str
    confidence: float


class Task(ABC):
    """How a row becomes tokens, the head, the loss, the metrics, and how output becomes an answer.

    Args:
        text: The column with the text, or a list of two columns, whose texts are encoded as a pair.
        label: The column with the label.
    """

    monitor: str  # the validation metric by which the best checkpoint is chosen
    monitor_mode: str = "max"

    def __init__(self, text: str | list[str] = "text", label: str = "label") -> None:
        self.texts = [text] if isinstance(text, str) else text
        self.label = label
        self.labels: list[str] = []  # the label names, where there are any

    def encode(
        self, rows: Mapping[str, list[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> dict[str, list[Any]]:
        """Token ids (cut at `max_length` tokens), special-token masks and, where the rows have a label, `labels`."""
        texts = [rows[column] for column in self.texts]
        encoded = tokenizer(
            *texts,
            truncation=True,
            max_length=max_length,
            return_attention_mask=False,
            return_special_tokens_mask=True,
        )
        return {**encoded, **({"labels": self.targets(rows[self.label])} if self.label in rows else {})}

    @abstractmethod
    def learn(self, splits: Mapping[str, "Dataset"]) -> None:
        """Learn from the rows what the network and the answers need, such as the label names; check the rows."""

    @abstractmethod
    def targets(self, labels: Sequence[Any]) -> list[Any]:
        """The numbers that the loss takes for these labels."""

    @abstractmethod
    def head(self, width: int) -> nn.Module:
        """The module that turns pooled vectors, (B, width), into logits."""

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch, a scalar: the mean over its rows."""

    @abstractmethod
    def metrics(self) -> MetricCollection:
        """Fresh metrics, to be fed with (logits, labels) batch by batch and computed over a whole split."""

    def update(self, metrics: MetricCollection, logits: Tensor, labels: Tensor) -> None:
        """Feed the metrics with a batch."""
        metrics.update(logits, labels)

    @abstractmethod
    def decode(self, logits: Tensor) -> list[dict[str, Any]]:
        """The answers, one for each row of the logits, ready for JSON."""

    @abstractmethod
    def mistakes(self, logits: Tensor, labels: Tensor) -> list[Mistake]:
        """The wrong answers, the most confident first."""

    def state_dict(self) -> dict[str, Any]:
        """What `learn` found; plain values, kept in the checkpoint."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what an earlier `learn` found."""
        vars(self).update(state)
