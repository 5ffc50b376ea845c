"""`litpool.load` of an export: the same answers as the checkpoint's."""

import json
import pathlib
import pickle
import re
import shutil
import sys

import numpy as np
import pytest

import litpool
from litpool import InputError

CHECKPOINT = pathlib.Path(__file__).parents[2] / "fixtures/v0.1.0/cosine/lightning.ckpt"
TEXTS = ["a good film", "bad", "the play was not so great", "a " * 40, "good 😀 film", "bad"]
PAIRS = list(zip(TEXTS, reversed(TEXTS), strict=True))
QUESTIONS = [("was it good?", "the film was a good play"), ("a bad one?", "it is not bad " * 9)]
CASES = {
    "Classification": (TEXTS, "huggingface"),
    "Classification PoolerOutput": (TEXTS, "huggingface"),
    "pairs": (PAIRS, "torch"),
    "MultiLabelClassification": (TEXTS, "onnx"),
    "Regression": (TEXTS, "onnx"),
    "Regression PoolerOutput": (TEXTS, "huggingface"),
    "Similarity": (PAIRS, "sentence-transformers"),
    "Similarity LayerMixPooling": (PAIRS, "torch"),
    "softmax": (PAIRS, "torch"),
    "QuestionAnswering": (QUESTIONS, "huggingface"),
    "QuestionAnswering MeanPooling": (QUESTIONS, "torch"),
}
PACKAGES = {"onnx": "onnxscript", "sentence-transformers": "sentence_transformers"}


def assert_close(answers, expected):
    assert len(answers) == len(expected)
    for answer, other in zip(answers, expected, strict=True):
        assert answer.keys() == other.keys()
        for name, value in other.items():
            if isinstance(value, float | dict):
                value = pytest.approx(value, abs=2e-4)
            assert answer[name] == value


QUICK = [case for case, (_, format) in CASES.items() if format == "huggingface"]


@pytest.mark.parametrize("case", QUICK)
def test_an_export_answers_as_its_checkpoint(model, save, written, case):
    load_and_compare(model, save, written, case, "right")


@pytest.mark.slow
@pytest.mark.parametrize("case", [*sorted(CASES.keys() - QUICK), "Classification"])
def test_every_export_answers_as_its_checkpoint(model, save, written, case):
    load_and_compare(model, save, written, case, "left")


def load_and_compare(model, save, written, case, side):
    rows, format = CASES[case]
    if format in PACKAGES:
        pytest.importorskip(PACKAGES[format], reason="needs the extra `export`")
    task, pooling = [*case.split(), "MeanPooling"][:2]
    prefix = {} if task == "QuestionAnswering" else {"prefix": "was it "}
    options = {"tokens": ("[S]",), "side": side, **prefix}
    folder = written(model(task, pooling, **options), format)
    original = litpool.load(save(task, pooling, **options), "cpu")
    loaded = litpool.load(folder, trust=["torch.export"])
    if task == "softmax":
        with pytest.raises(InputError, match="classifier of pairs is not in an export"):
            loaded.predict(rows)
    else:
        assert_close(loaded.predict(rows), original.predict(rows))
    if task in ("Similarity", "softmax"):
        vectors = original.encode(TEXTS)
        assert np.allclose(loaded.encode(TEXTS), vectors, atol=1e-4 if format == "onnx" else 1e-5)


def test_an_export_of_logits_has_no_vectors(model, written):
    loaded = litpool.load(written(model("Classification"), "torch"), trust=["torch.export"])
    with pytest.raises(InputError, match="gives logits and no vectors"):
        loaded.encode(TEXTS)


def test_an_export_that_cannot_be_loaded_is_one_line(model, written):
    folder = written(model("Classification"), "torch")
    with pytest.raises(InputError, match="answers on the CPU"):
        litpool.load(folder, "cuda")
    (folder / "model.pt2").write_bytes(b"damaged")
    with pytest.raises(InputError, match="cannot be loaded"):
        litpool.load(folder, trust=["torch.export"])
    golden = json.loads((folder / "golden.json").read_text())
    (folder / "golden.json").write_text(json.dumps({**golden, "version": "0.0.1"}))
    with pytest.raises(InputError, match="export again"):
        litpool.load(folder)


@pytest.mark.parametrize("name", ["golden.json", "model.safetensors", "tokenizer.json"])
def test_a_file_of_an_export_is_refused_for_its_folder(model, written, name):
    folder = written(model("Similarity"), "huggingface")
    with pytest.raises(InputError, match=f"a part of an export; name its folder, {folder}$"):
        litpool.load(folder / name)


def test_a_checkpoint_beside_an_export_is_a_checkpoint(model, written):
    folder = written(model("Similarity"), "huggingface")
    shutil.copy(CHECKPOINT, folder / "best.ckpt")
    assert litpool.load(folder / "best.ckpt").encode(["a"]).shape[0] == 1
    with pytest.raises(InputError, match="no such file"):
        litpool.load(folder / "nothing.ckpt")


@pytest.mark.parametrize(
    ("format", "package"),
    [("onnx", "onnxruntime"), ("sentence-transformers", "sentence_transformers")],
)
def test_a_missing_runtime_is_one_line(model, written, cli, monkeypatch, format, package):
    folder = written(model("Similarity"), "huggingface")
    golden = json.loads((folder / "golden.json").read_text())
    (folder / "golden.json").write_text(json.dumps({**golden, "format": format}))
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    message = (
        f"{folder}: needs the package {package}; install litpool's extra `export`, in a clone "
        "with pip install -c constraints.txt -e '.[export]'"
    )
    with pytest.raises(InputError, match=re.escape(message)):
        litpool.load(folder)
    status, _, err = cli("verify", str(folder))
    assert (status, err) == (2, f"error: {message}\n")


def test_an_export_does_not_know_the_name_of_the_package(model, written):
    """So it is read after `make rename`, as a checkpoint is."""
    exported = model("Classification")
    name = litpool.__name__
    exported.config["task"]["class_path"] = f"{name}.tasks.classification.Classification"
    exported.config["model"]["pooling"] = {"class_path": f"{name}.model.pooling.MeanPooling"}
    folder = written(exported, "huggingface")
    golden = json.loads((folder / "golden.json").read_text())
    golden.pop("versions")
    assert name not in json.dumps(golden)
    assert litpool.load(folder).predict(TEXTS)


def test_a_program_is_loaded_only_if_it_is_trusted(model, written, cli, tmp_path):
    folder = written(model("Classification"), "torch")
    status, out, err = cli("verify", str(folder), "--trust", "torch.export")
    assert (status, err) == (0, "")
    assert out.startswith("verified")
    (folder / "model.pt2").write_bytes(pickle.dumps(Harmful(tmp_path / "ran")))
    with pytest.raises(InputError, match=r"can run any code.*--trust torch.export"):
        litpool.load(folder)
    status, _, err = cli("verify", str(folder))
    assert status == 2
    assert "--trust torch.export" in err
    assert not (tmp_path / "ran").exists()


class Harmful:
    """Makes a file when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return pathlib.Path.touch, (self.file,)
