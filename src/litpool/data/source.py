"""Where rows come from: the embedded corpus, a Hub data set, files (CSV, TSV, JSON, JSONL, Parquet, text) or a folder.

Whatever the source, the answer is the same: the columns a task asks for, a text in every row, or one line that says
which row of which file is at fault.
"""

import dataclasses
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
from datasets import Dataset

from litpool import InputError
from litpool.data.files import (
    DELIMITERS,
    TYPED,
    Source,
    complete_rows,
    present,
    read_file,
    read_text,
)
from litpool.demo.docstrings import docstring_splits

if not sys.stderr.isatty():
    datasets.disable_progress_bars()  # a file or a pipe is no place for a bar

__all__ = ["Source", "load_splits", "read_rows"]

SPLITS = ["train", "validation", "test"]
TOKENS = {"training": "train", "dev": "validation", "val": "validation", "valid": "validation"} | {
    s: s for s in SPLITS
}
INTEGER = r"-?(0|[1-9][0-9]{0,17})"  # as a label: with leading zeros, or too long for 64 bits, it is a name
DECIMAL = rf"({INTEGER}(\.[0-9]*)?|-?\.[0-9]+)([eE][+-]?[0-9]+)?"
WHOLE = "all"  # stands where a split's name would, for rows that are still to be divided


def load_splits(
    source: Source,
    texts: list[str],
    labels: list[str],
    extras: Sequence[str] = (),
    group: Sequence[str] = (),
) -> dict[str, Dataset]:
    """Read the splits that the source has, with the columns `texts` and `labels`, `extras` where they are, no others.

    Where a split is divided, rows that are equal in the first of the columns `group` that is there stay together.
    Labels stay as they are; in CSV, TSV and text files, a column of nothing but numbers becomes numbers.

    Returns:
        Some of train, validation and test. Validation is split off train where it is missing; test never is.

    Raises:
        InputError: if something cannot be read, or a row lacks a text or a label.
    """
    if source.max_rows is not None and source.max_rows < 1:
        raise InputError(f"data.max_rows {source.max_rows}: must be 1 or more, or left out")
    try:
        files = _files(source)
    except OSError as error:
        raise InputError(
            f"data.source {source.source!r}: {error.strerror}; name what is there and may be read"
        ) from error
    read = _read_files if files else _read_data_set
    splits = read(files, source, texts, labels, extras)
    hold_out = partial(_hold_out, labels=labels, group=group, seed=source.seed)
    if WHOLE in splits:
        splits["train"], splits["test"] = hold_out(splits.pop(WHOLE), 10)
        splits["train"], splits["validation"] = hold_out(splits["train"], 9)
    elif "train" in splits and "validation" not in splits:
        splits["train"], splits["validation"] = hold_out(splits["train"], 10)
    return {
        name: _at_most(source.max_rows, splits[name], source.seed)
        for name in SPLITS
        if name in splits
    }


def read_rows(path: str, source: Source, texts: list[str], extras: Sequence[str] = ()) -> Dataset:
    """Read the columns `texts` of one file, and `extras` where they are, in the file's order.

    Args:
        path: a CSV, TSV, JSON, JSONL, Parquet or TXT file, or `-` for standard input. TXT and standard input hold one
            text a line (tab-separated if `texts` are several); standard input may hold JSONL instead. A TXT file with
            a header that names the texts is read with `data.delimiter`.
        source: how to read it; where the training rows come from plays no part.
        texts: the columns, which are also the names that lines without a header get.
        extras: further columns.

    Raises:
        InputError: as `load_splits`.
    """
    plain = path == "-"
    if Path(path).suffix.lower() == ".txt":
        known = source.delimiter and not source.columns
        header = (
            read_text(path).split("\n")[0].rstrip("\r").split(source.delimiter) if known else []
        )
        plain = not set(texts) <= {name.strip('"') for name in header}
    if plain:
        source = dataclasses.replace(source, columns=texts, delimiter="\t", quoting=False)
    return Dataset(read_file(path, source, texts, [], extras))


