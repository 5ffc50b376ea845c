"""Every format gives the network's outputs in its own runtime, or is refused with the reason.

`written` compares the outputs itself, for 32 texts, and raises an error if they differ.
"""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from litpool import InputError
from litpool.data.batches import Collator
from litpool.data.token_ids import encode_rows
from litpool.model.pooling import MeanPooling
from litpool.tools.export import command, golden
from litpool.tools.export.certificate import verify_folder
from litpool.tools.export.runtimes import module_of

TASKS = [
    "Classification",
    "pairs",
    "MultiLabelClassification",
    "Regression",
    "Similarity",
    "softmax",
    "QuestionAnswering",
]
CLASSIFY = {"poolings": ["ClsPooling", "MeanPooling", "WeightedMeanPooling"]}
MARKERS = {"class_path": "MarkerPooling", "init_args": {"markers": ["[S]"]}}
NO_SPECIAL = {"class_path": "MeanPooling", "init_args": {"special_tokens": False}}
CONCAT = {"class_path": "ConcatPooling", "init_args": CLASSIFY}
MAX_MIX = {"class_path": "LayerMixPooling", "init_args": {"pooling": "MaxPooling"}}
LAST_2 = {"class_path": "LastNPooling", "init_args": {"n": 2}}
EXPRESSIBLE = [
    "ClsPooling",
    "MeanPooling",
    "MaxPooling",
    "MeanSqrtLenPooling",
    "WeightedMeanPooling",
    "LastTokenPooling",
    "FirstLastPooling",
    "LayerMixPooling",
    "PoolerOutput",
    CONCAT,
    MAX_MIX,
    LAST_2,
]
OTHERS = ["MinPooling", "AttentionPooling", NO_SPECIAL, MARKERS]


def name_of(pooling):
    return pooling if isinstance(pooling, str) else json.dumps(pooling)


def without_packages(format):
    if format == "onnx":
        pytest.importorskip("onnxruntime", reason="needs the extra `export`")
        pytest.importorskip("onnxscript", reason="needs the extra `export`")
    if format == "sentence-transformers":
        pytest.importorskip("sentence_transformers", reason="needs the extra `export`")


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("task", TASKS)
def test_huggingface_gives_the_outputs_of_every_task(model, written, task, side):
    written(model(task, side=side), "huggingface")


@pytest.mark.parametrize("pooling", [*EXPRESSIBLE, *OTHERS], ids=name_of)
def test_huggingface_keeps_the_weights_of_every_pooling(model, written, pooling):
    tokens = ("[S]",) if pooling is MARKERS else ()
    written(model("Similarity", pooling, tokens=tokens), "huggingface")


@pytest.mark.parametrize("task", ["Classification", "MultiLabelClassification", "Regression"])
def test_a_pipeline_answers_as_predict_where_the_stock_model_is_our_network(model, written, task):
    from transformers import pipeline

    exported = model(task, "PoolerOutput")
    folder = written(exported, "huggingface")
    assert not (folder / "head.safetensors").exists()
    classify = pipeline("text-classification", model=str(folder), top_k=None)
    texts = ["a good film", "this was bad", "a dull and poor play " * 9]
    batch = exported.batches(exported.encode([[text] for text in texts]))[0]
    with torch.no_grad():
        answers = exported.task.decode(exported.network(batch), {})
    for answer, found in zip(answers, classify(texts, truncation=True), strict=True):
        scores = {entry["label"]: entry["score"] for entry in found}
        expected = answer.get("probabilities") or {"score": answer["score"]}
        if task == "Regression":
            scores["score"] = min(max(scores["score"], 1), 5)
        assert scores == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", ["roberta", "albert", "mpnet", "xlm-roberta"])
def test_other_encoders_with_a_pooler_have_a_stock_classifier(model, written, kind):
    folder = written(model("Classification", "PoolerOutput", kind, max_length=20), "huggingface")
    assert json.loads((folder / "golden.json").read_text())["stock"]


def test_question_answering_is_a_stock_model(model, written):
    folder = written(model("QuestionAnswering"), "huggingface")
    assert json.loads((folder / "golden.json").read_text())["stock"]


def test_a_classifier_that_is_not_stock_has_no_random_head(model, written, capsys):
    folder = written(model("Classification", "MeanPooling"), "huggingface")
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["BertModel"]
    assert "transformers' classifiers do not use MeanPooling" in capsys.readouterr().out
    assert (folder / "head.safetensors").is_file()


@pytest.mark.parametrize("pooling", EXPRESSIBLE, ids=name_of)
def test_sentence_transformers_gives_the_vectors_of_what_it_can_express(model, written, pooling):
    without_packages("sentence-transformers")
    exported = model("Similarity", pooling)
    for weight in exported.network.pooling.parameters():
        torch.nn.init.uniform_(weight, 0.5, 2.0)  # a scale other than 1, uneven layers
    written(exported, "sentence-transformers")


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("task", TASKS[:-1])
def test_sentence_transformers_gives_the_outputs_of_every_task(model, written, task, side):
    without_packages("sentence-transformers")
    written(model(task, side=side), "sentence-transformers")


def test_sentence_transformers_adds_the_prefix(model, written):
    without_packages("sentence-transformers")
    folder = written(model("Similarity", prefix="query: "), "sentence-transformers")
    settings = json.loads((folder / "config_sentence_transformers.json").read_text())
    assert settings["prompts"]["sentence1"] == "query: "


