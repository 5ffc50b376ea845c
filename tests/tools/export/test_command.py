"""The commands `export` and `verify`: what they write, and what they refuse in one line."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import litpool
from litpool.tools.export import command, quantization, scores
from litpool.tools.export.scores import leave_out

ROOT = Path(__file__).parents[3]
OUT = "--output out --format huggingface".split()


def refused(result, *parts):
    status, _, err = result
    assert status == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err


def test_an_export_is_verified_and_nothing_else_is_written(cli, save, tmp_path):
    status, out, err = cli("export", "--ckpt_path", save(), *OUT)
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == "wrote out"
    assert sorted(path.name for path in Path().iterdir()) == ["best.ckpt", "out"]
    status, out, err = cli("verify", "out")
    assert (status, err) == (0, "")
    assert out.startswith("verified    32 texts")


def test_the_card_says_what_the_export_is(cli, save, csv_file):
    cli("export", "--ckpt_path", save(), *OUT, "--license", "apache-2.0")
    card = Path("out/README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["license"] == "apache-2.0"
    assert front["pipeline_tag"] == "feature-extraction"  # a classifier's head would be random
    for part in ("pooling: MeanPooling", "labels: bad, fair, good", "data: reviews.csv", "torch "):
        assert part in card
    assert str(Path(csv_file).parent) not in card + Path("out/golden.json").read_text()


def test_a_stock_model_and_an_encoder_have_different_tags_on_the_hub(cli, save):
    cli("export", "--ckpt_path", save("Classification", "PoolerOutput"), *OUT)
    card = Path("out/README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["pipeline_tag"] == "text-classification"


@pytest.mark.parametrize(
    "task", [pytest.param("Classification", marks=pytest.mark.slow), "Similarity"]
)
def test_an_encoder_alone_answers_with_the_last_program_of_its_card(cli, save, task):
    path = save(task)
    cli("export", "--ckpt_path", path, *OUT)
    program = re.findall(r"```python\n(.*?)```", Path("out/README.md").read_text(), re.DOTALL)[-1]
    out = subprocess.run([sys.executable, "-c", program], cwd="out", capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    original = litpool.load(path, "cpu")
    if task == "Similarity":
        numbers = re.sub(r"[][]", " ", out.stdout).split()
        expected = original.encode(["a good film"])[0]
        assert np.array(numbers, dtype=float) == pytest.approx(expected, abs=1e-5)
    else:
        assert ast.literal_eval(out.stdout) == original.predict(["a good film"])


def test_the_card_and_fit_give_the_accuracy_the_same_interval(cli):
    status, out, err = cli("fit", "--config", str(ROOT / "configs/debug.yaml"))
    assert status == 0, err
    low, high = re.search(r"test .*95% CI ([\d.]+) to ([\d.]+)", out).groups()
    cli("export", "--ckpt_path", out.split()[-1], *OUT)
    row = re.search(
        r"\| accuracy \| .* \| ([\d.]+) to ([\d.]+) \|", Path("out/README.md").read_text()
    )
    assert [f"{float(end):.3f}" for end in row.groups()] == [low, high]


# In a process of its own: a pooling that is defined here would be part of every later study.
OWN_POOLING = """
import sys
import pytest
import litpool
from litpool import InputError, app

def cli(*arguments):
    try:
        app.main(arguments)
    except SystemExit as end:
        return end.code
    return 0

debug, best = sys.argv[1], "logs/debug/own/checkpoints/best.ckpt"
assert cli("fit", "--config", debug, "--name", "own", "--model.pooling", "mine.First") == 0
export = ["export", "--ckpt_path", best, "--format", "huggingface", "--output", "out"]
assert cli(*export) == 2
assert cli(*export, "--trust", "mine") == 0
assert cli("verify", "out") == 2
assert cli("verify", "out", "--trust", "mine") == 0
answers = [litpool.load(p, "cpu", trust=["mine"]).predict(["draw a line"]) for p in (best, "out")]
ours, theirs = (answer[0]["probabilities"] for answer in answers)
assert ours == pytest.approx(theirs, abs=2e-4)
for path in (best, "out"):
    with pytest.raises(InputError, match=r'not allowed here.*in Python, trust=\\["mine"\\]'):
        litpool.load(path)
