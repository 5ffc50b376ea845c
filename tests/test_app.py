"""The command line, run in this process with a tiny encoder: what it writes, prints and refuses."""

import gzip
import json
import random
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from litpool import app
from litpool.data.tokenizer import restore_tokenizer
from litpool.loops.evaluation import Evaluation

CONFIGS = Path(__file__).parent.parent / "configs"
DEBUG = str(CONFIGS / "debug.yaml")
WORDS = {
    "good": "bright warm lovely fine happy",
    "bad": "grim cold awful poor sad",
    "so": "plain usual even mild grey",
}


@pytest.fixture
def rows(tmp_path):
    """A CSV of 90 rows whose label stands in their words, and of different lengths."""
    rng = random.Random(0)
    lines = ["text,label"]
    for number in range(90):
        label = list(WORDS)[number % 3]
        lines.append(
            " ".join(rng.choices(WORDS[label].split(), k=rng.randint(1, 12))) + f",{label}"
        )
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def fitted(cli, rows, tmp_path):
    """A finished run on these rows: its folder and what it printed."""
    status, out, err = cli(
        "fit", "--config", DEBUG, "--data.source", rows, "--trainer.max_epochs", 4
    )
    assert status == 0, err
    return tmp_path / "logs/debug/version_0", out, err


def test_fit_writes_the_run_folder_and_ends_with_the_test_score(fitted):
    folder, out, _ = fitted
    assert {path.name for path in folder.iterdir()} >= {
        "config.yaml",
        "checkpoints",
        "metrics.json",
    }
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {
        "best.ckpt",
        "last.ckpt",
        "last.prev.ckpt",
    }
    metrics = json.loads((folder / "metrics.json").read_text())
    assert out.splitlines()[-1] == "wrote logs/debug/version_0"
    assert f"accuracy {metrics['test/accuracy']:.3f}" in out
    assert metrics["val/accuracy"] > 0.6  # the label stands in the words


def test_the_terminal_is_quiet(fitted):
    _, out, err = fitted
    for noise in (
        "GPU",
        "TPU",
        "Tip",
        "litmodels",
        "warning",
        "Warning",
        "Seed set",
        "LOAD REPORT",
        "Sanity",
    ):
        assert noise not in out + err


def test_test_of_the_best_checkpoint_needs_no_config_and_repeats_the_score(fitted, cli):
    folder, _, _ = fitted
    status, out, _ = cli("test", "--ckpt_path", folder / "checkpoints/best.ckpt")
    again = json.loads((Path(out.split()[-1]) / "metrics.json").read_text())
    assert status == 0
    assert again == {
        k: v for k, v in json.loads((folder / "metrics.json").read_text()).items() if k in again
    }
    assert "test/accuracy" in again


def test_validate_repeats_the_validation_score_of_the_best_checkpoint(fitted, cli):
    folder, _, _ = fitted
    _, out, _ = cli("validate", "--ckpt_path", folder)
    again = json.loads((Path(out.split()[-1]) / "metrics.json").read_text())
    assert (
        again["val/accuracy"] == json.loads((folder / "metrics.json").read_text())["val/accuracy"]
    )


def test_a_run_folder_stands_for_its_best_checkpoint_or_to_resume_its_last(fitted, cli):
    folder, _, _ = fitted
    for path in (folder, folder / "checkpoints/best.ckpt"):
        cli("predict", "--ckpt_path", path, "--output", f"{path.name}.jsonl", stdin="a good film\n")
    assert Path(f"{folder.name}.jsonl").read_text() == Path("best.ckpt.jsonl").read_text()
    status, out, err = cli("fit", "--ckpt_path", folder, "--trainer.max_epochs", 5)
    assert status == 0, err
    last = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    assert last["epoch"] == 4
    assert str(folder.name) in out


def test_a_checkpoint_predicts_elsewhere_without_the_original_weights(
    fitted, cli, monkeypatch, tmp_path
):
    folder, _, _ = fitted
    elsewhere = tmp_path / "elsewhere.ckpt"
    (folder / "checkpoints/best.ckpt").rename(elsewhere)

    def gone(name):
        raise AssertionError(f"asked for the files of {name}")

    for module in ("model.encoder", "model.weights", "data.tokenizer"):
        monkeypatch.setattr(f"litpool.{module}.locate", gone)
    texts = ["bright warm", "grim", "mild grey even plain usual", "lovely"]
    status, out, err = cli("predict", "--ckpt_path", elsewhere, stdin="\n".join(texts) + "\n")
    assert status == 0, err
    assert out.splitlines()[-1] == "wrote predictions.jsonl"
    answers = [json.loads(line) for line in Path("predictions.jsonl").read_text().splitlines()]
    assert [answer["text"] for answer in answers] == texts
    for answer in answers:
        assert set(answer["probabilities"]) == set(WORDS)
        assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=3e-4)
        assert all(value == round(value, 4) for value in answer["probabilities"].values())
        assert answer["label"] == max(answer["probabilities"], key=answer["probabilities"].get)