@pytest.mark.parametrize(
    ("pooling", "closest"),
    [
        ("MinPooling", "MaxPooling"),
        ("AttentionPooling", "MeanPooling"),
        (NO_SPECIAL, "MeanPooling"),
        (MARKERS, "ClsPooling"),
        ("PoolerOutput", "ClsPooling"),  # only if the padding is on the left
    ],
    ids=name_of,
)
def test_sentence_transformers_refuses_other_poolings(model, pooling, closest):
    without_packages("sentence-transformers")
    tokens = ("[S]",) if pooling is MARKERS else ()
    side = "left" if pooling == "PoolerOutput" else "right"
    exported = model("Similarity", pooling, tokens=tokens, side=side)
    with pytest.raises(InputError, match=f"the closest is {closest}"):
        module_of("sentence-transformers").check(exported)


def test_sentence_transformers_refuses_question_answering(model):
    without_packages("sentence-transformers")
    with pytest.raises(InputError, match="one vector for each text"):
        module_of("sentence-transformers").check(model("QuestionAnswering"))


@pytest.mark.parametrize("pooling", ["MeanPooling", MARKERS], ids=name_of)
def test_a_torch_program_has_the_same_bits(model, written, pooling):
    folder = written(model("Similarity", pooling, tokens=("[S]",)), "torch")
    problems, summary = verify_folder(folder)
    assert not problems
    assert "bit-equal" in summary


@pytest.mark.parametrize("format", ["torch", "onnx"])
def test_a_graph_refuses_a_pooling_that_depends_on_values(model, tmp_path, format):
    # Within the function, so that studies in other tests do not list it.
    class Branching(MeanPooling):
        """A pooling that looks at the values, so that no graph can express it."""

        def forward(self, hidden_states, attention_mask, *rest, **more):
            pooled = super().forward(hidden_states, attention_mask)
            return pooled * 2 if float(pooled.sum()) > 0 else pooled

    without_packages(format)
    exported = model("Similarity")
    exported.network.pooling = Branching(32, 2)
    graph = command_graph(exported)
    with pytest.raises(InputError, match=f"format={format}: cannot express this network"):
        module_of(format).write(exported, graph, tmp_path)


def test_an_onnx_graph_runs_without_torch(model, written, tmp_path):
    without_packages("onnx")
    exported = model("Classification", NO_SPECIAL)
    folder = written(exported, "onnx")
    output = run_card(folder)
    texts = [["a good film"], ["a bad film"]]
    batch = exported.batches(exported.encode(texts))[0]
    with torch.no_grad():
        answers = exported.task.decode(exported.network(batch), {})
    for line, answer in zip(output.splitlines(), answers, strict=True):
        assert json.loads(line) == pytest.approx(answer["probabilities"], abs=1e-4)


def run_card(folder):
    """Run the program in a card, in a process that has neither torch nor transformers."""
    program = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[0]
    assert len(program.splitlines()) <= 15
    blocked = (
        "import sys\nfor name in ('torch', 'transformers', 'litpool'): sys.modules[name] = None\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", blocked + program], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("format", ["torch", "onnx"])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("side", ["right", "left"])
def test_graphs_give_the_outputs_of_every_task(model, written, task, side, format):
    without_packages(format)
    exported = model(task, side=side)
    folder = written(exported, format)
    if format == "torch":
        assert "bit-equal" in verify_folder(folder)[1]
        return
    printed = run_card(folder)
    if task == "QuestionAnswering":
        question, context = "Who plays?", "A man plays the guitar."
        rows = {"question": [question], "context": [context]}
        columns = encode_rows(exported.task, rows, exported.tokenizer, exported.max_length, {})
        columns["index"] = columns.pop("row")
        batch = Collator(exported.tokenizer)(columns)
        with torch.no_grad():
            best = exported.task.extract(exported.network(batch), batch)
        answers = exported.task.decode(exported.task.assemble(best, batch["index"]), rows)
        assert printed.strip() == answers[0]["answer"]


@pytest.mark.slow
@pytest.mark.parametrize("format", ["torch", "onnx"])
@pytest.mark.parametrize("pooling", [*EXPRESSIBLE, *OTHERS], ids=name_of)
def test_graphs_give_the_vectors_of_every_pooling(model, written, pooling, format):
    without_packages(format)
    folder = written(model("Similarity", pooling, tokens=("[S]",)), format)
    if format == "torch":
        assert "bit-equal" in verify_folder(folder)[1]


@pytest.mark.slow
@pytest.mark.parametrize("format", ["torch", "onnx"])
@pytest.mark.parametrize(
    "kind", ["roberta", "distilbert", "electra", "deberta-v2", "albert", "mpnet", "modernbert"]
)
def test_graphs_give_the_outputs_of_other_encoders(model, written, kind, format):
    without_packages(format)
    written(model("Classification", "MeanPooling", kind, max_length=20), format)


def test_the_texts_of_a_certificate_are_of_every_kind(model):
    exported = model("Similarity", tokens=("[S]",))
    content = command.certificate(exported, command_graph(exported), "huggingface")
    rows = content["rows"]
    assert len(rows) == 32
    assert sum(row["truncated"] for row in rows) >= 2
    assert sum("[S]" in row["texts"][0] for row in rows) >= 1
    assert sum(not row["texts"][0].isascii() for row in rows) >= 8
    assert {1, max(len(row["texts"][0]) for row in rows)} <= {len(row["texts"][0]) for row in rows}
    assert golden.TOLERANCE["onnx"] == 1e-4
    assert np.isfinite([row["output"] for row in rows]).all()


def command_graph(exported):
    return command.Graph(exported.network, exported.task, exported.added_special_ids).eval()
