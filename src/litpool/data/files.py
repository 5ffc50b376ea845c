"""One file of rows: how it is read, and what makes a row complete."""

import csv
import dataclasses
import difflib
import json
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from litpool import InputError
from litpool.data.squad import squad_rows

DELIMITERS = {".csv": ",", ".tsv": "\t"}
TYPED = [".json", ".jsonl", ".parquet"]  # formats that distinguish a number from a text itself
NUMBER = r"[+-]?[0-9]*\.?[0-9]+([eE][+-]?[0-9]+)?"  # as a text: any

Columns = tuple[
    Mapping[str, Sequence[Any]], Sequence[int]
]  # values by column, and the line each row begins on


@dataclasses.dataclass
class Source:
    """Where rows come from, and how to read them.

    Args:
        source: `docstrings` (the embedded corpus), a file, a folder with one file a split, or a Hub data set. A list
            of files is one set of rows; a dict names the file or files of train, validation and test. Rows that come
            without splits are divided 80/10/10; a missing validation split is a tenth of train.
        splits: which splits of a Hub data set serve, e.g. {train: train, test: validation}.
        hub_config: configuration of the Hub data set, e.g. sst2 of nyu-mll/glue.
        revision: commit, branch or tag of the Hub data set.
        columns: column names of CSV, TSV and text files that have no header.
        delimiter: what divides the columns; .csv (comma) and .tsv (tab) need none.
        quoting: false where a quote character is plain text; then the last column takes the rest of the line.
        drop_empty: leave out rows with an empty text or label, with a warning, instead of refusing the file.
        max_rows: use at most so many rows of each split, drawn by seed.
        seed: decides which rows are drawn, for splits and for max_rows.
    """

    source: str | list[str] | dict[str, str | list[str]]
    splits: dict[str, str] | None = None
    hub_config: str | None = None
    revision: str | None = None
    columns: list[str] | None = None
    delimiter: str | None = None
    quoting: bool = True
    drop_empty: bool = False
    max_rows: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.delimiter == "\\t":  # how a shell passes a tab
            self.delimiter = "\t"


def read_file(
    path: str, source: Source, texts: list[str], labels: list[str], extras: Sequence[str] = ()
) -> pa.Table:
    """Read the wanted columns of one file, `extras` only where they are, and of its rows the complete ones."""
    where, ending, wanted = (
        "standard input" if path == "-" else path,
        Path(path).suffix.lower(),
        texts + labels,
    )
    if ending == ".parquet":
        table = _parquet(path)
        lines: Sequence[int] = range(1, len(table) + 1)
        table = table.select(present(table.column_names, wanted, where, extras))
    else:
        text = read_text(path)
        typed = ending in TYPED or (path == "-" and text.lstrip().startswith("{"))
        columns, lines = (
            _objects(text, ending, where) if typed else _delimited(text, ending, where, source)
        )
        wanted = present(list(columns), wanted, where, extras)
        for name in texts:
            _no_number(name, columns[name], lines, where, alone=typed or len(columns) == 1)
        try:
            table = pa.table({name: pa.array(columns[name]) for name in wanted})
        except (TypeError, ValueError, OverflowError) as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"{where}: a column mixes kinds of values ({reason}); make them alike"
            ) from error
    complete = complete_rows(table, lines, where, source, texts, labels)
    return table if len(complete) == len(table) else table.take(complete)


def read_text(path: str) -> str:
    """Read a whole UTF-8 file, or standard input."""
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}; name a file that is there and may be read"
        ) from error
    try:
        text = data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        bad = f"byte 0x{data[error.start]:02x} at offset {error.start}"
        raise InputError(f"{path}: not UTF-8 ({bad}); save the file as UTF-8") from error
    if not text.strip():
        raise InputError(f"{path}: empty; there must be at least one row")
    return text


