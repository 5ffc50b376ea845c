"""A run that is interrupted or killed at any moment ends, once resumed, as if it had not been."""

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from forkserver import ForkServer
from lightning.pytorch.trainer import call
from one_loop import ONE_LOOP
from transformers.trainer_callback import CallbackHandler

from litpool.loops import evaluation, job
from litpool.loops.divergence import FiniteCheck
from litpool.model.network import TextModel

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}
BEST, LAST = "checkpoints/best.ckpt", "checkpoints/last.ckpt"
# Steps of two batches; in Lightning's loop, a validation falls into the middle of a step.
LOOPS = {"fit": 3, "fit_plain": 4, "fit_hf": 4}
HOOKS = {
    "fit": [(call, "_call_callback_hooks"), (call, "_call_lightning_module_hook")],
    "fit_plain": [
        (TextModel, "forward"),
        (FiniteCheck, "add"),
        (FiniteCheck, "check"),
        (evaluation.Evaluation, "feed"),
        (evaluation.Evaluation, "compute"),
        (torch.optim.AdamW, "step"),
        (job, "write"),
        (job.Job, "advance"),
        (job.Job, "validate"),
    ],
    "fit_hf": [(CallbackHandler, "call_event"), (evaluation.Evaluation, "feed"), (job, "write")],
}


def options(command):
    values = f"""
        --trainer.accumulate_grad_batches 2 --trainer.val_check_interval {LOOPS[command]}
        --data.batch_size 8
    """
    return values.split()


def outcome(folder):
    """Return what a run leaves: weights by hash, steps and metrics."""
    values = {"metrics": json.loads((folder / "metrics.json").read_text())}
    for name in ("best", "last"):
        checkpoint = torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True)
        digest = hashlib.sha256()
        for key, weight in sorted(checkpoint["state_dict"].items()):
            digest.update(key.encode() + weight.numpy().tobytes())
        values[name] = (digest.hexdigest(), checkpoint["global_step"])
    return values


@pytest.fixture
def hooked(cli, job, tmp_path):
    """A function that trains, and sends itself a signal at the nth call of the loop's hooks."""

    def run(command, folder, signum=None, at=None):
        calls = 0
        (tmp_path / folder).mkdir()
        os.chdir(tmp_path / folder)

        def hook(function):
            def hooked_function(*arguments, **keywords):
                nonlocal calls
                calls += 1
                if calls == at:
                    os.kill(os.getpid(), signum)
                return function(*arguments, **keywords)

            return hooked_function

        with pytest.MonkeyPatch.context() as patch:
            for owner, name in HOOKS[command]:
                patch.setattr(owner, name, hook(getattr(owner, name)))
            status, _, err = cli(command, *job, *options(command))
        return status, err, calls, tmp_path / folder / f"logs/{command}/version_0"

    return run


def check(cli, hooked, command, signum, at, expected):
    status, err, _, run = hooked(command, f"{signum}-{at}", signum, at)
    assert status == STATUS[signum], (at, err)
    assert "Traceback" not in err
    last = run / "checkpoints/last.ckpt"
    if not last.exists():  # no step was taken yet
        return 0
    assert f"{command} --ckpt_path" in err
    status, _, err = cli(command, "--ckpt_path", last)
    assert status == 0, (at, err)
    assert outcome(run) == expected, at
    return 1


