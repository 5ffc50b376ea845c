"""The rows to predict: checked first, and then read again in blocks, so that memory stays flat."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from numpy.typing import NDArray

from litpool.data.content import open_bytes, read_text, text_blocks
from litpool.data.files import (
    TYPED,
    Source,
    build_table,
    check_numbers,
    check_types,
    complete_rows,
    ending,
    is_typed,
    missing_cells,
    mixed_types,
    only_numbers,
    parquet_tables,
    parse,
    select_columns,
)
from litpool.data.nested import dotted_names
from litpool.data.source import with_label_names
from litpool.data.spool import Spool

BLOCK = 8192  # rows


class InputRows:
    """The rows of one file or of standard input, in the file's order.

    They are read, checked and copied to the cache when the object is created; `blocks` reads the
    copy. JSON, which has to be read as a whole, needs the memory that it needs.

    Args:
        path: A CSV, TSV, JSON, JSONL, Parquet or TXT file, or `-` for standard input. TXT files and
            standard input have one text per line, or several texts separated by tabs. Standard
            input may be JSONL instead. A TXT file with a header that names the texts is read with
            `source.delimiter`.
        source: How to read the file.
        texts: The columns with texts. Lines without a header get these names.
        extras: Columns to read if they exist.
        keep: Columns that must exist, with any values.
        size: Rows in a block.

    Raises:
        InputError: The file cannot be read, or a row lacks a text.
        JobError: The cache is full, for example.
    """

    def __init__(
        self,
        path: str,
        source: Source,
        texts: Sequence[str],
        extras: Sequence[str] = (),
        keep: Sequence[str] = (),
        size: int = BLOCK,
    ) -> None:
        self.path = path
        self.where = "standard input" if path == "-" else path
        self.source = source
        self.texts = list(texts)
        self.keep = list(keep)
        self.required = [*texts, *keep]
        self.extras = list(extras)
        self.size = size
        self.columns: list[str] = []  # of the file
        self.others: list[str] = []  # more names to propose instead of a wrong one
        self.numbers: dict[str, str] = {}  # the first value of columns with only numbers so far
        self.not_numbers: set[str] = set()
        self._spool = Spool()
        try:
            lines = []
            for table, numbers in self._read():
                self._spool.add(table)
                lines.append(np.asarray(numbers))
            self._check(np.concatenate(lines) if lines else np.empty(0, int))
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return int(self.complete.sum())

    def __enter__(self) -> "InputRows":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Delete the copy."""
        self._spool.close()

    def blocks(self) -> Iterator[Dataset]:
        """Yield the complete rows in blocks, none of them empty."""
        start = 0
        for table in self._spool.tables(self.schema):
            complete = self.complete[start : start + len(table)]
            start += len(table)
            if complete.any():
                rows = Dataset(table.filter(complete))
                for name in self.keep:
                    rows = with_label_names(rows, name)
                yield rows

    def _check(self, lines: NDArray[np.int64]) -> None:
        """Check what only the whole file can tell: columns, their types, and incomplete rows."""
        where = self.where
        names = select_columns(self.columns, self.required, where, self.extras, self.others)
        try:
            schema = self._spool.schema()
        except pa.ArrowException as error:
            raise mixed_types(where, error) from error
        self.schema = pa.schema([schema.field(name) for name in names], schema.metadata)
        for name, first in self.numbers.items():
            check_numbers(name, [first], where)
        tables = self._spool.tables(self.schema)
        parts = [missing_cells(table, where, self.texts, []) for table in tables]
        missing = {name: np.concatenate([part[name] for part in parts]) for name in self.texts}
        self.complete = complete_rows(missing, lines.tolist(), where, self.source.drop_empty)

    def _read(self) -> Iterator[tuple[pa.Table, Sequence[int]]]:
        """Yield the used columns of each block, and the line on which each of its rows begins."""
        before = 0
        if ending(self.path) == ".parquet":
            with open_bytes(self.path) as file:
                for table in parquet_tables(file, self.path, self.required, self.where, self.size):
                    self._note_columns(table.column_names, table.flatten().column_names)
                    numbers = range(before + 1, before + 1 + len(table))
                    before += len(table)
                    yield table.select(self._used(table.column_names)), numbers
            return
        for columns, lines, alone in self._parse():
            self._note_columns(columns, dotted_names(columns))
            for name in self.texts:
                if name in columns:
                    check_types(name, columns[name], lines, self.where)
                    if not alone:
                        self._note_numbers(name, columns[name])
            used = {name: columns[name] for name in self._used(columns)}
            absent = {name: [None] * len(lines) for name in self.required if name not in used}
            yield build_table({**used, **absent}, self.where), lines

    def _parse(self) -> Iterator[tuple[Mapping[str, Sequence[Any]], Sequence[int], bool]]:
        """Yield each block's columns, its lines, and whether it has a single column of texts."""
        path, source = self.path, self.source
        if ending(path) == ".json":
            text = read_text(path, source.encoding)
            yield *parse(text, path, source, self.required, typed=True), True
            return
        kind = ending(path)
        quoting = source.quoting and kind not in TYPED and (kind != ".txt" or source.delimiter)
        header = ""
        typed = False
        for text, before in text_blocks(path, source.encoding, self.size, bool(quoting)):
            if not before:
                typed = is_typed(path, text)
                source = source if typed else self._line_source(text)
                if not typed and not source.columns:
                    header = _first_record(text, source.quoting)
            else:
                text, before = header + text, before - header.count("\n")
            columns, lines = parse(text, path, source, self.required, typed, before)
            yield columns, lines, typed or len(columns) == 1

    def _line_source(self, text: str) -> Source:
        """Return how to read lines: those of a TXT file or standard input may have no header."""
        source = self.source
        header: list[str] = []
        is_txt = ending(self.path) == ".txt"
        if is_txt and source.delimiter and not source.columns:
            first_line = text.split("\n")[0].rstrip("\r")
            header = [name.strip('"') for name in first_line.split(source.delimiter)]
        if self.path == "-" or (is_txt and not set(self.texts) <= set(header)):
            return dataclasses.replace(source, columns=self.texts, delimiter="\t", quoting=False)
        return source

    def _used(self, names: Iterable[str]) -> list[str]:
        wanted = dict.fromkeys([*self.required, *self.extras])
        present = set(names)
        return [name for name in wanted if name in present]

    def _note_columns(self, names: Iterable[str], others: Iterable[str]) -> None:
        self.columns = list(dict.fromkeys([*self.columns, *names]))
        self.others = list(dict.fromkeys([*self.others, *others]))

    def _note_numbers(self, name: str, values: Sequence[str | None]) -> None:
        """Remember a text column that has contained only numbers so far."""
        filled = [value for value in values if value]
        if not filled or name in self.not_numbers:
            return
        if only_numbers(filled):
            self.numbers.setdefault(name, filled[0])
        else:
            self.numbers.pop(name, None)
            self.not_numbers.add(name)


def _first_record(text: str, quoting: bool) -> str:
    """Return the header of a delimited text, with its line end."""
    end = text.find("\n") + 1
    while quoting and end and text.count('"', 0, end) % 2:
        end = text.find("\n", end) + 1
    return text[:end] if end else text
