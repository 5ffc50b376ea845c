"""One file of rows: how to read it, and which of its rows are complete."""

import csv
import dataclasses
import difflib
import itertools
import json
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from litpool import InputError, reason
from litpool.data.content import check_encoding, read_bytes, read_text
from litpool.data.nested import dotted_names, nested_columns
from litpool.data.squad import squad_rows

DELIMITERS = {".csv": ",", ".tsv": "\t"}
TYPED = [".json", ".jsonl", ".parquet"]  # formats that tell numbers from text
WHOLE = 2**31 - 1  # rows: all of them in one block
NUMBER = r"[+-]?[0-9]*\.?[0-9]+([eE][+-]?[0-9]+)?"

# The values of each column, and the line on which each row begins.
Parsed = tuple[Mapping[str, Sequence[Any]], Sequence[int]]


@dataclasses.dataclass
class Source:
    """Where the rows come from, and how to read them.

    Args:
        source: `docstrings` (the embedded corpus), a file (CSV, TSV, JSON, JSONL, Parquet; also
            packed, as .csv.gz), a list of files to read as one, a folder with train, validation and
            test files, a mapping from split to file or files, or a Hub data set's id. Rows without
            splits are divided 80/10/10. Without a validation split, a tenth of train becomes
            validation.
        splits: Which splits of a Hub data set to use, such as `{train: train, test: validation}`.
        hub_config: The Hub data set's config name, such as `sst2` of `nyu-mll/glue`.
        revision: The Hub data set's revision: a branch, tag or commit.
        columns: Column names of CSV, TSV and text files that have no header.
        delimiter: What separates the columns; by default a comma in .csv and a tab in .tsv files.
        quoting: Whether quote characters enclose fields. If not, they are part of the text, and
            the last column takes the rest of the line.
        encoding: The encoding of CSV, TSV, JSON, JSONL and text files, such as
            `latin-1` or `cp949`.
        drop_empty: Whether to leave out rows with an empty text or label, with a warning, instead
            of stopping.
        group: A column whose equal values keep rows in one split, such as the author. It counts
            where litpool divides the rows and in a study. Equal texts always stay together.
        max_rows: How many rows of each split to use at most, drawn by `seed`; all by default.
        seed: Decides which rows go to which split and which `max_rows` draws, independent of
            `seed_everything`.
    """

    source: str | list[str] | dict[str, str | list[str]] = "docstrings"
    splits: dict[str, str] | None = None
    hub_config: str | None = None
    revision: str | None = None
    columns: list[str] | None = None
    delimiter: str | None = None
    quoting: bool = True
    encoding: str = "utf-8"
    drop_empty: bool = False
    group: str | None = None
    max_rows: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.delimiter == "\\t":  # how a shell passes a tab
            self.delimiter = "\t"
        check_encoding(self.encoding)


def ending(path: str) -> str:
    """Return the ending that names the format: `.csv` for both a.csv and a.csv.gz."""
    return Path(path.lower().removesuffix(".gz")).suffix


def read_file(
    path: str, source: Source, texts: list[str], labels: list[str], extras: Sequence[str]
) -> pa.Table:
    """Read the columns `texts` and `labels` of one file, and those of `extras` that it has.

    A dotted name is a column inside an object: `labels.real-label`.

    Raises:
        InputError: The file cannot be read, or a row lacks a text or label and
            `source.drop_empty` is false.
    """
    required = [*texts, *labels]
    lines: Sequence[int]
    if ending(path) == ".parquet":
        data = pa.BufferReader(read_bytes(path))
        table = pa.concat_tables(parquet_tables(data, path, required, path, WHOLE))
        lines = range(1, len(table) + 1)
        others = table.flatten().column_names
        table = table.select(select_columns(table.column_names, required, path, extras, others))
    else:
        text = read_text(path, source.encoding)
        typed = is_typed(path, text)
        columns, lines = parse(text, path, source, required, typed)
        names = select_columns(list(columns), required, path, extras, dotted_names(columns))
        for name in texts:
            check_types(name, columns[name], lines, path)
            if not typed and len(columns) > 1:
                check_numbers(name, columns[name], path)
        table = build_table({name: columns[name] for name in names}, path)
    missing = missing_cells(table, path, texts, labels)
    return table.filter(complete_rows(missing, lines, path, source.drop_empty))


