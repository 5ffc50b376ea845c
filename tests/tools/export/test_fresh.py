"""An export in a Python that has only what the card asks for: no litpool, and for onnx no torch."""

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from fresh_python import FORBIDDEN, python

import litpool

pytestmark = pytest.mark.slow

TEXTS = ["a good film", "bad", "the play was not so great", "a " * 40, "좋은 film"]
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


def run(body: str, format: str, tmp_path: Path, cwd: Path) -> str:
    """Run a program that finds only what a format needs; return what it prints."""
    packages = tmp_path / "packages"
    command = python(format, packages)
    program = PROGRAM.format(folder=str(packages), body=body, forbidden=FORBIDDEN[format])
    done = subprocess.run([*command, "-c", program], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def from_card(folder: Path) -> str:
    (program,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    return program


def test_a_graph_needs_neither_litpool_nor_torch(model, save, written, tmp_path):
    pytest.importorskip("onnxscript", reason="needs the extra `export`")
    folder = written(model("Classification"), "onnx")
    program = re.sub(r"^texts = .*", f"texts = {TEXTS!r}", from_card(folder), flags=re.MULTILINE)
    lines = run(program, "onnx", tmp_path, folder).splitlines()
    expected = litpool.load(save("Classification"), "cpu").predict(TEXTS)
    assert len(lines) == len(TEXTS)
    for line, answer in zip(lines, expected, strict=True):
        assert json.loads(line) == pytest.approx(answer["probabilities"], abs=1.5e-4)


def test_sentence_transformers_needs_no_litpool(model, save, written, tmp_path):
    pytest.importorskip("sentence_transformers", reason="needs the extra `export`")
    folder = written(model("Similarity", prefix="was it "), "sentence-transformers")
    program = re.sub(r"encode\(.*\)", f"encode({TEXTS!r})", from_card(folder))
    program += "\nprint(__import__('json').dumps(output.tolist()))"
    out = run(program, "sentence-transformers", tmp_path, folder)
    expected = litpool.load(save("Similarity", prefix="was it "), "cpu").encode(TEXTS)
    assert np.abs(np.array(json.loads(out.splitlines()[-1])) - expected).max() < 1e-5


def test_a_classifier_in_sentence_transformers_answers_with_labels(model, save, written, tmp_path):
    pytest.importorskip("sentence_transformers", reason="needs the extra `export`")
    folder = written(model("Classification"), "sentence-transformers")
    program = re.sub(r"encode\(.*\)", f"encode({TEXTS!r})", from_card(folder))
    out = run(program, "sentence-transformers", tmp_path, folder)
    expected = litpool.load(save("Classification"), "cpu").predict(TEXTS)
    for line, answer in zip(out.splitlines()[-len(TEXTS) :], expected, strict=True):
        assert json.loads(line) == pytest.approx(answer["probabilities"], abs=1.5e-4)


def test_a_pipeline_needs_no_litpool(model, save, written, tmp_path):
    folder = written(model("Classification", "PoolerOutput"), "huggingface")
    program = from_card(folder).replace('["a good film"]', repr(TEXTS))
    out = run(program, "huggingface", tmp_path, folder)
    expected = litpool.load(save("Classification", "PoolerOutput"), "cpu").predict(TEXTS)
    answers = eval(out.splitlines()[-1])
    for answer, other in zip(answers, expected, strict=True):
        scores = {item["label"]: item["score"] for item in answer}
        assert scores == pytest.approx(other["probabilities"], abs=1e-4)
