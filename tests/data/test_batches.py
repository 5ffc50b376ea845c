"""Orders cover every row once, repeat for a seed, and divide between devices; padding is right."""

import itertools
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from litpool import InputError
from litpool.data.batches import CHUNK, Collator, EvaluationOrder, TrainOrder


def trials(count: int = 150) -> Iterator[tuple[list[int], int, int, bool]]:
    """Lengths of 1 to 200 rows, a batch size, a number of devices, and whether to group."""
    chance = random.Random(0)
    for _ in range(count):
        lengths = [chance.randint(1, 40) for _ in range(chance.randint(1, 200))]
        devices = min(chance.randint(1, 5), len(lengths))
        yield lengths, chance.randint(1, 17), devices, chance.random() < 0.5


def flat(batches: list[list[int]]) -> list[int]:
    return [row for batch in batches for row in batch]


def of_epoch(order: TrainOrder, epoch: int) -> list[list[int]]:
    order.set_epoch(epoch)
    return list(order)


def test_an_epoch_holds_each_row_exactly_once() -> None:
    for lengths, size, _, grouped in trials():
        batches = list(TrainOrder(lengths, size, seed=3, grouped=grouped))
        assert sorted(flat(batches)) == list(range(len(lengths)))
        assert max(map(len, batches)) <= size
        assert sum(len(batch) < size for batch in batches) <= 1


def test_len_is_the_number_of_batches_on_every_device() -> None:
    for lengths, size, devices, grouped in trials():
        for rank in range(devices):
            order = TrainOrder(lengths, size, 0, grouped, rank, devices)
            assert len(list(order)) == len(order)


@pytest.mark.parametrize(
    ("rows", "expected"), [(1, 0), (2, 0), (3, 1), (11, 1), (12, 1), (13, 1), (14, 1), (15, 2)]
)
def test_a_rest_with_fewer_rows_than_devices_is_left_out(rows: int, expected: int) -> None:
    for rank in range(3):
        order = TrainOrder([5] * rows, batch_size=4, seed=0, rank=rank, world_size=3)
        assert len(order) == len(list(order)) == expected


def test_devices_share_the_batches_of_one_device_with_a_larger_batch() -> None:
    for lengths, size, devices, grouped in trials():
        whole = list(TrainOrder(lengths, size * devices, 5, grouped))
        shares = [
            list(TrainOrder(lengths, size, 5, grouped, rank, devices)) for rank in range(devices)
        ]
        together = [[row for part in parts for row in part] for parts in zip(*shares, strict=True)]
        if (
            len(lengths) % (size * devices) < devices
        ):  # the one batch that is left out, wherever it stood
            whole = [batch for batch in whole if len(batch) == size * devices]
        assert sorted(map(sorted, together)) == sorted(map(sorted, whole))
        assert all(1 <= len(part) <= size for share in shares for part in share)


def test_devices_see_the_global_batches_in_the_same_order_as_one_device() -> None:
    whole = list(TrainOrder(range(96), 12, seed=5))
    shares = [list(TrainOrder(range(96), 4, 5, rank=rank, world_size=3)) for rank in range(3)]
    assert [flat(list(parts)) for parts in zip(*shares, strict=True)] == whole


def test_the_order_is_determined_by_seed_and_epoch() -> None:
    lengths = [n % 7 + 1 for n in range(90)]
    orders = {
        (seed, epoch): of_epoch(TrainOrder(lengths, 8, seed), epoch)
        for seed in (0, 10)
        for epoch in range(3)
    }
    for (seed, epoch), order in orders.items():
        assert of_epoch(TrainOrder(lengths, 8, seed), epoch) == order
    assert len({str(order) for order in orders.values()}) == 6