def test_predict_gives_the_same_answers_from_every_kind_of_file(fitted, cli, tmp_path):
    checkpoint = fitted[0] / "checkpoints/best.ckpt"
    texts = [
        "bright warm day",
        "grim 'quoted', cold",
        "mild",
        "a longer text that is not like the others at all",
    ]
    (tmp_path / "in.txt").write_text("\n".join(texts))
    (tmp_path / "in.jsonl").write_text(
        "\n".join(json.dumps({"id": 1, "text": text}) for text in texts)
    )
    (tmp_path / "in.csv").write_text("id,text\n" + "\n".join(f'1,"{text}"' for text in texts))
    outputs = []
    for name in ("in.txt", "in.jsonl", "in.csv"):
        status, _, err = cli(
            "predict", "--ckpt_path", checkpoint, "--input", name, "--output", f"{name}.jsonl"
        )
        assert status == 0, err
        outputs.append(Path(f"{name}.jsonl").read_text())
    _, out, _ = cli("predict", "--ckpt_path", checkpoint, "--output", "-", stdin="\n".join(texts))
    assert outputs == [out] * 3


def test_predict_gives_the_most_probable_labels_and_copies_columns(fitted, cli, tmp_path):
    checkpoint = fitted[0] / "checkpoints/best.ckpt"
    rows = [
        {"text": "bright", "label": "own", "when": {"year": 2024}, "share": float("nan")},
        {"text": "grim", "label": None, "when": None, "share": 0.123456, "input_label": "first"},
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = ["predict", "--ckpt_path", checkpoint, "--input", "in.jsonl", "--output"]
    all_labels = [json.loads(line) for line in cli(*command, "-")[1].splitlines()]

    keep = "[label, when.year, share, input_label]"
    status, out, err = cli(*command, "-", "--top", 2, "--keep", keep)
    assert status == 0, err
    answers = [json.loads(line) for line in out.splitlines()]
    names = ["input_input_label", "when.year", "share", "input_label", "text", "label", "top"]
    assert [list(answer) for answer in answers] == [names, names]
    kept = [[answer[name] for name in names[:4]] for answer in answers]
    assert kept == [["own", 2024, None, None], [None, None, 0.123456, "first"]]
    for answer, plain in zip(answers, all_labels, strict=True):
        probabilities = plain["probabilities"]
        best = sorted(probabilities, key=probabilities.get, reverse=True)[:2]
        assert answer["label"] == plain["label"] == best[0]
        assert answer["top"] == [
            {"label": name, "probability": probabilities[name]} for name in best
        ]

    assert cli(*command, "out.parquet", "--top", 1, "--keep", "label")[0] == 0
    table = pq.read_table("out.parquet")
    assert table.column_names == ["input_label", "text", "label", "top"]
    assert table["input_label"].to_pylist() == ["own", None]


def test_what_predict_cannot_use_is_told_in_one_line(fitted, cli, tmp_path):
    (tmp_path / "in.csv").write_text("id,text\n1,grim\n")
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"text\ngrim\n")[:-9])
    job = ["--ckpt_path", fitted[0] / "checkpoints/best.ckpt", "--input", "in.csv"]
    for option, value, said in [
        ("--top", "0", "top=0: give 1 to 3, the number of labels"),
        ("--top", "99", "top=99: give 1 to 3"),
        ("--keep", "idd", "no column 'idd', there is ['id', 'text']; did you mean 'id'?"),
        ("--keep", "id.x", "in.csv: no column 'id.x'"),
        ("--data.prefix", "{review: x}", "'review' is not one of the text columns (text)"),
        ("--data.encoding", "latin-0", "data.encoding='latin-0': not an encoding"),
        ("--input", "cut.csv.gz", "cut.csv.gz: not a gzip file, or damaged"),
    ]:
        status, _, err = cli("predict", *job, option, value)
        assert (status, err.count("\n")) == (2, 1), err
        assert said in err
    assert not Path("predictions.jsonl").exists()


