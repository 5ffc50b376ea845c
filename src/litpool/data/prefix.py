"""What goes before each text: some encoders were trained with a prefix, such as e5 with `query: `.

The rows keep the texts as they are; only the tokenizer sees the prefix.
"""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from litpool import InputError
from litpool.tasks.task import Task


def column_prefixes(prefix: str | Mapping[str, str] | None, task: Task) -> dict[str, str]:
    """Return the prefix of each text column that has one.

    Args:
        prefix: One for all text columns, or a mapping from column to prefix.
        task: Knows the text columns.

    Raises:
        InputError: A column is not one of the texts, or the task points into its texts.
    """
    if isinstance(prefix, str):
        prefix = dict.fromkeys(task.texts, prefix)
    prefixes = {column: text for column, text in (prefix or {}).items() if text}
    for column in prefixes:
        if column not in task.texts:
            raise InputError(
                f"data.prefix={prefix}: {column!r} is not one of the text columns "
                f"({', '.join(task.texts)}); give one prefix for all, or a mapping from these "
                "columns to prefixes"
            )
    if prefixes and task.on_tokens:
        raise InputError(
            f"data.prefix={prefix}: not supported by {type(task).__name__}, whose answers are "
            "characters of its texts; leave it out"
        )
    return prefixes


def encode_with_prefixes(
    task: Task,
    rows: Mapping[str, list[Any]],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    prefixes: Mapping[str, str],
) -> dict[str, list[Any]]:
    """Return what `task.encode` returns for rows with the prefixes before their texts."""
    added = {name: [prefix + text for text in rows[name]] for name, prefix in prefixes.items()}
    encoded = task.encode({**rows, **added}, tokenizer, max_length)
    differ = len({prefixes.get(name) for name in task.texts}) > 1
    if differ and "labels" in encoded:  # those of `contrastive` tell which texts are equal
        encoded["labels"] = task.encode(rows, tokenizer, max_length)["labels"]
    return encoded
