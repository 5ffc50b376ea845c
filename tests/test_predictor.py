"""`litpool.load`: the answers of the command line, in Python."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import litpool
from litpool import InputError, JobError
from litpool.ensemble import Ensemble, mean

FIXTURE = Path(__file__).parent / "fixtures/v0.1.0"
ROWS = [json.loads(line) for line in (FIXTURE / "rows/test.jsonl").read_text().splitlines()]
TASKS = [
    "classification", "contrastive", "cosine", "multilabel", "question_answering", "regression",
    "softmax",
]  # fmt: skip


def load(task, loop="lightning"):
    return litpool.load(FIXTURE / task / f"{loop}.ckpt", device="cpu")


@pytest.fixture
def classifier():
    return load("classification")


@pytest.fixture
def bi_encoder():
    return load("cosine")


# ---- answers


@pytest.mark.parametrize("task", TASKS)
def test_the_answers_are_those_of_the_command_line(cli, task):
    path = FIXTURE / task / "lightning.ckpt"
    status, out, err = cli(
        "predict", "--ckpt_path", path, "--input", FIXTURE / "rows/test.jsonl", "--output", "-"
    )
    assert status == 0, err
    model = load(task)
    written = [json.loads(line) for line in out.splitlines()]
    answers = model.predict(ROWS)
    shown = model.task.display_columns
    assert [{key: row[key] for key in row if key not in shown} for row in written] == answers
    texts = [tuple(row[name] for name in model.task.texts) for row in ROWS]
    if "id" not in answers[0]:  # tuples have no ids
        assert model.predict(texts) == answers


def test_equal_texts_are_computed_once_and_keep_their_places(classifier, monkeypatch):
    texts = [row["text"] for row in ROWS]
    answers = classifier.predict(texts)
    network, seen = classifier.network, []
    forward = network.forward
    monkeypatch.setattr(
        network, "forward", lambda batch: seen.append(len(batch["index"])) or forward(batch)
    )
    order = [3, 0, 3, 1, 1, 0]
    for answer, n in zip(classifier.predict([texts[n] for n in order]), order, strict=True):
        assert answer["label"] == answers[n]["label"]
        assert answer["probabilities"] == pytest.approx(answers[n]["probabilities"], abs=1.1e-4)
    assert sum(seen) == len({texts[n] for n in order})


def test_a_batch_holds_texts_of_similar_length(classifier, monkeypatch):
    shapes = []
    forward = classifier.network.forward
    monkeypatch.setattr(
        classifier.network,
        "forward",
        lambda batch: shapes.append(batch["input_ids"].shape) or forward(batch),
    )
    short, long = [f"fine {n}" for n in range(8)], [f"good {n} " * 7 for n in range(8)]
    mixed = [text for pair in zip(short, long, strict=True) for text in pair]
    classifier.predict(mixed, batch_size=8)
    assert len(shapes) == 2
    assert shapes[0][1] > 2 * shapes[1][1]


def test_each_text_of_a_pair_is_encoded_once(bi_encoder, monkeypatch):
    texts = sorted({row["text"] for row in ROWS})
    pairs = [(texts[0], text) for text in texts] + [(text, texts[0]) for text in texts]
    count = []
    embed = bi_encoder.network.embed
    monkeypatch.setattr(
        bi_encoder.network, "embed", lambda batch: count.append(len(batch["index"])) or embed(batch)
    )
    cosines = [answer["cosine"] for answer in bi_encoder.predict(pairs)]
    assert sum(count) == len(texts)
    np.testing.assert_allclose(cosines[: len(texts)], cosines[len(texts) :], atol=1e-6)
    assert cosines[0] == pytest.approx(1, abs=1e-6)


def test_the_cosine_is_that_of_the_vectors(bi_encoder):
    rows = ROWS[:9]
    first, second = (
        bi_encoder.encode([row[name] for row in rows], normalize=True)
        for name in bi_encoder.task.texts
    )
    cosines = [answer["cosine"] for answer in bi_encoder.predict(rows)]
    np.testing.assert_allclose((first * second).sum(1), cosines, atol=1e-6)
    assert first.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("task", ["classification", "cosine", "regression"])
def test_a_vector_does_not_depend_on_the_other_texts(task):
    model = load(task)
    texts = [row["text"] for row in ROWS[:7]] + [" ".join(row["text"] for row in ROWS[:9])]
    together = model.encode(texts, batch_size=3)
    alone = np.concatenate([model.encode([text]) for text in texts])
    assert together.shape == (8, model.network.pooling.out_features)
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_a_long_text_is_cut(classifier):
    long = "good " * 10_000
    cut = "good " * classifier.max_length
    np.testing.assert_allclose(classifier.encode([long]), classifier.encode([cut]), atol=1e-6)


def test_no_texts_give_no_answers(classifier, bi_encoder):
    assert classifier.predict([]) == []
    assert bi_encoder.predict(iter(())) == []
    assert bi_encoder.encode([]).shape == (0, bi_encoder.network.pooling.out_features)


def test_only_the_best_labels(classifier):
    (all_labels,), (best,) = (classifier.predict(["fine"], top=top) for top in (None, 1))
    label = all_labels["label"]
    probability = all_labels["probabilities"][label]
    assert best == {"label": label, "top": [{"label": label, "probability": probability}]}


def test_a_run_folder_means_its_best_checkpoint(classifier, tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "best.ckpt").symlink_to(FIXTURE / "classification/lightning.ckpt")
    assert litpool.load(tmp_path).predict(["fine"]) == classifier.predict(["fine"])


@pytest.mark.parametrize("content", ["nothing", "last.ckpt", "a model of transformers"])
def test_a_folder_that_is_neither_a_run_nor_an_export_is_refused(tmp_path, content):
    if content == "last.ckpt":  # of a training that ended before its first validation
        (tmp_path / "checkpoints").mkdir()
        last = tmp_path / "checkpoints/last.ckpt"
        last.symlink_to(FIXTURE / "classification/lightning.ckpt")
    elif content != "nothing":
        (tmp_path / "config.json").write_text("{}")
    with pytest.raises(
        InputError, match=r"ckpt_path=.* name a run, a checkpoint such as .*, or an"
    ):
        litpool.load(tmp_path)


def test_the_metrics_of_the_checkpoint_are_there(classifier):
    assert "val/accuracy" in classifier.metrics


# ---- what cannot be used


@pytest.mark.parametrize(
    ("task", "rows", "message"),
    [
        ("classification", "fine", "'fine' is one row; give a list of rows"),
        ("classification", {"text": "fine"}, "is one row; give a list of rows"),
        ("classification", ["fine", " "], "rows, row 2: 'text' is empty; fill it in"),
        ("classification", ["fine", 3], "rows, row 2: 3 is no text"),
        ("classification", [{"text": None}], "rows, row 1: 'text' is None, must be text"),
        (
            "classification",
            [{"txt": "a"}],
            "no column 'text', there is ['txt']; each row needs the",
        ),
        ("classification", [("a", "b")], "rows, row 1: 2 texts, must be 1 (text)"),
        ("cosine", ["fine"], "rows, row 1: 1 texts, must be 2 (text, other); give a tuple"),
    ],
)
def test_bad_rows_are_refused_in_one_line(task, rows, message):
    with pytest.raises(InputError) as raised:
        load(task).predict(rows)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_task_on_tokens_has_no_vectors():
    with pytest.raises(InputError, match="QuestionAnswering works on tokens and has no vectors"):
        load("question_answering").encode(["fine"])


def test_a_wrong_output_names_its_row(classifier, monkeypatch):
    forward = classifier.network.forward

    def spoiled(batch):
        output = forward(batch)
        output[batch["index"] == 1] = torch.nan
        return output

    monkeypatch.setattr(classifier.network, "forward", spoiled)
    with pytest.raises(JobError, match="the output for row 3 and 1 more is not finite"):
        classifier.predict(["good", "good", "fine", "fine"])


def test_a_checkpoint_may_not_name_other_classes(tmp_path):
    saved = torch.load(FIXTURE / "classification/lightning.ckpt", weights_only=True)
    job = next(value for value in saved.values() if isinstance(value, dict) and "encoder" in value)
    for name in ("os.system", "lightning.pytorch.callbacks.Timer", "my_module.MyTask"):
        job["config"]["task"]["class_path"] = name
        torch.save(saved, tmp_path / "bad.ckpt")
        with pytest.raises(InputError, match=rf"bad\.ckpt: {name}: not allowed here"):
            litpool.load(tmp_path / "bad.ckpt")
    with pytest.raises(InputError, match="no such file"):
        litpool.load(tmp_path / "no.ckpt")


def test_lightning_and_metrics_are_not_imported():
    code = f"""
