"""Generated files of word vectors: refused in one line, or the numbers that were written."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from litpool import InputError
from litpool.tools.study.baselines import read_vectors

THOROUGH = int(os.environ.get("LITPOOL_FUZZ", 1000)) // 8
NUMBERS = st.floats(-9, 9, width=32).map(str) | st.sampled_from(["1", "-0.5", "1e3"])
WORDS = st.sampled_from(["good", "film", ". . .", "1", "naïve"])
ODD = ["nan", "inf", "x", "", " ", "\n", "\r", "\0", "\u2028", "\ud83d\ude00"]


def numbers(row: list[str]) -> list[float] | None:
    try:
        return np.array(row, np.float32).tolist()
    except ValueError:
        return None


def lines(size: int) -> Any:
    line = st.tuples(WORDS, st.lists(NUMBERS, min_size=size, max_size=size))
    return st.lists(line, min_size=1, max_size=5)


@pytest.mark.parametrize("count", [40, pytest.param(THOROUGH, marks=pytest.mark.slow)])
def test_written_vectors_come_back(count: int, tmp_path: Path) -> None:
    path = tmp_path / "vectors.txt"
    insertions = st.lists(st.tuples(st.floats(0, 1), st.sampled_from(ODD)), max_size=1)

    @settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    # From size 2 on: `1 1` alone may be a header as well as a word and its number.
    @given(st.integers(2, 4).flatmap(lines), st.booleans(), insertions)
    def check(written: Any, has_header: bool, insertions: list[tuple[float, str]]) -> None:
        text = "".join(f"{word} {' '.join(row)}\n" for word, row in written)
        if has_header:
            text = f"{len(written)} {len(written[0][1])}\n{text}"
        for place, piece in insertions:
            at = round(place * len(text))
            text = text[:at] + piece + text[at:]
        path.write_bytes(text.encode(errors="surrogatepass"))
        words = {word for word, _ in written}
        try:
            vectors = read_vectors(str(path), words)
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017 (some files are accepted)
            return
        if not insertions:
            assert vectors.keys() == words
        for word, vector in vectors.items():  # the numbers are in some line that begins so
            ends = [
                line[len(word) + 1 :] for line in text.split("\n") if line.startswith(f"{word} ")
            ]
            rows = [end.split() for end in ends]
            assert any(vector.tolist() == numbers(row) for row in rows)

    check()