def _parquet(path: str) -> pa.Table:
    try:
        table = pq.ParquetFile(path).read()
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror or error}; name a file that is there and may be read"
        ) from error
    except pa.ArrowException as error:
        raise InputError(
            f"{path}: not a Parquet file; give the file the ending of its format"
        ) from error
    for at, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):  # how pandas stores its categories
            table = table.set_column(at, field.name, table[at].cast(field.type.value_type))
    return table


def _objects(text: str, ending: str, where: str) -> Columns:
    """Read JSON (objects in a list, or SQuAD's) or JSONL; a key that some objects have counts as missing in others."""
    if ending == ".json":
        rows = _json(text, where, 1, "a .json file is one list; is it .jsonl?")
        if isinstance(rows, dict) and rows.get("data"):
            rows = squad_rows(rows, where)
        if not isinstance(rows, list):
            raise InputError(
                f"{where}: holds one {type(rows).__name__}, must be a list of objects; or use JSONL"
            )
        numbered = list(enumerate(rows, 1))
    else:
        lines = enumerate(text.split("\n"), 1)
        numbered = [
            (n, _json(line, where, n, "one object a line")) for n, line in lines if line.strip()
        ]
    for n, row in numbered:
        if not isinstance(row, dict):
            raise InputError(
                f"{where}, row {n}: {str(row)[:40]!r} is no object with column names as keys"
            )
    names = dict.fromkeys(name for _, row in numbered for name in row)
    return {name: [row.get(name) for _, row in numbered] for name in names}, [
        n for n, _ in numbered
    ]


def _json(text: str, where: str, line: int, mend: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{where}, row {line + error.lineno - 1}: not JSON ({error.msg}); {mend}"
        ) from error
    except (
        ValueError,
        RecursionError,
    ) as error:  # a number of thousands of digits, brackets a thousand deep
        raise InputError(f"{where}, row {line}: {error}; mend the value") from error


def _delimited(text: str, ending: str, where: str, source: Source) -> Columns:
    """Read rows whose fields all are strings, to begin with."""
    delimiter = source.delimiter or DELIMITERS.get(ending, "")
    if not delimiter or (source.quoting and len(delimiter) > 1):
        known = (
            f"the ending {ending!r} needs data.delimiter (now {source.delimiter!r}), one character"
        )
        raise InputError(
            f"{where}: {known}; or name it {', '.join([*DELIMITERS, *TYPED])} for what it is"
        )
    lines = text.rstrip("\r\n").split(
        "\n"
    )  # not splitlines: U+2028 and form feeds stand within texts
    records = (
        _quoted(lines, delimiter, where)
        if source.quoting
        else _unquoted(lines, delimiter, source.columns)
    )
    header = source.columns or next(records)[1]
    if twice := [name for name in header if name and header.count(name) > 1]:
        raise InputError(
            f"{where}: {header.count(twice[0])} columns are called {twice[0]!r}; rename all but one"
        )
    rows, numbers = [], []
    for line, fields in records:
        if len(fields) == 1 < len(header) and not fields[0].strip():
            continue  # a blank line
        if len(fields) != len(header):
            counts = f"{len(fields)} fields, must be {len(header)} ({str(header)[:80]})"
            raise InputError(
                f"{where}, row {line}: {counts}; mend the line, or data.delimiter, columns or quoting"
            )
        rows.append(fields)
        numbers.append(line)
    return dict(
        zip(header, zip(*rows, strict=True) if rows else [()] * len(header), strict=True)
    ), numbers


def _unquoted(
    lines: list[str], delimiter: str, columns: list[str] | None
) -> Iterator[tuple[int, list[str]]]:
    width = len(columns or lines[0].split(delimiter))
    for n, line in enumerate(lines, 1):
        yield n, line.rstrip("\r").split(delimiter, width - 1)


