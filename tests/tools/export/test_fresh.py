"""An export in a Python that has only what the card asks for: no litpool, and for onnx no torch."""

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

import litpool

pytestmark = pytest.mark.slow

TEXTS = ["a good film", "bad", "the play was not so great", "a " * 40, "좋은 film"]
GRAPH = {"numpy", "onnxruntime", "tokenizers"}
PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
{body}
assert not [name for name in sys.modules if name.split(".")[0] in {forbidden!r}]
for name in {forbidden!r}:
    try:
        __import__(name)
    except ImportError:
        continue
    raise SystemExit(f"{{name}} can be imported")
"""


def packages(names: set[str]) -> set[str]:
    """Return distributions with all that they require, but for extras."""
    found: set[str] = set()
    waiting = sorted(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            required = distribution(name).requires or []
        except PackageNotFoundError:  # for another platform
            continue
        found.add(name)
        needed = [Requirement(line) for line in required]
        waiting += [
            need.name for need in needed if not need.marker or need.marker.evaluate({"extra": ""})
        ]
    return found


def install(names: set[str], folder: Path) -> None:
    """Link installed distributions with all that they require into an otherwise empty folder."""
    folder.mkdir()
    for name in packages(names):
        files = distribution(name).files or []
        tops = {file.parts[0] for file in files if file.parts[0] not in ("..", "__pycache__")}
        for top in tops:
            if not (folder / top).exists():
                (folder / top).symlink_to(Path(str(distribution(name).locate_file(top))))


def run(body: str, names: set[str], forbidden: tuple[str, ...], tmp_path: Path, cwd: Path) -> str:
    """Run a program that finds only some distributions; return what it prints."""
    install(names, tmp_path / "packages")
    program = PROGRAM.format(folder=str(tmp_path / "packages"), body=body, forbidden=forbidden)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], cwd=cwd, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def from_card(folder: Path) -> str:
    (program,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    return program


def test_a_graph_needs_neither_litpool_nor_torch(model, save, written, tmp_path):
    pytest.importorskip("onnxscript", reason="needs the extra `export`")
    folder = written(model("Classification"), "onnx")
    program = re.sub(r"^texts = .*", f"texts = {TEXTS!r}", from_card(folder), flags=re.MULTILINE)
    forbidden = ("litpool", "torch", "transformers", "lightning")
    lines = run(program, GRAPH, forbidden, tmp_path, folder).splitlines()
    expected = litpool.load(save("Classification"), "cpu").predict(TEXTS)
    assert len(lines) == len(TEXTS)
    for line, answer in zip(lines, expected, strict=True):
        assert json.loads(line) == pytest.approx(answer["probabilities"], abs=1.5e-4)


def test_sentence_transformers_needs_no_litpool(model, save, written, tmp_path):
    pytest.importorskip("sentence_transformers", reason="needs the extra `export`")
    folder = written(model("Similarity", prefix="was it "), "sentence-transformers")
    program = re.sub(r"encode\(.*\)", f"encode({TEXTS!r})", from_card(folder))
    program += "\nprint(__import__('json').dumps(output.tolist()))"
    out = run(program, {"sentence-transformers"}, ("litpool", "lightning"), tmp_path, folder)
    expected = litpool.load(save("Similarity", prefix="was it "), "cpu").encode(TEXTS)
    assert np.abs(np.array(json.loads(out.splitlines()[-1])) - expected).max() < 1e-5


def test_a_classifier_in_sentence_transformers_answers_with_labels(model, save, written, tmp_path):
    pytest.importorskip("sentence_transformers", reason="needs the extra `export`")
    folder = written(model("Classification"), "sentence-transformers")
    program = re.sub(r"encode\(.*\)", f"encode({TEXTS!r})", from_card(folder))
    out = run(program, {"sentence-transformers"}, ("litpool", "lightning"), tmp_path, folder)
    expected = litpool.load(save("Classification"), "cpu").predict(TEXTS)
    for line, answer in zip(out.splitlines()[-len(TEXTS) :], expected, strict=True):
        assert json.loads(line) == pytest.approx(answer["probabilities"], abs=1.5e-4)


def test_a_pipeline_needs_no_litpool(model, save, written, tmp_path):
    folder = written(model("Classification", "PoolerOutput"), "huggingface")
    program = from_card(folder).replace('["a good film"]', repr(TEXTS))
    out = run(program, {"torch", "transformers"}, ("litpool", "lightning"), tmp_path, folder)
    expected = litpool.load(save("Classification", "PoolerOutput"), "cpu").predict(TEXTS)
    answers = eval(out.splitlines()[-1])
    for answer, other in zip(answers, expected, strict=True):
        scores = {item["label"]: item["score"] for item in answer}
        assert scores == pytest.approx(other["probabilities"], abs=1e-4)
