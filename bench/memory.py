"""The memory that a frozen study holds, for a quarter of the texts and for all of them.

    python bench/memory.py FILE COLUMN LABEL   # a file with many rows, such as ratings_train.txt document label of NSMC

The encoder is tiny (2 layers, width 32, random weights) with the tokenizer of all-MiniLM-L6-v2: 28 vectors a text. What
counts is the process's own memory: the pages of mapped files, which the system takes back when it likes, do not.
"""

import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

TINY = "{hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, intermediate_size: 64}"


def child() -> None:
    """Run the study of the command line, and print its peak in KB last."""
    peak, done = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.01):
            peak = max(
                peak, int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1])
            )  # type: ignore[index]

    thread = threading.Thread(target=watch)
    thread.start()
    from litpool.app import main

    try:
        main()
    finally:
        done.set()
        thread.join()
        print(peak)


def peak_of(lines: list[str], column: str, label: str) -> float:
    """MB."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "rows.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        arguments = [
            "study",
            "--data.source",
            "rows.tsv",
            "--task.text",
            column,
            "--task.label",
            label,
        ]
        arguments += [
            "--data.quoting",
            "false",
            "--data.drop_empty",
            "true",
            "--data.max_length",
            "64",
        ]
        arguments += ["--model.encoder.name", "bert", "--model.encoder.pretrained", "false"]
        arguments += ["--model.encoder.overrides", TINY, "--trainer.accelerator", "cpu"]
        arguments += ["--data.tokenizer", "sentence-transformers/all-MiniLM-L6-v2"]
        command = [sys.executable, str(Path(__file__).resolve()), *arguments]
        environment = {
            "LITPOOL_CACHE": f"{folder}/cache",
            "PYTHONPATH": ":".join(sys.path),
            "PATH": "",
        }
        return (
            int(
                subprocess.check_output(command, cwd=folder, env=environment, text=True).split()[-1]
            )
            / 1024
        )


def main(file: str, column: str, label: str) -> None:
    head, *rows = Path(file).read_text(encoding="utf-8").splitlines()
    print("| texts | peak, MB | vectors, MB |\n|---|---|---|")
    for count in (len(rows) // 4, len(rows)):
        peak = peak_of([head, *rows[:count]], column, label)
        print(f"| {count:,} | {peak:.0f} | {count * 28 * 32 * 4 / 2**20:.0f} |", flush=True)


if __name__ == "__main__":
    child() if sys.argv[1] == "study" else main(*sys.argv[1:])
