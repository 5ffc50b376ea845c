"""The fine-tuned arm, and studies of several data sets."""

import csv
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from architectures import KINDS
from transformers import AutoModel

from litpool.data.module import TextDataModule
from litpool.loops.lightning import TextModule
from litpool.model.encoder import EncoderOptions, load_config
from litpool.model.network import TextModel
from litpool.model.pooling import LayerMixPooling, MeanPooling
from litpool.tasks.classification import Classification
from litpool.tools.study import finetuned, training, vectors
from litpool.tools.study.finetuned import Training

START = [
    sys.executable,
    "-c",
    "import sys; sys.argv[0] = 'cli.py'; from litpool.app import main; main()",
]


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """An empty cache of vectors."""
    monkeypatch.setattr(vectors, "CACHE", tmp_path / "cache")


@pytest.fixture
def pairs_file(tmp_path, rows):
    """150 pairs of different texts; the score is the share of common words."""
    rng = random.Random(0)
    path = tmp_path / "pairs.csv"
    texts = [row["text"] for row in rows]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sentence1", "sentence2", "score", "label"])
        for number, (first, second) in enumerate(rng.sample(texts, 2) for _ in range(150)):
            left, right = set(first.split()), set(second.split())
            score = 5 * len(left & right) / len(left | right)
            writer.writerow([first, second, score, ["no", "yes"][number % 2]])
    return str(path)


@pytest.fixture
def job(encoder_folder, tokenizer_folder, csv_file):
    """48 rows in batches of 10, so that the last batch is short."""
    return [
        *("--model.encoder.name", encoder_folder, "--data.tokenizer", tokenizer_folder),
        *("--data.source", csv_file, "--data.max_length", "24", "--data.batch_size", "10"),
        *("--model.recipe.lr", "0.003", "--trainer.accelerator", "cpu"),
        *("--trainer.max_epochs", "2"),
    ]


FINISHED = "(already finished)"
TUNED = ["--study.arms", "[finetuned]", "--study.seeds", "1"]
BOTH = ["--study.arms", "[frozen, finetuned]"]
PAIRS = [
    *("--task", "Similarity", "--task.text", "[sentence1, sentence2]"),
    *("--task.label", "score", "--task.score_range", "[0, 5]"),
]
SOFTMAX = ["--task.objective", "softmax", "--task.label", "label"]
REGRESSION = ["--task", "Regression", "--task.label", "score", "--data.source", "pairs.csv"]


@pytest.fixture
def study(cli, job, tmp_path):
    """Return a function that runs a study and returns study.json, with what was printed."""

    def study(*arguments):
        status, out, err = cli("study", *job, *arguments)
        assert status == 0, err
        assert err == ""
        folder = tmp_path / out.split()[-1]
        return {**json.loads((folder / "study.json").read_text()), "out": out, "folder": folder}

    return study


def trainings(result):
    runs = result["data"][0]["finetuned"]
    return [(run["pooling"], run["layer"], run["seed"]) for run in runs]


# ---- one training


@pytest.mark.parametrize("loop", ["lightning", "huggingface"])
def test_a_training_is_what_fit_gives_for_the_same_job_pooling_and_seed(
    loop, cli, study, job, tmp_path
):
    more = [
        *("--trainer.gradient_clip_val", "0.5", "--trainer.accumulate_grad_batches", "2"),
        *("--trainer.max_epochs", "4"),
    ]
    poolings = ["--study.tuned", "[ClsPooling, AttentionPooling]"]
    result = study(*TUNED, *more, *poolings, "--study.loop", loop)
    runs = result["data"][0]["finetuned"]
    assert trainings(result) == [("ClsPooling", 2, 42), ("AttentionPooling", 2, 42)]
    for run in runs:
        command = "fit" if loop == "lightning" else "fit_hf"
        status, out, err = cli(command, *job, *more, "--model.pooling", run["pooling"])
        assert status == 0, err
        metrics = json.loads((tmp_path / out.split()[-1] / "metrics.json").read_text())
        assert run["validation"] == pytest.approx(100 * metrics["val/accuracy"], abs=1e-4)
        assert run["test"] == pytest.approx(100 * metrics["test/accuracy"], abs=1e-4)


def test_a_job_with_callbacks_is_fine_tuned_and_reported(study):
    callback = "{class_path: EarlyStopping, init_args: {monitor: val/accuracy, mode: max}}"
    more = ["--study.tuned", "[MeanPooling]", "--trainer.callbacks", f"[{callback}]"]
    result = study(*TUNED, *more)
    assert len(trainings(result)) == 1
    (stored,) = result["config"]["trainer"]["callbacks"]
    assert stored["init_args"]["monitor"] == "val/accuracy"


