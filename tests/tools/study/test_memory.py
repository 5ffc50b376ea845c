"""The memory of a frozen study does not grow with the texts: their vectors are on disk."""

import random
import subprocess
import sys

import pytest

STUDY = """
import re, sys, threading
from pathlib import Path

peak = 0


def watch():  # without the pages of mapped files, which the system can take back at any time
    global peak
    while not stop.wait(0.005):
        status = Path("/proc/self/status").read_text()
        peak = max(peak, int(re.search(r"RssAnon:\\s+(\\d+)", status)[1]))


stop = threading.Event()
thread = threading.Thread(target=watch)
thread.start()
from litpool.app import main

try:
    main()
finally:
    stop.set()
    thread.join()
print(peak)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the memory from /proc")
def test_a_study_of_six_times_the_texts_does_not_hold_their_vectors(
    tmp_path, tokenizer_folder, encoder_folder
):
    words = ["good", "bad", "dull", "film", "great", "play"]
    peaks = []
    for count in (6_000, 36_000):
        rng = random.Random(0)
        lines = (f"{' '.join(rng.choices(words, k=8))},{rng.randint(0, 1)}" for _ in range(count))
        (tmp_path / f"{count}.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
        arguments = ["study", "--data.source", f"{count}.csv", "--data.tokenizer", tokenizer_folder]
        arguments += ["--model.encoder.name", encoder_folder, "--data.max_length", "24"]
        arguments += ["--trainer.accelerator", "cpu"]
        command = [sys.executable, "-c", STUDY, *arguments]
        out = subprocess.check_output(command, cwd=tmp_path, text=True)
        peaks.append(int(out.split()[-1]))
    vectors = 30_000 * 28 * 32 * 4 / 1024  # KB: 28 cells of 32 float32 numbers
    # Measured: 0.1 to 0.5 of them, for texts, labels, TF-IDF and noise.
    assert peaks[1] - peaks[0] < 0.75 * vectors