def _quoted(lines: list[str], delimiter: str, where: str) -> Iterator[tuple[int, list[str]]]:
    """Split as CSV does. The csv module, not pandas: it knows the line, and fills up no short row."""
    csv.field_size_limit(2**31 - 1)  # its own limit of 128 KiB is less than a long document
    begins = 1
    try:
        reader = csv.reader((line + "\n" for line in lines), delimiter=delimiter, strict=True)
        for fields in reader:
            yield begins, fields or [""]
            begins = reader.line_num + 1
    except (csv.Error, ValueError) as error:  # ValueError: a delimiter that cannot be one
        mend = "mend the quotes, or set data.quoting false if quotes are plain text"
        raise InputError(f"{where}, row {begins}: {error}; {mend}") from error


def present(
    there: list[str], wanted: list[str], where: str, extras: Sequence[str] = ()
) -> list[str]:
    """Check that the wanted columns are there, and name each once, with those of `extras` that are there."""
    for name in wanted:
        if name not in there:
            near = difflib.get_close_matches(name, there, 1)
            hint = (
                f"; did you mean {near[0]!r}?"
                if near
                else "; set the task's columns, or data.columns"
            )
            raise InputError(f"{where}: no column {name!r}, there is {str(there)[:200]}{hint}")
    more = [name for name in extras if name in there]
    return list(dict.fromkeys([*wanted, *more]))  # a task may use a column twice


def _no_number(
    name: str, values: Sequence[Any], lines: Sequence[int], where: str, alone: bool
) -> None:
    """Refuse a number as a text: the wrong column was named. A column `alone` may hold digits that are strings."""
    for line, value in zip(lines, values, strict=True):
        if not isinstance(value, str | None):
            raise InputError(
                f"{where}, row {line}: {name!r} is {str(value)[:40]}, must be a text; name another column"
            )
    filled = [value for value in values if value]
    if not alone and filled and all(re.fullmatch(NUMBER, value) for value in filled):
        raise InputError(
            f"{where}: {name!r} holds only numbers ({filled[0]}, ...), must be texts; name another column"
        )


def complete_rows(
    table: pa.Table,
    lines: Sequence[int],
    where: str,
    source: Source,
    texts: list[str],
    labels: list[str],
) -> NDArray[np.int64]:
    """Find the rows in which no text and no label is missing."""
    if not len(table):
        raise InputError(f"{where}: no rows; there must be at least one")
    for name in texts:
        kind = table.schema.field(name).type
        if kind not in (pa.string(), pa.large_string(), pa.null()):
            raise InputError(f"{where}: {name!r} holds {kind}, must be texts; name another column")
    from datasets import Features  # late: slow to import

    features = Features.from_arrow_schema(table.schema)
    missing = {
        name: _missing(table[name], features[name]) for name in dict.fromkeys([*texts, *labels])
    }
    bad = np.flatnonzero(np.any(list(missing.values()), axis=0))
    if len(bad):
        name = next(name for name in missing if missing[name][bad[0]])
        rows = f"{len(bad)} of {len(table)} rows lack a text or label, first row {lines[bad[0]]} (column {name!r})"
        if len(bad) == len(table):
            raise InputError(
                f"{where}: {rows}; name another column, or other splits with data.splits"
            )
        if not source.drop_empty:
            raise InputError(
                f"{where}: {rows}; fill them in, or leave such rows out with data.drop_empty true"
            )
        warnings.warn(f"{where}: {rows}; left out", stacklevel=2)
    return np.delete(np.arange(len(table)), bad)


def _missing(column: pa.ChunkedArray, feature: Any) -> NDArray[np.bool_]:
    from datasets import ClassLabel  # late: slow to import

    if column.type in (pa.string(), pa.large_string()):
        empty = pc.equal(pc.utf8_trim_whitespace(column), "")
    elif isinstance(feature, ClassLabel):
        empty = pc.less(column, 0)  # the Hub's -1: a label that is kept back
    else:
        empty = pc.is_null(column, nan_is_null=True)
    missing: NDArray[np.bool_] = pc.fill_null(empty, True).to_numpy()
    return missing