def is_typed(path: str, text: str) -> bool:
    """Return whether the format tells numbers from text; standard input may be JSON lines."""
    return ending(path) in TYPED or (path == "-" and text.lstrip().startswith("{"))


def parse(
    text: str, path: str, source: Source, required: Sequence[str], typed: bool, before: int = 0
) -> Parsed:
    """Return the columns in a text.

    Args:
        text: The text of a file, or of a block of its lines.
        path: The file; its ending names the format.
        source: How to read it.
        required: Dotted names among these become columns.
        typed: Whether it is JSON or JSONL.
        before: The number of lines before the block, for error messages.
    """
    where = "standard input" if path == "-" else path
    if not typed:
        return _delimited(text, ending(path), where, source, before)
    columns, lines = _objects(text, ending(path), where, before)
    return {**columns, **nested_columns(columns, required, lines, where)}, lines


def only_numbers(values: Sequence[str]) -> bool:
    """Return whether all texts are numbers."""
    return all(re.fullmatch(NUMBER, value) for value in values)


def build_table(columns: Mapping[str, Sequence[Any]], where: str) -> pa.Table:
    """Return the columns as a table; refuse one that mixes types."""
    for name, values in columns.items():
        _check_booleans(name, values, where)
    try:
        return pa.table({name: pa.array(values) for name, values in columns.items()})
    except (TypeError, ValueError, OverflowError) as error:
        raise mixed_types(where, error) from error


def mixed_types(where: str, error: Exception) -> InputError:
    """Return the error for a column whose values have several types."""
    message = " ".join(str(error).split())
    return InputError(f"{where}: a column mixes types ({message}); use one type for all its values")


def parquet_tables(
    file: Any, path: str, required: Sequence[str], where: str, rows: int
) -> Iterator[pa.Table]:
    """Yield the rows of a Parquet file in blocks, at least one.

    Args:
        file: The file, open.
        path: Its name, for error messages.
        required: Dotted names among these become columns.
        where: What error messages about its values call it.
        rows: The most rows in a block.
    """
    try:
        content = pq.ParquetFile(file)
        _check_names(content.schema_arrow.names, path)
        batches = content.iter_batches(batch_size=rows)
        first = next(batches, None)
        tables = (pa.Table.from_batches([batch]) for batch in itertools.chain([first], batches))
        for table in tables if first else [content.schema_arrow.empty_table()]:
            table.validate(full=True)  # that texts are UTF-8, for one
            yield _with_nested(_without_dictionaries(table), required, where)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # OSError: a damaged page
        raise InputError(
            f"{path}: not a Parquet file, or damaged ({reason(error)}); name it after its format"
        ) from error


def _without_dictionaries(table: pa.Table) -> pa.Table:
    """Return the table with the values of dictionaries, which is how pandas stores categories."""
    for position, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            values = table[position].cast(field.type.value_type)
            table = table.set_column(position, field.name, values)
    return table


def _with_nested(table: pa.Table, names: Sequence[str], where: str) -> pa.Table:
    """Add the columns inside structs that the dotted names mean."""
    roots = {name.partition(".")[0] for name in names if "." in name}
    columns = {
        name: table[name].to_pylist() if name in roots else [] for name in table.column_names
    }
    for name, values in nested_columns(columns, names, range(1, len(table) + 1), where).items():
        table = table.append_column(name, pa.array(values))
    return table


