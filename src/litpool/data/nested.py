"""Columns inside objects: `labels.real-label` is the key `real-label` of the column `labels`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from litpool import InputError

FIRST = 100  # rows, enough to know the keys


def nested_columns(
    columns: Mapping[str, Sequence[Any]],
    names: Iterable[str],
    lines: Sequence[int],
    where: str,
) -> dict[str, list[Any]]:
    """Return the values of the dotted names that are keys of objects.

    A column of that very name goes first. An object that lacks the key has a null there.

    Raises:
        InputError: A dotted name leads into something that is no object.
    """
    found = {}
    for name in names:
        column, *keys = name.split(".")
        if not keys or name in columns or column not in columns:
            continue
        values = []
        for line, value in zip(lines, columns[column], strict=True):
            values.append(_follow(value, keys, name, f"{where}, row {line}"))
        if any(value is not None for value in values):
            found[name] = values
    return found


def _follow(value: Any, keys: Sequence[str], name: str, place: str) -> Any:
    for key in keys:
        if value is None:
            return None
        if not isinstance(value, dict):
            raise InputError(
                f"{place}: {name!r} needs an object with the key {key!r}, there is "
                f"{str(value)[:40]!r}; name another column"
            )
        value = value.get(key)
    return value


def dotted_names(columns: Mapping[str, Sequence[Any]]) -> list[str]:
    """List the keys of the objects in the first rows as dotted names, to propose them."""
    names = [
        f"{column}.{key}"
        for column, values in columns.items()
        for value in values[:FIRST]
        if isinstance(value, dict)
        for key in value
    ]
    return list(dict.fromkeys(names))
