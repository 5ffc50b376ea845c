"""Where rows come from: the embedded corpus, a Hub data set, files or a folder of files.

Every source gives the same: splits with the columns that a task asks for and a text in every row,
or an error of one line that names the file and the row.
"""

import random
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset

from litpool import InputError
from litpool.data.files import (
    DELIMITERS,
    TYPED,
    Source,
    complete_rows,
    ending,
    missing_cells,
    read_file,
    select_columns,
)
from litpool.demo.docstrings import docstring_splits
from litpool.hub import check_network

if not sys.stderr.isatty():
    datasets.disable_progress_bars()  # a log file is no place for a bar

SPLITS = ["train", "validation", "test"]
SPLIT_WORDS = {split: split for split in SPLITS} | {
    "training": "train",
    "dev": "validation",
    "val": "validation",
    "valid": "validation",
}
UNDIVIDED = "all"  # the key of rows that are not divided into splits yet

# A label with leading zeros, or too long for 64 bits, is a name.
INTEGER = r"-?(0|[1-9][0-9]{0,17})"
DECIMAL = rf"({INTEGER}(\.[0-9]*)?|-?\.[0-9]+)([eE][+-]?[0-9]+)?"


def load_splits(
    source: Source,
    texts: list[str],
    labels: list[str],
    extras: Sequence[str] = (),
    group: Sequence[str] = (),
    numeric: bool = False,
) -> dict[str, Dataset]:
    """Read the splits of a source.

    A missing validation split is split off train; a missing test split is not replaced. Labels of
    CSV, TSV and text files are the strings in the file, and class labels become names.

    Args:
        source: Where the rows come from.
        texts: The columns with texts.
        labels: The column with labels, if there is one.
        extras: Columns to read if they exist.
        group: Rows that are equal in the first of these columns that exists stay in one split.
        numeric: Whether the labels are numbers. If so, those of CSV, TSV and text files become
            numbers where all of them are.

    Returns:
        Some of train, validation and test, with no columns but these.

    Raises:
        InputError: Something cannot be read, or a row lacks a text or a label.
    """
    if source.max_rows is not None and source.max_rows < 1:
        raise InputError(f"data.max_rows={source.max_rows}: give 1 or more, or leave it out")
    if source.group:
        extras, group = [*extras, source.group], [source.group]
    try:
        files = _find_files(source)
    except OSError as error:
        raise InputError(
            f"data.source {source.source!r}: {error.strerror}; "
            "name a file or folder that exists and can be read"
        ) from error
    if files:
        splits = _read_files(files, source, texts, labels, extras, numeric)
    else:
        splits = _read_data_set(source, texts, labels, extras)
    for rows in splits.values():
        if source.group and source.group not in rows.column_names:
            raise InputError(f"data.group={source.group}: the rows have no such column")
    divide = partial(
        _divide,
        texts=texts,
        labels=labels,
        group=group,
        seed=source.seed,
        untyped=bool(files) and _are_untyped(files),
    )
    if UNDIVIDED in splits:
        splits["train"], splits["test"] = divide(splits.pop(UNDIVIDED), 10)
        splits["train"], splits["validation"] = divide(splits["train"], 9)
    elif "train" in splits and "validation" not in splits:
        splits["train"], splits["validation"] = divide(splits["train"], 10)
    for split, rows in splits.items():
        if source.max_rows is not None and source.max_rows < len(rows):
            sample = random.Random(source.seed).sample(range(len(rows)), source.max_rows)
            rows = rows.select(sorted(sample))
        for label in labels:
            rows = with_label_names(rows, label)
        splits[split] = rows
    return {split: splits[split] for split in SPLITS if split in splits}


def _find_files(source: Source) -> dict[str, list[str]]:
    """List the files of each split; none if the rows come from a data set instead."""
    files = source.source
    if isinstance(files, str):
        path = Path(files)
        is_hub_layout = path.is_dir() and (source.splits or source.hub_config)
        is_file = (
            path.exists()
            or ending(files) in [*DELIMITERS, *TYPED, ".txt"]
            or files.startswith((".", "/"))
        )
        if files == "docstrings" or is_hub_layout or not is_file:
            return {}
        files = [files]
        if path.is_dir():
            names = [file.name for file in path.iterdir() if file.is_file()]
            matches = _match_splits(names, str(path), "data.source {split: file}")
            files = {split: str(path / name) for split, name in matches.items()}
    if isinstance(files, list):
        files = {UNDIVIDED: files}
    else:
        _check_split_names(files, "data.source")
    if source.splits or source.hub_config or source.revision:
        raise InputError(
            f"data.source {source.source}: splits, hub_config and revision are for Hub data sets; "
            "leave them out"
        )
    return {split: [paths] if isinstance(paths, str) else paths for split, paths in files.items()}


