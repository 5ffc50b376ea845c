"""Exports of all-MiniLM-L6-v2 on real texts, in a Python without litpool.

The encoder is pretrained. The weights of poolings and heads are random, seeded, and not trivial.
"""

import contextlib
import copy
import csv
import dataclasses
import json
import os
import re
import shutil
import subprocess
from itertools import cycle
from pathlib import Path

import fresh_answers
import numpy as np
import pytest
import torch
from fresh_python import FORBIDDEN, python

import litpool
from litpool import InputError
from litpool.command_line import options
from litpool.demo.encoder import DEMO_ENCODER
from litpool.tools.export import command
from litpool.tools.export.graph import BATCH
from litpool.tools.export.runtimes import module_of

DATA = os.environ.get("LITPOOL_TEST_DATA")
COUNT = 200
MAX_LENGTH = 40  # cuts some of the texts
SIDES = ["right", "left"]
MARK = "[S]"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA, reason="LITPOOL_TEST_DATA names no folder of real data"),
]


def pool(name, **arguments):
    return {"class_path": name, "init_args": arguments}


NO_SPECIAL = pool("MeanPooling", special_tokens=False)
GRAPHS = ["torch", "onnx"]
MODULES = ["sentence-transformers", "huggingface"]
ON_TOKENS = "QuestionAnswering gives logits for each token, and these modules give one vector"
# a task, a pooling, how sentence-transformers refuses them (empty if it does not), and formats
CASES = [
    ("Classification", "MeanPooling", "", GRAPHS + MODULES),
    ("pairs", "MeanPooling", "", GRAPHS + MODULES),
    ("MultiLabelClassification", "MeanPooling", "", GRAPHS + MODULES),
    ("Regression", "MeanPooling", "", GRAPHS + MODULES),
    ("QuestionAnswering", "MeanPooling", ON_TOKENS, GRAPHS + MODULES),
    # transformers has classifiers for this pooling only
    ("Classification", "PoolerOutput", "", MODULES),
    ("pairs", "PoolerOutput", "", MODULES),
    ("MultiLabelClassification", "PoolerOutput", "", MODULES),
    ("Regression", "PoolerOutput", "", MODULES),
    ("scored pairs", "PoolerOutput", "", MODULES),
]
POOLINGS = [
    ("MeanPooling", ""),
    ("ClsPooling", ""),
    ("PoolerOutput", ""),
    ("MaxPooling", ""),
    ("MeanSqrtLenPooling", ""),
    ("WeightedMeanPooling", ""),
    ("LastTokenPooling", ""),
    ("FirstLastPooling", ""),
    (pool("LastNPooling", n=3), ""),
    ("LayerMixPooling", ""),
    (pool("LayerMixPooling", pooling="MaxPooling"), ""),
    (pool("ConcatPooling", poolings=["ClsPooling", "MeanPooling", "WeightedMeanPooling"]), ""),
    ("MinPooling", "MinPooling; the closest is MaxPooling"),
    (NO_SPECIAL, "MeanPooling without special tokens; the closest is MeanPooling"),
    (pool("AttentionPooling", heads=4), "AttentionPooling heads=4; the closest is MeanPooling"),
    (pool("MarkerPooling", markers=[MARK]), r"MarkerPooling at \[S\]; the closest is ClsPooling"),
    (
        pool("LayerMixPooling", pooling=NO_SPECIAL),
        "LayerMixPooling of MeanPooling without special tokens; the closest is LayerMixPooling",
    ),
    (
        pool("ConcatPooling", poolings=["PoolerOutput", "LayerMixPooling", "MinPooling"]),
        "PoolerOutput within ConcatPooling; the closest is MeanPooling",
    ),
]
OBJECTIVES = cycle(["Similarity", "softmax", "contrastive"])  # their exports give vectors
CASES += [(next(OBJECTIVES), *case, GRAPHS + MODULES) for case in POOLINGS]
TOLERANCE = {"torch": 0, "onnx": 1e-4, "sentence-transformers": 1e-5, "huggingface": 1e-5}


LOADING = {  # lines of the cards, which `fresh_answers.py` runs
    "torch": 'torch.export.load("model.pt2").module()',
    "onnx": 'onnxruntime.InferenceSession("model.onnx")',
    "sentence-transformers": 'SentenceTransformer(".")',
    "AutoModel": 'AutoModel.from_pretrained(".")',
    "AutoModelForQuestionAnswering": 'AutoModelForQuestionAnswering.from_pretrained(".")',
    "pipeline": 'pipeline("text-classification", model="."',
}


