"""Overhead of a loop: Lightning and the Hugging Face Trainer next to the plain loop.

    python bench/loops.py tiny     # a step takes a few milliseconds, so overhead shows
    python bench/loops.py minilm   # all-MiniLM-L6-v2's size, where it should not

Each loop runs in its own process, on the same batches, with TensorBoard logging on. The loops take
turns of ten steps, with one log entry in each, and wait in between, so a busy moment of the machine
affects all of them. A repeat's figure is the median over its turns, without the first (warm-up).
"""

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time

LOOPS = {"plain": "fit_plain", "lightning": "fit", "huggingface": "fit_hf"}
REPEATS = 5
STEPS = 10  # per turn, and between log entries
# turns, batch size, layers, hidden size, heads, intermediate size
SIZES = {"tiny": (40, 8, 2, 32, 4, 64), "minilm": (6, 8, 6, 384, 12, 1536)}


def arguments(command: str, size: str) -> list[str]:
    turns, batch, layers, hidden_size, heads, inner = SIZES[size]
    shape = f"hidden_size: {hidden_size}, num_hidden_layers: {layers}, num_attention_heads: {heads}"
    config = f"""
seed_everything: 1
task: {{class_path: Classification}}
model:
  encoder: {{pretrained: false, overrides: {{{shape}, intermediate_size: {inner}}}}}
  recipe: {{lr: 1.0e-4}}
data:
  source: docstrings
  max_rows: {(turns + 2) * STEPS * batch}
  batch_size: {batch}
  max_length: 64
trainer:
  accelerator: cpu
  max_epochs: 1
  gradient_clip_val: 1.0
  log_every_n_steps: {STEPS}
  enable_progress_bar: false
"""
    return ["cli.py", command, "--config", config]


def work(command: str, size: str) -> None:
    """Train. After each turn, write how many seconds it took, and wait for the next."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from litpool import app

    baton = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    state = {"steps": 0, "start": 0.0}

    def after_step(*_: object) -> None:
        if state["steps"] % STEPS == 0:
            print(time.perf_counter() - state["start"], file=baton)
            sys.stdin.readline()
            state["start"] = time.perf_counter()
        state["steps"] += 1

    register_optimizer_step_post_hook(after_step)
    sys.argv = arguments(command, size)
    app.main()


def repeat(size: str) -> dict[str, float]:
    """Return the seconds per step of each loop."""
    start = [sys.executable, __file__, size]
    pipes = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.DEVNULL,
        "text": True,
    }
    workers = {
        loop: subprocess.Popen([*start, command], **pipes) for loop, command in LOOPS.items()
    }
    turns: dict[str, list[float]] = {loop: [] for loop in LOOPS}
    for worker in workers.values():
        worker.stdout.readline()  # ready: its first step is done
    for _ in range(SIZES[size][0]):
        for loop, worker in workers.items():
            worker.stdin.write("go\n")
            worker.stdin.flush()
            turns[loop].append(float(worker.stdout.readline()) / STEPS)
    for worker in workers.values():
        worker.kill()
        worker.communicate()
    return {loop: statistics.median(seconds[1:]) for loop, seconds in turns.items()}


def main(size: str) -> None:
    os.chdir(tempfile.mkdtemp())
    repeats = [repeat(size) for _ in range(REPEATS)]
    threads = os.environ.get("OMP_NUM_THREADS", os.cpu_count())
    print(f"{size}: {threads} threads on {platform.machine()}\n")
    median = f"median of {REPEATS}"
    print(f"| loop | ms per step, {median} | range | relative to plain, {median} | range |")
    print("|---|---|---|---|---|")
    for loop in LOOPS:
        times = [figures[loop] * 1e3 for figures in repeats]
        ratios = [figures[loop] / figures["plain"] for figures in repeats]
        ms = f"{statistics.median(times):.2f} | {min(times):.2f} to {max(times):.2f}"
        ratio = f"{statistics.median(ratios):.3f} | {min(ratios):.3f} to {max(ratios):.3f}"
        print(f"| {loop} | {ms} | {ratio} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        work(sys.argv[2], sys.argv[1])
    else:
        main(sys.argv[1])
