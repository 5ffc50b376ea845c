"""Exports of all-MiniLM-L6-v2 on real texts, in the formats' own runtimes."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from litpool.demo.encoder import locate

DATA = os.environ.get("LITPOOL_TEST_DATA")
MINILM = "sentence-transformers/all-MiniLM-L6-v2"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA, reason="LITPOOL_TEST_DATA names no folder of real data"),
]


@pytest.fixture(scope="module")
def pairs():
    with open(Path(str(DATA)) / "stsb" / "stsb-en-test.csv", encoding="utf-8", newline="") as file:
        return [(first, second, float(score)) for first, second, score in csv.reader(file)]


@pytest.fixture
def texts(pairs):
    """200 real texts: English, Korean, long and short."""
    lines = (Path(str(DATA)) / "nsmc" / "ratings_test.txt").read_text(encoding="utf-8").split("\n")
    korean = [line.split("\t")[1] for line in lines[1:60]]
    english = [text for first, second, _ in pairs[:70] for text in (first, second)]
    return [text for text in [*english, *korean, " ".join(english)] if text.strip()][:200]


def export(cli, format, *options):
    task = ["--task", "Similarity", "--model.encoder.name", MINILM, "--data.max_length", "256"]
    status, out, err = cli(
        "export", *task, "--format", format, "--output", "out", "--scores", "false", *options
    )
    assert status == 0, err
    return out


def reference(texts, side):
    """Vectors by hand: transformers and the mean over real tokens; and the padded batch."""
    from transformers import AutoModel, AutoTokenizer

    folder = locate(MINILM)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side=side)
    encoder = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    batch = tokenizer(texts, truncation=True, max_length=256, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = encoder(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    return (states * mask).sum(1) / mask.sum(1), batch


def test_sentence_transformers_own_evaluator_gives_the_published_correlation(cli, pairs):
    models = pytest.importorskip("sentence_transformers", reason="needs the extra `export`")
    from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

    export(cli, "sentence-transformers")
    network = models.SentenceTransformer("out", device="cpu")
    first, second, scores = zip(*pairs, strict=True)
    evaluator = EmbeddingSimilarityEvaluator(list(first), list(second), list(scores))
    found = evaluator(network)
    assert round(100 * found["spearman_cosine"], 2) == 82.03


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("format", ["torch", "onnx"])
def test_a_graph_gives_the_vectors_of_real_texts(cli, texts, format, side):
    if format == "onnx":
        pytest.importorskip("onnxscript", reason="needs the extra `export`")
    export(cli, format)
    if format == "torch":
        program = torch.export.load("out/model.pt2").module()
    else:
        import onnxruntime

        session = onnxruntime.InferenceSession("out/model.onnx")
    worst = 0.0
    for start in range(0, len(texts), 16):
        expected, batch = reference(texts[start : start + 16], side)
        if format == "torch":
            with torch.no_grad():
                output = program(**batch)
        else:
            feed = {name: value.numpy() for name, value in batch.items()}
            output = torch.from_numpy(session.run(None, feed)[0])
        worst = max(worst, float((output - expected).abs().max()))
    assert worst < {"torch": 1e-5, "onnx": 1e-4}[format]


def test_sentence_transformers_gives_the_vectors_of_real_texts(cli, texts):
    models = pytest.importorskip("sentence_transformers", reason="needs the extra `export`")
    export(cli, "sentence-transformers")
    vectors = models.SentenceTransformer("out", device="cpu").encode(texts, batch_size=16)
    for start in range(0, len(texts), 16):
        expected, _ = reference(texts[start : start + 16], "right")
        assert np.abs(vectors[start : start + 16] - expected.numpy()).max() < 1e-5