"""


@pytest.mark.slow
def test_an_export_with_a_pooling_of_the_users_own_is_verified_and_loaded_with_trust(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from litpool.model.pooling import Pooling\n\n\n"
        "class First(Pooling):\n"
        "    def forward(self, hidden_states, *_, **__):\n"
        "        return hidden_states[-1][:, 0]\n"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT / "src")])
    done = subprocess.run(
        [sys.executable, "-c", OWN_POOLING, str(ROOT / "configs/debug.yaml")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("add --trust mine") == 2


def test_without_data_the_card_says_why_there_are_no_metrics(cli, save):
    path = save(source="missing.csv")
    status, _, err = cli("export", "--ckpt_path", path, *OUT)
    assert (status, err) == (0, "")
    assert "the test split cannot be read" in Path("out/README.md").read_text()


def test_an_interval_covers_the_truth_as_often_as_it_says():
    torch.manual_seed(0)
    covered = 0
    for _ in range(400):
        right = (torch.rand(200) < 0.8).double()
        _, interval = leave_out(
            lambda rows, right=right: {"accuracy": float(right[rows].mean())}, torch.arange(200)
        )["accuracy"]
        covered += interval[0] <= 0.8 <= interval[1]
    assert 0.92 <= covered / 400 <= 0.98


@pytest.mark.parametrize("existing", ["file", "folder"])
def test_a_folder_with_something_in_it_is_refused(cli, save, existing):
    path = save()
    if existing == "file":
        Path("out").write_text("mine")
    else:
        Path("out").mkdir()
        Path("out/notes.txt").write_text("mine")
    refused(cli("export", "--ckpt_path", path, *OUT), "output=out", "name another")


def test_an_empty_folder_is_used(cli, save):
    Path("out").mkdir()
    assert cli("export", "--ckpt_path", save(), *OUT)[0] == 0


def test_a_push_without_a_token_is_refused_before_anything_is_written(cli, save, monkeypatch):
    monkeypatch.setattr(command, "get_token", lambda: None)
    refused(cli("export", "--ckpt_path", save(), *OUT, "--push", "me/model"), "HF_TOKEN")
    assert not Path("out").exists()


def test_a_push_uploads_the_folder_to_a_private_repository(cli, save, monkeypatch):
    calls = []

    class Api:
        def create_repo(self, repository, **options):
            calls.append((repository, options))

        def upload_folder(self, repo_id, folder_path):
            calls.append((repo_id, sorted(path.name for path in Path(folder_path).iterdir())))

    monkeypatch.setattr(command, "get_token", lambda: "secret")
    monkeypatch.setattr(command, "HfApi", Api)
    status, out, _ = cli("export", "--ckpt_path", save(), *OUT, "--push", "me/model")
    assert status == 0
    assert "pushed      me/model" in out
    assert calls[0] == ("me/model", {"private": True, "exist_ok": True})
    assert {"golden.json", "README.md", "model.safetensors"} <= set(calls[1][1])


def test_8_bits_are_for_onnx_only(cli, save):
    refused(cli("export", "--ckpt_path", save(), *OUT, "--quantize", "int8"), "--format onnx")


INT8 = "--output out --format onnx --quantize int8 --scores false".split()


def test_8_bits_that_cost_more_than_a_point_are_refused(cli, save, monkeypatch):
    pytest.importorskip("onnxscript", reason="needs the extra `export`")
    predict = scores.predict

    def perfect_before(run, model, network):
        made = predict(run, model, network)
        if network is model.network:
            made.predictions = torch.eye(3)[made.labels]
        return made

    monkeypatch.setattr(scores, "predict", perfect_before)
    path = save("Classification")
    Path("out").mkdir()
    status, out, err = cli("export", "--ckpt_path", path, *INT8)
    assert (status, out) == (1, "")
    numbers = r"test accuracy 1\.0000 before, [\d.]+ after: -[\d.]+.* MB instead of [\d.]+"
    advice = "more than 1 point worse, so nothing was written"
    assert re.fullmatch(f"error: quantize=int8: {numbers}; {advice}\n", err), err
    assert sorted(map(str, Path().rglob("*"))) == ["best.ckpt", "out"]


def test_8_bits_without_a_test_split_are_refused(cli, save):
    pytest.importorskip("onnxscript", reason="needs the extra `export`")
    result = cli("export", "--ckpt_path", save(source="missing.csv"), *INT8)
    refused(result, "quantize=int8", "test split cannot be read", "cannot be measured without")
    assert sorted(map(str, Path().rglob("*"))) == ["best.ckpt"]


def test_8_bits_report_what_they_cost_and_warn_if_they_are_slow(cli, save, monkeypatch):
    pytest.importorskip("onnxscript", reason="needs the extra `export`")
    path = save("Classification")
    for least, is_slow in ((1e9, True), (0.0, False)):
        monkeypatch.setattr(scores, "LEAST_SPEED", least)
        status, out, err = cli("export", "--ckpt_path", path, *INT8)
        assert status == 0, err
        assert "int8        test accuracy" in out
        card = Path("out/README.md").read_text()
        assert ("another processor may differ" in card) is is_slow
        assert ("warning: 8 bits are" in err) is is_slow
        assert json.loads(Path("out/golden.json").read_text())["quantized"] == "int8"
        before, after = (litpool.load(p, "cpu").predict(["a good film"]) for p in (path, "out"))
        expected = pytest.approx(before[0]["probabilities"], abs=quantization.TOLERANCE)
        assert after[0]["probabilities"] == expected
        assert after != before
        shutil.rmtree("out")


def test_a_format_that_cannot_express_the_network_is_refused(cli, save):
    pytest.importorskip("sentence_transformers", reason="needs the extra `export`")
    path = save("Similarity", "MinPooling")
    options = "--output out --format sentence-transformers".split()
    refused(cli("export", "--ckpt_path", path, *options), "MinPooling", "MaxPooling")
    assert not Path("out").exists()
    assert not Path("out.part").exists()


def test_random_weights_are_refused(cli, job):
    refused(cli("export", *job, *OUT), "--ckpt_path", "random")


def test_a_checkpoint_of_another_program_is_refused(cli):
    Path("best.ckpt").write_text("not a checkpoint")
    refused(cli("export", "--ckpt_path", "best.ckpt", *OUT), "best.ckpt")


def test_an_untrained_bi_encoder_has_no_random_weights(cli, encoder_folder, tokenizer_folder):
    options = ["--model.encoder.name", encoder_folder, "--data.tokenizer", tokenizer_folder]
    options += ["--task", "Similarity", "--data.max_length", "24", "--scores", "false"]
    status, out, err = cli("export", *options, *OUT)
    assert (status, err) == (0, "")
    assert "verified" in out


def test_verify_refuses_what_is_no_export(cli, save):
    refused(cli("verify", "nowhere"), "no such folder")
    Path("empty").mkdir()
    refused(cli("verify", "empty"), "a folder that `export` wrote")
    refused(cli("verify", "http://127.0.0.1:9"), "--golden FOLDER")
    refused(cli("verify", "empty", "--golden", "empty"), "only for a URL")
    refused(cli("verify"), "target")
    cli("export", "--ckpt_path", save(), *OUT)
    golden = json.loads(Path("out/golden.json").read_text())
    Path("out/golden.json").write_text(json.dumps({**golden, "version": "0.0.1"}))
    refused(cli("verify", "out"), "written by litpool 0.0.1", "export again")


def test_a_server_that_does_not_answer_is_one_line(cli, save):
    cli("export", "--ckpt_path", save(), *OUT)
    status, _, err = cli("verify", "http://127.0.0.1:9", "--golden", "out")
    assert (status, err.count("\n")) == (1, 1)
    assert "does not answer" in err
