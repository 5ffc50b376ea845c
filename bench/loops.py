"""What a loop costs on top of the network: Lightning and the Hugging Face Trainer beside the plain loop.

    python bench/loops.py tiny     # a step of some milliseconds, where overhead shows
    python bench/loops.py minilm   # all-MiniLM-L6-v2's size, where it should not

The loops take turns in one process, on the same batches, with TensorBoard logging on. A repeat's figure is the mean
time from one optimizer step to the next, the first ten and the evaluation left out.
"""

import contextlib
import io
import os
import platform
import statistics
import sys
import tempfile
import time

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from litpool import app

LOOPS = {"plain": "fit_plain", "lightning": "fit", "huggingface": "fit_hf"}
REPEATS = 5
FIRST = 10  # steps that are left out: caches warm up
SIZES = {"tiny": (400, 16, 2, 32, 4, 64), "minilm": (30, 32, 6, 384, 12, 1536)}  # steps, batch, layers, width, ...


def arguments(command: str, size: str) -> list[str]:
    steps, batch, layers, width, heads, inner = SIZES[size]
    shape = f"hidden_size: {width}, num_hidden_layers: {layers}, num_attention_heads: {heads}, intermediate_size: {inner}"
    config = f"""
seed_everything: 1
task: {{class_path: Classification}}
model:
  encoder: {{pretrained: false, overrides: {{{shape}}}}}
  recipe: {{lr: 1.0e-4}}
data: {{source: docstrings, max_rows: {steps * batch}, batch_size: {batch}, max_length: 64}}
trainer: {{accelerator: cpu, max_epochs: 1, gradient_clip_val: 1.0, enable_progress_bar: false}}
"""
    return ["cli.py", command, "--config", config]


def seconds_a_step(command: str, size: str) -> float:
    ticks: list[float] = []
    hook = register_optimizer_step_post_hook(lambda *_: ticks.append(time.perf_counter()))
    sys.argv = arguments(command, size)
    with contextlib.redirect_stdout(io.StringIO()):
        app.main()
    hook.remove()
    return (ticks[-1] - ticks[FIRST]) / (len(ticks) - 1 - FIRST)


def main(size: str) -> None:
    os.chdir(tempfile.mkdtemp())
    times: dict[str, list[float]] = {loop: [] for loop in LOOPS}
    for repeat in range(REPEATS + 1):  # the first round warms up and is left out
        for loop, command in LOOPS.items():
            measured = seconds_a_step(command, size)
            if repeat:
                times[loop].append(measured)
    floor = statistics.median(times["plain"])
    print(f"{size}: {torch.get_num_threads()} threads on {platform.machine()}, torch {torch.__version__}\n")
    print("| loop | ms a step, median of 5 | range | of plain |\n|---|---|---|---|")
    for loop, measured in times.items():
        low, middle, high = min(measured), statistics.median(measured), max(measured)
        print(f"| {loop} | {middle * 1e3:.2f} | {low * 1e3:.2f} to {high * 1e3:.2f} | {middle / floor:.2f} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
