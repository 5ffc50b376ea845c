"""The network as a function of tensors, with pooling and head inside, and its inputs for texts."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from litpool.data.batches import Collator
from litpool.data.token_ids import encode_rows
from litpool.model.network import TextModel
from litpool.tasks.regression import Regression
from litpool.tasks.similarity import Similarity
from litpool.tasks.task import Task

BATCH = 8  # rows of a batch of golden texts


@dataclass
class Model:
    """What is exported: a network in evaluation mode on the CPU, and what it needs around it.

    Args:
        network: The network.
        task: The task, with its label names.
        tokenizer: The tokenizer, with added tokens.
        max_length: The most tokens of a text.
        prefixes: What goes before the text of each column that has a prefix.
        config: The job as plain values.
        metrics: The metrics in the checkpoint.
        new_ids: Ids of added tokens.
    """

    network: TextModel
    task: Task
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    prefixes: dict[str, str]
    config: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)
    new_ids: Sequence[int] = ()

    @property
    def columns(self) -> list[str]:
        """The text columns of a row: a bi-encoder's export encodes one text at a time."""
        return self.task.texts[:1] if isinstance(self.task, Similarity) else self.task.texts

    @property
    def output(self) -> str:
        """What the export gives: vectors, logits, scores or spans (logits for each token)."""
        if isinstance(self.task, Similarity):
            return "vectors"
        if isinstance(self.task, Regression):
            return "scores"
        return "spans" if self.task.on_tokens else "logits"

    @property
    def added_special_ids(self) -> list[int]:
        """The ids of added special tokens, which a tokenizer does not mark as special in a text."""
        vocab = self.tokenizer.get_added_vocab()
        return [vocab[token] for token in self.tokenizer.extra_special_tokens]

    def encode(
        self, rows: Sequence[Sequence[str]], max_length: int | None = None, prefix: bool = True
    ) -> dict[str, list[Any]]:
        """Return the token ids and masks of rows with a text for each column, as in training.

        Of a long context, there is only the first window.
        """
        task = self.task
        if isinstance(task, Similarity):
            task = copy.copy(task)
            task.texts = self.columns
        texts = zip(*rows, strict=True)
        columns = {name: list(column) for name, column in zip(self.columns, texts, strict=True)}
        prefixes = {name: self.prefixes[name] for name in self.columns if name in self.prefixes}
        encoded = encode_rows(
            task,
            columns,
            self.tokenizer,
            max_length or self.max_length,
            prefixes if prefix else {},
        )
        owners = encoded.pop("row")
        del encoded["length"]
        first = [owners.index(row) for row in range(len(rows))]
        encoded = {key: [values[n] for n in first] for key, values in encoded.items()}
        if isinstance(task, Similarity):
            encoded = {key: [row[0] for row in values] for key, values in encoded.items()}
        encoded.pop("labels", None)
        return encoded

    def batches(self, encoded: Mapping[str, list[Any]]) -> list[dict[str, Tensor]]:
        """Return padded batches of eight rows, in order."""
        collate = Collator(self.tokenizer)
        names = ("input_ids", "token_type_ids", "special_tokens_mask")
        columns = {name: encoded[name] for name in names if name in encoded}
        count = len(columns["input_ids"])
        return [
            collate({name: values[start : start + BATCH] for name, values in columns.items()})
            for start in range(0, count, BATCH)
        ]


class Graph(nn.Module):
    """Token ids and masks, each (B, T), to the task's output; scores are in the labels' unit.

    Args:
        network: The network.
        task: Its task.
        special_ids: Ids of added special tokens, which a tokenizer does not mark in a text.
    """

    special_ids: Tensor

    def __init__(self, network: TextModel, task: Task, special_ids: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.gives_vectors = isinstance(task, Similarity)
        self.shift, self.scale = 0.0, 1.0
        if isinstance(task, Regression):
            self.shift, self.scale = task.shift, task.scale
        self.register_buffer("special_ids", torch.tensor(special_ids, dtype=torch.long))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        special_tokens_mask: Tensor | None = None,
    ) -> Tensor:
        batch = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            batch["token_type_ids"] = token_type_ids
        if special_tokens_mask is not None:
            if len(self.special_ids):
                # (B, T); ONNX has no `isin`
                is_added = (input_ids.unsqueeze(-1) == self.special_ids).any(-1)
                special_tokens_mask = (special_tokens_mask.bool() | is_added).long()
            batch["special_tokens_mask"] = special_tokens_mask
        output = self.network.embed(batch) if self.gives_vectors else self.network(batch)
        if self.scale != 1 or self.shift != 0:
            output = output * self.scale + self.shift
        return output

    @torch.no_grad()
    def run(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the output of a batch that may hold more than the graph reads."""
        names = ("input_ids", "attention_mask", "token_type_ids", "special_tokens_mask")
        return self(**{name: batch[name] for name in names if name in batch})

    def input_names(self, batch: Mapping[str, Tensor]) -> list[str]:
        """Return which inputs the output depends on, in order; found out with a batch."""
        names = ["input_ids", "attention_mask"]
        if "token_type_ids" in batch:
            names.append("token_type_ids")
        flipped = {**batch, "special_tokens_mask": 1 - batch["special_tokens_mask"]}
        if not torch.equal(self.run(batch), self.run(flipped)):
            names.append("special_tokens_mask")
        return names


def split_rows(output: Tensor, batch: Mapping[str, Tensor]) -> list[Tensor]:
    """Return the output of each row; of logits for tokens, (B, T, 2), only those of its tokens."""
    if output.ndim < 3:
        return list(output)
    return [row[mask.bool()] for row, mask in zip(output, batch["attention_mask"], strict=True)]
