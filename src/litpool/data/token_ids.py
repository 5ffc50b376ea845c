"""Rows to token ids: what the data module stores, and what prediction in Python batches at once."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from litpool.data import added
from litpool.data.prefix import encode_with_prefixes
from litpool.tasks.task import Task


def encode_rows(
    task: Task,
    rows: Mapping[str, list[Any]],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    prefixes: Mapping[str, str],
) -> dict[str, list[Any]]:
    """Return the columns of `Task.encode` with added special tokens marked, and two more.

    - `length`: the number of tokens; for several texts in a row, that of the longest.
    - `row`: the number, among `rows`, of each example's row.
    """
    encoded = encode_with_prefixes(task, rows, tokenizer, max_length, prefixes)
    added.mark(encoded, tokenizer)
    encoded["length"] = [_length(ids) for ids in encoded["input_ids"]]
    encoded.setdefault("row", list(range(len(encoded["length"]))))
    return encoded


def _length(ids: list[Any]) -> int:
    return max(map(len, ids)) if isinstance(ids[0], list) else len(ids)
