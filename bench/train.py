"""One epoch of training: our loops next to the Hugging Face Trainer, on the same rows.

    python bench/train.py --sst2 SST2 --nsmc NSMC [--rows 1280] [--repeats 5] [--plot train.svg]

SST2 is the folder with stsa.binary.train and NSMC the one with ratings_train.txt; without them,
only the embedded corpus is measured. Every contestant trains all-MiniLM-L6-v2 as a classifier in
batches of 32 texts for an epoch, validates on a quarter as many rows, and saves weights and
optimizer. The Trainer runs as it does by default (rows in random order, SDPA), with its batches
grouped by length, and with eager attention as well. Ours save a second file, the best weights.

The contestants take turns, each in a process of its own. Measured are the seconds on the clock of
the epoch's steps, of validation and saving after them, and of the whole program with its imports.
The ratios are those of one repeat: the contestant's epoch over that of `fit`.
"""

import argparse
import csv
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import fresh

OURS = {"fit": "fit", "fit_plain": "fit_plain"}
THEIRS: dict[str, dict[str, str]] = {
    "Trainer": {},
    "Trainer, grouped": {"order": "group_by_length"},
    "Trainer, grouped, eager": {"order": "group_by_length", "attention": "eager"},
}
CONTESTANTS = (*OURS, *THEIRS)
PARTS = ("epoch", "steps", "after", "program")
BATCH = 32
LENGTH = 128
LR = 1e-4


# ---- the rows


def sst2(folder: Path) -> Iterator[tuple[str, str]]:
    with (folder / "stsa.binary.train").open(encoding="utf-8") as file:
        for line in file:
            label, _, text = line.rstrip("\n").partition(" ")
            yield text, label


def nsmc(folder: Path) -> Iterator[tuple[str, str]]:
    with (folder / "ratings_train.txt").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            if row["document"].strip():
                yield row["document"], row["label"]


def embedded() -> Iterator[tuple[str, str]]:
    from litpool.demo.docstrings import docstring_splits

    for rows in docstring_splits().values():
        name = rows.features["label"].int2str
        yield from ((row["text"], name(row["label"])) for row in rows)


def write_rows(rows: list[tuple[str, str]], count: int, folder: Path) -> None:
    """Write train.csv and validation.csv, drawn by seed."""
    random.Random(1).shuffle(rows)
    folder.mkdir()
    parts = {"train": rows[:count], "validation": rows[count : count + count // 4]}
    for name, part in parts.items():
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *part])


# ---- one training, in a process of its own


class Clock:
    """When the epoch started, took its last step, and ended."""

    def __init__(self) -> None:
        from torch.optim.optimizer import register_optimizer_step_post_hook

        self.start = self.step = self.end = 0.0
        register_optimizer_step_post_hook(self._after_step)

    def _after_step(self, *_: object) -> None:
        self.step = time.perf_counter()

    def begin(self) -> None:
        self.start = time.perf_counter()

    def seconds(self) -> dict[str, float]:
        return {
            "epoch": self.end - self.start,
            "steps": self.step - self.start,
            "after": self.end - self.step,
        }


def train_ours(command: str, folder: Path) -> dict[str, float]:
    from litpool import app
    from litpool.loops import lightning, plain

    clock = Clock()
    loop: Any = {"fit": lightning, "fit_plain": plain}[command]
    fit: Callable[..., Any] = loop.fit

    def timed(*arguments: Any, **options: Any) -> Any:
        clock.begin()  # the plain loop starts at once; Lightning sets itself up first
        result = fit(*arguments, **options)
        clock.end = time.perf_counter()
        return result

    loop.fit = timed
    started = lightning.TextModule.on_train_start

    def on_train_start(module: Any) -> None:
        clock.begin()
        started(module)

    lightning.TextModule.on_train_start = on_train_start
    app.main(
        [
            command,
            *("--task", "Classification", "--model.recipe.lr", str(LR)),
            *("--data.source", str(folder), "--data.batch_size", str(BATCH)),
            *("--data.max_length", str(LENGTH), "--trainer.max_epochs", "1"),
            *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
        ]
    )
    return clock.seconds()


