"""Bad input: one helpful line on stderr and exit status 2, before weights load; nothing written."""

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from test_docs import skip_without_tool

CONFIGS = Path(__file__).parent.parent / "configs"
DEBUG = str(CONFIGS / "debug.yaml")
FUNNEL = [
    "--model.encoder",
    "{name: funnel, pretrained: false, overrides: {d_model: 32}}",
    "--data.tokenizer",
    "sentence-transformers/all-MiniLM-L6-v2",
]
GOOD = "text,label\n" + "a good film,pos\na bad film,neg\n" * 10


@pytest.fixture
def refused(cli, monkeypatch, tmp_path):
    """A function that runs a command, which must be refused, and gives the one line on stderr."""

    def no_weights(*_, **__):
        raise AssertionError("weights were loaded")

    def run(*arguments, **options):
        monkeypatch.setattr(transformers.AutoModel, "from_pretrained", no_weights)
        before = sorted(tmp_path.rglob("*"))
        status, _, err = cli(*arguments, **options)
        assert status == 2, err
        assert sorted(tmp_path.rglob("*")) == before, "something was written"
        assert err.startswith("error: ")
        assert err.count("\n") == 1, err
        return err

    return run


def write(name, content):
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return name


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "rows.csv"),
        ("", "rows.csv"),
        ("text,label\n", "rows.csv"),
        (b"text,label\na good film\xff,pos\n", "UTF-8"),
        ("review,label\na good film,pos\n", "'review'"),
        (GOOD + ",pos\n", "row 22"),
        (GOOD + "a film,\n", "row 22"),
        ("text,label\n" + "1,pos\n2,neg\n" * 10, "text"),
        ("text,label\n" + "a film,pos\n" * 10, "at least 2"),
    ],
    ids=[
        "no file",
        "empty",
        "header only",
        "not UTF-8",
        "no column",
        "no text",
        "no label",
        "numbers",
        "one label",
    ],
)
def test_an_unusable_file_is_named(refused, content, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        write("rows.csv", content)
    err = refused("fit", "--config", DEBUG, "--data.source", "rows.csv")
    assert said in err
    assert "rows.csv" in err or "at least 2" in err


def test_a_label_in_test_that_train_has_not_is_named(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("train.csv", GOOD)
    write("test.csv", GOOD + "a middling film,neutral\n")
    err = refused("fit", "--config", DEBUG, "--data.source", "{train: train.csv, test: test.csv}")
    assert "'neutral'" in err
    assert "neg, pos" in err


def test_a_number_in_json_where_a_text_should_be_is_named(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"text": "a film", "label": "a"}, {"text": 7, "label": "b"}]
    write("rows.jsonl", "\n".join(json.dumps(row) for row in rows))
    err = refused("fit", "--config", DEBUG, "--data.source", "rows.jsonl")
    assert "rows.jsonl" in err
    assert "2" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config", "{trainer: {max_epoch: 1}}"], "did you mean --trainer.max_epochs?"),
        (["--config", "{model: {recipe: {lrr: 1}}}"], "did you mean --model.recipe.lr?"),
        (["--data.batch", "3"], "did you mean --data.batch_size?"),
        (
            ["--model.pooling", "MeenPooling"],
            "did you mean 'MeanPooling'? There are ClsPooling, PoolerOutput",
        ),
        (
            ["--model.pooling", "AttentionPooling", "--model.pooling.heds", "2"],
            "did you mean 'heads'?",
        ),
        (["--model.pooling", "AttentionPooling", "--model.pooling.heads", "5"], "32"),
        (["--model.pooling", "LastNPooling", "--model.pooling.n", "9"], "9"),
        (["--task", "Clasification"], "did you mean 'Classification'?"),
        (["--task.label_smoothing", "2"], "task.label_smoothing=2"),
        (["--task.class_weights", "{positiv: 2}"], "'positiv'"),
        (["--seed_everything", "-2"], "seed_everything=-2: give 0 to 4294967295"),
        (["--data.batch_size", "x"], "data.batch_size"),
        (["--data.batch_size", "0"], "data.batch_size=0"),
        (["--data.num_workers", "-1"], "data.num_workers=-1"),
        (["--trainer.gradient_clip_val", "-1"], "trainer.gradient_clip_val=-1"),
        (["--trainer.accumulate_grad_batches", "0"], "trainer.accumulate_grad_batches=0"),
        (["--trainer.overfit_batches", "2"], "data.max_rows"),
        (["--data.max_length", "513"], "512"),
        (["--config", "nothing.yaml"], "nothing.yaml"),
        (["--config", "{a: [}"], "config"),
        (["--model.recipe.schedule", "liner"], "linear"),
        (["--model.recipe.lr", "-1"], "model.recipe.lr=-1"),
        (["--model.encoder.freeze", "3"], "model.encoder.freeze=3"),
        (["--model.encoder.overrides", "{hiden_size: 3}"], "'hiden_size'"),
        (["--ckpt_path", "nothing.ckpt"], "nothing.ckpt"),
        (["--config", "{model: {recipe: {lr: null}}}"], "model.recipe.lr=null"),
        (["--task", "Similarity", "--task.temperature", "null"], "task.temperature=null"),
        (["--config", "{data: [1, 2]}"], "data=[1, 2]: give a mapping"),
        (["--config", "{data: 1e308}"], "data=1e+308: give a mapping"),
        (["--config", "{trainer: true}"], "trainer=True: give a mapping"),
        (["--config", "{trainer: -1e-9}"], "trainer=-1e-09: give a mapping"),
        (["--config", "{model: 1e308}"], "model=1e+308: give a mapping"),
        (["--config", '{model: {recipe: "a\\0b"}}'], "embedded null byte"),
        (["--task.class_weights", "{pos: .nan}"], "task.class_weights.pos=nan"),
        (["--task.class_weights", "{pos: .inf}"], "pos=inf; give a number from 0"),
        (["--task.text", "[]"], "task.text=[]: give the name of a column"),
        (["--task.label", ""], "task.label='': give the name of a column"),
        (["--data.batch_size", "1" + "0" * 30], "too large"),
        (["--model.encoder.overrides", "{hidden_size: 0}"], "hidden_size=0: give 1 or more"),
        (["--trainer.gradient_clip_val", ".nan"], "trainer.gradient_clip_val=nan"),
        (["--trainer.strategy", "DDPStrategy"], "name a class as '{class_path: DDPStrategy}'"),
        (["--trainer.accelerator", "tpu"], "torch_xla"),
        (["--trainer.val_check_interval", "1000"], "an epoch has 1 batches"),
        (["--trainer.val_check_interval", "0"], "trainer.val_check_interval=0"),
        (["--trainer.limit_predict_batches", "1"], "limit_predict_batches=1: not supported"),
        (
            ["--trainer.limit_test_batches", "0"],
            "the run would have no metrics",
        ),
        (["--trainer.max_epochs", "0"], "nothing would be trained"),
        (["--trainer.devices", "-3"], "int > 0"),
        (["--trainer.logger", "WandbLogger"], "WandbLogger: Requirement 'wandb"),
        (FUNNEL, "funnel merges tokens on the way"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_a_wrong_option_is_told_with_what_is_right(refused, arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("rows.csv", GOOD)
    assert said in refused("fit", "--config", DEBUG, "--data.source", "rows.csv", *arguments)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("task: {class_path: Classification\nmodel:\n", "line 2, column 6 is not valid YAML"),
        ("task:\n\tclass_path: Classification\n", "line 2, column 1 is not valid YAML"),
        ("model: [\n", "is not valid YAML"),
        ("seed_everything: 1\ndata: caf\u00e9".encode("latin-1"), "line 2 is not UTF-8; save it"),
        ("task: Classification".encode("utf-16"), "line 1 is not UTF-8"),
        (b"model: \x01", "not a YAML file"),
    ],
)
def test_a_broken_config_is_named_with_the_place(refused, tmp_path, content, said):
    path = tmp_path / "job.yaml"
    write(path, content)
    for option in (["--config", path], [f"--config={path}"], ["--config", DEBUG, "-c", path]):
        err = refused("fit", *option)
        assert err.startswith(f"error: config={path}: ")
        assert said in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fit", "--config", "."], "config=.: a folder; name a YAML file in it"),
        (["fit", "--config="], "config: name a YAML file, such as"),
        (
            ["fit", "--config", str(CONFIGS / "csv.yml")],
            f"config={CONFIGS}/csv.yml: no such file; did you mean {CONFIGS}/csv.yaml?",
        ),
        (
            ["fit", "--config", DEBUG, "--task.text", "Review", "Text"],
            "Text: belongs to no option; put a value with spaces in quotes",
        ),
        (["fit", "--ckpt_path="], "ckpt_path=: no such file; checkpoints are at"),
        (["predict", "--ckpt_path", "."], "ckpt_path=.: a folder; checkpoints are at"),
        (["fit", "--trainer.callbacks", "foo"], "trainer.callbacks=foo: unknown class; name one"),
        (["fit", "--trainer.callbacks", "[EarlyStoping]"], "did you mean 'EarlyStopping'?"),
    ],
)
def test_a_file_or_a_class_that_is_none_is_told_with_what_to_name(refused, arguments, said):
    assert said in refused(*arguments)