def _match_splits(names: Sequence[str], where: str, option: str) -> dict[str, str]:
    """Recognize splits by their names, such as ratings_train.txt, sts-dev.tsv, stsa.binary.test."""
    matches: dict[str, str] = {}
    for name in sorted(names):
        words = re.findall("[a-z]+", name.lower())
        splits = {SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}
        if len(splits) != 1:
            continue
        split = splits.pop()
        if split in matches:
            raise InputError(
                f"{where}: {matches[split]} and {name} both look like the {split} split; "
                f"use {option}"
            )
        matches[split] = name
    if not matches:
        listed = ", ".join(sorted(names)[:10]) or "nothing"
        raise InputError(
            f"{where}: no name contains train, validation (dev) or test, there is {listed}; "
            f"use {option}"
        )
    return matches


def _check_split_names(mapping: Mapping[str, Any], option: str) -> None:
    if not mapping or not set(mapping) <= set(SPLITS):
        raise InputError(f"{option} {mapping}: the keys must be some of {', '.join(SPLITS)}")


def _read_data_set(
    source: Source, texts: list[str], labels: list[str], extras: Sequence[str]
) -> dict[str, Dataset]:
    """Read the embedded corpus or a Hub data set."""
    name = str(source.source)
    data_set = docstring_splits() if name == "docstrings" else _load_from_hub(name, source)
    names = source.splits or _match_splits(
        list(data_set), name, "data.splits {train: NAME, test: NAME}"
    )
    _check_split_names(names, "data.splits")
    splits = {}
    for split, its_name in names.items():
        if its_name not in data_set:
            raise InputError(
                f"data.splits: {name} has no split {its_name!r}, it has {', '.join(data_set)}"
            )
        where = f"{name}, split {its_name}"
        rows = _with_nested(data_set[its_name], texts + labels)
        rows = rows.select_columns(select_columns(rows.column_names, texts + labels, where, extras))
        table = rows.with_format("arrow")[:]
        numbers = range(1, len(rows) + 1)
        missing = missing_cells(table, where, texts, labels)
        complete = complete_rows(missing, numbers, where, source.drop_empty)
        splits[split] = rows.select(complete.nonzero()[0])
    return splits


def _with_nested(rows: Dataset, names: Sequence[str]) -> Dataset:
    """Add the columns inside structs that the dotted names mean."""
    nested = [name for name in names if "." in name and name not in rows.column_names]
    if not nested:
        return rows
    flat = rows.flatten()
    nested = [name for name in nested if name in flat.column_names]
    return datasets.concatenate_datasets([rows, flat.select_columns(nested)], axis=1)


def _load_from_hub(name: str, source: Source) -> Mapping[str, Dataset]:
    if not Path(name).exists():
        check_network()
    try:
        data_set: Mapping[str, Dataset] = datasets.load_dataset(
            name, name=source.hub_config, revision=source.revision
        )
    except Exception as error:  # the network, the Hub and the data set's files raise many kinds
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise InputError(
            f"data.source {name!r}: not a file, a folder of files or a Hub data set that loads "
            f"({reason}); check the spelling, the network, and data.hub_config, data.revision and "
            "data.splits, which must be null for your own files"
        ) from error
    return data_set


def _read_files(
    files: Mapping[str, list[str]],
    source: Source,
    texts: list[str],
    labels: list[str],
    extras: Sequence[str],
    numeric: bool,
) -> dict[str, Dataset]:
    tables = {}
    for split, paths in files.items():
        if not paths:
            raise InputError(f"data.source: no file for {split}; name at least one")
        parts = [read_file(path, source, texts, labels, extras) for path in paths]
        try:
            tables[split] = pa.concat_tables(parts, promote_options="permissive")
        except pa.ArrowException as error:
            raise InputError(
                f"{', '.join(paths)}: a column has different types; use one type in all files"
            ) from error
    if numeric and _are_untyped(files):
        for label in labels:
            every = pa.concat_tables([table.select([label]) for table in tables.values()])
            kind = _as_numbers(every[label]).type  # the same for all splits
            tables = {
                split: _replace(table, label, table[label].cast(kind))
                for split, table in tables.items()
            }
    return {split: Dataset(table) for split, table in tables.items()}


