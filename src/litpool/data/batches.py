"""Which rows form which batch: reproducible orders, shared by devices and resumable."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Sampler
from transformers import PreTrainedTokenizerBase

from litpool import InputError

TOKENS = ("input_ids", "token_type_ids", "special_tokens_mask")  # what the tokenizer pads
CHUNK = 64  # batches sorted together: enough to save padding, few enough to keep the order random


class TrainOrder(Sampler[list[int]]):
    """Batches for training: rows of similar length together, in a different order each epoch.

    All rows are permuted, chunks of 64 batches are sorted by length and cut into batches, and the
    batches are shuffled. Devices share each batch of `world_size * batch_size` rows, so that n
    devices train on the same batches as one device with an n times larger batch size. A last batch
    with fewer rows than devices is left out.

    Args:
        lengths: Tokens of each row.
        batch_size: Rows of a batch on each device.
        seed: Determines the order, together with the epoch.
        grouped: Whether to sort by length at all; otherwise the order is a plain permutation.
        rank: Which device this is, 0 to `world_size` - 1.
        world_size: Number of devices.
        done: Returns how many batches of the epoch Lightning has already trained on.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        seed: int,
        grouped: bool = True,
        rank: int = 0,
        world_size: int = 1,
        done: Callable[[], int] = lambda: 0,
    ) -> None:
        self.lengths = torch.as_tensor(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.grouped = grouped
        self.rank = rank
        self.world_size = world_size
        self.done = done
        self.epoch = 0
        self.skip = 0

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """Choose the epoch whose order comes next, and how many of its batches to skip."""
        self.epoch = epoch
        self.skip = skip

    def __len__(self) -> int:
        full, rest = divmod(len(self.lengths), self.batch_size * self.world_size)
        return full + (rest >= self.world_size)

    def __iter__(self) -> Iterator[list[int]]:
        # Seeds are spread out, so that no two pairs of seed and epoch share an order.
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        size = self.batch_size * self.world_size
        rows = torch.randperm(len(self.lengths), generator=generator)
        full = len(rows) - len(rows) % size
        chunks = rows[:full].split(size * CHUNK)
        if self.grouped:
            chunks = tuple(chunk[self.lengths[chunk].argsort(stable=True)] for chunk in chunks)
        # The rest is not sorted with the others: it would always be the longest rows.
        chunks = (*chunks, rows[full:])
        batches = [batch for chunk in chunks for batch in chunk.split(size)]
        batches = [batch for batch in batches if len(batch) >= self.world_size]
        order = torch.randperm(len(batches), generator=generator).tolist()
        for index in order[self.skip or self.done() :]:
            yield batches[index].tensor_split(self.world_size)[self.rank].tolist()


class EvaluationOrder(Sampler[list[int]]):
    """Batches for evaluation: all rows once, longest first, shared evenly between devices.

    Args:
        lengths: Tokens of each row.
        batch_size: Rows of a batch on each device, at most.
        rank: Which device this is, 0 to `world_size` - 1.
        world_size: Number of devices.
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, rank: int = 0, world_size: int = 1
    ) -> None:
        if len(lengths) < world_size:
            raise InputError(
                f"{len(lengths)} rows for {world_size} devices: "
                f"set trainer.devices to {len(lengths)} or less"
            )
        order = np.argsort(-np.asarray(lengths), kind="stable")
        batches = -(-len(order) // (batch_size * world_size))
        shares = np.array_split(order, batches * world_size)[rank::world_size]
        self.batches = [share.tolist() for share in shares if len(share)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        yield from self.batches


class Collator:
    """Pads the rows of a batch to the length of the longest.

    Args:
        tokenizer: Knows the padding side and the padding values.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        # Silences the advice to pad while tokenizing, which would undo dynamic padding.
        tokenizer.deprecation_warnings["Asking-to-pad-a-fast-tokenizer"] = True

    def __call__(self, rows: Mapping[str, list[Any]]) -> dict[str, Tensor]:
        """Turn the columns of a batch, `input_ids` among them, into tensors.

        Returns:
            Tokens (B, T), or (B, K, T) if each row has K texts that are encoded one by one;
            `offsets` (B, T, 2); `labels` and `index` (B, ...).
        """
        unpadded = {key: torch.tensor(rows[key]) for key in ("labels", "index") if key in rows}
        tokens = {key: rows[key] for key in TOKENS if key in rows}
        several = isinstance(tokens["input_ids"][0][0], list)
        if several:
            tokens = {key: [text for row in texts for text in row] for key, texts in tokens.items()}
        padded = dict(self.tokenizer.pad(tokens, return_tensors="pt"))
        if several:
            padded = {
                key: value.unflatten(0, (len(unpadded["index"]), -1))
                for key, value in padded.items()
            }
        if "offsets" in rows:
            offsets = [torch.tensor(row) for row in rows["offsets"]]
            side = self.tokenizer.padding_side
            padded["offsets"] = pad_sequence(offsets, batch_first=True, padding_side=side)
        return {**padded, **unpadded}
