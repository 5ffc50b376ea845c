"""Memory of `predict`: how much it grows with the rows.

    python bench/predict.py 1000000 [jsonl|parquet|npz]

Short texts and a tiny encoder with random weights. The start is when `predict` begins to read: the
libraries are imported then. Needs Linux, for /proc.
"""

import random
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from encode import save

from litpool import app
from litpool.data import rows as data_rows
from litpool.tasks.classification import Classification
from litpool.tasks.similarity import Similarity

WORDS = ("bad", "dull", "film", "fine", "good", "great", "not", "play", "poor", "the", "this")
SHAPE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def memory() -> float:
    """Return the memory of this process in MB, without the pages of mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024


def write_texts(path: Path, count: int) -> None:
    draw = random.Random(0)
    with path.open("w") as file:
        for number in range(count):
            file.write(f"{' '.join(draw.choices(WORDS, k=draw.randint(2, 8)))} {number}\n")


def main() -> None:
    count = int(sys.argv[1])
    ending = sys.argv[2] if len(sys.argv) > 2 else "jsonl"
    seen: list[float] = []
    start = [0.0]
    read = data_rows.InputRows.__init__

    def started(*arguments: object, **options: object) -> None:
        start[0] = memory()
        read(*arguments, **options)

    data_rows.InputRows.__init__ = started

    def watch() -> None:
        while True:
            seen.append(memory())
            time.sleep(0.2)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        write_texts(path / "texts.txt", count)
        if ending == "npz":
            task, name = Similarity(["text"]), "Similarity"
        else:
            task, name = Classification(), "Classification"
            task.labels = ["bad", "good"]
        torch.manual_seed(0)
        save(path / "tiny.ckpt", task, name, SHAPE, pretrained=False, batch_size=256)
        threading.Thread(target=watch, daemon=True).start()
        began = time.perf_counter()
        app.main(
            f"predict --ckpt_path {path}/tiny.ckpt --input {path}/texts.txt "
            f"--output {path}/answers.{ending} --trainer.accelerator cpu".split()
        )
        seconds = time.perf_counter() - began
        size = (path / f"answers.{ending}").stat().st_size / 1e6
    print(f"{count:,} rows, {ending} of {size:,.0f} MB, {seconds:,.0f} s")
    print(f"start {start[0]:,.0f} MB, peak {max(seen):,.0f} MB: {max(seen) - start[0]:+,.0f} MB")


if __name__ == "__main__":
    main()