def test_poolings_to_fine_tune_without_their_arm_are_refused(cli, job):
    status, _, err = cli("study", *job, "--study.tuned", "[MaxPooling]")
    assert (status, err.partition(":")[0]) == (2, "error")
    assert "set study.arms='[frozen, finetuned]'" in err


def test_seeds_change_head_dropout_and_order(study):
    arguments = ["--study.arms", "[finetuned]", "--study.tuned", "[MeanPooling]"]
    result = study(*arguments, "--study.seeds", "3", *PAIRS, "--data.source", "pairs.csv")
    runs = result["data"][0]["finetuned"]
    assert [run["seed"] for run in runs] == [42, 43, 44]
    assert len({run["validation"] for run in runs}) == 3


@pytest.fixture(autouse=True)
def _pairs(pairs_file):
    """Write pairs.csv into the folder of every test."""


def test_the_arm_leaves_results_and_nothing_else(study, tmp_path):
    result = study(*TUNED, "--study.tuned", "[MeanPooling, LayerMixPooling]")
    assert trainings(result) == [("MeanPooling", 2, 42), ("LayerMixPooling", None, 42)]
    files = [path for path in (tmp_path / "logs").rglob("*") if path.is_file()]
    others = [path for path in files if path.parent != result["folder"]]
    assert [path.suffix for path in others] == [".json", ".json"]
    assert not list(tmp_path.rglob("*.ckpt"))
    data = result["data"][0]
    assert data["cells"] == data["chosen"] == []
    assert (data["metric"], data["layers"]) == ("accuracy", 2)
    assert result["verdict"].startswith("fine-tuned: ")
    lines = result["out"].splitlines()
    assert lines[0].startswith("MeanPooling of layer 2, seed 42: ")
    assert len(lines) == 4  # two trainings, the verdict, the folder
    assert {"study.csv", "study.md", "study.html"} <= {
        path.name for path in result["folder"].iterdir()
    }


def test_the_verdict_stays_with_the_frozen_arm(study):
    result = study(*BOTH, "--study.seeds", "2", "--study.tuned", "[MeanPooling]")
    assert result["verdict"] == result["data"][0]["verdict"]
    assert result["data"][0]["cells"]
    note = result["data"][0]["notes"][-1]
    assert note.startswith("fine-tuned: MeanPooling of layer 2 ")
    assert note.endswith("; the spread over 2 seeds, which is not a confidence interval")


def test_results_are_kept_for_the_same_job_and_only_for_it(study, tmp_path):
    first = study(*TUNED, "--study.tuned", "[MeanPooling]")
    more = ["--study.seeds", "2", "--study.tuned", "[MeanPooling, MaxPooling]"]
    again = study("--study.arms", "[finetuned]", *more)
    kept = [line for line in again["out"].splitlines() if FINISHED in line]
    assert [line.split(":")[0] for line in kept] == ["MeanPooling of layer 2, seed 42"]
    assert first["data"][0]["finetuned"][0] in again["data"][0]["finetuned"]
    changed = study(*TUNED, "--study.tuned", "[MeanPooling]", "--model.recipe.lr", "0.002")
    assert FINISHED not in changed["out"]


def test_changed_rows_are_trained_again(study, csv_file, tmp_path):
    copy = tmp_path / "reviews.csv"
    shutil.copy(csv_file, copy)
    arguments = [*TUNED, "--study.tuned", "[MeanPooling]", "--data.source", copy]
    study(*arguments)
    assert FINISHED in study(*arguments)["out"]
    copy.write_text(copy.read_text().replace("film", "play"))
    assert FINISHED not in study(*arguments)["out"]


