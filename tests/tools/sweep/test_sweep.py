"""The whole sweep: trials, resuming, several workers, the comparison, and bad input."""

import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
BAD_SPACES = {
    "model.recipe.learning_rate: {low: 1e-5, high: 1e-3}": "did you mean --model.recipe.lr?",
    "model.recipe.lr: [1e-3, high]": "model.recipe.lr=high: give a number",
    "data.batch_size: {low: 8, high: 16.5}": "data.batch_size=16.5: give a whole number",
    "model.pooling: [MeanPooling, MeenPooling]": "did you mean 'MeanPooling'?",
    "task.dropout: {low: 0.0, high: 1.5}": "dropout=1.5: give a share from 0 to below 1",
    "model.recipe.schedule: [linear, cubic]": "model.recipe.schedule=cubic: give",
}


def refused(cli, job, *options):
    status, _, err = cli("sweep", *job, *options)
    assert status == 2, err
    assert len(err.splitlines()) == 1, err
    assert not Path("logs").exists() or not list(Path("logs").glob("*/sweep-*/trial*"))
    return err


@pytest.fixture(autouse=True)
def needs_optuna():
    pytest.importorskip("optuna", reason="needs the extra `sweep`")


@pytest.mark.parametrize("space", BAD_SPACES)
def test_a_bad_space_is_one_line_before_any_training(space, cli, job, tmp_path):
    (tmp_path / "space.yaml").write_text(space)
    assert BAD_SPACES[space] in refused(cli, job, "--space", "space.yaml")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--sweep.seeds", 1, "one seed shows no spread"),
        ("--sweep.trials", 0, "sweep.trials=0: give 1 or more"),
        ("--sweep.workers", 0, "sweep.workers=0: give 1 or more"),
        ("--sweep.storage", "nowhere/sweep.db", "name a file in a folder that exists"),
        ("--sweep.storage", "text.db", "cannot be opened"),
        ("--sweep.storage", "nosuch://host/db", "cannot be opened"),
        ("--trainer.fast_dev_run", "true", "it gives no scores"),
        ("--trainer.logger", "false", "leave it out"),
    ],
)
def test_bad_options_are_one_line(option, value, message, cli, job, space_file, tmp_path):
    (tmp_path / "text.db").write_text("no database\n" * 100)
    assert message in refused(cli, job, "--space", space_file, option, value)


def test_without_optuna_one_line_says_what_to_install(cli, job, space_file, monkeypatch):
    from litpool.tools.sweep import command

    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert "pip install" in refused(cli, job, "--space", space_file)


def test_the_space_in_the_guide_is_one(cli, job, monkeypatch, tmp_path):
    """It is accepted, so that what is missing next is Optuna."""
    from litpool.tools.sweep import command

    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/sweep.md").read_text(), re.DOTALL)
    (tmp_path / "space.yaml").write_text(block)
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert "sweep needs Optuna" in refused(cli, job, "--space", "space.yaml")


def test_a_sweep_leaves_run_folders_tables_and_figures(sweep):
    folder, content, out = sweep(trials=3, seeds=2)
    trials = content["trials"]
    assert [trial["number"] for trial in trials] == [0, 1, 2]
    assert trials[0]["default"]
    assert trials[0]["values"] == {"model.recipe.lr": 0.01, "model.pooling": "MeanPooling"}
    best = max(trial["score"] for trial in trials if trial["score"] is not None)
    winner = next(trial for trial in trials if trial["score"] == best)
    assert content["winner"] == winner["number"]
    for trial in trials:
        run = folder / trial["folder"]
        assert re.match(rf"trial-{trial['number']}-lr=[\d.e-]+-pooling=\w+Pooling$", run.name)
        assert f"trial {trial['number']}  lr=" in out
        config = yaml.safe_load((run / "config.yaml").read_text())
        assert config["model"]["recipe"]["lr"] == trial["values"]["model.recipe.lr"]
        assert trial["values"]["model.pooling"] in str(config["model"]["pooling"])
        assert any(b"_hparams_/session" in file.read_bytes() for file in run.glob("events*"))
        if trial["state"] == "finished":
            metrics = json.loads((run / "metrics.json").read_text())
            assert metrics["val/accuracy"] == pytest.approx(trial["score"], abs=1e-6)
            assert not [name for name in metrics if name.startswith("test")]
        assert (run / "checkpoints").exists() == (trial is winner)
    with open(folder / "sweep.csv") as file:
        assert [int(row["number"]) for row in csv.DictReader(file)] == [0, 1, 2]
    assert (folder / "history.png").exists()
    assert content["sentence"] in (folder / "sweep.md").read_text()
    job = yaml.safe_load((folder / "winner.yaml").read_text())
    assert job["model"]["recipe"]["lr"] == winner["values"]["model.recipe.lr"]
    assert content["sentence"] in out
    if content["winner"]:
        assert [run["seed"] for run in content["comparison"]["runs"]] == [43, 44]