def test_the_order_neither_uses_nor_moves_the_global_random_numbers() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = list(TrainOrder(range(50), 8, seed=1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert list(TrainOrder(range(50), 8, seed=1)) == first


def test_grouping_saves_most_of_the_padding() -> None:
    chance = random.Random(1)
    lengths = [int(chance.lognormvariate(3, 0.8)) + 1 for _ in range(4000)]

    def padding(grouped: bool) -> float:
        batches = list(TrainOrder(lengths, 16, 0, grouped))
        slots = sum(len(batch) * max(lengths[row] for row in batch) for batch in batches)
        return 1 - sum(lengths) / slots

    assert padding(grouped=False) > 0.5
    assert padding(grouped=True) < 0.15


def test_grouped_batches_do_not_come_in_order_of_length() -> None:
    lengths = list(range(1, 1001))
    longest = [max(batch) for batch in TrainOrder(lengths, 10, seed=0)]
    rises = sum(a < b for a, b in itertools.pairwise(longest))
    assert 30 < rises < 70  # of 99


def test_the_short_batch_of_an_epoch_is_not_always_that_of_the_longest_rows() -> None:
    order = TrainOrder(range(8 * 5 + 1), batch_size=8, seed=0)  # fewer than one pool
    short = {batch[0] for epoch in range(8) for batch in of_epoch(order, epoch) if len(batch) == 1}
    assert len(short) > 4


def test_rows_of_another_pool_are_not_grouped_together() -> None:
    order = TrainOrder(range(4 * CHUNK * 2), batch_size=4, seed=0)
    spans = [max(batch) - min(batch) for batch in order]
    assert min(spans) >= 3
    assert max(spans) > 3  # with one pool over all rows, each batch would be four neighbors


def test_a_resumed_epoch_goes_on_after_the_batches_that_are_done() -> None:
    done = 0
    order = TrainOrder(range(50), 8, seed=2, done=lambda: done)
    whole = of_epoch(order, 1)
    for done in range(len(order) + 1):
        assert of_epoch(order, 1) == whole[done:]
        assert (
            len(order) == 7
        )  # the epoch's length stays, so that progress is told out of the same number
    done = 0
    assert of_epoch(order, 1) == whole


def test_evaluation_covers_all_rows_once_over_all_devices() -> None:
    for lengths, size, devices, _ in trials():
        shares = [EvaluationOrder(lengths, size, rank, devices) for rank in range(devices)]
        rows = [flat(list(share)) for share in shares]
        assert sorted(row for share in rows for row in share) == list(range(len(lengths)))
        assert max(map(len, rows)) - min(map(len, rows)) <= 1
        for share in shares:
            assert len(list(share)) == len(share)
            assert all(1 <= len(batch) <= size for batch in share)


def test_evaluation_takes_the_longest_rows_first() -> None:
    for lengths, size, devices, _ in trials(50):
        for rank in range(devices):
            told = [
                lengths[row] for row in flat(list(EvaluationOrder(lengths, size, rank, devices)))
            ]
            assert told == sorted(told, reverse=True)


def test_evaluation_of_odd_sizes_by_hand() -> None:
    lengths = [1, 9, 5, 7, 3]
    assert list(EvaluationOrder(lengths, 2)) == [[1, 3], [2, 4], [0]]
    assert list(EvaluationOrder(lengths, 2, 0, 2)) == [[1, 3], [4]]  # two rows, one row, by turns
    assert list(EvaluationOrder(lengths, 2, 1, 2)) == [[2], [0]]


def test_evaluation_with_fewer_rows_than_devices_is_refused_on_each_of_them() -> None:
    for rank in range(3):
        assert len(EvaluationOrder([4, 4, 4], 8, rank, 3)) == 1
        with pytest.raises(InputError, match="2 rows for 3 devices"):
            EvaluationOrder([4, 4], 8, rank, 3)


ROWS = {
    "input_ids": [[2, 7, 3], [2, 7, 8, 9, 3], [2, 3]],
    "token_type_ids": [[0, 0, 1], [0, 0, 0, 1, 1], [0, 1]],
    "special_tokens_mask": [[1, 0, 1], [1, 0, 0, 0, 1], [1, 1]],
    "labels": [1, 0, 2],
    "index": [30, 10, 20],
    "length": [3, 5, 2],
}


def test_padding_on_the_right_by_hand(tokenizer: PreTrainedTokenizerBase) -> None:
    batch = Collator(tokenizer)(ROWS)
    assert {key: value.tolist() for key, value in batch.items()} == {
        "input_ids": [[2, 7, 3, 0, 0], [2, 7, 8, 9, 3], [2, 3, 0, 0, 0]],
        "attention_mask": [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]],
        "token_type_ids": [[0, 0, 1, 0, 0], [0, 0, 0, 1, 1], [0, 1, 0, 0, 0]],
        "special_tokens_mask": [[1, 0, 1, 1, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]],
        "labels": [1, 0, 2],
        "index": [30, 10, 20],
    }
    assert {value.dtype for value in batch.values()} == {torch.int64}


def test_padding_on_the_left_by_hand(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.padding_side = "left"
    tokenizer.pad_token = "[MASK]"
    batch = Collator(tokenizer)(ROWS)
    assert batch["input_ids"].tolist() == [[4, 4, 2, 7, 3], [2, 7, 8, 9, 3], [4, 4, 4, 2, 3]]
    assert batch["attention_mask"].tolist() == [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 1, 1]]
    assert batch["special_tokens_mask"].tolist() == [
        [1, 1, 1, 0, 1],
        [1, 0, 0, 0, 1],
        [1, 1, 1, 1, 1],
    ]


def test_labels_of_several_numbers_stay_what_they_are(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = {"input_ids": [[2, 3], [2, 7, 3]], "labels": [[0.0, 1.0, 0.0], [1.0, 1.0, 0.0]]}
    labels = Collator(tokenizer)(rows)["labels"]
    assert labels.tolist() == rows["labels"]
    assert labels.dtype == torch.float32


def test_collating_changes_nothing_and_says_nothing(
    tokenizer: PreTrainedTokenizerBase, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = {
        key: [list(v) if isinstance(v, list) else v for v in values] for key, values in ROWS.items()
    }
    Collator(tokenizer)(rows)
    assert rows == ROWS
    assert capfd.readouterr() == ("", "")


def loader(rows: Dataset, tokenizer: PreTrainedTokenizerBase, **options: Any) -> DataLoader[Any]:
    order = TrainOrder(rows["length"][:], 4, seed=0, done=lambda: 2)
    return DataLoader(
        rows, batch_size=None, sampler=order, collate_fn=Collator(tokenizer), **options
    )


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_loader_hands_out_the_batches_of_the_order(
    tokenizer: PreTrainedTokenizerBase, workers: int
) -> None:
    ids = [[2, *[7] * (n % 6), 3] for n in range(22)]
    rows = Dataset.from_dict(
        {"input_ids": ids, "index": list(range(22)), "length": [len(row) for row in ids]}
    )
    batches = list(loader(rows, tokenizer, num_workers=workers))
    expected = list(TrainOrder([len(row) for row in ids], 4, seed=0))[2:]
    assert [batch["index"].tolist() for batch in batches] == expected
    for batch in batches:
        tokens = [
            row[: int(n)].tolist()
            for row, n in zip(batch["input_ids"], batch["attention_mask"].sum(1), strict=True)
        ]
        assert tokens == [ids[row] for row in batch["index"]]