@pytest.mark.parametrize(
    ("task", "metric"),
    [
        (["--task", "MultiLabelClassification"], "f1"),
        ([*PAIRS, "--data.source", "pairs.csv"], "spearman"),
        ([*PAIRS, *SOFTMAX, "--data.source", "pairs.csv"], "accuracy"),
        ([*PAIRS, "--task.objective", "contrastive", "--data.source", "pairs.csv"], "mrr"),
        ([*REGRESSION, "--task.text", "sentence1"], "spearman"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*equal.*:UserWarning")
def test_every_task_with_a_pooled_vector_is_trained(task, metric, study):
    data = study(*TUNED, "--study.tuned", "[MeanPooling]", *task)["data"][0]
    assert data["metric"] == metric
    assert -100 <= data["finetuned"][0]["test"] <= 100


def test_each_arm_reads_a_regression_of_pairs_in_its_own_way(study):
    arguments = [*BOTH, "--study.seeds", "1", "--study.tuned", "[MeanPooling]"]
    result = study(*arguments, *REGRESSION, "--task.text", "[sentence1, sentence2]")
    assert result["data"][0]["cells"]
    assert len(result["data"][0]["finetuned"]) == 1


# ---- cutting


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_encoder_gives_the_same_layer(kind, tiny, tmp_path, batch):
    _, config = tiny(kind, num_hidden_layers=3)
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(tmp_path / "encoder")
    data = TextDataModule(Classification())
    module = TextModule(data.task, data, EncoderOptions(str(tmp_path / "encoder")))
    module.task.labels = ["bad", "good"]
    hidden_states = _hidden_states(module, batch)
    layers = []
    for layer in range(4):
        with training.quiet():
            run = Training("MeanPooling", layer, 0, MeanPooling, "")
            cut = finetuned.build_module(run, module, data, load_config(module.encoder))
            network = _network(cut, cut.pooling)
        layers.append(network.encoder.config.num_hidden_layers)
        with torch.no_grad():
            pooled = network.embed(batch)
        expected = MeanPooling(32, 3)((hidden_states[layer],), batch["attention_mask"])
        torch.testing.assert_close(pooled, expected, rtol=1e-5, atol=1e-6)
    assert layers == ([3, 1, 2, 3] if kind in finetuned.CUT else [3, 3, 3, 3])


def _network(module, pooling):
    config = load_config(module.encoder)
    return TextModel(module.task, pooling, module.encoder, config, True).eval()


def _hidden_states(module, batch):
    encoder = _network(module, LayerMixPooling).encoder
    with torch.no_grad():
        return encoder({key: batch[key] for key in ("input_ids", "attention_mask")})[0]


def test_freezing_stops_at_the_cut(tiny, tmp_path):
    _, config = tiny("bert", num_hidden_layers=3)
    AutoModel.from_config(config).save_pretrained(tmp_path / "encoder")
    data = TextDataModule(Classification())
    module = TextModule(data.task, data, EncoderOptions(str(tmp_path / "encoder"), freeze=3))
    run = Training("MeanPooling", 2, 0, MeanPooling, "")
    assert (
        finetuned.build_module(run, module, data, load_config(module.encoder)).encoder.freeze == 2
    )


def test_layers_are_options_of_the_fine_tuned_arm(study):
    result = study(
        *TUNED, "--study.tuned", "[MeanPooling, LayerMixPooling]", "--study.layers", "[0, 1]"
    )
    assert trainings(result) == [
        ("MeanPooling", 0, 42),
        ("MeanPooling", 1, 42),
        ("LayerMixPooling", None, 42),
    ]


# ---- several data sets


@pytest.fixture
def sets(pairs_file, tmp_path):
    """`full` has three splits, `bare` only test."""
    lines = Path(pairs_file).read_text().splitlines()
    (tmp_path / "bare.csv").write_text(
        "\n".join([lines[0], *lines[1:61]]).replace("score", "points") + "\n"
    )
    paper = "[{pooling: MeanPooling, test: 46.35}, {pooling: GloVe, test: 58.02}]"
    bare = "{source: {test: bare.csv}, task: {label: points}, paper: " + paper + "}"
    return [*PAIRS, "--study.data", "{full: {source: pairs.csv}, bare: " + bare + "}"]


def test_several_data_sets_are_one_study(study, sets):
    result = study(*sets)
    assert [data["name"] for data in result["data"]] == ["full", "bare"]
    assert "chosen for each of the 2 data sets" in result["verdict"]
    bare = result["data"][1]
    assert bare["rows"] == {"test": 60}
    assert {cell["whitened"] for cell in bare["cells"]} == {False}
    chosen = {(cell["pooling"], cell["layer"]) for cell in bare["chosen"]}
    assert chosen >= {("MeanPooling", 2), ("ClsPooling", 2)}
    assert bare["method"]["resampling"] == "kfold"  # there is nothing else to choose on
    assert any("No train split to fit whitening" in note for note in bare["notes"])
    assert bare["paper"][0] == {"pooling": "MeanPooling", "test": 46.35}
    text = (result["folder"] / "study.md").read_text()
    assert "| data set | chosen | against [CLS] | 95% interval | claim |" in text
    assert re.search(r"Published scores: MeanPooling 46\.[34], GloVe 58\.0\.", text)
    alone = study(*PAIRS, "--data.source", "pairs.csv")
    assert result["data"][0]["cells"] == alone["data"][0]["cells"]


def test_each_of_several_data_sets_is_fine_tuned(study):
    paper = "[{pooling: MaxPooling, test: 69.92}]"
    two = "{source: pairs.csv, seed: 1, paper: " + paper + "}"
    data = "{one: {source: pairs.csv}, two: " + two + "}"
    result = study(*TUNED, *PAIRS, "--study.tuned", "[MaxPooling]", "--study.data", data)
    assert result["verdict"].startswith("one: fine-tuned: MaxPooling of layer 2 ")
    assert "| two: fine-tuned: " in result["verdict"]
    assert "Published scores: MaxPooling 69.9." in (result["folder"] / "study.md").read_text()


# ---- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--study.seeds", "0"], "error: study.seeds=0: give the number of seeds, 1 or more"),
        (
            ["--study.layers", "[1, 3]"],
            "error: study.layers=[1, 3]: this encoder has the layers 0 to 2",
        ),
        (["--study.layers", "[]"], "error: study.layers=[]: name some of 0 to 2"),
        (["--study.tuned", "[]"], "error: study.tuned=[]: name at least one pooling"),
        (
            ["--study.tuned", "[MaxPooling, MaxPooling]"],
            "error: study.tuned: MaxPooling is named twice",
        ),
        (["--study.arms", "[]"], "error: study.arms=[]: name frozen, finetuned or both"),
        (["--study.arms", "[tuned]"], "study.arms"),
        (["--task", "QuestionAnswering"], "error: task=QuestionAnswering: it reads tokens"),
        (
            ["--trainer.fast_dev_run", "true"],
            "error: trainer.fast_dev_run=True: it keeps no weights",
        ),
        (
            ["--study.loop", "huggingface", "--trainer.gradient_clip_algorithm", "value"],
            "has no counterpart",
        ),
        (["--study.data", "{}"], "error: study.data={}: name at least one data set"),
        (
            ["--study.data", "{a: {sauce: x}}"],
            "error: study.data.a.sauce: no such key; did you mean 'source'?",
        ),
        (
            ["--study.data", "{a: {task: {lable: x}}}"],
            "study.data.a.task.lable: no such key; did you mean 'label'?",
        ),
        (["--study.data", "{a: {max_rows: many}}"], "error: study.data.a: "),
        (
            ["--study.data", "{a: {paper: [46.35]}}"],
            "error: study.data.a.paper=[46.35]: give a list such as",
        ),
        (["--study.data", "{a: {source: nowhere.csv}}"], "nowhere.csv"),
    ],
)
def test_bad_input_is_one_line_and_exit_status_2(
    arguments, message, cli, job, monkeypatch, tmp_path
):
    monkeypatch.setattr(training, "train", None)  # training would fail
    status, _, err = cli("study", *job, *TUNED, *arguments)
    assert status == 2, err
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "logs").exists()