@pytest.mark.slow
def test_the_comparison_is_on_the_test_split_with_the_seeds_paired(sweep, monkeypatch):
    """The only trial is the config as it is, so both sides must be equal to the last digit."""
    from litpool.tools.sweep import worker

    monkeypatch.setattr(worker, "is_default", lambda trial, plan: False)
    folder, content, _ = sweep(trials=1, seeds=2)
    runs = content["comparison"]["runs"]
    assert [run["winner"] for run in runs] == [run["default"] for run in runs]
    for run in runs:
        for name in (f"winner-0-seed={run['seed']}", f"default-seed={run['seed']}"):
            metrics = json.loads((folder / name / "metrics.json").read_text())
            assert metrics["test/accuracy"] == pytest.approx(run["winner"])
            config = yaml.safe_load((folder / name / "config.yaml").read_text())
            assert config["seed_everything"] == run["seed"]
            result = json.loads((folder / name / "result.json").read_text())
            rows, right = result["rows"], round(result["test"] * result["rows"])
            # Each of the few rows is a group of its own: without a wrong one, the score is higher.
            expected = [(right - 1) / (rows - 1)] * right + [right / (rows - 1)] * (rows - right)
            assert sorted(result["without"]) == pytest.approx(sorted(expected))


@pytest.mark.slow
def test_the_same_command_again_adds_trials_but_repeats_none(sweep):
    folder, first, _ = sweep(trials=2)
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("trial-*/result.json")}
    again, second, out = sweep(trials=3)
    assert again == folder
    assert second["trials"][:2] == first["trials"]
    assert len(second["trials"]) == 3
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert re.findall("^trial ([0-9])", out, re.MULTILINE) == ["2"]
    _, third, out = sweep(trials=3)
    assert third["trials"] == second["trials"]
    assert not re.findall("^trial", out, re.MULTILINE)


@pytest.mark.slow
def test_the_storage_of_another_sweep_is_refused(sweep, cli, job, space_file, tmp_path):
    folder, *_ = sweep(trials=1)
    storage = ["--sweep.storage", folder / "sweep.db"]
    err = refused_later(cli, [*job, "--data.batch_size", 8], "--space", space_file, *storage)
    assert "holds another sweep (data.batch_size is 10 there and 8 here)" in err
    other = tmp_path / "other.yaml"
    other.write_text("model.recipe.lr: [0.01, 0.1]\n")
    err = refused_later(cli, job, "--space", other, *storage)
    assert "holds another sweep (space.model.recipe.lr is" in err
    import optuna

    optuna.create_study(study_name="mine", storage=f"sqlite:///{tmp_path}/mine.db")
    err = refused_later(cli, job, "--space", space_file, "--sweep.storage", tmp_path / "mine.db")
    assert "holds another study, 'mine'" in err


def refused_later(cli, job, *options):
    status, _, err = cli("sweep", *job, *options)
    assert status == 2, err
    assert len(err.splitlines()) == 1, err
    return err


@pytest.mark.slow
def test_a_trial_that_diverges_does_not_end_the_sweep(sweep, tmp_path):
    space = tmp_path / "wild.yaml"
    space.write_text("model.recipe.lr: [0.01, 1.0e+30]\n")
    _, content, out = sweep("--space", space, "--trainer.gradient_clip_val", "null", trials=4)
    failed = [trial for trial in content["trials"] if trial["state"] == "failed"]
    assert failed
    assert all("lower model.recipe.lr" in trial["error"] for trial in failed)
    assert content["trials"][content["winner"]]["values"] == {"model.recipe.lr": 0.01}
    assert "failed: " in out


def test_a_bad_trial_is_stopped_early():
    """Five trials reach 0.9; the sixth is at 0.1 after its first validation."""
    import optuna

    from litpool.tools.sweep import storage

    database = optuna.storages.InMemoryStorage()
    study = storage._open_study(
        database, "sweep", "max", storage.Sampler(0), optuna.pruners.MedianPruner(5)
    )
    for _ in range(5):
        trial = study.ask()
        trial.report(0.8, 1)
        study.tell(trial, 0.9)
    trial = study.ask()
    trial.report(0.1, 1)
    assert trial.should_prune()


