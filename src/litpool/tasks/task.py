"""What a task is: one file that owns a job from the row to the answer."""

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
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

    The network's output goes one way: `loss` in training; in scoring and predicting `extract` takes from each batch's
    output what is kept of it, `assemble` makes of it one entry a row, `decode` the answers.

    Args:
        text: The column with the text, or a list of two columns, whose texts are encoded as a pair.
        label: The column with the label; empty if there is none.
    """

    monitor: str  # the validation metric by which the best checkpoint is chosen
    monitor_mode: str = "max"
    mistake_measure: str = "confidence"  # what the wrong answers are sorted by
    on_tokens: bool = False  # whether the head stands on the states of the tokens, and not on their pooling
    extras: Sequence[str] = ()  # further columns that are used where they are there
    group: Sequence[str] = ()  # columns, the first that is there: its equal rows are not parted when a split is divided

    def __init__(self, text: str | list[str] = "text", label: str = "label") -> None:
        self.texts = [text] if isinstance(text, str) else text
        self.label = label
        self.labels: list[str] = []  # the label names, where there are any

    @property
    def shown(self) -> list[str]:
        """The columns that stand beside an answer."""
        return self.texts

    def encode(
        self, rows: Mapping[str, list[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> dict[str, list[Any]]:
        """Token ids (cut at `max_length` tokens), special-token masks and, where the rows have a label, `labels`.

        A task that makes several examples of a row adds `row`: for each example the row's number among `rows`.
        """
        texts = [rows[column] for column in self.texts]
        encoded = tokenizer(
            *texts,
            truncation=True,
            max_length=max_length,
            return_attention_mask=False,
            return_special_tokens_mask=True,
        )
        return {**encoded, **({"labels": self.targets(rows[self.label])} if self.label in rows else {})}

    @property
    def gives_vectors(self) -> bool:
        """Whether the answers are vectors."""
        return False

    @abstractmethod
    def learn(self, splits: Mapping[str, "Dataset"]) -> None:
        """Learn from the rows what the network and the answers need, such as the label names; check the rows."""

    def targets(self, labels: Sequence[Any]) -> list[Any]:
        """The numbers that the loss takes for these labels; by default they are that already."""
        return list(labels)

    @abstractmethod
    def head(self, width: int) -> nn.Module:
        """The module that turns pooled vectors, (B, width), into the network's output."""

    @abstractmethod
    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch, a scalar: the mean over its rows."""

    @abstractmethod
    def metrics(self, split: str, rows: "Dataset") -> MetricCollection:
        """Fresh metrics for a split, to be fed batch by batch and computed over the whole of it."""

    def extract(self, output: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """What is kept of a batch's output, (B, ...), of one shape in all batches."""
        return output

    def update(self, metrics: MetricCollection, kept: Tensor, batch: Mapping[str, Tensor]) -> None:
        """Feed the metrics with what `extract` kept of a batch."""
        metrics.update(kept, batch["labels"])

    def assemble(self, kept: Tensor, index: Tensor) -> Tensor:
        """One entry a row, in the order of the rows, from what `extract` kept (N, ...) and the row numbers (N,)."""
        return kept[index.argsort()]

    @abstractmethod
    def decode(self, kept: Tensor, rows: "Dataset") -> list[dict[str, Any]]:
        """The answers to the rows, from what `assemble` made of them, ready for JSON."""

    @abstractmethod
    def mistakes(self, kept: Tensor, rows: "Dataset") -> list[Mistake]:
        """The wrong answers, the worst first."""

    def state_dict(self) -> dict[str, Any]:
        """What `learn` found; plain values, kept in the checkpoint."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what an earlier `learn` found."""
        vars(self).update(state)


def linear_head(width: int, outputs: int, dropout: float) -> nn.Sequential:
    """Dropout and a linear layer, (..., width) to (..., outputs), started as BERT starts its own heads."""
    linear = nn.Linear(width, outputs)
    nn.init.normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(nn.Dropout(dropout), linear)


def check_shares(**shares: float) -> None:
    """Refuse an argument that is no share from 0 to below 1."""
    for name, value in shares.items():
        if not 0 <= value < 1:
            raise InputError(f"task.{name}={value}: give a share from 0 to below 1, such as 0.1")


def label_names(names: Mapping[str, Iterable[str]], column: str) -> list[str]:
    """The labels of the train split (of all splits where there is none): numbers in their order, else by name."""
    found = set(names["train"]) if "train" in names else set().union(*names.values())
    if len(found) < 2:
        raise InputError(f"column {column!r} holds {len(found)} label ({', '.join(found)}); at least 2 are needed")
    names_first = sorted(found)  # so that 1 and 01, equal as numbers, have their order as well
    try:
        return sorted(names_first, key=float)
    except ValueError:
        return names_first


def check_known(names: Mapping[str, Iterable[str]], labels: Sequence[str], column: str) -> None:
    """Refuse a split with a label that is not among the known ones."""
    for split, values in names.items():
        if unknown := sorted(set(values).difference(labels)):
            raise InputError(
                f"the {split} split has the label {unknown[0]!r} in column {column!r}, which was not learned from; "
                f"known: {', '.join(labels[:20])}; mend the file, or give train an example of it"
            )


Bounds = tuple[float, float]


def score_bounds(score_range: Bounds | None) -> Bounds | None:
    """The lowest and the highest score, if they are given; refuses an empty range."""
    if score_range is not None and not score_range[0] < score_range[1]:
        raise InputError(f"task.score_range={list(score_range)}: give the lowest score, then the highest")
    return None if score_range is None else (score_range[0], score_range[1])


def check_scores(splits: Mapping[str, "Dataset"], column: str, bounds: Bounds | None) -> dict[str, list[float]]:
    """The scores of each split.

    Raises:
        InputError: One is no finite number, or out of bounds.
    """
    low, high = bounds or (-sys.float_info.max, sys.float_info.max)
    found: dict[str, list[float]] = {split: [] for split in splits}
    for split, rows in splits.items():
        for number, value in enumerate(rows[column][:], start=1):
            try:
                score = float(value)
            except (TypeError, ValueError):
                score = math.nan
            if not low <= score <= high:
                must = f"a number from {low:g} to {high:g}; mend the row, or task.score_range" if bounds else "a number"
                raise InputError(f"the {split} split, row {number}: {column!r} is {str(value)[:40]!r}, must be {must}")
            found[split].append(score)
    return found
