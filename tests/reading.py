"""Reading rows to predict, in blocks of any size."""

import copy
from collections.abc import Sequence

from datasets import Dataset, concatenate_datasets

from litpool import InputError
from litpool.data.rows import BLOCK, InputRows
from litpool.data.source import Source


def read_rows(
    path: str,
    source: Source,
    texts: list[str],
    extras: Sequence[str] = (),
    keep: Sequence[str] = (),
) -> Dataset:
    """Return all rows; blocks of a single row must give the same rows, or the same error."""
    whole = _read(path, source, texts, extras, keep, BLOCK)
    if path != "-":  # which can be read only once
        parts = _read(path, source, texts, extras, keep, 1)
        if isinstance(whole, InputError):
            assert str(parts) == str(whole)
        else:
            assert isinstance(parts, Dataset), parts
            assert parts.to_list() == whole.to_list()
            assert parts.features == whole.features
    if isinstance(whole, InputError):
        raise whole
    return whole


def _read(
    path: str,
    source: Source,
    texts: list[str],
    extras: Sequence[str],
    keep: Sequence[str],
    size: int,
) -> Dataset | InputError:
    try:
        rows = InputRows(path, copy.copy(source), texts, extras, keep, size)
    except InputError as error:
        return error
    blocks = list(rows.blocks())
    rows.close()
    assert sum(map(len, blocks)) == len(rows)
    return concatenate_datasets(blocks)
