"""How long the first answer takes: `litpool.load` next to the imports that any model needs.

    python bench/start.py logs/quickstart/version_0

Each runs in its own process, in turns. The CPU's seconds are those of all threads; on a busy
machine they are the better figure. `import transformers` alone imports no model.
"""

import os
import statistics
import subprocess
import sys
import time

REPEATS = 5
IMPORTS = "import torch, transformers; transformers.AutoModel, transformers.AutoTokenizer"


def measure(code: str) -> tuple[float, float]:
    """Return the seconds that a program takes, and the CPU's."""
    start, before = time.perf_counter(), os.times()
    subprocess.run([sys.executable, "-c", code], check=True, stderr=subprocess.DEVNULL)
    after = os.times()
    cpu = sum(after[2:4]) - sum(before[2:4])  # of child processes, user and system
    return time.perf_counter() - start, cpu


def main() -> None:
    programs = {
        "import torch, transformers": "import torch, transformers",
        "and AutoModel, AutoTokenizer": f"{IMPORTS}; transformers.BertModel",
        "litpool.load and predict": "import litpool; "
        f"litpool.load({sys.argv[1]!r}).predict(['Draw a line of the plot.'])",
    }
    times = {name: [] for name in programs}
    for _ in range(REPEATS):
        for name, code in programs.items():
            times[name].append(measure(code))
    for name, values in times.items():
        seconds, cpu = (statistics.median(part) for part in zip(*values, strict=True))
        print(f"{name:<32}{seconds:6.2f} s{cpu:7.2f} s of the CPU")


if __name__ == "__main__":
    main()