def name_of(pooling):
    return pooling if isinstance(pooling, str) else json.dumps(pooling)


@pytest.fixture(scope="module")
def pairs():
    with open(Path(str(DATA)) / "stsb" / "stsb-en-test.csv", encoding="utf-8", newline="") as file:
        return [(first, second, float(score)) for first, second, score in csv.reader(file)]


@pytest.fixture(scope="module")
def real_rows(pairs):
    """200 rows of one text, of two, and of a question with its context."""
    folder = Path(str(DATA))
    reviews = (folder / "sst2" / "stsa.binary.test").read_text(encoding="utf-8").split("\n")
    korean = (folder / "nsmc" / "ratings_test.txt").read_text(encoding="utf-8").split("\n")[1:]
    texts = [
        *(line.partition(" ")[2] for line in reviews[:30]),
        *(line.split("\t")[1] for line in korean[:20]),
        *(first for first, _, _ in pairs[:COUNT]),
    ]
    content = json.loads((folder / "xquad" / "xquad.en.json").read_text(encoding="utf-8"))
    questions = [
        [answer["question"], paragraph["context"]]
        for article in content["data"]
        for paragraph in article["paragraphs"]
        for answer in paragraph["qas"]
    ]
    rows = {
        1: [[text] for text in texts if text.strip()][:COUNT],
        2: [[first, second] for first, second, _ in pairs[:COUNT]],
        "questions": questions[:: len(questions) // COUNT][:COUNT],
    }
    assert {len(given) for given in rows.values()} == {COUNT}
    return rows


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    """A function that runs a job in a Python without litpool; one process for each format."""
    processes = {}
    folder = tmp_path_factory.mktemp("fresh")

    def ask(format, job):
        errors = folder / f"{format}.txt"
        if format not in processes:
            packages = folder / format
            program = [*python(format, packages), fresh_answers.__file__]
            processes[format] = stack.enter_context(
                subprocess.Popen(
                    [*program, str(packages), format, json.dumps(FORBIDDEN[format])],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stack.enter_context(errors.open("w")),
                    text=True,
                )
            )
        process = processes[format]
        print(json.dumps(job), file=process.stdin, flush=True)
        assert process.stdout.readline() == "done\n", errors.read_text()
        return {side: np.load(Path(job["folder"]) / f"{side}.npz") for side in job["sides"]}

    with contextlib.ExitStack() as stack:
        yield ask


@pytest.fixture(scope="module")
def gaps():
    """The largest difference of each format and kind of output; `pytest -s` shows them."""
    gaps = {}
    yield gaps
    for (format, output), gap in gaps.items():
        print(f"\n{format} {output} {gap:.1e}", end="")


@torch.no_grad()
def answers(model, network, rows, side, states=False):
    """Return the ids of the real tokens and the outputs of a network, as a fresh Python does.

    With `states`, they are the last states of the encoder's tokens.
    """
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.padding_side = side
    padded = dataclasses.replace(model, tokenizer=tokenizer)
    ids, outputs = [], []
    for batch in padded.batches(model.encode(rows)):
        real = batch["attention_mask"].bool()
        if states:
            output = network.encoder(batch)[0][-1]
        elif model.output == "vectors":
            output = network.embed(batch)
        else:
            output = network(batch)
            if model.output == "scores":
                output = output * model.task.scale + model.task.shift  # in the labels' unit
        ids.append(batch["input_ids"][real])
        outputs.append(output[real] if output.ndim == 3 else output)
    return torch.cat(ids).numpy(), torch.cat(outputs).numpy()


def test_every_task_and_every_pooling_is_compared():
    compared = {name for case in CASES for name in (case[0], names_in(case[1])[0])}
    assert options.subclasses("tasks").keys() <= compared
    assert options.subclasses("model").keys() <= compared


def names_in(pooling):
    """Return the classes that a pooling consists of, the outer one first."""
    return re.findall(r"\w+Pooling|PoolerOutput", name_of(pooling))


@pytest.mark.parametrize(
    ("task", "pooling", "refusal", "formats"),
    CASES,
    ids=[f"{case[0]} {name_of(case[1])}" for case in CASES],
)
def test_every_export_gives_our_outputs(
    model, written, real_rows, ask, gaps, monkeypatch, tmp_path, task, pooling, refusal, formats
):
    for package in ("onnxscript", "sentence_transformers"):
        pytest.importorskip(package, reason="needs the extra `export`")
    monkeypatch.setattr(command, "signatures", lambda *_: {})  # of mistakes: slow, not needed here
    tokens = [MARK] if "MarkerPooling" in names_in(pooling) else []
    exported = model(task, pooling, DEMO_ENCODER, MAX_LENGTH, tokens=tokens)
    (tmp_path / "best.ckpt").unlink()  # 90 MB, which pytest would keep
    rows = real_rows["questions" if exported.output == "spans" else len(exported.columns)]
    rows = [[" ".join([*tokens, row[0]]), *row[1:]] for row in rows]
    ours = {side: answers(exported, exported.network, rows, side) for side in SIDES}
    assert len(np.unique(ours["left"][1], axis=0)) > COUNT / 2  # not trivial
    for format in formats:
        if format == "sentence-transformers" and refusal:
            with pytest.raises(InputError, match=refusal):
                module_of(format).check(exported)
            continue
        folder = written(exported, format, format)
        sides = SIDES
        expected, kind = ours, ""
        what = exported.output
        if format == "sentence-transformers" and pooling == "PoolerOutput":
            sides = ["right"]  # its [CLS] is the first real token; BERT's pooler reads position 0
        if format == "huggingface":
            kind = loaded_as(exported, folder)
        if kind == "AutoModel":  # litpool.load has the pooling and the head
            loaded = litpool.load(folder).network
            for side in SIDES:
                output = answers(exported, loaded, rows, side)[1]
                compare(gaps, (format, f"{what} of litpool.load"), output, ours[side][1])
            if pooling != "MeanPooling":
                sides = []  # the states are the same for every pooling
            what = "states"
            expected = {
                side: answers(exported, exported.network, rows, side, True) for side in sides
            }
        job = {"folder": str(folder), "rows": rows, "batch": BATCH, "sides": sides, "kind": kind}
        assert LOADING[kind or format] in (folder / "README.md").read_text()
        for side, answer in ask(format, job).items():
            ids, output = expected[side]
            assert np.array_equal(answer["ids"], ids), (format, side)
            compare(gaps, (format, what), answer["output"], output)
        shutil.rmtree(folder)


def loaded_as(model, folder):
    """Return what of transformers loads a folder, and check why it is not a task's model."""
    stock = json.loads((folder / "golden.json").read_text())["stock"]
    if model.output == "spans":
        assert stock
        return "AutoModelForQuestionAnswering"
    if model.output != "vectors" and model.network.pooling.needs_pooler_output:
        assert stock
        return "pipeline"
    reason = f"transformers' classifiers do not use {model.network.pooling.describe()}"
    if model.output == "vectors":
        reason = "sentence vectors have no task model"
    assert not stock
    assert f"without a task model, because {reason}" in (folder / "README.md").read_text()
    return "AutoModel"


def compare(gaps, key, output, expected):
    """Assert that two arrays are as close as a format promises; note the largest difference."""
    tolerance = TOLERANCE[key[0]]
    assert output.shape == expected.shape
    if key[0] == "huggingface":  # its logits of tokens outside the context are not lowest
        output = np.where(expected == np.finfo(np.float32).min, expected, output)
    gap = np.abs(output - expected).max()
    gaps[key] = max(gap, gaps.get(key, 0))
    assert gap <= tolerance, (key, gap)
    if tolerance == 0:
        assert output.tobytes() == expected.tobytes()


def test_sentence_transformers_own_evaluator_gives_the_published_correlation(cli, pairs):
    models = pytest.importorskip("sentence_transformers", reason="needs the extra `export`")
    from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

    task = ["--task", "Similarity", "--model.encoder.name", DEMO_ENCODER]
    options = ["--data.max_length", "256", "--scores", "false", "--output", "out"]
    status, _, err = cli("export", *task, *options, "--format", "sentence-transformers")
    assert status == 0, err
    network = models.SentenceTransformer("out", device="cpu")
    first, second, scores = zip(*pairs, strict=True)
    evaluator = EmbeddingSimilarityEvaluator(list(first), list(second), list(scores))
    found = evaluator(network)
    assert round(100 * found["spearman_cosine"], 2) == 82.03