@pytest.mark.parametrize(
    ("command", "signum"),
    [("fit", signal.SIGTERM), ("fit_plain", signal.SIGINT), ("fit_hf", signal.SIGTERM)],
)
def test_an_interrupted_run_resumes_to_the_same_end(cli, hooked, command, signum):
    status, err, calls, run = hooked(command, "whole")
    assert status == 0, err
    points = [calls * part // 6 for part in (3, 5)]
    checked = [check(cli, hooked, command, signum, at, outcome(run)) for at in points]
    assert all(checked)


@pytest.mark.slow
@pytest.mark.parametrize("signum", STATUS)
@pytest.mark.parametrize("command", LOOPS)
def test_a_signal_at_every_hook(cli, hooked, command, signum, tmp_path):
    _, _, calls, run = hooked(command, "whole")
    expected = outcome(run)
    resumed = 0
    for at in range(1, _fit_calls(command, calls)):
        resumed += check(cli, hooked, command, signum, at, expected)
        shutil.rmtree(tmp_path / f"{signum}-{at}")
    print(f"{command}, {signal.Signals(signum).name}: {resumed} resumed")


def _fit_calls(command, calls):
    """Leave out the last hooks, of the test: nothing is left to resume there."""
    return calls - 5


@pytest.mark.parametrize("command", LOOPS)
def test_a_run_that_is_done_only_repeats_its_test(cli, hooked, command):
    _, _, _, run = hooked(command, "whole")
    expected = outcome(run)
    status, _, err = cli(command, "--ckpt_path", run / "checkpoints/last.ckpt")
    assert status == 0, err
    assert outcome(run) == expected


@pytest.mark.parametrize("command", ONE_LOOP)
def test_a_moved_run_keeps_its_better_checkpoint(cli, job, command, tmp_path):
    """With hardly any learning rate, no later checkpoint is better than the first."""
    status, out, err = cli(command, *job, "--model.recipe.lr", 1e-12)
    assert status == 0, err
    moved = tmp_path / "moved/run"
    shutil.move(out.split()[-1], moved)
    best = moved / "checkpoints/best.ckpt"
    assert torch.load(best, weights_only=True)["global_step"] == 5
    last = moved / "checkpoints/last.ckpt"
    status, _, err = cli(command, "--ckpt_path", last, "--trainer.max_epochs", 3)
    assert status == 0, err
    assert torch.load(best, weights_only=True)["global_step"] == 5
    assert torch.load(last, weights_only=True)["global_step"] == 15


@pytest.mark.parametrize("command", LOOPS)
def test_steps_are_saved_between_validations(cli, job, command, tmp_path, monkeypatch):
    """What is trained before the first validation is not lost."""

    def die(*_, **__):
        raise SystemExit(9)

    monkeypatch.setattr(evaluation.Evaluation, "feed", die)  # before any validation ends
    cli(command, *job, "--save.steps", 1)
    (last,) = tmp_path.glob("logs/*/version_0/checkpoints/last.ckpt")
    assert torch.load(last, weights_only=True)["global_step"] >= 3


@pytest.mark.parametrize(
    "end",
    [
        pytest.param("--trainer.max_epochs 3", marks=pytest.mark.slow),
        "--trainer.max_steps 8",
    ],
)
@pytest.mark.parametrize("command", LOOPS)
def test_the_last_step_is_saved_without_a_validation_after_it(cli, job, command, end, tmp_path):
    """It holds what a validation after the last step would have saved."""
    expected = {}
    for name, interval in {"often": 1, "rarely": 6}.items():
        often = ["--trainer.check_val_every_n_epoch", "null", "--trainer.val_check_interval"]
        status, out, err = cli(command, *job, *end.split(), *often, interval)
        assert status == 0, err
        expected[name] = outcome(tmp_path / out.split()[-1])
    assert expected["rarely"]["last"] == expected["often"]["last"]
    assert expected["rarely"]["last"][1] in (8, 15)
    status, out, err = cli(command, "--ckpt_path", tmp_path / out.split()[-1] / LAST)
    assert status == 0, err
    assert outcome(tmp_path / out.split()[-1]) == expected["rarely"]


@pytest.mark.parametrize("end", ["--trainer.max_steps 8", "--trainer.check_val_every_n_epoch 5"])
def test_a_run_that_has_ended_continues_in_the_same_way_in_all_loops(cli, job, end, tmp_path):
    """Within the epoch, or without any validation until then."""
    ends = set()
    for command in LOOPS:
        status, out, err = cli(command, *job, *end.split())
        assert status == 0, err
        run = tmp_path / out.split()[-1]
        assert torch.load(run / LAST, weights_only=True)["global_step"] in (8, 10)
        more = "--trainer.max_steps 27 --trainer.max_epochs 6"
        status, _, err = cli(command, "--ckpt_path", run / LAST, *more.split())
        assert status == 0, err
        ends.add(outcome(run)["last"])
    ((_, steps),) = ends
    assert steps == 27


@pytest.mark.parametrize(("interval", "steps"), [(2, 7), (1.0, 15)])
@pytest.mark.parametrize("command", LOOPS)
def test_a_run_that_stopped_early_is_done(cli, job, command, interval, steps, tmp_path):
    """With hardly any learning rate, nothing improves after the first validation."""
    stop = "{class_path: EarlyStopping, init_args: {monitor: val/accuracy, mode: max, patience: 2}}"
    options = ["--trainer.callbacks", f"[{stop}]", "--trainer.val_check_interval", interval]
    options += ["--trainer.max_epochs", 5, "--model.recipe.lr", 1e-12]
    status, out, err = cli(command, *job, *options)
    assert status == 0, err
    run = tmp_path / out.split()[-1]
    expected = outcome(run)
    assert expected["last"][1] == steps  # of the first validation and two more
    status, _, err = cli(command, "--ckpt_path", run / LAST)
    assert status == 0, err
    assert outcome(run) == expected


@pytest.mark.parametrize("command", LOOPS)
def test_a_resumed_epoch_may_end_without_a_validation(cli, job, command, monkeypatch, tmp_path):
    """Although EarlyStopping looks for a metric."""
    stop = "{class_path: EarlyStopping, init_args: {monitor: val/accuracy, mode: max}}"
    options = ["--trainer.callbacks", f"[{stop}]", "--trainer.max_steps", 8]
    status, out, err = cli(command, *job, *options)
    assert status == 0, err
    step = torch.optim.AdamW.step

    def interrupt(optimizer, *arguments, **options):
        step(optimizer, *arguments, **options)
        if next(iter(optimizer.state.values()))["step"] == 6:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", interrupt)
        status, _, err = cli(command, *job, *options)
    assert status == 143, err
    run = tmp_path / f"logs/{command}/version_1"
    status, _, err = cli(command, "--ckpt_path", run / LAST)
    assert status == 0, err
    assert outcome(run) == outcome(tmp_path / out.split()[-1])


@pytest.mark.parametrize(
    ("option", "value"), [("minutes", 0), ("minutes", -1), ("steps", 0), ("minutes", "nan")]
)
def test_a_senseless_interval_is_refused(cli, job, option, value):
    status, _, err = cli("fit_plain", *job, f"--save.{option}", value)
    assert status == 2
    assert err.startswith(f"error: save.{option}=")
    assert err.count("\n") == 1


@pytest.mark.parametrize("writer", LOOPS)
@pytest.mark.parametrize("command", LOOPS)
def test_only_the_loop_that_wrote_a_checkpoint_resumes_it(cli, job, writer, command):
    status, out, err = cli(writer, *job, "--trainer.max_epochs", 1)
    assert status == 0, err
    folder = Path(out.split()[-1], "checkpoints")
    status, _, err = cli(command, "--ckpt_path", folder / "best.ckpt")
    assert status == 2
    assert "use last.ckpt" in err
    if command != writer:
        status, _, err = cli(command, "--ckpt_path", folder / "last.ckpt")
        assert status == 2
        assert f"resume it with {writer}" in err


@pytest.mark.slow
@pytest.mark.parametrize("command", LOOPS)
def test_a_resume_from_every_step(cli, job, csv_file, command, monkeypatch, tmp_path):
    """From a copy of the run folder after each last.ckpt, of which a run writes one a step."""
    copies, replace = [], os.replace

    def replace_and_copy(source, target):
        replace(source, target)
        if Path(target).name == "last.ckpt":
            run = Path(target).parent.parent
            copies.append(tmp_path / f"copies/{len(copies)}/version_0")
            shutil.copytree(run, copies[-1])

    def predict(run):
        best = run / "checkpoints/best.ckpt"
        status, out, err = cli("predict", "--ckpt_path", best, "--input", csv_file, "--output", "-")
        assert status == 0, err
        return out

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace_and_copy)
        status, out, err = cli(command, *job, *options(command), "--save.steps", 1)
    assert status == 0, err
    whole = tmp_path / out.split()[-1]
    expected, predictions = outcome(whole), predict(whole)
    steps = [torch.load(run / LAST, weights_only=True)["global_step"] for run in copies]
    assert set(steps) == {*range(1, 7)}
    for step, run in zip(steps, copies, strict=True):
        status, _, err = cli(command, "--ckpt_path", run / LAST, "--save.steps", 1)
        assert status == 0, (step, err)
        assert outcome(run) == expected, step
        assert predict(run) == predictions, step
    print(f"{command}: {len(copies)} resumed, from the steps {steps}")


