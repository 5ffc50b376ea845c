"""The loop by hand against values worked out here, and the run folder that it writes."""

import json
import math

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from litpool.loops.flags import Flags


def flags(**options):
    length = {"epochs": 2, "max_steps": -1, "accumulate": 1, "patience": None}
    rhythm = {"check_epochs": 1, "check_batches": 1.0, "log_steps": 1, "progress": False}
    precision = {"device": torch.device("cpu"), "precision": "32-true", "clip": math.inf}
    return Flags(**{**length, **rhythm, **precision, **options})


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, 10),
        ({"accumulate": 2}, 6),  # 5 batches: windows of 2, 2 and 1
        ({"accumulate": 3}, 4),
        ({"max_steps": 7}, 7),
        ({"max_steps": 70}, 10),
        ({"epochs": -1, "max_steps": 70}, 70),
    ],
)
def test_steps_are_counted_in_windows_that_end_with_the_epoch(options, steps):
    assert flags(**options).steps(5) == steps


@pytest.mark.parametrize(
    ("options", "due"),
    [
        ({}, [(0, 5), (1, 5)]),
        ({"check_epochs": 2}, [(1, 5)]),
        ({"check_batches": 2}, [(0, 2), (0, 4), (1, 2), (1, 4)]),
        ({"check_batches": 0.5}, [(0, 2), (0, 4), (1, 2), (1, 4)]),
        ({"check_batches": 1}, [(epoch, batch) for epoch in (0, 1) for batch in range(1, 6)]),
        ({"check_epochs": None, "check_batches": 3}, [(0, 3), (1, 1), (1, 4)]),
    ],
)
def test_an_evaluation_is_due_as_lightning_counts(options, due):
    batches = [(epoch, batch) for epoch in (0, 1) for batch in range(1, 6)]
    assert [batch for batch in batches if flags(**options).due(*batch, 5)] == due


def test_warmup_and_decay_move_the_learning_rate_at_each_step(train):
    steps = train("fit_plain", "--model.recipe.warmup", 2)["steps"]
    assert len(steps) == 10
    assert [step["lr"] for step in steps] == pytest.approx(
        [0, 0.005, *(0.01 * rest / 8 for rest in range(8, 0, -1))]
    )


def test_the_gradient_is_clipped_at_the_norm_that_the_flag_names(train):
    steps = train("fit_plain", "--trainer.gradient_clip_val", 0.2)["steps"]
    assert all(
        step["clipped_norm"] == pytest.approx(min(0.2, step["grad_norm"]), rel=1e-4)
        for step in steps
    )
    assert steps[0]["grad_norm"] > 0.2


def test_the_run_folder_is_that_of_fit(train):
    folders = {command: train(command)["folder"] for command in ("fit", "fit_plain")}
    names = {
        command: {path.name for path in folder.iterdir()} for command, folder in folders.items()
    }
    events = {
        command: {name for name in names[command] if name.startswith("events")} for command in names
    }
    assert all(events.values())
    assert names["fit"] - events["fit"] == names["fit_plain"] - events["fit_plain"]
    checkpoints = {path.name for path in (folders["fit_plain"] / "checkpoints").iterdir()}
    assert checkpoints == {"best.ckpt", "last.ckpt", "last.prev.ckpt"}
    config = yaml.safe_load((folders["fit_plain"] / "config.yaml").read_text())
    assert config["trainer"]["max_epochs"] == 2


@pytest.mark.parametrize("command", ["fit_plain", "fit_hf"])
def test_the_curves_overlay_those_of_fit(command, train):
    curves = []
    for name in ("fit", command):
        events = EventAccumulator(
            str(train(name, "--trainer.accumulate_grad_batches", 2)["folder"])
        ).Reload()
        tags = ("train/loss", "train/lr", "train/grad_norm")
        curves.append(
            {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}
        )
        assert events.Scalars("train/tokens_per_second")
        assert events.Scalars("val/accuracy")
        assert "val/confusion_matrix" in events.Tags()["images"]
    assert curves[0] == curves[1]
    assert len(curves[0]["train/loss"]) == 6


@pytest.mark.parametrize("command", ["fit", "fit_plain", "fit_hf"])
def test_there_are_no_curves_if_log_every_n_steps_is_0(command, train):
    folder = train(command, "--trainer.log_every_n_steps", 0, "--trainer.max_epochs", 1)["folder"]
    tags = EventAccumulator(str(folder)).Reload().Tags()["scalars"]
    assert "train/loss" not in tags
    assert "val/accuracy" in tags


def test_validation_by_time_does_not_stop_a_short_fit(cli, job):
    short = ("--trainer.val_check_interval", "00:01:00:00", "--trainer.max_steps", 3)
    status, _, err = cli("fit", *job, *short)
    assert status == 0, err


@pytest.mark.parametrize("command", ["fit_plain", "fit_hf"])
def test_its_checkpoint_tests_and_predicts(command, train, cli):
    run = train(command)
    best = run["folder"] / "checkpoints/best.ckpt"
    status, out, err = cli("test", "--ckpt_path", best, "--trainer.accelerator", "cpu")
    assert status == 0, err
    tested = json.loads((run["folder"].parents[2] / out.split()[-1] / "metrics.json").read_text())
    assert {name: run["metrics"][name] for name in tested} == tested
    status, out, err = cli("predict", "--ckpt_path", best, "--output", "-", stdin="a good film\n")
    assert status == 0, err
    assert json.loads(out)["label"] in ("bad", "good")


@pytest.mark.parametrize("command", ["fit", "fit_plain", "fit_hf"])
def test_early_stopping_waits_as_long_as_its_patience(command, train):
    stopping = (
        "EarlyStopping",
        "--trainer.callbacks.monitor=val/accuracy",
        "--trainer.callbacks.mode=max",
    )
    # nothing improves after the first epoch
    slow = ("--model.recipe.lr", 1e-9, "--trainer.max_epochs", 9)
    run = train(command, *slow, "--trainer.callbacks+", *stopping, "--trainer.callbacks.patience=2")
    assert len(run["steps"]) == 3 * 5


@pytest.mark.parametrize("command", ["fit_plain", "fit_hf"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--trainer.limit_train_batches 3", "limit_train_batches=3"),
        ("--trainer.gradient_clip_algorithm value", "gradient_clip_algorithm=value"),
        ("--trainer.precision 64-true", "precision=64-true"),
        ("--trainer.devices 2", "devices=2"),
        ("--trainer.detect_anomaly true", "detect_anomaly=True"),
        ("--trainer.min_epochs 1", "min_epochs=1"),
        ("--trainer.max_epochs -1", "max_epochs=-1"),
        ("--trainer.logger CSVLogger --trainer.logger.save_dir .", "logger="),
        (
            "--trainer.accumulate_grad_batches 2 --trainer.val_check_interval 3",
            "val_check_interval=3",
        ),
        ("--trainer.callbacks+ LearningRateMonitor", "LearningRateMonitor"),
        (
            "--trainer.callbacks+ EarlyStopping --trainer.callbacks.monitor val/loss",
            "EarlyStopping.monitor=val/loss",
        ),
    ],
)
def test_a_flag_without_counterpart_is_named_before_weights_are_loaded(
    command, arguments, message, job, cli, monkeypatch, tmp_path
):
    monkeypatch.setattr("litpool.loops.lightning.TextModel", lambda *_, **__: pytest.fail("built"))
    status, _, err = cli(command, *job, *arguments.split())
    assert status == 2
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "logs").exists()