def test_the_prefix_of_the_training_is_used_wherever_its_checkpoint_is(cli, tmp_path):
    rows = [f"{side} {word},{side}" for side in ("left", "right") for word in [*WORDS] * 8]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    job = ["--config", DEBUG, "--data.source", "rows.csv", "--data.prefix", "this film: "]
    assert cli("fit", *job)[0] == 0
    checkpoint = ["--ckpt_path", "logs/debug/version_0/checkpoints/best.ckpt"]

    def predict(*arguments, text="left right"):
        status, out, err = cli("predict", *checkpoint, "--output", "-", *arguments, stdin=text)
        assert status == 0, err
        return json.loads(out)["probabilities"]

    stored = predict()
    assert stored == predict("--data.prefix", "this film: ")
    assert stored == predict("--data.prefix", "", text="this film: left right")
    assert stored != predict("--data.prefix", "")
    losses = []
    for arguments in ([], ["--data.prefix", ""]):
        out = cli("test", *checkpoint, *arguments)[1]
        losses.append(json.loads((Path(out.split()[-1]) / "metrics.json").read_text())["test/loss"])
    fitted = json.loads(Path("logs/debug/version_0/metrics.json").read_text())
    assert losses[0] == fitted["test/loss"] != losses[1]


def test_an_explicit_value_beats_the_checkpoint(fitted, cli, tmp_path):
    other = tmp_path / "other.csv"
    other.write_text(
        "review,stars\n" + "bright warm,good\n" * 20 + "grim,bad\n" * 19 + "plain,so\n" * 20
    )
    arguments = [
        "--data.source",
        f"{{test: {other}}}",
        "--task.text",
        "review",
        "--task.label",
        "stars",
    ]
    _, out, err = cli("test", "--ckpt_path", fitted[0] / "checkpoints/best.ckpt", *arguments)
    assert (
        json.loads((Path(out.split()[-1]) / "metrics.json").read_text())["test/accuracy"] > 0.9
    ), err


def test_another_file_is_scored_as_a_whole(fitted, cli, tmp_path):
    lines = ["bright warm,good"] * 29 + ["grim,good"] + ["plain,so"] * 10
    (tmp_path / "other.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    _, out, err = cli(
        "test", "--ckpt_path", fitted[0] / "checkpoints/best.ckpt", "--data.source", "other.csv"
    )
    accuracy = json.loads((Path(out.split()[-1]) / "metrics.json").read_text())["test/accuracy"]
    assert accuracy * 40 == pytest.approx(round(accuracy * 40), abs=1e-4), (
        err
    )  # of 40 rows, not of a tenth
    assert accuracy >= 38 / 40 - 1e-6


def test_the_checkpoint_holds_nothing_but_plain_values(fitted):
    checkpoint = torch.load(fitted[0] / "checkpoints/best.ckpt", weights_only=True)
    assert checkpoint["job"]["task"]["labels"] == ["bad", "good", "so"]
    assert checkpoint["job"]["config"]["model"]["pooling"]["class_path"].endswith("MeanPooling")
    assert "val/accuracy" in checkpoint["job"]["metrics"]


def test_tensorboard_has_curves_matrix_wrong_answers_config_and_hparams(fitted):
    tags = [
        EventAccumulator(str(path)).Reload().Tags() for path in sorted(fitted[0].glob("events*"))
    ]
    scalars = {tag for found in tags for tag in found["scalars"]}
    tensors = {tag for found in tags for tag in found["tensors"]}
    images = {tag for found in tags for tag in found["images"]}
    train = {
        f"train/{name}" for name in ("loss", "lr", "grad_norm", "tokens_per_second", "padding")
    }
    assert (
        train
        | {
            "val/accuracy",
            "val/f1",
            "val/loss",
            "test/accuracy",
        }
        <= scalars
    )
    assert {"val/confusion_matrix", "test/confusion_matrix"} <= images
    assert {"val/wrong/text_summary", "test/wrong/text_summary", "config/text_summary"} <= tensors
    assert any("_hparams_/session_start_info" in found["tensors"] for found in tags) or any(
        EventAccumulator(str(path)).Reload().summary_metadata.get("_hparams_/session_start_info")
        for path in fitted[0].glob("events*")
    )