@pytest.mark.slow
@pytest.mark.parametrize("command", LOOPS)
def test_fifty_kills(job, csv_file, command, tmp_path):
    """SIGKILL at a random moment; the resumed run ends with equal weights, metrics, predictions.

    One kill in five comes at any moment of the process, the others after the first checkpoint.
    """
    rng = random.Random(command)
    server = ForkServer()
    killed = tmp_path / "killed"

    def train(folder):
        folder.mkdir()
        arguments = [command, *job, *options(command), "--save.steps", 1]
        return server.start(folder, *arguments), folder / f"logs/{command}/version_0"

    def finish(child):
        assert child.wait() == 0, child.printed

    def predict(folder, run):
        arguments = ["--ckpt_path", run / BEST, "--input", csv_file, "--output", "answers.jsonl"]
        finish(server.start(folder, "predict", *arguments))
        return (folder / "answers.jsonl").read_text()

    for name in ("first", "whole"):  # the first one waits for the server's imports
        start = time.monotonic()
        child, run = train(tmp_path / name)
        wait_for(run / LAST)
        startup = time.monotonic() - start
        finish(child)
        seconds = time.monotonic() - start
    expected, predictions = outcome(run), predict(tmp_path / "whole", run)
    kills = resumed = early = late = 0
    while resumed < 50:
        child, run = train(killed)
        if kills % 5:
            wait_for(run / LAST)
            time.sleep(rng.random() * (seconds - startup))
        else:
            time.sleep(rng.random() * seconds)
        with contextlib.suppress(ProcessLookupError):  # it has ended already
            child.kill(signal.SIGKILL)
        child.wait()
        kills += 1
        if (run / "metrics.json").exists():
            late += 1
        elif not (run / LAST).exists() and not (run / LAST).with_name("last.prev.ckpt").exists():
            early += 1
        else:
            finish(server.start(killed, command, "--ckpt_path", run / LAST, "--save.steps", 1))
            assert outcome(run) == expected
            assert predict(killed, run) == predictions
            resumed += 1
        shutil.rmtree(killed)
    server.close()
    print(f"{command}: {resumed} resumed, {early} killed before the first save, {late} done")


