"""What a frozen study holds in memory: the vectors of all cells are on disk, whatever the number of texts."""

import random
import subprocess
import sys

import pytest

STUDY = """
import re, sys, threading
from pathlib import Path

peak = 0


def watch():  # memory of its own: the pages of mapped files, which the system takes back when it likes, do not count
    global peak
    while not done.wait(0.005):
        peak = max(peak, int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]))


done = threading.Event()
thread = threading.Thread(target=watch)
thread.start()
from litpool.app import main
from litpool.tools.study import probes

probes.MEMORY = 2**21  # the probes take as many cells at a time as fit in here: at 2**27 all of so few texts

try:
    main()
finally:
    done.set()
    thread.join()
print(peak)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the memory from /proc")
def test_a_study_of_six_times_the_texts_does_not_hold_their_vectors(
    tmp_path, tokenizer_folder, encoder_folder
):
    words, peaks = ["good", "bad", "dull", "film", "great", "play"], []
    for count in (6_000, 36_000):
        rng = random.Random(0)
        lines = (f"{' '.join(rng.choices(words, k=8))},{rng.randint(0, 1)}" for _ in range(count))
        (tmp_path / f"{count}.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
        arguments = ["study", "--data.source", f"{count}.csv", "--data.tokenizer", tokenizer_folder]
        arguments += [
            "--model.encoder.name",
            encoder_folder,
            "--data.max_length",
            "24",
            "--trainer.accelerator",
            "cpu",
        ]
        out = subprocess.check_output(
            [sys.executable, "-c", STUDY, *arguments], cwd=tmp_path, text=True
        )
        peaks.append(int(out.split()[-1]))
    vectors = 30_000 * 28 * 32 * 4 / 1024  # KB: 28 cells of 32 float32 numbers
    assert (
        peaks[1] - peaks[0] < 0.75 * vectors
    )  # 0.1 to 0.5 of them were seen: texts, labels, TF-IDF, noise