def test_a_training_without_an_evaluation_is_refused(cli, job):
    status, _, err = cli("study", *job, *TUNED, "--trainer.check_val_every_n_epoch", "5")
    assert status == 2, err
    assert "training ended before the first evaluation" in err
    assert len(err.strip().splitlines()) == 1


# ---- interruption


@pytest.mark.slow
def test_a_study_killed_ten_times_gives_the_same_result(job, tmp_path):
    arguments = [*job, *BOTH, "--study.tuned", "[ClsPooling, MeanPooling]"]
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    unbroken.mkdir()
    killed.mkdir()
    start = time.monotonic()
    expected = _finish(_start(arguments, unbroken), unbroken)
    duration = time.monotonic() - start
    rng = random.Random(0)
    kills = 0
    while kills < 10:
        process = _start(arguments, killed)
        time.sleep(rng.uniform(0.3, 0.9) * duration)
        kills += process.poll() is None
        process.kill()
        process.communicate()
        if list(killed.glob("logs/*/*/study.json")):  # it had finished: start again
            shutil.rmtree(killed)
            killed.mkdir()
    assert _finish(_start(arguments, killed), killed) == expected
    assert not list(killed.rglob("*.part"))
    assert not list(killed.rglob("*.ckpt"))


def _start(arguments, folder):
    environment = {**os.environ, "LITPOOL_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    command = [*START, "study", *arguments]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=-1, stderr=-1, text=True)


def _finish(process, folder):
    """Wait for the process, and return study.json without its times, as text."""
    out, err = process.communicate()
    assert process.returncode == 0, err
    text = (folder / out.split()[-1] / "study.json").read_text()
    return json.dumps({**json.loads(text), "seconds": None}, indent=1)