def test_a_wrong_label_column_is_not_told_to_be_the_text(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("rows.csv", GOOD)
    job = ["fit", "--config", DEBUG, "--data.source", "rows.csv"]
    said = refused(*job, "--task.label", "texts")
    assert "no column 'texts', there is ['text', 'label']; did you mean" not in said
    assert "did you mean 'label'?" in refused(*job, "--task.label", "labels")


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_a_file_that_is_no_checkpoint_is_refused(refused, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("text.ckpt", "this is no checkpoint")
    torch.save({"state_dict": {}}, "other.ckpt")
    write("half.ckpt", Path("other.ckpt").read_bytes()[:300])
    assert "damaged or incomplete" in refused(command, "--ckpt_path", "text.ckpt")
    assert "damaged or incomplete" in refused(command, "--ckpt_path", "half.ckpt")
    assert "not written by litpool" in refused(command, "--ckpt_path", "other.ckpt")


class Code:
    """What runs a function when it is unpickled."""

    def __reduce__(self):
        return open, ("pwned", "w")


@pytest.mark.parametrize("protocol", [0, 2, 4, "zip", "old"])
def test_a_pickle_that_could_run_code_is_told_as_such(refused, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if isinstance(protocol, int):
        write("bad.ckpt", pickle.dumps(Code(), protocol))
    else:
        content = {"state_dict": {}, "job": Code()}
        torch.save(content, "bad.ckpt", _use_new_zipfile_serialization=protocol == "zip")
    assert "could run code, so it was not loaded" in refused("test", "--ckpt_path", "bad.ckpt")


@pytest.mark.parametrize(
    "key", ["data.source", "data.tokenizer", "data.add_tokens", "model.encoder.name", "ckpt_path"]
)
def test_a_nul_in_a_value_is_refused(refused, key, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    value = ["a\0b"] if key == "data.add_tokens" else "a\0b"
    for part in reversed(key.split(".")):
        value = {part: value}
    write("nul.yaml", json.dumps(value))
    said = refused("fit", "--config", DEBUG, "--config", "nul.yaml")
    assert f"{key}=" in said
    assert "contains a NUL character" in said


def test_predict_without_a_checkpoint_is_refused(refused):
    assert "--ckpt_path" in refused("predict", "--input", "x.txt")


def test_pooler_output_is_refused_where_the_model_has_none(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("rows.csv", GOOD)
    Path("config.json").write_text(
        json.dumps({"model_type": "distilbert", "dim": 32, "n_heads": 4, "n_layers": 2})
    )
    arguments = [
        "--data.source",
        "rows.csv",
        "--model.encoder",
        f"{{name: {tmp_path}}}",
        "--model.pooling",
        "PoolerOutput",
    ]
    assert "PoolerOutput: distilbert has no pooler" in refused("fit", *arguments)


def test_the_shell_sees_one_line_and_exit_status_2(tmp_path):
    cli = Path(__file__).parent.parent / "cli.py"
    for arguments in (["fut"], ["fit", "--config", DEBUG, "--data.source", "nothing.csv"]):
        done = subprocess.run(
            [sys.executable, cli, *arguments], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 2
        assert re.fullmatch(r"error: .*\n", done.stderr), done.stderr


def test_predict_refuses_an_output_that_cannot_be_written(refused, cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("rows.csv", GOOD)
    assert cli("fit", "--config", DEBUG, "--data.source", "rows.csv")[0] == 0
    checkpoint = ["--ckpt_path", "logs/debug/version_0/checkpoints/best.ckpt"]
    assert "folder that exists" in refused(
        "predict", *checkpoint, "--input", "rows.csv", "--output", "new/out.jsonl"
    )
    before = Path("rows.csv").read_bytes()
    Path("link.jsonl").symlink_to("rows.csv")
    for name in ("rows.csv", str(tmp_path / "rows.csv"), "link.jsonl"):
        said = refused("predict", *checkpoint, "--input", "rows.csv", "--output", name)
        assert "is the input" in said
    assert Path("rows.csv").read_bytes() == before
    assert "leave --task out" in refused("test", *checkpoint, "--task", "MultiLabelClassification")


PAIRS = "a,b,score,kind\n" + "a film,the film,4.5,yes\nthe play,a film,0,no\n" * 10


def squad(start, question="Who wrote?"):
    """Published SQuAD JSON of four articles; the last one's answer is said to begin at `start`."""
    articles = []
    for title, offset in (("Ada", 0), ("Bea", 0), ("Cleo", 0), ("Ada again", start)):
        asked = {
            "id": f"q-{title}",
            "question": question,
            "answers": [{"text": "Ada", "answer_start": offset}],
        }
        articles.append(
            {"title": title, "paragraphs": [{"context": "Ada wrote notes.", "qas": [asked]}]}
        )
    return json.dumps({"version": "1.1", "data": articles})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            "--task Regression --task.text a --task.label score --task.score_range [0,4]",
            "row 1: 'score' is '4.5', must be a number from 0",
        ),
        ("--task Regression --task.text a --task.label kind", "'kind' is 'yes', must be a number"),
        (
            "--task Regression --task.text a --task.label score --task.score_range [4,0]",
            "give the lowest score, then the highest",
        ),
        (
            "--task Similarity --task.text [a,b] --task.label score",
            "'score' is '4.5', must be a number from 0 to 1",
        ),
        (
            "--task Similarity --task.text a --task.label score --task.score_range [0,5]",
            "pairs need two columns",
        ),
        ("--task Similarity --task.text [a,c] --task.score_range [0,5]", "no column 'c'"),
        ("--task Similarity --task.text [a,b] --task.objective softmx", "softmx"),
        (
            "--task Similarity --task.text [a,b] --task.objective contrastive --task.temperature 0",
            "give a number over 0",
        ),
        (
            "--task Similarity --task.text [a,b,kind] --task.objective cosine",
            "hard negatives are for contrastive",
        ),
        ("--task QuestionAnswering", "no column 'question'"),
    ],
)
def test_a_task_that_the_file_does_not_fit_is_refused(
    refused, arguments, said, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write("pairs.csv", PAIRS)
    assert said in refused(
        "fit", "--config", DEBUG, "--data.source", "pairs.csv", *arguments.split()
    )


def test_a_label_that_softmax_does_not_know_is_named(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("train.csv", PAIRS)
    write("test.csv", PAIRS + "a film,a play,1,maybe\n")
    arguments = [
        "--data.source",
        "{train: train.csv, test: test.csv}",
        "--task",
        "Similarity",
        "--task.text",
        "[a, b]",
    ]
    message = refused(
        "fit", "--config", DEBUG, *arguments, "--task.objective", "softmax", "--task.label", "kind"
    )
    assert "the test split has the label 'maybe' in column 'kind'" in message


def test_questions_that_cannot_be_used_are_named(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["--config", DEBUG, "--data.source", "squad.json", "--task", "QuestionAnswering"]
    write("squad.json", squad(start=2))
    message = refused("fit", *arguments)
    assert "Ada again" in message
    assert "q-Ada again" in message
    write("squad.json", squad(start=0).replace('[{"text": "Ada", "answer_start": 0}]', "[]", 1))
    assert "task.no_answer" in refused("fit", *arguments)
    write("squad.json", squad(start=0, question="who " * 80))
    assert "data.max_length" in refused("fit", *arguments)
    write("squad.json", squad(start=0))
    assert "leave it out" in refused("fit", *arguments, "--model.pooling", "ClsPooling")
    message = refused("fit", *arguments, "--task.metric", "rouge")
    assert "metric=rouge: give 'squad', 'korquad'" in message


@pytest.mark.parametrize("command", ["predict", "test", "validate", "fit"])
def test_the_pooling_of_a_checkpoint_is_not_swapped(cli, command, tmp_path, monkeypatch):
    """Max pooling has the weights of mean pooling: the answers would be silently wrong."""
    monkeypatch.chdir(tmp_path)
    write("rows.csv", GOOD)
    assert cli("fit", "--config", DEBUG, "--data.source", "rows.csv")[0] == 0
    name = "last" if command == "fit" else "best"
    checkpoint = f"logs/debug/version_0/checkpoints/{name}.ckpt"
    status, _, err = cli(command, "--ckpt_path", checkpoint, "--model.pooling", "MaxPooling")
    message = "model.pooling=MaxPooling: the checkpoint's is MeanPooling; leave it out"
    assert (status, err) == (2, f"error: {message}\n")


def test_weights_of_another_network_are_refused_in_one_line(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("rows.csv", GOOD)
    assert cli("fit", "--config", DEBUG, "--data.source", "rows.csv")[0] == 0
    checkpoint = "logs/debug/version_0/checkpoints/best.ckpt"
    saved = torch.load(checkpoint, weights_only=True)
    saved["state_dict"].pop("network.head.1.bias")
    torch.save(saved, checkpoint)
    status, _, err = cli("predict", "--ckpt_path", checkpoint, "--input", "rows.csv")
    assert status == 2
    assert re.fullmatch(
        r"error: ckpt_path=\S+: its weights do not fit this network .*; leave out --model\n", err
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--data.add_tokens", "covid"],
            "data.add_tokens=covid: give a list such as [a, b] or null",
        ),
        (["--data.batch_size", "x"], "data.batch_size=x: give a whole number"),
        (["--model.encoder.overrides", "x"], "overrides=x: give a mapping such as {key: value}"),
        (
            ["--model.recipe.schedule", "x"],
            "model.recipe.schedule=x: give 'linear', 'cosine', 'constant'",
        ),
        (["--trainer.precision", "x"], "trainer.precision=x: give 64, 32, 16 or"),
        (
            ["--model.pooling.heads", "3"],
            "model.pooling.heads: only AttentionPooling has this option",
        ),
        (
            ["--model.pooling.head", "3"],
            "model.pooling.head: unknown option; did you mean 'heads'?",
        ),
    ],
)
def test_a_value_of_another_type_is_told_in_plain_words(refused, arguments, said):
    assert said in refused("fit", "--config", DEBUG, *arguments)


def test_a_class_that_a_study_does_not_know_is_told_with_the_nearest(refused):
    skip_without_tool("study")
    said = refused("study", "--config", DEBUG, "--study.tuned", "[MeenPooling]")
    assert "study.tuned=MeenPooling: unknown class; did you mean 'MeanPooling'?" in said
    assert "study.arms=frozn: give 'frozen', 'finetuned'" in refused(
        "study", "--study.arms", "[frozn]"
    )
