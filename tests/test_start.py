"""What a training starts from: other data are no resumption, a checkpoint's weights, 3 epochs."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from one_loop import ONE_LOOP

from litpool.loops.lightning import TextModule

LOOPS = ("fit", "fit_hf", "fit_plain")


@pytest.fixture
def start(monkeypatch):
    """The weights with which training starts, filled in by a training."""
    weights = {}
    build = TextModule.build

    def record(self, device):
        network = build(self, device)
        weights.update({name: value.clone() for name, value in network.state_dict().items()})
        return network

    monkeypatch.setattr(TextModule, "build", record)
    return weights


def write(path, labels):
    words = "bad dull film fine good great play poor".split()
    texts = [f"{first} [S1] {second} is not the {first}" for first in words for second in words]
    rows = [f"{text},{labels[n % len(labels)]}" for n, text in enumerate(texts)]
    path.write_text("\n".join(["text,label", *rows, ""]))
    return path


def weights_of(path):
    state = torch.load(path, weights_only=True)["state_dict"]
    return {name.removeprefix("network."): value for name, value in state.items()}


@pytest.mark.parametrize("command", LOOPS)
def test_a_run_resumes_on_its_own_rows_only(command, train, cli, csv_file, tmp_path):
    folder = train(command, "--trainer.max_epochs", 1)["folder"]
    last = folder / "checkpoints/last.ckpt"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for labels in (["bad", "good"], ["1", "2", "3"]):
        other = write(tmp_path / "other.csv", labels)
        status, out, err = cli(command, "--ckpt_path", last, "--data.source", other)
        assert (status, out) == (2, "")
        assert err.count("\n") == 1
        assert f"data.source={other}: the training rows are not those" in err
        assert "--init_from" in err
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    moved = tmp_path / "elsewhere.csv"
    shutil.copy(csv_file, moved)
    more = ("--data.source", moved, "--trainer.max_epochs", 2)
    status, _, err = cli(command, "--ckpt_path", last, *more)
    assert status == 0, err
    assert torch.load(last, weights_only=True)["global_step"] == 10
    assert yaml.safe_load((folder / "config.yaml").read_text())["data"]["source"] == str(moved)


@pytest.mark.parametrize("command", ONE_LOOP)
def test_a_checkpoint_without_a_fingerprint_still_resumes(command, train, cli, tmp_path):
    folder = train(command, "--trainer.max_epochs", 1)["folder"]
    last = folder / "checkpoints/last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    assert len(checkpoint["job"].pop("rows")) == 32
    torch.save(checkpoint, last)
    status, _, err = cli(command, "--ckpt_path", last, "--trainer.max_epochs", 2)
    assert status == 0, err


@pytest.fixture
def first(train, tmp_path):
    """A finished run with added tokens: the path of its best checkpoint."""
    rows = write(tmp_path / "first.csv", ["bad", "good"])
    added = ("--data.add_special_tokens", "['[S1]']", "--model.pooling", "AttentionPooling")
    folder = train("fit_plain", "--data.source", rows, *added)["folder"]
    return folder / "checkpoints/best.ckpt"


def test_all_loops_start_from_the_same_weights(first, job, cli, start, csv_file, tmp_path):
    stored = weights_of(first)
    starts = []
    options = ["--data.source", csv_file, "--trainer.accelerator", "cpu", "--trainer.max_steps", 1]
    for command in LOOPS:
        status, out, err = cli(command, "--init_from", first, *options)
        assert status == 0, err
        assert f"starting from {first}: encoder and pooling are kept; the head is kept" in out
        starts.append(dict(start))
        written = torch.load(
            tmp_path / out.split()[-1] / "checkpoints/last.ckpt", weights_only=True
        )
        config = written["job"]["config"]
        assert config["model"]["encoder"]["name"] == "bert"
        assert config["model"]["pooling"]["class_path"] == "AttentionPooling"
        assert config["data"]["add_special_tokens"] == ["[S1]"]
        assert b"[S1]" in written["job"]["tokenizer"]["tokenizer.json"]
        assert written["job"]["new_ids"] == torch.load(first, weights_only=True)["job"]["new_ids"]
        assert written["global_step"] == 1
    for weights in starts:
        assert weights.keys() == stored.keys()
        for name, value in stored.items():
            assert torch.equal(weights[name], value), name


def test_other_labels_get_a_new_head_the_same_in_all_loops(first, cli, start, tmp_path):
    other = write(tmp_path / "other.csv", ["1", "2", "3"])
    stored = weights_of(first)
    heads = []
    options = ["--data.source", other, "--trainer.accelerator", "cpu", "--trainer.max_steps", 1]
    for command in LOOPS:
        status, out, err = cli(command, "--init_from", first, *options)
        assert status == 0, err
        assert "the head is new: the labels were bad, good, and are 1, 2, 3" in out
        for name, value in stored.items():
            if not name.startswith("head."):
                assert torch.equal(start[name], value), name
        heads.append(start["head.1.weight"].clone())
    assert heads[0].shape == (3, 32)
    assert torch.equal(heads[0], heads[1])
    assert torch.equal(heads[0], heads[2])


def test_another_pooling_is_new_and_said_so(first, cli, csv_file, start):
    options = ["--data.source", csv_file, "--trainer.accelerator", "cpu", "--trainer.max_steps", 1]
    pooling = ["--model.pooling", "MaxPooling"]
    status, out, err = cli("fit", "--init_from", first, *options, *pooling)
    assert status == 0, err
    assert "the pooling is new: MaxPooling, not AttentionPooling; the head is kept" in out
    assert torch.equal(start["head.1.weight"], weights_of(first)["head.1.weight"])


def config_of(tmp_path, out):
    return yaml.safe_load((tmp_path / out.split()[-1] / "config.yaml").read_text())


def test_length_and_prefix_are_those_of_the_checkpoint_unless_set(train, cli, csv_file, tmp_path):
    tokens = ("--data.max_length", 24, "--data.prefix", "query: ")
    old = train("fit_plain", *tokens)["folder"] / "checkpoints/best.ckpt"
    start = ["fit", "--init_from", old, "--data.source", csv_file, "--trainer.max_steps", 1]
    start += ["--trainer.accelerator", "cpu"]
    status, out, err = cli(*start)
    assert status == 0, err
    assert 'from the checkpoint: data.max_length 24, data.prefix "query: "' in out
    taken = config_of(tmp_path, out)["data"]
    assert (taken["max_length"], taken["prefix"]) == (24, "query: ")

    config = tmp_path / "length.yaml"
    config.write_text("data: {max_length: 16}\n")
    status, out, err = cli(*start, "--config", config, "--data.prefix", "null")
    assert status == 0, err
    assert "data.max_length is 16, not the checkpoint's 24" in out
    assert 'data.prefix is null, not the checkpoint\'s "query: "' in out
    kept = config_of(tmp_path, out)["data"]
    assert (kept["max_length"], kept["prefix"]) == (16, None)


def test_a_prefix_of_other_columns_is_not_taken(train, cli, csv_file, tmp_path):
    old = (
        train("fit_plain", "--data.prefix", "{text: 'query: '}")["folder"] / "checkpoints/best.ckpt"
    )
    other = tmp_path / "other.csv"
    other.write_text(Path(csv_file).read_text().replace("text", "review", 1))
    start = ["fit", "--init_from", old, "--data.source", other, "--task.text", "review"]
    status, out, err = cli(*start, "--trainer.max_steps", 1, "--trainer.accelerator", "cpu")
    assert status == 0, err
    assert config_of(tmp_path, out)["data"]["prefix"] is None
    assert 'data.prefix is null, not the checkpoint\'s {"text": "query: "}' in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--model.encoder.name bert", "model.encoder.name=bert: with --init_from, encoder and"),
        ("--data.add_tokens [a]", "data.add_tokens=[a]: with --init_from"),
        (
            "--model.encoder.freeze 3",
            "model.encoder.freeze=3: use none, all, embeddings, or 1",
        ),
        ("--ckpt_path x.ckpt", "starts a new run, and --ckpt_path resumes one"),
        ("--init_from nothing.ckpt", "init_from=nothing.ckpt: no such file"),
    ],
)
def test_what_contradicts_the_checkpoint_is_refused(first, cli, csv_file, arguments, said):
    data = ["--data.source", csv_file]
    status, _, err = cli("fit", "--init_from", first, *data, *arguments.split())
    assert status == 2
    assert said in err
    assert err.count("\n") == 1


def test_a_checkpoint_may_not_name_other_classes(first, cli, csv_file):
    checkpoint = torch.load(first, weights_only=True)
    checkpoint["job"]["config"]["model"]["pooling"] = {"class_path": "os.system"}
    torch.save(checkpoint, first)
    status, _, err = cli("fit", "--init_from", first, "--data.source", csv_file)
    assert status == 2
    assert "os.system: not allowed here" in err


@pytest.mark.parametrize("command", ONE_LOOP)
def test_without_a_number_of_epochs_a_run_has_three(command, cli, job, tmp_path):
    position = job.index("--trainer.max_epochs")
    without = job[:position] + job[position + 2 :]
    status, out, err = cli(command, *without)
    assert status == 0, err
    assert out.startswith("training for 3 epochs, since trainer.max_epochs is not set\n")
    last = tmp_path / out.split()[-1] / "checkpoints/last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 3 * 5
    status, out, err = cli(command, *without, "--trainer.max_steps", 2)
    assert status == 0, err
    assert "training for" not in out
    last = tmp_path / out.split()[-1] / "checkpoints/last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 2


@pytest.mark.parametrize("epochs", [[], ["--trainer.max_epochs", "-1"]])
def test_a_limit_of_time_needs_no_epochs(epochs, cli, job):
    position = job.index("--trainer.max_epochs")
    without = job[:position] + job[position + 2 :]
    limited = [*without, *epochs, "--trainer.max_time", "00:00:00:02"]
    status, out, err = cli("fit", *limited)
    assert (status, out) == (2, "")
    assert "the learning rate schedule needs a number of steps" in err
    constant = ["--model.recipe.schedule", "constant", "--model.recipe.warmup", "0"]
    status, out, err = cli("fit", *limited, *constant)
    assert status == 0, err
    assert "training for" not in out


def test_a_run_that_nothing_ends_is_refused(cli, job):
    for command in LOOPS:
        status, _, err = cli(command, *job, "--trainer.max_epochs", "-1")
        assert status == 2
        assert "trainer.max_epochs=-1: nothing ends the run" in err