import sys, litpool
assert "torch" not in sys.modules
litpool.load({str(FIXTURE / "cosine/lightning.ckpt")!r}).encode(["fine"])
slow = {{"lightning", "torchmetrics", "datasets", "pandas", "matplotlib"}}
print(*slow.intersection(sys.modules))
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(litpool.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("\n", "")


# ---- several checkpoints


def test_an_ensemble_answers_with_the_mean(cli):
    paths = [FIXTURE / "classification" / f"{loop}.ckpt" for loop in ("lightning", "last")]
    command = ["predict", "--ckpt_path", paths[0], "--ckpt_path", paths[1]]
    files = ["--input", FIXTURE / "rows/test.jsonl", "--output", "-"]
    status, out, err = cli(*command, *files)
    assert status == 0, err
    listed = cli("predict", "--ckpt_path", f"[{paths[0]}, {paths[1]}]", *files)
    assert listed == (0, out, "")
    models = [litpool.load(path) for path in paths]
    columns = {"text": [row["text"] for row in ROWS]}
    members = [model.answers(columns) for model in models]
    for line, *answers in zip(out.splitlines(), *members, strict=True):
        row = json.loads(line)
        for label, probability in row["probabilities"].items():
            parts = [answer["probabilities"][label] for answer in answers]
            assert probability == round(sum(parts) / 2, 4)
        assert row["label"] == max(row["probabilities"], key=row["probabilities"].get)


def test_the_mean_of_each_kind_of_answer():
    assert mean([{"score": 1.0}, {"score": 4.0}]) == {"score": 2.5}
    vectors = mean([{"vector": [3.0, 0.0]}, {"vector": [0.0, 0.5]}])
    assert vectors == {"vector": [0.5, 0.5]}
    several = [
        {"labels": ["a"], "probabilities": {"a": 0.9, "b": 0.4}},
        {"labels": [], "probabilities": {"b": 0.8, "a": 0.5}},
    ]
    assert mean(several) == {
        "labels": ["a", "b"],
        "probabilities": {"a": pytest.approx(0.7), "b": pytest.approx(0.6)},
    }
    with pytest.raises(InputError, match="the answer 'answer' has no mean"):
        mean([{"answer": "x"}, {"answer": "y"}])


def test_members_with_other_labels_are_refused(cli, classifier):
    other = load("classification")
    other.task.labels = ["bad", "good", "new"]
    with pytest.raises(InputError, match=r"its labels are bad, good, new, those of .* are bad"):
        Ensemble([classifier, other])
    paths = [FIXTURE / name / "lightning.ckpt" for name in ("classification", "multilabel")]
    files = ["--input", FIXTURE / "rows/test.jsonl", "--output", "-"]
    status, out, err = cli("predict", "--ckpt_path", paths[0], "--ckpt_path", paths[1], *files)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "MultiLabelClassification" in err
    with pytest.raises(InputError, match="has no mean; name one checkpoint"):
        Ensemble([load("question_answering"), load("question_answering")])


def test_a_bi_encoder_puts_the_prefix_of_each_column_before_its_texts(bi_encoder):
    texts = ["a good film", "the play was bad"]
    first, second = bi_encoder.task.texts
    pairs = [(texts[0], texts[1])]
    with_prefix = {
        first: bi_encoder.encode([f"good {text}" for text in texts]),
        second: bi_encoder.encode([f"bad {text}" for text in texts]),
    }
    score = bi_encoder.predict([(f"good {texts[0]}", f"bad {texts[1]}")])
    bi_encoder.prefixes = {first: "good ", second: "bad "}
    for column, vectors in with_prefix.items():
        assert np.allclose(bi_encoder.encode(texts, column=column), vectors, atol=1e-6)
    assert bi_encoder.predict(pairs)[0] == pytest.approx(score[0], abs=1e-6)
