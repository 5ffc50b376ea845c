"""What a task is: everything about one kind of job, from the row to the answer, in one file."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from litpool import InputError
from litpool.tasks.outcome import Outcome

if TYPE_CHECKING:
    from datasets import Dataset
    from torchmetrics import MetricCollection


Columns = Mapping[str, Sequence[Any]]  # the values of some rows, by column


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
    gives_vectors: bool = False  # whether the answers are vectors
    numeric: bool = False  # whether the labels are numbers, not names
    on_tokens: bool = False  # whether the head reads the states of all tokens instead of a pooling
    extras: Sequence[str] = ()  # optional columns, used if the data has them
    # Rows that are equal in the first of these columns that exists stay in the same split.
    group: Sequence[str] = ()
    state_attributes: Sequence[str] = ()  # what `learn` and `tune` set; saved in checkpoints
    encoding_attributes: Sequence[str] = ()  # what `encode` and `targets` read; empty: all

    def __init__(self, text: str | list[str] = "text", label: str = "label") -> None:
        self.texts = [text] if isinstance(text, str) else text
        if not self.texts:
            raise InputError("task.text=[]: name the column with the text")
        if label in self.texts:
            raise InputError(f"task.label={label}: the column with the text; name another one")
        self.label = label
        self.labels: list[str] = []  # the label names, if the task has any
        self.display_columns = self.texts  # to show next to an answer

    @abstractmethod
    def learn(self, splits: Mapping[str, "Dataset"]) -> None:
        """Check the rows, and learn what the network and the answers need, such as label names."""

    def encode(
        self, rows: Mapping[str, list[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> dict[str, list[Any]]:
        """Return token ids, special-token masks and, if the rows have a label, `labels`.

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
        """Return the plain values that the encoded rows depend on, for the token cache's key.

        By default these are all attributes, which is always safe. With `encoding_attributes`, a
        task leaves out settings such as dropout, so that changing them does not tokenize again.
        """
        if not self.encoding_attributes:
            return [type(self).__name__, *sorted(vars(self).items())]
        return [type(self).__name__, *(getattr(self, name) for name in self.encoding_attributes)]

    def targets(self, labels: Sequence[Any]) -> list[Any]:
        """Return the numbers that the loss expects for these labels; by default the labels."""
        return list(labels)

    @abstractmethod
    def head(self, in_features: int) -> nn.Module:
        """Return the module that turns pooled vectors, (B, in_features), into the output."""

    @abstractmethod
    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a batch, a scalar: the mean over its rows."""

    @abstractmethod
    def metrics(self, rows: "Dataset") -> "MetricCollection":
        """Return new metrics for these rows; updated batch by batch, computed over all of them."""

    def extract(self, output: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the predictions of a batch, (B, ...), of the same shape in every batch."""
        return output

    def update(
        self, metrics: "MetricCollection", predictions: Tensor, batch: Mapping[str, Tensor]
    ) -> None:
        """Update the metrics with the predictions of a batch."""
        metrics.update(predictions, batch["labels"])

    def tune(self, metrics: "MetricCollection") -> None:  # noqa: B027 (most tasks have nothing to tune)
        """Set what the answers depend on, such as a threshold, to its best value on validation.

        Runs after the last batch of the validation split and before its metrics are computed, on
        all devices at once.
        """

    def assemble(self, predictions: Tensor, index: Tensor) -> Tensor:
        """Return one prediction per row, in row order; `index` (N,) is each prediction's row."""
        return predictions[index.argsort()]

    @abstractmethod
    def decode(self, predictions: Tensor, rows: Columns) -> list[dict[str, Any]]:
        """Return the answers for the rows, ready for JSON, from assembled predictions."""

    @abstractmethod
    def mistakes(self, predictions: Tensor, rows: "Dataset") -> list[Mistake]:
        """Return the wrong answers, worst first, from assembled predictions."""

    def outcome(self, predictions: Tensor, rows: "Dataset") -> Outcome | None:
        """Return what to draw of assembled predictions next to the truth; None for nothing."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return the `state_attributes` as plain values, for the checkpoint."""
        return {name: getattr(self, name) for name in self.state_attributes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        known = self.state_dict()  # nothing else: a checkpoint may contain anything
        vars(self).update({key: value for key, value in state.items() if key in known})


def linear_head(in_features: int, out_features: int, dropout: float) -> nn.Sequential:
    """Return dropout and a linear layer, initialized as in BERT."""
    linear = nn.Linear(in_features, out_features)
    nn.init.normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(nn.Dropout(dropout), linear)


def check_shares(**shares: float) -> None:
    """Refuse an argument that is not a share from 0 to below 1."""
    for name, value in shares.items():
        if not 0 <= value < 1:
            raise InputError(f"task.{name}={value}: give a share from 0 to below 1, such as 0.1")