@pytest.mark.slow  # tests/test_resume.py has the quick cases
@pytest.mark.parametrize("steps", [3, 5, 13])  # of 5 an epoch, 4 epochs
def test_an_interrupted_fit_goes_on_to_the_same_weights(cli, rows, tmp_path, monkeypatch, steps):
    arguments = ["fit", "--config", DEBUG, "--data.source", rows, "--trainer.max_epochs", 4]
    cli(*arguments)
    whole = torch.load(tmp_path / "logs/debug/version_0/checkpoints/last.ckpt", weights_only=True)
    calls = []
    step = app.TextModule.training_step

    def interrupted(self, batch, batch_idx):
        calls.append(batch_idx)
        if len(calls) == steps:
            signal.raise_signal(signal.SIGINT)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(app.TextModule, "training_step", interrupted)
    status, _, err = cli(*arguments)
    assert status == 130
    last = "logs/debug/version_1/checkpoints/last.ckpt"
    assert f"resume with: python cli.py fit --ckpt_path {last}" in err
    status, out, err = cli("fit", "--ckpt_path", last)
    assert status == 0, err
    assert out.splitlines()[-1] == "wrote logs/debug/version_1"
    resumed = torch.load(tmp_path / last, weights_only=True)
    assert resumed["global_step"] == whole["global_step"] == 20
    for name, weight in whole["state_dict"].items():
        assert torch.equal(weight, resumed["state_dict"][name]), name


def test_a_fit_interrupted_in_a_validation_scores_the_whole_of_it(cli, rows, tmp_path, monkeypatch):
    """Three batches a validation, two epochs; the signal comes in the second batch of the first."""
    arguments = ["fit", "--config", DEBUG, "--data.source", rows, "--data.batch_size", 3]
    arguments += ["--trainer.max_epochs", 2]
    status, out, err = cli(*arguments)
    assert status == 0, err
    whole = json.loads((tmp_path / out.split()[-1] / "metrics.json").read_text())
    feed, calls = Evaluation.feed, []

    def interrupted(self, *given):
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGTERM)
        feed(self, *given)

    monkeypatch.setattr(Evaluation, "feed", interrupted)
    assert cli(*arguments)[0] == 143
    (last,) = tmp_path.glob("logs/debug/version_1-batch_size=3/checkpoints/last.ckpt")
    status, out, err = cli("fit", "--ckpt_path", last)
    assert status == 0, err
    assert json.loads((tmp_path / out.split()[-1] / "metrics.json").read_text()) == whole


def test_a_fit_resumes_from_the_checkpoint_before_a_damaged_one(fitted, cli, tmp_path):
    folder = fitted[0] / "checkpoints"
    whole = torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
    (folder / "last.ckpt").write_bytes((folder / "last.ckpt").read_bytes()[:9999])
    (folder / "best.ckpt.part").write_bytes(b"of a killed run")
    last = "logs/debug/version_0/checkpoints/last.ckpt"
    status, out, err = cli("fit", "--ckpt_path", last)
    assert status == 0, err
    assert err.startswith(f"warning: ckpt_path={last}: damaged or incomplete")
    assert err.endswith(f"resuming from {last.replace('last', 'last.prev')} instead\n")
    assert out.splitlines()[-1] == "wrote logs/debug/version_0"
    assert not list(folder.glob("*.part"))
    for name, weight in torch.load(folder / "last.ckpt", weights_only=True)["state_dict"].items():
        assert torch.equal(weight, whole[name]), name


def test_dropout_is_active_in_fit(cli, rows, monkeypatch):
    differences = []
    step = app.TextModule.training_step

    def twice(self, batch, batch_idx):
        assert all(module.training for module in self.network.modules())
        differences.append((self.network(batch) - self.network(batch)).abs().max().item())
        return step(self, batch, batch_idx)

    monkeypatch.setattr(app.TextModule, "training_step", twice)
    cli("fit", "--config", DEBUG, "--data.source", rows, "--trainer.max_epochs", 2)
    assert len(differences) == 10
    assert min(differences) > 1e-4


