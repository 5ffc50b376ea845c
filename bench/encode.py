"""Encoding texts in Python: `litpool.load(...).encode` next to sentence-transformers, on this CPU.

    pip install sentence-transformers
    python bench/encode.py [stsb-en-train.csv] [distinct]

The texts are the first 5,000 sentences of a CSV file with pairs, as they come or only distinct
ones; without a file, those of the embedded corpus. Both read the same weights (all-MiniLM-L6-v2,
untrained by us), truncate at 128 tokens, use batches of 32, and tokenize within the time measured.
They take turns in one process, after a warm-up. The CPU's seconds are those of all threads; on a
busy machine they are the better figure.
"""

import csv
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

import litpool
from litpool.data.tokenizer import dump_tokenizer, load_tokenizer
from litpool.demo.docstrings import docstring_splits
from litpool.demo.encoder import DEMO_ENCODER, locate
from litpool.loops import checkpoint
from litpool.model.encoder import EncoderOptions, load_config
from litpool.model.network import build_network
from litpool.model.pooling import MeanPooling
from litpool.tasks.similarity import Similarity
from litpool.tasks.task import Task

REPEATS = 5
TEXTS = 5000
LENGTH = 128


def read_texts(paths: Sequence[str], distinct: bool) -> list[str]:
    if paths:
        with open(paths[0], encoding="utf-8", newline="") as file:
            texts = [text for row in csv.reader(file) for text in row[:2]]
    else:
        texts = [text for split in docstring_splits().values() for text in split["text"]]
    return list(dict.fromkeys(texts) if distinct else texts)[:TEXTS]


def save(
    path: Path,
    task: Task,
    name: str,
    overrides: Mapping[str, int],
    pretrained: bool,
    batch_size: int,
) -> None:
    """Write the checkpoint of a job that has not taken a step."""
    tokenizer, _ = load_tokenizer(DEMO_ENCODER)
    options = EncoderOptions(DEMO_ENCODER, pretrained, dict(overrides))
    config, cpu = load_config(options), torch.device("cpu")
    network = build_network(task, MeanPooling, options, config, tokenizer, {}, cpu, pretrained)
    job = {
        "task": {"class_path": name, "init_args": {"text": task.texts}},
        "model": {"pooling": {"class_path": "MeanPooling"}},
        "data": {"source": "none", "max_length": LENGTH, "batch_size": batch_size},
    }
    contents = checkpoint.contents(network, task, dump_tokenizer(tokenizer), job, {})
    weights = {f"network.{name}": value for name, value in network.state_dict().items()}
    checkpoint.write({**contents, "state_dict": weights}, path)


def main() -> None:
    from sentence_transformers import SentenceTransformer

    paths = [argument for argument in sys.argv[1:] if argument != "distinct"]
    texts = read_texts(paths, distinct="distinct" in sys.argv)
    theirs = SentenceTransformer(locate(DEMO_ENCODER), device="cpu")
    theirs.max_seq_length = LENGTH
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "untrained.ckpt"
        save(path, Similarity(), "Similarity", {}, pretrained=True, batch_size=32)
        ours = litpool.load(path, device="cpu")
    encoders = {
        "litpool": lambda: ours.encode(texts),
        "sentence-transformers": lambda: theirs.encode(texts, show_progress_bar=False),
    }
    vectors = {name: encode() for name, encode in encoders.items()}  # the warm-up
    print(f"{platform.processor()}, {torch.get_num_threads()} threads")
    print(f"{len(texts):,} texts, {len(set(texts)):,} distinct")
    if "normalize" in str(theirs).lower():
        vectors["litpool"] /= np.linalg.norm(vectors["litpool"], axis=1, keepdims=True)
    difference = np.abs(vectors["litpool"] - vectors["sentence-transformers"]).max()
    print(f"largest difference of a vector's value: {difference:.1e}")
    seconds = {name: [] for name in encoders}
    cpu = {name: [] for name in encoders}
    for _ in range(REPEATS):
        for name, encode in encoders.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            encode()
            seconds[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - start_cpu)
    for title, times in (("seconds", seconds), ("CPU seconds", cpu)):
        ours_times, their_times = times.values()
        ratios = [their / our for our, their in zip(ours_times, their_times, strict=True)]
        for name, values in times.items():
            print(f"{name:<22}{title:<12}{statistics.median(values):7.2f}", end="")
            print(f"  ({min(values):.2f} to {max(values):.2f})")
        print(f"ratio of {title}: {statistics.median(ratios):.2f}", end="")
        print(f" ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
