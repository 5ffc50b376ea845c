"""All checks of a job, as a table and as check.json."""

import json
import math
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from litpool.data.module import TextDataModule
from litpool.disk import write_text
from litpool.loops.lightning import TextModule
from litpool.tools.check.encoder import check_model
from litpool.tools.check.finding import Finding
from litpool.tools.check.rows import (
    check_added,
    check_duplicates,
    check_empty,
    check_labels,
    check_vocabulary_use,
)
from litpool.tools.check.tokens import (
    Tokens,
    check_lengths,
    check_scripts,
    check_unknown,
    count_tokens,
    count_words,
    measure_scripts,
    merge,
)

if TYPE_CHECKING:
    from datasets import Dataset

BATCH = 5_000  # rows to read at a time; the progress bar moves after each batch
TOKENIZED = 5_000  # rows of each split to tokenize, evenly spaced; words are counted in all rows


def run_checks(module: TextModule, folder: Path) -> bool:
    """Check everything, print the table, and write check.json into the folder.

    Returns:
        Whether a check found an error.

    Raises:
        InputError: The rows or the tokenizer cannot be read.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module.data.setup("check")
    messages = [str(warning.message) for warning in caught]
    findings = [*check_data(module.data, messages), *check_model(module)]
    counts = Counter(finding.status for finding in findings)
    content = {
        "status": next(status for status in ("error", "warning", "ok") if counts[status]),
        "rows": {split: len(rows) for split, rows in module.data.rows.items()},
        "lines": [_entry(finding) for finding in findings],
    }
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    path = folder / "check.json"
    write_text(path, f"{text}\n")
    for line in _table(findings):
        print(line)
    print(f"{counts['error']} errors, {counts['warning']} warnings, {counts['ok']} ok")
    print(f"wrote {path}")
    return counts["error"] > 0


def _entry(finding: Finding) -> dict[str, Any]:
    """Return a line of check.json, where the message has the key `told` since version 0.1.0."""
    return {
        "name": finding.name,
        "status": finding.status,
        "told": finding.message,
        "advice": finding.advice,
        "figures": finding.figures,
    }


def _table(findings: Iterable[Finding]) -> Iterator[str]:
    """Yield the lines of the table; examples and advice are indented below their finding."""
    for finding in findings:
        first, *more = finding.message.split("\n")
        yield f"{finding.status:8} {finding.name:25} {first}"
        if finding.advice:
            more.append(f"-> {finding.advice}")
        for line in more:
            yield f"{'':8} {'':25} {line}"


def check_data(data: TextDataModule, messages: list[str]) -> list[Finding]:
    """Check rows and texts.

    Args:
        data: The rows, the task and the tokenizer.
        messages: The warnings that were raised when the rows were read.
    """
    from datasets import Dataset

    # A random split scatters its rows over the table. They are read several times, and quickly
    # only once they are contiguous.
    splits = {}
    for split, rows in data.rows.items():
        table = rows.with_format("arrow")[:].combine_chunks()
        splits[split] = Dataset(table)
    task = data.task
    words, tokens, absent = _read(data, splits)
    texts = len(tokens.lengths)
    return [
        *check_scripts(measure_scripts(data.tokenizer, words)),
        check_unknown(tokens, data.tokenizer),
        *check_lengths(tokens, data.max_length, task.on_tokens),
        check_empty(messages, tokens.empty, texts),
        *check_duplicates(splits, task.texts, task.label),
        *check_labels(splits, task),
        check_vocabulary_use(tokens.counts, texts),
        *check_added(len(data.new_ids), absent),
    ]


def _read(
    data: TextDataModule, splits: Mapping[str, "Dataset"]
) -> tuple[Counter[str], Tokens, list[str]]:
    """Read all rows once.

    Returns:
        The words of all rows; the tokens of at most TOKENIZED rows of each split; and the added
        tokens that occur in no row.
    """
    words = Counter[str]()
    parts = []
    absent: Any = data.tokenizer.convert_ids_to_tokens(list(data.new_ids))
    total = sum(map(len, splits.values()))
    with tqdm(total=total, desc="checking", unit=" rows", disable=not sys.stderr.isatty()) as bar:
        for rows in splits.values():
            step = math.ceil(len(rows) / TOKENIZED)
            for start in range(0, len(rows), BATCH):
                batch = rows[start : start + BATCH]
                texts = "\n".join(text for column in data.task.texts for text in batch[column])
                words.update(count_words([texts]))
                absent = [token for token in absent if not _occurs(token, texts)]
                sample = {name: values[-start % step :: step] for name, values in batch.items()}
                if any(sample.values()):
                    parts.append(count_tokens(data.task, data.tokenizer, sample, data.prefixes))
                bar.update(min(BATCH, len(rows) - start))
    tokens = merge(parts)
    if max(map(len, splits.values())) <= TOKENIZED:  # all rows are tokenized: count exactly
        unused = [number for number in data.new_ids if not tokens.counts[number]]
        absent = data.tokenizer.convert_ids_to_tokens(unused)
    return words, tokens, absent


def _occurs(token: str, text: str) -> bool:
    return token in text or token.lower() in text.lower()