def test_pairs_of_texts_are_trained_and_answered(cli, tmp_path):
    lines = [
        f'"{a}","{b}",{"same" if a == b else "other"}'
        for a in WORDS
        for b in WORDS
        for _ in range(8)
    ]
    (tmp_path / "pairs.csv").write_text("\n".join(["left,right,label", *lines]) + "\n")
    arguments = ["--data.source", "pairs.csv", "--task.text", "[left, right]"]
    assert cli("fit", "--config", DEBUG, *arguments)[0] == 0
    checkpoint = "logs/debug/version_0/checkpoints/best.ckpt"
    status, out, err = cli(
        "predict", "--ckpt_path", checkpoint, "--output", "-", stdin="good\tgood\ngood\tbad\n"
    )
    answers = [json.loads(line) for line in out.splitlines()]
    assert status == 0, err
    assert [(answer["left"], answer["right"]) for answer in answers] == [
        ("good", "good"),
        ("good", "bad"),
    ]
    assert set(answers[0]["probabilities"]) == {"same", "other"}


def test_several_labels_for_a_text_are_trained_and_answered(cli, tmp_path):
    rng = random.Random(0)
    rows = [{"text": " ".join(chosen) or "none", "labels": chosen} for chosen in
            ([name for name in WORDS if rng.random() < 0.5] for _ in range(200))]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = [
        "--task",
        "MultiLabelClassification",
        "--task.label",
        "labels",
        "--task.class_weights",
        "balanced",
    ]
    data = ["--task.label_smoothing", "0.1", "--data.source", "rows.jsonl"]
    status, out, err = cli(
        "fit",
        "--config",
        DEBUG,
        *task,
        *data,
        "--trainer.max_epochs",
        15,
        "--model.recipe.lr",
        4e-3,
    )
    assert status == 0, err
    folder = Path(out.split()[-1])
    assert json.loads((folder / "metrics.json").read_text())["test/f1"] > 0.9
    checkpoint = folder / "checkpoints/best.ckpt"
    _, out, err = cli(
        "predict", "--ckpt_path", checkpoint, "--output", "-", stdin="good so\nnone\nbad\n"
    )
    assert [json.loads(line)["labels"] for line in out.splitlines()] == [
        ["good", "so"],
        [],
        ["bad"],
    ], err


def test_added_tokens_live_on_in_the_checkpoint(cli, rows, tmp_path):
    rows.write_text(rows.read_text() + "a brightwarm [S1] day,good\n" * 20)
    added = ["--data.add_tokens", "[brightwarm]", "--data.add_special_tokens", "['[S1]']"]
    assert cli("fit", "--config", DEBUG, "--data.source", rows, *added)[0] == 0
    path = tmp_path / "logs/debug/version_0/checkpoints/best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    tokenizer = restore_tokenizer(checkpoint["job"]["tokenizer"])
    assert tokenizer.tokenize("a brightwarm [S1] day") == ["a", "brightwarm", "[S1]", "day"]
    weight = checkpoint["state_dict"]["network.encoder.model.embeddings.word_embeddings.weight"]
    assert len(weight) == len(tokenizer)
    status, out, err = cli(
        "predict", "--ckpt_path", path, "--output", "-", stdin="a brightwarm [S1] day\n"
    )
    assert (status, len(out.splitlines())) == (0, 1), err


@pytest.mark.parametrize("freeze", ["all", "embeddings", 1])
def test_frozen_weights_stay_as_they_were(cli, rows, tmp_path, freeze):
    arguments = ["fit", "--config", DEBUG, "--data.source", rows, "--model.encoder.freeze", freeze]
    arguments += ["--model.recipe.layer_decay", 0.9, "--trainer.max_steps"]
    status, out, err = cli(*arguments, 1)
    assert status == 0, err
    last = tmp_path / out.split()[-1] / "checkpoints/last.ckpt"
    one = torch.load(last, weights_only=True)["state_dict"]
    _, out, _ = cli(*arguments, 4)
    last = tmp_path / out.split()[-1] / "checkpoints/last.ckpt"
    four = torch.load(last, weights_only=True)["state_dict"]
    kept = {name for name in one if torch.equal(one[name], four[name])}
    prefixes = {
        "all": ("network.encoder.",),
        "embeddings": ("network.encoder.model.embeddings.",),
    }.get(freeze, ("network.encoder.model.embeddings.", "network.encoder.model.encoder.layer.0."))
    assert kept == {name for name in one if name.startswith(prefixes)}


def test_a_bar_is_shown_where_it_is_asked_for_or_there_is_a_terminal(cli, rows):
    for value, shown in (("true", True), ("null", False), ("false", False)):
        arguments = (
            "--data.source",
            rows,
            "--trainer.enable_progress_bar",
            value,
            "--trainer.max_steps",
            2,
        )
        _, out, err = cli("fit", "--config", DEBUG, *arguments)
        assert ("loss=" in out + err) is shown
