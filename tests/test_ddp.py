"""Two processes on CPU (gloo) train to the same weights and metrics as one."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
WORDS = {
    "good": "bright warm lovely fine happy",
    "bad": "grim cold awful poor sad",
    "so": "plain usual even mild grey",
}
TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
SHARDED = [*TWO[:-1], "{class_path: cpu_fsdp.CpuFSDP}", "--trust", "cpu_fsdp"]
OVERRIDES = (
    "{hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, intermediate_size: 64, "
    "hidden_dropout_prob: 0.0, attention_probs_dropout_prob: 0.0}"
)
JOB = ["fit", "--config", ROOT / "configs/debug.yaml", "--data.source", "."]
JOB += [
    "--trainer.max_epochs",
    "3",
    "--task.dropout",
    "0.0",
    "--model.encoder.overrides",
    OVERRIDES,
]


def run(folder, *arguments):
    """Run a command in a process of its own; return the path that it prints last."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "cli.py"), *map(str, arguments)]
    process = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return folder / process.stdout.split()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["first", "second"])
def test_if_one_process_is_killed_the_other_ends_and_the_run_resumes(victim, tmp_path):
    write_rows(tmp_path / "rows.csv", 600, 0)
    options = ["--data.source", "rows.csv", "--data.max_rows", "null", "--trainer.max_epochs", 100]
    command = [ROOT / "cli.py", "fit", "--config", ROOT / "configs/debug.yaml", *options, *TWO]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    last = tmp_path / "logs/debug/version_0/checkpoints/last.ckpt"
    wait_until(last.exists, 120)
    (second,) = map(int, subprocess.check_output(["pgrep", "-P", str(first.pid)]).split())
    os.kill(first.pid if victim == "first" else second, signal.SIGKILL)
    wait_until(lambda: first.poll() is not None and not is_alive(second), 60)
    _, err = first.communicate()
    assert "Traceback" not in err
    assert "another process of this run has ended" in err
    if victim == "second":
        assert first.returncode == 1
    done = run(tmp_path, "fit", "--ckpt_path", last, "--trainer.max_epochs", 1)
    assert (done / "metrics.json").exists()


def wait_until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def write_rows(path, count, seed):
    rng = random.Random(seed)
    with open(path, "w") as file:
        file.write("text,label\n")
        for number in range(count):
            label = list(WORDS)[number % 3]
            words = rng.choices(WORDS[label].split(), k=rng.randint(1, 12))
            file.write(f"{' '.join(words)},{label}\n")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The same training by one process and by two that share its batches; the test set is odd."""
    folder = tmp_path_factory.mktemp("ddp")
    for split, count in {"train": 96, "validation": 31, "test": 33}.items():
        write_rows(folder / f"{split}.csv", count, count)
    one = run(folder, *JOB, "--data.batch_size", "32")
    two = run(folder, *JOB, "--data.batch_size", "16", *TWO)
    return folder, one, two


def weights(run, name="last"):
    return torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True)["state_dict"]


def check_close(run, other):
    for name in ("best", "last"):
        assert weights(run, name).keys() == weights(other, name).keys()
        for key, weight in weights(run, name).items():
            torch.testing.assert_close(weight, weights(other, name)[key], atol=1e-5, rtol=0)


def test_two_processes_train_to_the_same_weights(trained):
    _, one, two = trained
    check_close(one, two)


@pytest.mark.slow
def test_two_processes_that_shard_the_model_do_so_too(trained, monkeypatch):
    """FSDP: train, gather the shards in whole checkpoints, score the best, resume, predict."""
    folder, one, _ = trained
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}")
    sharded = run(folder, *JOB, "--data.batch_size", "16", *SHARDED)
    check_close(one, sharded)
    scores = metrics(sharded)
    assert scores == pytest.approx(metrics(one), abs=1e-5)
    last = weights(sharded)
    previous = sharded / "checkpoints/last.prev.ckpt"
    assert torch.load(previous, weights_only=True)["global_step"] == 6
    run(folder, "fit", "--ckpt_path", previous, "--trust", "cpu_fsdp")
    assert all(weight.equal(last[name]) for name, weight in weights(sharded).items())
    assert metrics(sharded) == scores
    answers = []
    for number, devices in enumerate(([], SHARDED)):
        best = ["--ckpt_path", sharded / "checkpoints/best.ckpt", "--trust", "cpu_fsdp"]
        options = ["--input", "test.csv", "--output", f"sharded-{number}.jsonl", *devices]
        file = run(folder, "predict", *best, *options)
        answers.append([json.loads(line)["label"] for line in file.read_text().splitlines()])
    assert answers[0] == answers[1]


@pytest.mark.slow  # half a minute of starting processes
def test_two_processes_report_exactly_the_metrics_of_one(trained):
    folder, one, _ = trained
    checkpoint = one / "checkpoints/best.ckpt"
    command = ["test", "--ckpt_path", checkpoint]
    results = [metrics(run(folder, *command, *devices)) for devices in ([], TWO)]
    losses = [result.pop("test/loss") for result in results]
    assert results[0] == results[1]
    assert results[0]["test/accuracy"] > 0.5
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)  # different padding, different rounding


@pytest.mark.slow  # half a minute of starting processes
def test_two_processes_predict_what_one_does_in_input_order(trained):
    folder, one, _ = trained
    checkpoint = one / "checkpoints/best.ckpt"
    command = ["predict", "--ckpt_path", checkpoint, "--input", "test.csv"]
    answers = []
    for number, devices in enumerate(([], TWO), start=1):
        file = run(folder, *command, "--output", f"{number}.jsonl", *devices)
        answers.append([json.loads(line) for line in file.read_text().splitlines()])
    assert len(answers[0]) == 33
    for left, right in zip(*answers, strict=True):
        assert (left["text"], left["label"]) == (right["text"], right["label"])
        assert left["probabilities"] == pytest.approx(right["probabilities"], abs=2e-4)  # 4 digits


SCORE = "--task.label score --task.score_range [0,5]"
TASKS = {
    "regression": f"--task Regression --task.text [left,right] {SCORE}",
    "cosine": f"--task Similarity --task.text [left,right] {SCORE}",
    "contrastive": "--task Similarity --task.text [left,right] --task.objective contrastive",
    "questions": "--task QuestionAnswering --task.doc_stride 4 --data.max_length 24",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_two_processes_score_every_task_as_one_does(name, tmp_path):
    rng = random.Random(0)
    words = " ".join(WORDS.values()).split()
    rows = []
    for number in range(33):
        left, right, context = (
            " ".join(rng.choices(words, k=rng.randint(3, 12))) for _ in range(3)
        )
        answers = {"text": [context.split()[0]], "answer_start": [0]}
        question = {"question": left, "context": context, "answers": answers}
        rows.append({"left": left, "right": right, "score": number % 11 / 2, **question})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["test", "--config", ROOT / "configs/debug.yaml", *TASKS[name].split()]
    command += ["--data.source", "{test: rows.jsonl}", "--data.batch_size", "4"]
    results = [metrics(run(tmp_path, *command, *devices)) for devices in ([], TWO)]
    losses = [result.pop("test/loss") for result in results]
    assert results[0] == pytest.approx(results[1], abs=1e-6)
    if name != "contrastive":  # its loss depends on what else is in the batch
        # QA's windows fall into batches of other sizes
        assert losses[0] == pytest.approx(losses[1], abs=1e-3)