def wait_for(path):
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.002)


# ---- what is refused at the start


def test_a_run_folder_that_cannot_be_made_is_reported_in_one_line(cli, job, tmp_path):
    (tmp_path / "logs").write_text("a file")
    status, _, err = cli("fit", *job)
    assert (status, err.count("\n")) == (1, 1), err
    assert "the run folder cannot be made" in err


KEYS = ["callbacks", "loops", "optimizer_states", "lr_schedulers", "pytorch-lightning_version"]


@pytest.mark.parametrize("key", [*KEYS, "rng"])
def test_a_training_state_that_cannot_be_restored_is_refused(cli, train, key):
    path = train("fit")["folder"] / "checkpoints/last.ckpt"
    good = torch.load(path, weights_only=True)
    for bad in (7, [7]):
        saved = {**good, key: bad}
        if key == "rng":
            saved = {**good, "job": {**good["job"], "rng": {"cpu": bad}}}
        torch.save(saved, path)
        status, _, err = cli("fit", "--ckpt_path", path, "--trainer.max_epochs", 4)
        assert (status, err.count("\n")) == (2, 1), err


@pytest.mark.parametrize("key", ["progress", "optimizer", "schedule", "counts", "best"])
def test_the_other_loops_refuse_it_as_well(cli, train, key):
    path = train("fit_plain")["folder"] / "checkpoints/last.ckpt"
    good = torch.load(path, weights_only=True)
    for bad in (7, [7]):
        stored = good["job"]
        part = {key: bad} if key in stored else {"progress": {**stored["progress"], key: bad}}
        torch.save({**good, "job": {**stored, **part}}, path)
        status, _, err = cli("fit_plain", "--ckpt_path", path, "--trainer.max_epochs", 4)
        assert (status, err.count("\n")) == (2, 1), err


@pytest.mark.parametrize("command", LOOPS)
def test_a_missing_best_checkpoint_is_reported_at_the_start(cli, train, command):
    folder = train(command)["folder"] / "checkpoints"
    (folder / "best.ckpt").unlink()
    status, _, err = cli(command, "--ckpt_path", folder / "last.ckpt")
    assert (status, err.count("\n")) == (2, 1), err
    assert "best.ckpt, is missing" in err