def _objects(text: str, ending: str, where: str, before: int) -> Parsed:
    """Read JSON (a list of objects, or SQuAD's format) or JSONL; a key that is absent is a null."""
    if ending == ".json":
        content = _json(text, where, 1, "if each line is an object of its own, name it .jsonl")
        if isinstance(content, dict) and content.get("data"):
            content = squad_rows(content, where)
        if not isinstance(content, list):
            kind = type(content).__name__
            raise InputError(
                f"{where}: contains one {kind}, must be a list of objects; or use JSONL"
            )
        rows = dict(enumerate(content, 1))
    else:
        rows = {
            number: _json(line, where, number, "write one object per line")
            for number, line in enumerate(text.split("\n"), before + 1)
            if line.strip()
        }
    for number, row in rows.items():
        if not isinstance(row, dict):
            raise InputError(
                f"{where}, row {number}: {str(row)[:40]!r} must be an object, "
                "with column names as keys"
            )
    names = dict.fromkeys(name for row in rows.values() for name in row)
    return {name: [row.get(name) for row in rows.values()] for name in names}, list(rows)


def _json(text: str, where: str, line: int, advice: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_distinct)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{where}, row {line + error.lineno - 1}: not JSON ({error.msg}); {advice}"
        ) from error
    except (ValueError, RecursionError) as error:  # a number or a nesting thousands long
        raise InputError(f"{where}, row {line}: {error}; fix the value") from error


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; json alone would keep the last of two values of one key."""
    values = dict(pairs)
    if len(values) < len(pairs):
        name = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {name[:40]!r} occurs twice")
    return values


def _delimited(text: str, ending: str, where: str, source: Source, before: int) -> Parsed:
    """Read CSV, TSV and the like; all values are strings."""
    delimiter = source.delimiter or DELIMITERS.get(ending, "")
    if not delimiter or (source.quoting and len(delimiter) > 1):
        formats = ", ".join([*DELIMITERS, *TYPED])
        raise InputError(
            f"{where}: set data.delimiter to one character (now {source.delimiter!r}), "
            f"or name the file after its format: {formats}"
        )
    # Not splitlines(): it would also split at U+2028 and form feeds, which texts contain.
    lines = text.rstrip("\r\n").split("\n")
    records: Iterator[tuple[int, list[str]]]
    if source.quoting:
        records = _quoted(lines, delimiter, where, before)
    else:
        splits = len(source.columns or lines[0].split(delimiter)) - 1
        fields_of = (line.rstrip("\r").split(delimiter, splits) for line in lines)
        records = enumerate(fields_of, before + 1)
    header = source.columns or next(records)[1]
    _check_names(header, where)
    rows, numbers = [], []
    for number, fields in records:
        is_blank = len(fields) == 1 < len(header) and not fields[0].strip()
        if is_blank:
            continue
        if len(fields) != len(header):
            raise InputError(
                f"{where}, row {number}: {len(fields)} fields, must be {len(header)} "
                f"({str(header)[:80]}); "
                "fix the line, or set data.delimiter, data.columns or data.quoting"
            )
        rows.append(fields)
        numbers.append(number)
    return {name: [row[at] for row in rows] for at, name in enumerate(header)}, numbers


def _quoted(
    lines: list[str], delimiter: str, where: str, before: int
) -> Iterator[tuple[int, list[str]]]:
    """Split lines as CSV. Not with pandas: it does not tell the line, and pads short rows."""
    csv.field_size_limit(2**31 - 1)  # the default of 128 KiB is too short for a long document
    number = before + 1
    try:
        reader = csv.reader((line + "\n" for line in lines), delimiter=delimiter, strict=True)
        for fields in reader:
            yield number, fields or [""]
            number = before + reader.line_num + 1
    except (csv.Error, ValueError) as error:  # ValueError: not a possible delimiter
        raise InputError(
            f"{where}, row {number}: {error}; "
            "fix the quotes, or set data.quoting false if quotes are part of the text"
        ) from error


def _check_names(columns: Sequence[str], where: str) -> None:
    """Refuse two columns of the same name; nameless ones cannot be meant."""
    for name, count in Counter(columns).items():
        if name and count > 1:
            raise InputError(f"{where}: {count} columns are called {name!r}; rename all but one")


def select_columns(
    columns: list[str],
    required: list[str],
    where: str,
    extras: Sequence[str] = (),
    others: Sequence[str] = (),
) -> list[str]:
    """List the required columns and those of `extras` that exist, each once.

    Instead of a wrong name, the error proposes one of `columns` or of `others`.

    Raises:
        InputError: A required column does not exist.
    """
    for name in required:
        if name not in columns:
            candidates = [*columns, *others]
            unused = [column for column in candidates if column not in required]
            same = [column for column in unused if column.casefold() == name.casefold()]
            near = same or difflib.get_close_matches(name, unused, 1)
            advice = (
                f"did you mean {near[0]!r}?" if near else "set the task's columns, or data.columns"
            )
            raise InputError(
                f"{where}: no column {name!r}, there is {str(columns)[:200]}; {advice}"
            )
    optional = [name for name in extras if name in columns]
    return list(dict.fromkeys([*required, *optional]))


def check_types(name: str, values: Sequence[Any], lines: Sequence[int], where: str) -> None:
    """Refuse anything but texts and nulls."""
    for line, value in zip(lines, values, strict=True):
        if not isinstance(value, str | None):
            raise InputError(
                f"{where}, row {line}: {name!r} is {str(value)[:40]}, must be text; "
                "name another column"
            )


def check_numbers(name: str, values: Sequence[str | None], where: str) -> None:
    """Refuse only numbers: they mean that the task names the wrong column.

    A column that is alone in its file cannot be the wrong one, so its strings may be digits.
    """
    filled = [value for value in values if value]
    if filled and only_numbers(filled):
        raise InputError(
            f"{where}: {name!r} contains only numbers ({filled[0]}, ...), must be text; "
            "name another column"
        )


def _check_booleans(name: str, values: Sequence[Any], where: str) -> None:
    """Refuse true or false among decimal numbers: Arrow would read 1.0 and 0.0."""
    parts = (part for value in values for part in (value if isinstance(value, list) else [value]))
    if {bool, float} <= set(map(type, parts)):
        raise InputError(
            f"{where}: {name!r} mixes true or false with numbers; use one type for all its values"
        )


def missing_cells(
    table: pa.Table, where: str, texts: Sequence[str], labels: Sequence[str]
) -> dict[str, NDArray[np.bool_]]:
    """Return which rows lack a text or a label, for each of their columns."""
    from datasets import ClassLabel, Features

    for name in texts:
        kind = table.schema.field(name).type
        if kind not in (pa.string(), pa.large_string(), pa.null()):
            raise InputError(
                f"{where}: {name!r} contains {kind}, must be text; name another column"
            )
    features = Features.from_arrow_schema(table.schema)
    return {
        name: _missing(table[name], isinstance(features[name], ClassLabel))
        for name in [*texts, *labels]
    }


def complete_rows(
    missing: Mapping[str, NDArray[np.bool_]], lines: Sequence[int], where: str, drop_empty: bool
) -> NDArray[np.bool_]:
    """Return which rows have all their texts and labels.

    Args:
        missing: What `missing_cells` returned.
        lines: The line on which each row begins.
        where: The file, for error messages.
        drop_empty: Whether other rows will be left out, with a warning.

    Raises:
        InputError: There are no rows, no complete one, or one is incomplete and not left out.
    """
    if not len(lines):
        raise InputError(f"{where}: no rows; give at least one")
    incomplete = np.any(list(missing.values()), axis=0)
    count = incomplete.sum()
    if count:
        first = incomplete.argmax()
        name = next(name for name in missing if missing[name][first])
        message = (
            f"{where}: {count} of {len(lines)} rows lack a text or label, "
            f"first row {lines[first]} (column {name!r})"
        )
        if count == len(lines):
            raise InputError(f"{message}; name another column, or other splits with data.splits")
        if not drop_empty:
            raise InputError(f"{message}; fill them in, or set data.drop_empty true to skip them")
        warnings.warn(f"{message}; left out", stacklevel=2)
    return ~incomplete


def _missing(column: pa.ChunkedArray, is_class_label: bool) -> NDArray[np.bool_]:
    if column.type in (pa.string(), pa.large_string()):
        empty = pc.equal(pc.utf8_trim_whitespace(column), "")
    elif is_class_label:
        empty = pc.less(column, 0)  # the Hub writes -1 for a label that is not published
    else:
        empty = pc.is_null(column, nan_is_null=True)
    missing: NDArray[np.bool_] = pc.fill_null(empty, True).to_numpy()
    return missing