def _files(source: Source) -> dict[str, list[str]]:
    """List the files of each split; none if the rows come from a data set instead."""
    given = source.source
    if isinstance(given, str):
        path = Path(given)
        if given == "docstrings" or (path.is_dir() and (source.splits or source.hub_config)):
            return {}
        if path.is_dir():
            found = _recognise(
                [p.name for p in path.iterdir() if p.is_file()], given, "data.source {split: file}"
            )
            given = {split: str(path / name) for split, name in found.items()}
        elif (
            path.exists()
            or path.suffix.lower() in [*DELIMITERS, *TYPED, ".txt"]
            or given.startswith((".", "/"))
        ):
            given = [given]
        else:
            return {}
    files = {WHOLE: given} if isinstance(given, list) else _only_splits(given, "data.source")
    if source.splits or source.hub_config or source.revision:
        raise InputError(
            f"data.source {given}: splits, hub_config and revision are for Hub data sets; leave them out"
        )
    return {name: [paths] if isinstance(paths, str) else paths for name, paths in files.items()}


def _recognise(names: Sequence[str], where: str, mend: str) -> dict[str, str]:
    """Find the split that a name speaks of: ratings_train.txt, sts-dev.tsv, stsa.binary.test."""
    found: dict[str, str] = {}
    for name in sorted(names):
        meant = {TOKENS[token] for token in re.findall("[a-z]+", name.lower()) if token in TOKENS}
        for split in meant if len(meant) == 1 else ():
            if split in found:
                raise InputError(
                    f"{where}: {found[split]} and {name} both look like the {split} split; use {mend}"
                )
            found[split] = name
    if not found:
        listed = ", ".join(sorted(names)[:10]) or "nothing"
        raise InputError(
            f"{where}: no name tells train, validation (dev) or test, there is {listed}; use {mend}"
        )
    return found


def _only_splits(given: dict[str, Any], option: str) -> dict[str, Any]:
    unknown = [name for name in given if name not in SPLITS]
    if unknown or not given:
        raise InputError(f"{option} {given}: the keys must be some of {', '.join(SPLITS)}")
    return given


def _read_data_set(
    _: Mapping[str, list[str]],
    source: Source,
    texts: list[str],
    labels: list[str],
    extras: Sequence[str],
) -> dict[str, Dataset]:
    found = (
        docstring_splits() if source.source == "docstrings" else _load(str(source.source), source)
    )
    names = source.splits or _recognise(
        list(found), str(source.source), "data.splits {train: NAME, test: NAME}"
    )
    splits = {}
    for split, name in _only_splits(names, "data.splits").items():
        if name not in found:
            raise InputError(
                f"data.splits: {source.source} has no split {name!r}, it has {', '.join(found)}"
            )
        where = f"{source.source}, split {name}"
        rows = found[name].select_columns(
            present(found[name].column_names, texts + labels, where, extras)
        )
        table = rows.with_format("arrow")[:]
        complete = complete_rows(table, range(1, len(rows) + 1), where, source, texts, labels)
        splits[split] = rows if len(complete) == len(rows) else rows.select(complete)
    return splits


def _load(name: str, source: Source) -> Mapping[str, Dataset]:
    try:
        found: Mapping[str, Dataset] = datasets.load_dataset(
            name, name=source.hub_config, revision=source.revision
        )
    except (
        Exception
    ) as error:  # the network, the Hub and the data set's own files each fail in their own way
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        if Path(name).exists():
            raise InputError(
                f"data.source {name!r}: {reason}; for your own files set data.splits to null"
            ) from error
        raise InputError(
            f"data.source {name!r}: neither a file nor a folder here, nor a Hub data set that loads ({reason}); "
            "check the spelling, the network, data.hub_config and data.revision"
        ) from error
    return found


