"""Which rows stand in which batch: length-aware orders, determined by a seed, shared by devices, resumable."""

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
POOL = 64  # batches that are sorted together: enough to keep padding low, few enough to keep the order random


class TrainOrder(Sampler[list[int]]):
    """Batches for training: rows of similar length together, shuffled, in another order each epoch.

    All rows are permuted, pools of 64 batches are sorted by length and cut into batches, and the batches are
    shuffled. Devices share each batch of `world_size * batch_size` rows, so that the global batches of n devices are
    those of one device with an n times larger batch. A last batch with fewer rows than devices is left out.

    Args:
        lengths: Tokens of each row.
        batch_size: Rows a device takes in a batch.
        seed: With the epoch, it determines the order.
        grouped: Whether to sort by length at all; otherwise the order is a plain permutation.
        rank: Which device this is, 0 to `world_size` - 1.
        world_size: Number of devices.
        done: Tells, when an epoch begins, how many of its batches a resumed run has behind it.
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
        self.batch_size, self.seed, self.grouped = batch_size, seed, grouped
        self.rank, self.world_size, self.done = rank, world_size, done
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        full, rest = divmod(len(self.lengths), self.batch_size * self.world_size)
        return full + (rest >= self.world_size)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(
            self.seed * 1_000_003 + self.epoch
        )  # no epoch repeats another seed's
        size = self.batch_size * self.world_size
        rows = torch.randperm(len(self.lengths), generator=generator)
        full = (
            len(rows) - len(rows) % size
        )  # the rest is a batch of its own: any rows, not always the longest
        pools = rows[:full].split(size * POOL)
        if self.grouped:
            pools = tuple(pool[self.lengths[pool].argsort(stable=True)] for pool in pools)
        batches = [batch for pool in (*pools, rows[full:]) for batch in pool.split(size)]
        batches = [batch for batch in batches if len(batch) >= self.world_size]
        for index in torch.randperm(len(batches), generator=generator).tolist()[self.done() :]:
            yield batches[index].tensor_split(self.world_size)[self.rank].tolist()


class EvaluationOrder(Sampler[list[int]]):
    """Batches for evaluation: all rows once, longest first; the devices' shares differ by one row at most.

    Args:
        lengths: Tokens of each row.
        batch_size: Rows a device takes in a batch, at most.
        rank: Which device this is, 0 to `world_size` - 1.
        world_size: Number of devices.
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, rank: int = 0, world_size: int = 1
    ) -> None:
        if len(lengths) < world_size:
            raise InputError(
                f"{len(lengths)} rows for {world_size} devices: set trainer.devices to {len(lengths)} or less"
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
    """Pads the rows of a batch to the longest of them.

    Args:
        tokenizer: Knows the padding side and the padding values.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        # the advice to pad while tokenizing would undo dynamic padding
        tokenizer.deprecation_warnings["Asking-to-pad-a-fast-tokenizer"] = True

    def __call__(self, rows: Mapping[str, list[Any]]) -> dict[str, Tensor]:
        """Rows as columns, `input_ids` among them, to tensors.

        Returns:
            (B, T) for tokens, (B, K, T) where a row has K texts that are encoded each by itself, (B, T, 2) for
            `offsets`, and (B, ...) for `labels` and `index`.
        """
        single = {key: torch.tensor(rows[key]) for key in ("labels", "index") if key in rows}
        tokens = {key: rows[key] for key in TOKENS if key in rows}
        several = isinstance(tokens["input_ids"][0][0], list)
        if several:
            tokens = {key: [text for row in texts for text in row] for key, texts in tokens.items()}
        padded = dict(self.tokenizer.pad(tokens, return_tensors="pt"))
        if several:
            padded = {
                key: value.unflatten(0, (len(single["index"]), -1)) for key, value in padded.items()
            }
        if "offsets" in rows:
            padded["offsets"] = self._padded_offsets(rows["offsets"])
        return {**padded, **single}

    def _padded_offsets(self, offsets: list[list[list[int]]]) -> Tensor:
        side = self.tokenizer.padding_side
        return pad_sequence(
            [torch.tensor(row) for row in offsets], batch_first=True, padding_side=side
        )  # (B, T, 2)