def train_theirs(folder: Path, order: str = "random", attention: str = "sdpa") -> dict[str, float]:
    import numpy as np
    from datasets import load_dataset
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    from litpool.demo.encoder import DEMO_ENCODER, locate

    clock = Clock()

    class Begin(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            clock.begin()

    files = {name: str(folder / f"{name}.csv") for name in ("train", "validation")}
    data = load_dataset("csv", data_files=files).class_encode_column("label")
    path = locate(DEMO_ENCODER)
    tokenizer = AutoTokenizer.from_pretrained(path)
    data = data.map(
        lambda rows: tokenizer(rows["text"], truncation=True, max_length=LENGTH), batched=True
    )
    labels = data["train"].features["label"].num_classes
    model = AutoModelForSequenceClassification.from_pretrained(
        path, num_labels=labels, attn_implementation=attention
    )
    arguments = TrainingArguments(
        output_dir="trainer",
        num_train_epochs=1,
        learning_rate=LR,
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=BATCH,
        train_sampling_strategy=order,
        eval_strategy="epoch",
        save_strategy="epoch",
        report_to="tensorboard",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(
        model,
        arguments,
        data_collator=DataCollatorWithPadding(tokenizer),
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        compute_metrics=lambda p: {"accuracy": float(np.mean(p[0].argmax(-1) == p[1]))},
        callbacks=[Begin()],
    )
    trainer.train()
    clock.end = time.perf_counter()
    return clock.seconds()


def work(contestant: str, folder: Path) -> None:
    """Train, and write the seconds as the last line."""
    if contestant in OURS:
        seconds = train_ours(OURS[contestant], folder)
    else:
        seconds = train_theirs(folder, **THEIRS[contestant])
    print(json.dumps(seconds))


# ---- all of them


def run(contestant: str, folder: Path) -> dict[str, float]:
    """Train in a new process, in an empty folder and with empty caches."""
    start = time.perf_counter()
    seconds = fresh.measure(__file__, contestant, str(folder))
    return {**seconds, "program": time.perf_counter() - start}


def spread(values: list[float], digits: int) -> str:
    middle = f"{statistics.median(values):.{digits}f}"
    return f"{middle} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def table(turns: dict[str, list[dict[str, float]]]) -> list[str]:
    """Return a table of one corpus: medians, ranges, and ratios within a repeat."""
    lines = [
        "| | epoch, s | its steps, s | validation and saving, s | program, s | epoch over fit's |",
        "|---|---|---|---|---|---|",
    ]
    for name, seconds in turns.items():
        cells = [spread([turn[part] for turn in seconds], 1) for part in PARTS]
        pairs = zip(seconds, turns["fit"], strict=True)
        ratios = [turn["epoch"] / fit["epoch"] for turn, fit in pairs]
        lines.append(f"| {name} | {' | '.join(cells)} | {spread(ratios, 2)} |")
    return lines


def plot(results: dict[str, dict[str, list[dict[str, float]]]], path: Path) -> None:
    """Draw the median seconds of an epoch and their range, a panel for each corpus."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "litpool"  # the same file from the same seconds
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(results), figsize=(10, 2.6), squeeze=False)
    for panel, (corpus, turns) in zip(panels[0], results.items(), strict=True):
        seconds = [[turn["epoch"] for turn in turns[name]] for name in CONTESTANTS]
        middle = [statistics.median(values) for values in seconds]
        low = [m - min(values) for m, values in zip(middle, seconds, strict=True)]
        high = [max(values) - m for m, values in zip(middle, seconds, strict=True)]
        colors = ["tab:blue" if name in OURS else "tab:gray" for name in CONTESTANTS]
        panel.barh(CONTESTANTS, middle, xerr=[low, high], color=colors, capsize=3)
        panel.invert_yaxis()
        panel.set(title=corpus, xlabel="seconds for an epoch")
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels[0][1:]:
        panel.tick_params(labelleft=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sst2", type=Path)
    parser.add_argument("--nsmc", type=Path)
    parser.add_argument("--rows", type=int, default=1280)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--plot", type=Path, help="an SVG file for a drawing of the epochs")
    options = parser.parse_args()

    corpora = {"embedded corpus": list(embedded())}
    if options.sst2:
        corpora["SST-2"] = list(sst2(options.sst2))
    if options.nsmc:
        corpora["NSMC"] = list(nsmc(options.nsmc))
    names = ("torch", "lightning", "transformers")
    machine = f"{os.cpu_count()} cores of {platform.machine()}"
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    print(f"{options.rows} rows, {options.repeats} repeats; {machine}; {versions}\n")

    results: dict[str, dict[str, list[dict[str, float]]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for corpus, rows in corpora.items():
            folder = Path(temporary) / corpus.replace(" ", "_")
            write_rows(rows, options.rows, folder)
            turns = results[corpus] = {name: [] for name in CONTESTANTS}
            for repeat in range(options.repeats):
                for name in CONTESTANTS:
                    turns[name].append(run(name, folder))
                    print(f"{corpus}, {repeat + 1}, {name}: {turns[name][-1]}", file=sys.stderr)
            print("\n".join([f"### {corpus}", "", *table(turns), ""]), flush=True)
    if options.plot:
        plot(results, options.plot)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2], Path(sys.argv[3]))
    else:
        main()