def _read_files(
    files: Mapping[str, list[str]],
    source: Source,
    texts: list[str],
    labels: list[str],
    extras: Sequence[str],
) -> dict[str, Dataset]:
    tables = {}
    for split, paths in files.items():
        if not paths:
            raise InputError(f"data.source: no file for {split}; name at least one")
        try:
            read = [read_file(path, source, texts, labels, extras) for path in paths]
            tables[split] = pa.concat_tables(read, promote_options="permissive")
        except pa.ArrowException as error:
            raise InputError(
                f"{', '.join(paths)}: a column differs in kind; make the files alike"
            ) from error
    if not any(Path(path).suffix.lower() in TYPED for paths in files.values() for path in paths):
        for label in labels:
            tables = _as_numbers(tables, label)
    return {split: Dataset(table) for split, table in tables.items()}


def _as_numbers(tables: dict[str, pa.Table], label: str) -> dict[str, pa.Table]:
    """Make a label a number in all splits or in none, so that one odd value cannot part them."""
    for pattern, kind in ((INTEGER, pa.int64()), (DECIMAL, pa.float64())):
        if all(
            pc.all(pc.match_substring_regex(table[label], f"^({pattern})$")).as_py()
            for table in tables.values()
        ):
            at = next(iter(tables.values())).column_names.index(label)
            return {
                name: table.set_column(at, label, table[label].cast(kind))
                for name, table in tables.items()
            }
    return tables


def _hold_out(
    rows: Dataset, parts: int, labels: list[str], group: Sequence[str], seed: int
) -> tuple[Dataset, Dataset]:
    """Divide off one row in `parts`, of each label or group its share. What stays and what goes keep their order."""
    if len(rows) < 2:
        raise InputError(
            "data.source: too few rows to divide into splits; give more, or name a file for each split"
        )
    if together := [column for column in group if column in rows.column_names]:
        gone = _whole_groups(rows[together[0]][:], len(rows) // parts, seed)
        return rows.select([row for row in range(len(rows)) if row not in gone]), rows.select(
            sorted(gone)
        )
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    if len(labels) == 1:
        order = _by_label(order, rows[labels[0]][:])
    size = max(1, len(rows) // parts)
    gone = {
        order[(2 * n + 1) * len(order) // (2 * size)] for n in range(size)
    }  # evenly spaced, so in proportion
    return rows.select([row for row in range(len(rows)) if row not in gone]), rows.select(
        sorted(gone)
    )


def _whole_groups(values: list[Any], size: int, seed: int) -> set[int]:
    """Rows of groups drawn at random, at least one group and as many as come nearest to `size` rows from below."""
    groups: dict[Any, list[int]] = {}
    for row, value in enumerate(values):
        groups.setdefault(value, []).append(row)
    if len(groups) < 2:
        raise InputError(
            "data.source: all rows belong together, and cannot be divided; name a file for each split"
        )
    names = list(groups)
    random.Random(seed).shuffle(names)
    gone = set(groups[names[0]])
    for name in names[1:-1]:
        if len(gone) + len(groups[name]) <= size:
            gone.update(groups[name])
    return gone


def _by_label(order: list[int], values: list[Any]) -> list[int]:
    """Bring rows of one label together, less those whose label is unique: only training can use them.

    Scores, lists and the like are no labels, nor are values that mostly differ; then the order stays.
    """
    if not isinstance(values[0], str | int):
        return order
    times = Counter(values)
    repeated = [row for row in order if times[values[row]] > 1]
    return (
        sorted(repeated, key=lambda row: values[row]) if 2 * len(repeated) > len(order) else order
    )


def _at_most(limit: int | None, rows: Dataset, seed: int) -> Dataset:
    if limit is None or limit >= len(rows):
        return rows
    return rows.select(sorted(random.Random(seed).sample(range(len(rows)), limit)))


def with_label_names(rows: "Dataset", column: str) -> "Dataset":
    """The rows with a ClassLabel's ints replaced by its names, so that labels mean the same in every file."""
    from datasets import ClassLabel, Dataset  # late: slow to import

    feature = rows.features[column]
    several = getattr(feature, "feature", None)  # a list of labels in each row
    if isinstance(several, ClassLabel):
        names = [several.int2str(labels) for labels in rows[column]]
    elif isinstance(feature, ClassLabel):
        names = feature.int2str(rows[column])
    else:
        return rows
    table = rows.with_format("arrow")[:]
    return Dataset(table.set_column(table.column_names.index(column), column, pa.array(names)))
