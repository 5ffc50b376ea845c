"""In every loop, a loss or gradient that is not finite ends the run before the update."""

import json
import math
import re
from pathlib import Path

import pytest
import torch

from litpool.loops.checkpoint import read
from litpool.model.network import TextModel
from litpool.tasks.classification import Classification

LOOPS = ["fit", "fit_plain", "fit_hf"]
BAD = [float("nan"), float("inf")]
FIXTURE = Path(__file__).parent / "fixtures/v0.1.0"


@pytest.fixture
def job(job):
    """48 rows in batches of 8: 6 batches an epoch, validated after each epoch."""
    return [*job, "--data.batch_size", "8"]


def spoil_loss(monkeypatch, number, value):
    """Make the loss of one training batch, counted from 1, not finite."""
    original, calls = Classification.loss, []

    def loss(self, output, labels):
        result = original(self, output, labels)
        if torch.is_grad_enabled():
            calls.append(number)
            if len(calls) == number:
                return result * value
        return result

    monkeypatch.setattr(Classification, "loss", loss)


def spoil_gradient(monkeypatch, number, value):
    """Make one gradient in one training batch not finite, but not the loss."""
    original, calls = TextModel.forward, []

    def forward(self, batch):
        output = original(self, batch)
        if torch.is_grad_enabled():
            calls.append(number)
            if len(calls) == number:
                output.register_hook(lambda gradient: torch.full_like(gradient, value))
        return output

    monkeypatch.setattr(TextModel, "forward", forward)


# what to spoil, in which batch, with how many batches per step; the step that must not be taken
PLACES = {
    "first loss": (spoil_loss, 1, 1, 1),
    "loss of the second epoch": (spoil_loss, 9, 1, 9),
    "last loss": (spoil_loss, 12, 1, 12),
    "loss within a window": (spoil_loss, 7, 2, 4),
    "gradient": (spoil_gradient, 8, 1, 8),
}


CASES = [
    pytest.param(
        command,
        place,
        value,
        marks=() if math.isnan(value) or place == "gradient" else pytest.mark.slow,
    )
    for command in LOOPS
    for place in PLACES
    for value in BAD
]


@pytest.mark.parametrize(("command", "place", "value"), CASES)
def test_the_run_stops_before_the_update(cli, job, monkeypatch, command, place, value, tmp_path):
    spoil, number, window, step = PLACES[place]
    spoil(monkeypatch, number, value)
    status, _, err = cli(command, *job, "--trainer.accumulate_grad_batches", window)
    assert (status, err.count("\n")) == (1, 1), err
    what = "the gradient norm is" if spoil is spoil_gradient else "the loss is"
    assert err.startswith(f"error: step {step}: {what} ")
    rows = re.search(r"on rows ([\d, ]+) of the train split", err)[1].split(", ")
    assert len(rows) == 8  # those of the one batch
    assert all(1 <= int(row) <= 48 for row in rows)
    saved = list(tmp_path.rglob("last.ckpt"))
    assert bool(saved) is (step > 6 or window == 2)  # an epoch was validated
    for path in saved:
        assert f"the last good checkpoint is {path.relative_to(tmp_path)}" in err
        assert torch.load(path, weights_only=True)["global_step"] == 6 // window
        read(str(path))
    assert saved or "there is no checkpoint yet" in err


@pytest.mark.parametrize("clip", [("norm", 1.0), ("value", 0.5), ("norm", "null")], ids=str)
def test_clipping_does_not_hide_a_gradient(cli, job, monkeypatch, clip):
    spoil_gradient(monkeypatch, 2, float("nan"))
    options = ["--trainer.gradient_clip_algorithm", clip[0], "--trainer.gradient_clip_val", clip[1]]
    status, _, err = cli("fit", *job, *options)
    assert status == 1
    assert "step 2: the gradient norm is nan" in err


# torchmetrics, before the run ends
@pytest.mark.filterwarnings("ignore:Encountered .nan. values in tensor:UserWarning")
@pytest.mark.parametrize("command", LOOPS)
def test_weights_that_overflow_in_an_update_are_not_saved(cli, job, command, tmp_path):
    """One step, whose loss and gradient are finite, with a learning rate beyond float32."""
    wild = ["--model.recipe.lr", "1e39", "--model.recipe.warmup", "0", "--trainer.max_steps", "1"]
    status, _, err = cli(command, *job, *wild)
    assert (status, err.count("\n")) == (1, 1), err
    assert "diverged" in err
    assert not list(tmp_path.rglob("*.ckpt*"))


@pytest.mark.parametrize("command", ["predict", "test", "validate", "fit"])
def test_weights_that_are_not_finite_are_not_used(cli, command, tmp_path):
    saved = torch.load(FIXTURE / "classification/lightning.ckpt", weights_only=True)
    saved["state_dict"]["network.head.1.weight"][0, 0] = float("nan")
    torch.save(saved, tmp_path / "bad.ckpt")
    arguments = ["--input", FIXTURE / "rows/test.jsonl"] if command == "predict" else []
    status, _, err = cli(command, "--ckpt_path", "bad.ckpt", *arguments)
    assert (status, err.count("\n")) == (2, 1)
    assert "ckpt_path=bad.ckpt: head.1.weight is not finite, because training diverged" in err
    assert not Path("predictions.jsonl").exists()


@pytest.mark.parametrize("output", ["answers.jsonl", "answers.parquet", "-"])
def test_an_answer_that_is_no_number_is_not_written(cli, monkeypatch, output):
    monkeypatch.setattr(
        TextModel, "forward", lambda self, batch: torch.full((len(batch["index"]), 3), torch.nan)
    )
    checkpoint = FIXTURE / "classification/plain.ckpt"
    rows = FIXTURE / "rows/test.jsonl"
    status, out, err = cli(
        "predict", "--ckpt_path", checkpoint, "--input", rows, "--output", output
    )
    assert (status, out) == (1, "")
    assert err == "error: the output for row 1 and 39 more is not finite; nothing was written\n"
    assert not Path(output).exists()


def test_metrics_that_are_not_defined_are_null(cli, job, monkeypatch):
    """The correlation of equal scores: JSON has no NaN."""
    lines = [json.loads(line) for line in (FIXTURE / "rows/test.jsonl").read_text().splitlines()]
    same = [{**line, "text": "bright", "other": "bright"} for line in lines]
    Path("same.jsonl").write_text("\n".join(map(json.dumps, same)))
    checkpoint = FIXTURE / "cosine/plain.ckpt"
    with pytest.warns(UserWarning, match="variance of predictions"):
        status, out, err = cli(
            "test", "--ckpt_path", checkpoint, "--data.source", "{test: same.jsonl}"
        )
    assert status == 0, err
    text = (Path(out.split()[-1]) / "metrics.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["test/pearson"] is None
