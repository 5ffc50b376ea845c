"""The Trainer around our network: its arguments, and what goes wrong without the overrides."""

import math
from types import SimpleNamespace

import pytest
import torch
from test_plain import flags

from litpool.loops import huggingface
from litpool.loops.divergence import FiniteCheck
from litpool.loops.huggingface import LossModel, TextTrainer, arguments
from litpool.loops.log import Log
from litpool.tasks.classification import Classification


@pytest.fixture
def settings(tmp_path):
    def settings(**options):
        job = SimpleNamespace(
            flags=flags(**options), folder=tmp_path, log=Log(), task=Classification()
        )
        return arguments(job, 12)

    return settings


@pytest.mark.parametrize(
    ("flag", "name", "value"),
    [
        ({}, "max_steps", 12),
        ({}, "use_cpu", True),
        ({}, "bf16", False),
        ({"precision": "bf16-mixed"}, "bf16", True),
        ({"precision": "16-mixed"}, "fp16", True),
        ({"accumulate": 3}, "gradient_accumulation_steps", 3),
        ({"clip": 0.5}, "max_grad_norm", 0.5),
        ({"clip": math.inf}, "max_grad_norm", 0),
        ({"log_steps": 7}, "logging_steps", 7),
    ],
)
def test_a_flag_becomes_a_training_argument(settings, flag, name, value):
    assert getattr(settings(**flag), name) == value


def test_the_seed_is_that_of_seed_everything(settings):
    torch.manual_seed(1234)
    assert settings().seed == 1234


def test_the_loss_is_the_tasks_own(build, batch):
    network = build().eval()
    task = Classification()
    model = LossModel(network, task, FiniteCheck(None))
    outputs = model(**batch, index=torch.arange(3))
    torch.testing.assert_close(outputs["loss"], task.loss(network(batch), batch["labels"]))
    torch.testing.assert_close(outputs["logits"], network(batch))


def test_a_short_last_window_is_scaled_like_the_others(train):
    windows = {
        command: train(command, "--trainer.accumulate_grad_batches", 3)
        for command in ("fit_plain", "fit_hf")
    }
    losses = {command: [step["loss"] for step in run["steps"]] for command, run in windows.items()}
    assert losses["fit_plain"] == losses["fit_hf"]
    # the second window has 2 batches instead of 3
    assert losses["fit_hf"][1] == pytest.approx(losses["fit_hf"][0] * 2 / 3, rel=0.2)


def test_without_the_override_the_trainer_divides_by_the_true_length(train, monkeypatch):
    monkeypatch.setattr(TextTrainer, "loss_is_scaled_for_ga", False)
    monkeypatch.setattr(
        TextTrainer, "compute_loss", lambda self, model, inputs, **_: model(**inputs)["loss"]
    )
    steps = train("fit_hf", "--trainer.accumulate_grad_batches", 3)["steps"]
    losses = [step["loss"] for step in steps]
    assert losses[1] == pytest.approx(losses[0], rel=0.2)


def test_an_evaluation_at_the_very_end_happens_only_if_it_is_due(train):
    options = ("--trainer.max_steps", 7, "--trainer.val_check_interval", 3)
    run = train("fit_hf", *options)
    assert run["metrics"] == train("fit", *options)["metrics"]
    assert len(run["steps"]) == 7


def test_the_bar_shows_progress_but_no_log_lines(cli, job):
    job[job.index("--trainer.enable_progress_bar") + 1] = "true"
    status, out, err = cli("fit_hf", *job)
    assert status == 0
    assert "10/10" in err
    assert "grad_norm" not in out + err


def test_both_ways_to_adapt_the_trainer_are_shown():
    overridden = vars(huggingface.TextTrainer).keys() & {
        "get_train_dataloader",
        "compute_loss",
        "evaluate",
    }
    called = {name for name in vars(huggingface.Housekeeping) if name.startswith("on_")}
    assert len(overridden) == 3
    assert {"on_train_begin", "on_step_end", "on_log", "on_evaluate", "on_train_end"} <= called
