"""Reading, tokenizing and batching 200,000 rows: litpool next to `datasets` and a plain DataLoader.

    python bench/data.py [NSMC] [--rows 200000] [--repeats 3]

NSMC is the folder with ratings_train.txt and ratings_test.txt; without it, the texts of the
embedded corpus are repeated, each time with a number before them. Both sides read the same CSV
file, tokenize it for all-MiniLM-L6-v2 with at most 128 tokens, and go through one epoch of batches
of 32 without training. They take turns, each in a process of its own; imports are not counted.
"""

import argparse
import csv
import itertools
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import fresh

BATCH = 32
LENGTH = 128
PARTS = ("set-up, s", "set-up from the cache, s", "batches, s", "padding, %", "peak memory, MB")


def nsmc(folder: Path) -> Iterator[tuple[str, str]]:
    for name in ("ratings_train.txt", "ratings_test.txt"):
        with (folder / name).open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
                if row["document"].strip():
                    yield row["document"], row["label"]


def repeated() -> Iterator[tuple[str, str]]:
    from litpool.demo.docstrings import docstring_splits

    rows = [row for split in docstring_splits().values() for row in split]
    for number in itertools.count():
        for row in rows:
            yield f"{number} {row['text']}", str(row["label"])


def write_rows(folder: Path | None, count: int, path: Path) -> int:
    """Write a CSV file, and return its number of rows."""
    rows = list(itertools.islice(nsmc(folder) if folder else repeated(), count))
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return len(rows)


def go_through(batches: Iterable[dict]) -> tuple[float, float]:
    """Return the seconds that an epoch of batches takes, and the share of padding in percent."""
    slots = tokens = 0
    start = time.perf_counter()
    for batch in batches:
        slots += batch["attention_mask"].numel()
        tokens += int(batch["attention_mask"].sum())
    return time.perf_counter() - start, 100 * (1 - tokens / slots)


def ours(path: Path) -> list[float]:
    from litpool.data.module import TextDataModule
    from litpool.demo.encoder import DEMO_ENCODER
    from litpool.tasks.classification import Classification

    def set_up() -> TextDataModule:
        data = TextDataModule(
            Classification(),
            source=str(path),
            batch_size=BATCH,
            max_length=LENGTH,
            tokenizer=DEMO_ENCODER,
        )
        data.setup("fit")
        return data

    start = time.perf_counter()
    set_up()
    first = time.perf_counter()
    data = set_up()
    second = time.perf_counter()
    return [first - start, second - first, *go_through(data.train_dataloader())]


def theirs(path: Path) -> list[float]:
    from datasets import Dataset, load_dataset
    from torch.utils.data import DataLoader
    from transformers import AutoTokenizer, DataCollatorWithPadding

    from litpool.demo.encoder import DEMO_ENCODER, locate

    tokenizer = AutoTokenizer.from_pretrained(locate(DEMO_ENCODER))

    def tokenize(rows: dict) -> dict:
        return tokenizer(rows["text"], truncation=True, max_length=LENGTH)

    def set_up() -> Dataset:
        rows = load_dataset("csv", data_files=str(path))["train"].class_encode_column("label")
        parts = rows.train_test_split(0.1, seed=1, stratify_by_column="label")
        data = {name: part.map(tokenize, batched=True) for name, part in parts.items()}
        return data["train"].remove_columns("text")

    start = time.perf_counter()
    set_up()
    first = time.perf_counter()
    data = set_up()
    second = time.perf_counter()
    collate = DataCollatorWithPadding(tokenizer)
    loader = DataLoader(data, batch_size=BATCH, shuffle=True, collate_fn=collate)
    return [first - start, second - first, *go_through(loader)]


SIDES = {"litpool": ours, "datasets and a DataLoader": theirs}


def work(side: str, path: Path) -> None:
    figures = SIDES[side](path)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps([*figures, peak]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    turns: dict[str, list[list[float]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "rows.csv"
        count = write_rows(options.folder, options.rows, path)
        for _ in range(options.repeats):
            for side in SIDES:
                turns[side].append(fresh.measure(__file__, side, str(path)))
    print(f"{count:,} rows, {options.repeats} repeats; {os.cpu_count()} cores of", end=" ")
    print(f"{platform.machine()}\n")
    print(f"| median (range) | {' | '.join(PARTS)} |")
    print(f"|---|{'---|' * len(PARTS)}")
    for side, figures in turns.items():
        cells = [
            f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"
            for values in zip(*figures, strict=True)
        ]
        print(f"| {side} | {' | '.join(cells)} |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2], Path(sys.argv[3]))
    else:
        main()
