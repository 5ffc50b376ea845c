"""What a task is: one file that owns a job from the row to the answer."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn
from torchmetrics import MetricCollection
from transformers import PreTrainedTokenizerBase

from litpool import InputError

if TYPE_CHECKING:  # slow to import, and not needed until there are rows
    from datasets import Dataset


class Mistake(NamedTuple):
    """A wrong answer: its row in the split, and how wrong it is in the task's `mistake_measure`."""

    row: int
    true: str
    predicted: str
    measure: float


class Task(ABC):
    """How a row becomes tokens, the head, the loss, the metrics, and how output becomes an answer.

    In training the network's output goes to `loss`. In evaluation and prediction, `extract` turns
    the output of each batch into predictions, `assemble` merges them into one per row, and `decode`
    turns those into answers.

    Args:
        text: The column with the text, or a list of two columns to encode as a pair.
        label: The column with the label; empty if there is none.
    """

    monitor: str  # the validation metric that selects the best checkpoint
    monitor_mode: str = "max"
    mistake_measure: str = "confidence"  # what the wrong answers are sorted by
    on_tokens: bool = False  # whether the head reads the states of all tokens instead of a pooling
    extras: Sequence[str] = ()  # optional columns, used where the data has them
    # rows that are equal in the first of these columns that exists stay in the same split
    group: Sequence[str] = ()

    def __init__(self, text: str | list[str] = "text", label: str = "label") -> None:
        self.texts = [text] if isinstance(text, str) else text
        self.label = label
        self.labels: list[str] = []  # the label names, if the task has any

    @property
    def display_columns(self) -> list[str]:
        """The columns to show next to an answer."""
        return self.texts

    @property
    def gives_vectors(self) -> bool:
        """Whether the answers are vectors."""
        return False

    @abstractmethod
    def learn(self, splits: Mapping[str, "Dataset"]) -> None:
        """Check the rows, and learn what the network and the answers need, such as label names."""

    def encode(
        self, rows: Mapping[str, list[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> dict[str, list[Any]]:
        """Token ids, special-token masks and, where the rows have a label, `labels`.

        Texts are truncated to `max_length` tokens. A task that makes several examples from a row
        adds a column `row`: the number, among `rows`, of each example's row.
        """
        encoded = tokenizer(
            *(rows[column] for column in self.texts),
            truncation=True,
            max_length=max_length,
            return_attention_mask=False,
            return_special_tokens_mask=True,
        )
        labels = {"labels": self.targets(rows[self.label])} if self.label in rows else {}
        return {**encoded, **labels}

    def encoding_key(self) -> list[Any]:
        """The plain values that `encode` and `targets` depend on, for the key of the token cache.

        By default that is every attribute, which is always safe. A task overrides it to leave out
        settings such as dropout, so that changing them does not tokenize again. A subclass that
        encodes by further settings must add them.
        """
        return [type(self).__name__, *sorted(vars(self).items())]

    def targets(self, labels: Sequence[Any]) -> list[Any]:
        """The numbers that the loss takes for these labels; by default the labels themselves."""
        return list(labels)

    @abstractmethod
    def head(self, in_features: int) -> nn.Module:
        """The module that turns pooled vectors, (B, in_features), into the network's output."""

    @abstractmethod
    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch, a scalar: the mean over its rows."""

    @abstractmethod
    def metrics(self, rows: "Dataset") -> MetricCollection:
        """Fresh metrics for these rows; updated batch by batch, computed over all of them."""

    def extract(self, output: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """The predictions of a batch, (B, ...), of the same shape in every batch."""
        return output

    def update(
        self, metrics: MetricCollection, predictions: Tensor, batch: Mapping[str, Tensor]
    ) -> None:
        """Update the metrics with the predictions of a batch."""
        metrics.update(predictions, batch["labels"])

    def tune(self, metrics: MetricCollection) -> None:  # noqa: B027 (most tasks have nothing to tune)
        """Set what the answers depend on, such as a threshold, to its best value on validation.

        Runs after the last batch of the validation split and before its metrics are computed, on
        all devices at once.
        """

    def assemble(self, predictions: Tensor, index: Tensor) -> Tensor:
        """One prediction per row, in the order of the rows, given each prediction's row (N,)."""
        return predictions[index.argsort()]

    @abstractmethod
    def decode(self, predictions: Tensor, rows: "Dataset") -> list[dict[str, Any]]:
        """The answers for the rows, from assembled predictions, ready for JSON."""

    @abstractmethod
    def mistakes(self, predictions: Tensor, rows: "Dataset") -> list[Mistake]:
        """The wrong answers, worst first, from assembled predictions."""

    def state_dict(self) -> dict[str, Any]:
        """What `learn` and `tune` set, as plain values for the checkpoint."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        known = self.state_dict()  # nothing else: a checkpoint may hold anything
        vars(self).update({key: value for key, value in state.items() if key in known})


def linear_head(in_features: int, out_features: int, dropout: float) -> nn.Sequential:
    """Dropout and a linear layer, (..., in_features) to (..., out_features), initialized as in BERT."""
    linear = nn.Linear(in_features, out_features)
    nn.init.normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(nn.Dropout(dropout), linear)


def check_shares(**shares: float) -> None:
    """Refuse an argument that is not a share from 0 to below 1."""
    for name, value in shares.items():
        if not 0 <= value < 1:
            raise InputError(f"task.{name}={value}: give a share from 0 to below 1, such as 0.1")
