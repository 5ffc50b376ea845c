"""The file of predictions, written block by block and complete only at the end."""

import contextlib
import json
import math
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from litpool import disk
from litpool.data.spool import Spool

if TYPE_CHECKING:
    from datasets import Dataset

FORMATS = (".jsonl", ".parquet", ".npz")

Answers = list[dict[str, Any]]
Write = Callable[["Dataset", Answers], None]


@contextlib.contextmanager
def prediction_file(path: str, rows: int) -> Iterator[Write]:
    """Give a function that writes columns of some rows with their answers, in input order.

    Args:
        path: A `.npz` file contains vectors only, as the array `vectors` (rows, features); a
            `.parquet` file contains any answers, as columns; any other file contains JSON lines.
            `-` writes JSON lines to standard output, at once.
        rows: How many rows there will be in all.

    Raises:
        JobError: The disk is full, for example. An existing file is as before.
    """
    if path == "-":
        yield lambda columns, answers: sys.stdout.writelines(_lines(columns, answers))
        sys.stdout.flush()
        return
    file = Path(path).resolve()  # the file that a link names is replaced, not the link
    with disk.replacing(file) as part:
        if path.endswith(".parquet"):
            with _parquet(part) as write:
                yield write
        elif path.endswith(".npz"):
            with part.open("wb") as stream, _npz(stream, rows) as write:
                yield write
        else:
            with part.open("w", encoding="utf-8", newline="\n") as text:
                yield lambda columns, answers: text.writelines(_lines(columns, answers))


def _lines(columns: "Dataset", answers: Answers) -> Iterator[str]:
    for row, answer in zip(columns, answers, strict=True):
        content = {**_finite(row), **answer}
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, default=str)  # for dates
        yield f"{text}\n"


@contextlib.contextmanager
def _parquet(part: Path) -> Iterator[Write]:
    """Write a row group for each block; only the last one settles the types of the columns."""
    spool = Spool()
    try:

        def write(columns: "Dataset", answers: Answers) -> None:
            rows = zip(columns, answers, strict=True)
            spool.add(pa.Table.from_pylist([{**row, **answer} for row, answer in rows]))

        yield write
        schema = spool.schema()
        with pq.ParquetWriter(part, schema) as writer:
            for table in spool.tables(schema):
                writer.write_table(table)
    finally:
        spool.close()


@contextlib.contextmanager
def _npz(stream: BinaryIO, rows: int) -> Iterator[Write]:
    """Write what `np.savez` does, which needs all vectors at once."""
    with (
        zipfile.ZipFile(stream, "w") as archive,
        archive.open("vectors.npy", "w", force_zip64=True) as array,
    ):
        empty = True

        def write(columns: "Dataset", answers: Answers) -> None:
            nonlocal empty
            vectors = np.array([answer["vector"] for answer in answers], dtype="<f4")
            if empty:
                header = {"descr": "<f4", "fortran_order": False, "shape": (rows, vectors.shape[1])}
                np.lib.format.write_array_header_1_0(array, header)
                empty = False
            array.write(vectors.tobytes())

        yield write


def _finite(value: Any) -> Any:
    """Return a value of the input without NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