def _are_untyped(files: Mapping[str, list[str]]) -> bool:
    """Return whether all values in the files are strings, as in CSV."""
    return all(ending(path) not in TYPED for paths in files.values() for path in paths)


def _as_numbers(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return texts as numbers if all of them are numbers, and anything else as it is."""
    for pattern, kind in ((INTEGER, pa.int64()), (DECIMAL, pa.float64())):
        is_text = pa.types.is_string(values.type)
        if is_text and pc.all(pc.match_substring_regex(values, f"^({pattern})$")).as_py():
            return values.cast(kind)
    return values


def with_label_names(rows: Dataset, label: str) -> Dataset:
    """Replace the numbers of a ClassLabel by its names, which mean the same in every file."""
    feature = rows.features[label]
    item = getattr(feature, "feature", None)  # of a list of labels
    if isinstance(item, ClassLabel):
        names = [item.int2str(numbers) for numbers in rows[label]]
    elif isinstance(feature, ClassLabel):
        names = feature.int2str(rows[label])
    else:
        return rows
    return Dataset(_replace(rows.with_format("arrow")[:], label, pa.array(names)))


def _replace(table: pa.Table, name: str, values: pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


def _divide(
    rows: Dataset,
    parts: int,
    texts: list[str],
    labels: list[str],
    group: Sequence[str],
    seed: int,
    untyped: bool,
) -> tuple[Dataset, Dataset]:
    """Split off one row in `parts`: in proportion from each label, or in whole groups.

    If equal texts would be on both sides, only texts that occur once are drawn.

    Not with a library's stratified split: that refuses a label that occurs only once.
    """
    if len(rows) < 2:
        raise InputError(
            "data.source: too few rows to divide into splits; "
            "give more, or name a file for each split"
        )
    size = max(1, len(rows) // parts)
    column = next((name for name in group if name in rows.column_names), None)
    if column:
        drawn = _draw_groups(rows[column][:], size, seed)
    else:
        values = rows[labels[0]][:] if labels else [None] * len(rows)
        if untyped:  # so that 2 is drawn before 10
            values = _as_numbers(pa.array(values)).to_pylist()
        drawn = _draw_rows(values, size, seed)
        contents = list(zip(*(rows[name][:] for name in texts), strict=True))
        times = Counter(contents)
        alone = [row for row, content in enumerate(contents) if times[content] == 1]
        copies = Counter(contents[row] for row in drawn)
        if any(times[text] > number for text, number in copies.items()) and len(alone) > size:
            drawn = {alone[row] for row in _draw_rows([values[row] for row in alone], size, seed)}
    rest = [row for row in range(len(rows)) if row not in drawn]
    return rows.select(rest), rows.select(sorted(drawn))


def _draw_groups(values: list[Any], size: int, seed: int) -> set[int]:
    """Draw groups of rows with equal values: one, and more as long as they fit into `size` rows."""
    groups: dict[Any, list[int]] = {}
    for row, value in enumerate(values):
        groups.setdefault(value, []).append(row)
    if len(groups) < 2:
        raise InputError(
            "data.source: all rows belong to one group, which cannot be divided; "
            "name a file for each split"
        )
    names = list(groups)
    random.Random(seed).shuffle(names)
    first, *others = names
    drawn = set(groups[first])
    for value in others[:-1]:
        if len(drawn) + len(groups[value]) <= size:
            drawn.update(groups[value])
    return drawn


def _draw_rows(labels: list[Any], size: int, seed: int) -> set[int]:
    """Draw rows in proportion from each label, but none whose label is unique: training needs it.

    Labels that are scores or lists, or mostly differ, are ignored.
    """
    order = list(range(len(labels)))
    random.Random(seed).shuffle(order)
    if isinstance(labels[0], str | int):
        times = Counter(labels)
        repeated = [row for row in order if times[labels[row]] > 1]
        if 2 * len(repeated) > len(order):
            order = sorted(repeated, key=lambda row: labels[row])
    # Evenly spaced in an order that is sorted by label, so in proportion.
    return {order[(2 * n + 1) * len(order) // (2 * size)] for n in range(size)}
