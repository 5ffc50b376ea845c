"""Peak memory of a frozen study, for a quarter of the texts and for all of them.

    python bench/memory.py FILE COLUMN LABEL   # many rows, such as ratings_train.txt document label

The encoder is tiny (2 layers, hidden size 32, random weights) with the tokenizer of
all-MiniLM-L6-v2: 28 vectors per text. Only the process's own memory counts, not the pages of mapped
files, which the system can take back at any time.
"""

import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

TINY = "{hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, intermediate_size: 64}"


def child() -> None:
    """Run the study that the command line names; the last line printed is its peak in KB."""
    peak, done = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.01):
            status = Path("/proc/self/status").read_text()
            peak = max(peak, int(re.findall(r"RssAnon:\s+(\d+)", status)[0]))

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
    """Return the peak memory of a study of these lines, in MB."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "rows.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        options = f"""
            --data.source rows.tsv --data.quoting false --data.drop_empty true --data.max_length 64
            --data.tokenizer sentence-transformers/all-MiniLM-L6-v2
            --model.encoder.name bert --model.encoder.pretrained false --trainer.accelerator cpu
            --task.text {column} --task.label {label}
        """
        arguments = ["study", *options.split(), "--model.encoder.overrides", TINY]
        command = [sys.executable, str(Path(__file__).resolve()), *arguments]
        environment = {
            "LITPOOL_CACHE": f"{folder}/cache",
            "PYTHONPATH": ":".join(sys.path),
            "PATH": "",
        }
        output = subprocess.check_output(command, cwd=folder, env=environment, text=True)
        return int(output.split()[-1]) / 1024


def main(file: str, column: str, label: str) -> None:
    head, *rows = Path(file).read_text(encoding="utf-8").splitlines()
    print("| texts | peak, MB | vectors, MB |\n|---|---|---|")
    for count in (len(rows) // 4, len(rows)):
        peak = peak_of([head, *rows[:count]], column, label)
        print(f"| {count:,} | {peak:.0f} | {count * 28 * 32 * 4 / 2**20:.0f} |", flush=True)


if __name__ == "__main__":
    child() if sys.argv[1] == "study" else main(*sys.argv[1:])
