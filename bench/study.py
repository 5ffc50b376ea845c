"""Cost of the command `study`, relative to one plain encoding of the same texts.

    python bench/study.py STSB      # the folder with stsb-en-train.csv, -dev.csv and -test.csv
    python bench/study.py STSB 1    # once instead of three times

For the STS benchmark and the quickstart's corpus, one after the other in one process: a plain
encoding of all splits (the encoder with mean pooling, vectors kept in memory); the whole command
with an empty cache, from parsing its arguments to the page and the pictures; the same from the
cache, with each resampling; and a second plain encoding. Imports are not included, as every part
needs them.

The seconds are the CPU's, of all threads, so that other load matters less; those on the clock are
in brackets. On a busy machine threads burn time waiting for each other: set OMP_NUM_THREADS=1.
"""

import contextlib
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

os.environ["LITPOOL_CACHE"] = tempfile.mkdtemp(prefix="litpool-bench-")

import shutil

import torch

from litpool import CACHE, app
from litpool.data.module import TextDataModule
from litpool.model.encoder import EncoderOptions, load_config
from litpool.model.network import TextModel
from litpool.model.pooling import MeanPooling
from litpool.tasks.classification import Classification
from litpool.tasks.similarity import Similarity
from litpool.tools.study import vectors

CONFIGS = Path(__file__).parents[1].resolve() / "configs/studies"
SPLITS = ("train", "validation", "test")


class Seconds(NamedTuple):
    """What a part takes."""

    cpu: float
    clock: float

    def __str__(self) -> str:
        return f"{self.cpu:.1f} ({self.clock:.1f})"


def measure(run: Callable[[], object]) -> Seconds:
    cpu, clock = time.process_time(), time.perf_counter()
    run()
    return Seconds(time.process_time() - cpu, time.perf_counter() - clock)


@torch.inference_mode()
def encode(network: TextModel, data: TextDataModule) -> torch.Tensor:
    """Encode each text once, longest first, as the study does."""
    batches = (batch for split in SPLITS for batch in vectors.batches(data, split))
    return torch.cat([network.embed(batch).flatten(0, -2) for batch in batches])


def study(arguments: list[str], resampling: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        app.main(["study", *arguments, "--study.resampling", resampling])


def study_anew(arguments: list[str], resampling: str) -> None:
    for folder in ("tokens", "vectors"):
        shutil.rmtree(CACHE / folder, ignore_errors=True)
    study(arguments, resampling)


def compare(name: str, data: TextDataModule, arguments: list[str], own: str, repeats: int) -> None:
    """Print a line for each repeat, and the medians; `own` is the resampling of the config."""
    data.setup("fit")
    data.setup("test")
    options = EncoderOptions()
    network = TextModel(
        data.task, MeanPooling, options, load_config(options), True, attention="eager"
    ).eval()
    other = {"kfold": "split", "split": "kfold"}[own]
    ratios, added = [], []
    for _ in range(repeats):
        before = measure(lambda: encode(network, data))
        whole = measure(lambda: study_anew(arguments, own))
        again = {kind: measure(lambda kind=kind: study(arguments, kind)) for kind in (own, other)}
        after = measure(lambda: encode(network, data))
        plain = (before.cpu + after.cpu) / 2  # around the study, so other load affects both
        ratios.append(whole.cpu / plain)
        without = whole.cpu - again[own].cpu + again["split"].cpu  # the study without folds
        added.append((again["kfold"].cpu - again["split"].cpu) / without)
        print(
            f"| {name} | {before}, {after} | {whole} | {ratios[-1]:.2f} | {again[own]} "
            f"| {added[-1]:+.0%} |",
            flush=True,
        )
    ratio, share = statistics.median(ratios), statistics.median(added)
    print(f"| {name}, median | | | {ratio:.2f} | | {share:+.0%} |", flush=True)


def main(folder: Path, repeats: int) -> None:
    columns = ["sentence1", "sentence2", "score"]
    tokenizer = EncoderOptions().name
    similarity = Similarity(score_range=(0, 5))
    pairs = TextDataModule(
        similarity, source=str(folder), columns=columns, max_length=256, tokenizer=tokenizer
    )
    docstrings = TextDataModule(
        Classification(), source="docstrings", max_length=128, tokenizer=tokenizer
    )
    print(f"{torch.get_num_threads()} threads\n")
    print("| | plain encoding, s | study, s | ratio | from the cache, s | K-fold adds |")
    print("|---|---|---|---|---|---|")
    scratch = Path(os.environ["LITPOOL_CACHE"])
    os.chdir(scratch)  # for the run folders
    stsb = ["--config", str(CONFIGS / "stsb.yaml"), "--data.source", str(folder)]
    stsb += ["--data.columns", f"[{', '.join(columns)}]"]
    compare("STS benchmark", pairs, stsb, "split", repeats)
    quickstart = ["--config", str(CONFIGS / "quickstart.yaml")]
    compare("quickstart", docstrings, quickstart, "kfold", repeats)
    shutil.rmtree(scratch)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else 3)
