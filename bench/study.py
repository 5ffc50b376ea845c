"""Cost of a study of all layers x all poolings, relative to a plain encoding of the same texts.

    python bench/study.py STSB   # the folder with stsb-en-dev.csv and stsb-en-test.csv

Each repeat times, one after the other in one process: a plain encoding of the test split (the
encoder with mean pooling, vectors kept in memory); the frozen study of that split with an empty
cache (all layers x all poolings, vectors written, all cells scored and compared); and a second
plain encoding with another pooling. A study that encodes the texts again for each cell would take
as many plain encodings as there are cells.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["LITPOOL_CACHE"] = tempfile.mkdtemp(prefix="litpool-bench-")

import shutil

import torch

from litpool import CACHE
from litpool.data.module import TextDataModule
from litpool.loops.lightning import TextModule
from litpool.model.encoder import Encoder, EncoderOptions, load_config
from litpool.model.network import TextModel
from litpool.model.pooling import ClsPooling, MeanPooling
from litpool.tasks.similarity import Similarity
from litpool.tools.study import frozen
from litpool.tools.study.grid import list_cells
from litpool.tools.study.options import StudyOptions

REPEATS = 3


def read_data(folder: Path) -> TextDataModule:
    source = {
        "validation": str(folder / "stsb-en-dev.csv"),
        "test": str(folder / "stsb-en-test.csv"),
    }
    columns = ["sentence1", "sentence2", "score"]
    task = Similarity(score_range=(0, 5))
    data = TextDataModule(
        task, source=source, columns=columns, max_length=256, tokenizer=EncoderOptions().name
    )
    data.setup("test")
    return data


@torch.inference_mode()
def plain(network: TextModel, data: TextDataModule) -> torch.Tensor:
    return torch.cat([network.embed(batch) for batch in data.test_dataloader()])


def study(module: TextModule, data: TextDataModule) -> None:
    shutil.rmtree(CACHE / "vectors", ignore_errors=True)
    frozen.study(module, data, None, StudyOptions(), torch.device("cpu"), {})


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main(folder: str) -> None:
    data, options = read_data(Path(folder)), EncoderOptions()
    module = TextModule(data.task, data, options)
    encoder = Encoder(
        options, load_config(options), True, pooler=True, all_layers=True, attention="eager"
    )
    cells = len(list_cells(encoder, True, []))
    networks = [
        TextModel(data.task, pooling, options, load_config(options), True, attention="eager").eval()
        for pooling in (MeanPooling, ClsPooling)
    ]
    plain(networks[0], data)  # warm
    ratios, against = [], []
    print(f"{len(data.rows['test'])} pairs, {cells} cells, {torch.get_num_threads()} threads")
    print("| plain encoding, s | study, s | study / plain | one encoding per cell / study |")
    print("|---|---|---|---|")
    for _ in range(REPEATS):
        before = seconds(lambda: plain(networks[0], data))
        taken = seconds(lambda: study(module, data))
        after = seconds(lambda: plain(networks[1], data))
        once = (before + after) / 2  # around the study, so other load affects both
        ratios.append(taken / once)
        against.append(cells * once / taken)
        print(
            f"| {before:.1f}, {after:.1f} | {taken:.1f} | {ratios[-1]:.2f} | {against[-1]:.0f} |",
            flush=True,
        )
    print(f"median: {statistics.median(ratios):.2f}, {statistics.median(against):.0f}")
    shutil.rmtree(os.environ["LITPOOL_CACHE"])


if __name__ == "__main__":
    main(sys.argv[1])