def test_two_workers_with_one_seed_draw_different_values():
    import optuna

    from litpool.tools.sweep import storage

    def draw(number):
        study = optuna.create_study(sampler=storage.Sampler(42))
        for _ in range(number):
            study.ask()
        return study.ask().suggest_float("lr", 0, 1)

    assert len({draw(number) for number in range(5)}) == 5
    assert draw(3) == draw(3)


# ---- processes


@pytest.fixture
def start(job, space_file, tmp_path):
    """A function that starts a sweep as a process of its own."""
    processes = []
    config = ["--trainer.max_epochs", "2", "--space", space_file]

    def start(*options):
        command = [sys.executable, ROOT / "cli.py", "sweep", *job, *config, *options]
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()


def trials_of(folder):
    """The trials in the storage, as number of the first attempt, state, values and score."""
    import optuna

    from litpool.tools.sweep import storage

    database = storage.open_storage(f"sqlite:///{folder / 'sweep.db'}")
    study = optuna.load_study(study_name="sweep", storage=database)
    return {
        storage.origin(trial): (trial.state.name, trial.params, trial.value)
        for trial in study.get_trials()
        if trial.state.name in ("COMPLETE", "PRUNED")
    }


def wait_for(pattern, process, folder):
    """Wait until a file that matches is there."""
    end = time.monotonic() + 90
    while not list(folder.glob(pattern)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


def wait_for_use_of_storage(process, folder):
    """Wait until a sweep that was just started writes into its storage, or ends."""

    def stamps():
        return [file.stat().st_mtime_ns for file in folder.glob("sweep-*/sweep.db")]

    before = stamps()
    while stamps() == before and process.poll() is None:
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_sweep_and_the_trial_is_taken_up_again(number, status, start, tmp_path):
    options = ["--sweep.trials", 3, "--sweep.seeds", 0, "--trainer.max_epochs", 12]
    process = start(*options)
    folder = tmp_path / "logs/sweep"
    wait_for("sweep-*/trial-0-*/checkpoints/last.ckpt", process, folder)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == status, err
    assert "run the same command again to continue the sweep" in err
    assert "trial 0" not in out
    (sweep,) = folder.glob("sweep-*")
    assert not trials_of(sweep)
    process = start(*options)
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    assert re.findall("^trial ([0-9])", out, re.MULTILINE)[0] == "0"  # before new ones
    assert len(trials_of(sweep)) == 3


@pytest.mark.slow
def test_two_workers_share_one_storage(start, tmp_path):
    """A command that starts a second worker, and the same command again beside it: three."""
    options = ["--sweep.trials", 7, "--sweep.seeds", 2]
    processes = [start(*options, "--sweep.workers", 2), start(*options)]
    printed = []
    for process in processes:
        out, err = process.communicate(timeout=500)
        assert process.returncode == 0, err
        printed += re.findall("^trial ([0-9]+)", out, re.MULTILINE)
    (folder,) = (tmp_path / "logs/sweep").glob("sweep-*")
    assert len(trials_of(folder)) == 7
    assert len(printed) == len(set(printed)) == 7
    content = json.loads((folder / "sweep.json").read_text())
    assert len(content["trials"]) == 7


@pytest.mark.slow
def test_killed_at_10_random_moments_it_loses_and_repeats_no_finished_trial(start, tmp_path):
    options = ["--sweep.trials", 16, "--sweep.seeds", 2]
    rng = random.Random(0)
    known, printed = {}, []
    for _ in range(10):
        process = start(*options)
        wait_for_use_of_storage(process, tmp_path / "logs/sweep")
        try:
            out, _ = process.communicate(timeout=rng.uniform(0, 6))
        except subprocess.TimeoutExpired:
            process.kill()
            out, _ = process.communicate()
        printed += re.findall("^trial ([0-9]+)", out, re.MULTILINE)
        (folder,) = (tmp_path / "logs/sweep").glob("sweep-*")
        now = trials_of(folder)
        assert {number: now.get(number) for number in known} == known
        known = now
    process = start(*options)
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, err
    printed += re.findall("^trial ([0-9]+)", out, re.MULTILINE)
    final = trials_of(folder)
    assert {number: final.get(number) for number in known} == known
    assert len(final) == 16
    assert len(printed) == len(set(printed))
    assert len(json.loads((folder / "sweep.json").read_text())["trials"]) == 16
