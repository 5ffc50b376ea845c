"""The command `sweep`: checks before it starts, the workers, and the report."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from litpool import InputError, interrupt
from litpool.commands import Run
from litpool.disk import make_folder
from litpool.tools.sweep import space as spaces
from litpool.tools.sweep.space import Space
from litpool.tools.sweep.training import Fit, alone

if TYPE_CHECKING:
    from litpool.tools.sweep import worker

PARENT = "LITPOOL_SWEEP_PARENT"  # set in further workers: the process that started them

NO_EFFECT = ("logger", "enable_progress_bar", "enable_model_summary", "default_root_dir")
"""Trainer flags that change no score."""


@dataclass
class SweepOptions:
    """How to search.

    Args:
        trials: How many trials, counted over all workers and all calls.
        seeds: How many fresh seeds the winner and the config as it is are trained with at the end;
            0 for no comparison.
        workers: How many processes search at the same time, each on a GPU of its own if there are
            several.
        prune: Whether to stop a trial whose best validation score so far is below the median of
            the finished trials at the same validation.
        storage: The database of the trials: a file, or a URL such as
            `postgresql://user@host/sweep`; by default sweep.db in the sweep's folder.
    """

    trials: int = 20
    seeds: int = 5
    workers: int = 1
    prune: bool = True
    storage: str | None = None


def sweep(  # noqa: D417
    run: Run,
    space: str | None = None,
    sweep: SweepOptions = SweepOptions(),  # noqa: B008 (the parser reads the default)
) -> None:
    """Search hyperparameters with Optuna, then test whether the best ones really are better.

    Each trial is a `fit` without the test split. The same command again continues an interrupted
    sweep; a second time at once, it helps as another worker.

    Args:
        space: A YAML file with the keys to vary: a range such as `model.recipe.lr: {low: 1.0e-5,
            high: 1.0e-3, log: true}`, or a list such as `data.batch_size: [16, 32]`.
        sweep: How to search.
    """
    _check(run, sweep)
    content = spaces.read(space)
    checked = _check_space(run, content)
    if find_spec("optuna") is None:
        raise InputError("sweep needs Optuna: pip install -c constraints.txt -e '.[sweep]'")
    from litpool.tools.sweep import report, worker
    from litpool.tools.sweep.storage import one_line

    with one_line():
        plan = _prepare(run, content, checked, sweep)
        with _helpers(sweep.workers):
            worker.search(plan)
            winner = worker.best(plan.trials)
            assert winner is not None
            results = None
            if sweep.seeds and not worker.is_default(winner, plan):
                results = worker.compare(plan, winner)
        if plan.parent is None:
            with alone(plan.fit.folder):
                text = report.write(plan, winner, results, run)
            print(text)
            print(f"wrote {plan.fit.folder}")


def _check(run: Run, options: SweepOptions) -> None:
    """Refuse options that cannot work."""
    if options.trials < 1:
        raise InputError(f"sweep.trials={options.trials}: give 1 or more")
    if options.workers < 1:
        raise InputError(f"sweep.workers={options.workers}: give 1 or more")
    if options.seeds < 0 or options.seeds == 1:
        raise InputError(
            f"sweep.seeds={options.seeds}: one seed shows no spread; give 2 or more, or 0 for no "
            "comparison at the end"
        )
    if run.trainer.world_size > 1:
        raise InputError(
            f"trainer.devices={run.trainer.world_size}: a trial trains on one device; set "
            "trainer.devices=1, and sweep.workers to the number of devices"
        )
    if run.config["trainer"]["fast_dev_run"]:
        raise InputError("trainer.fast_dev_run: it gives no scores; use sweep.trials and max_steps")
    if run.config["trainer"]["logger"] not in (None, True):
        raise InputError(
            "trainer.logger: a sweep has a TensorBoard log for each trial; leave it out"
        )


def _check_space(run: Run, content: Mapping[str, Any]) -> Space:
    """Check the space with the job, by parsing it as `fit` does."""
    with TemporaryDirectory() as scratch:
        fit = Fit(Path(scratch), run.trusted)
        fit.write_job(_job(run))
        return spaces.check(content, fit.parse)


def _prepare(
    run: Run, content: Mapping[str, Any], space: Space, options: SweepOptions
) -> "worker.Plan":
    """Read the data and open the storage. No weights are loaded."""
    from litpool.tools.sweep import storage, worker

    config = _job(run)
    run.read("fit")
    task = run.model.task
    if options.seeds and "test" not in run.data.rows:
        raise InputError(
            f"data.source={run.data.source.source} has no test split to compare the winner on; "
            "add one, or set sweep.seeds=0"
        )
    facts = _facts(run, content)
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]
    folder = run.parent / f"sweep-{digest}"
    make_folder(folder)
    fit = Fit(folder, run.trusted)
    database = storage.open_storage(storage.url_of(options.storage, folder))
    seed = int(config["seed_everything"])
    trials = storage.open_trials(database, facts, seed, task.monitor_mode, options.prune)
    with alone(folder):
        fit.write_job(config)
    default = spaces.default(space, config)
    parent = int(os.environ[PARENT]) if PARENT in os.environ else None
    counts = (options.trials, seed, options.seeds)
    return worker.Plan(fit, space, default, database, trials, *counts, parent)


def _job(run: Run) -> dict[str, Any]:
    """Return the job that the trials change."""
    config = {**run.config, "trainer": {**run.config["trainer"], "logger": None}}
    if config["data"]["tokenizer"] == config["model"]["encoder"]["name"]:
        config["data"] = {**config["data"], "tokenizer": None}  # the trial's encoder has its own
    return config


def _facts(run: Run, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return by what a sweep is recognized: the job, the space and the rows."""
    trainer = {
        name: value for name, value in run.config["trainer"].items() if name not in NO_EFFECT
    }
    # A fingerprint is a hash of the content.
    rows = {split: encoded._fingerprint for split, encoded in run.data.encoded.items()}
    facts = {"job": {**run.config, "trainer": trainer}, "space": dict(content), "rows": rows}
    return json.loads(json.dumps(facts, default=str))


@contextmanager
def _helpers(count: int) -> Iterator[None]:
    """Start further workers, which end with this one."""
    if PARENT in os.environ or count == 1:
        yield
        return
    processes = [_start(number) for number in range(1, count)]

    def end() -> None:
        for process in processes:
            process.terminate()

    interrupt.at_deadline.append(end)
    try:
        yield
    except BaseException:
        end()
        raise
    finally:
        for process in processes:
            process.wait()
        interrupt.at_deadline.remove(end)


def _start(number: int) -> subprocess.Popen[bytes]:
    """Start the command of this process again, on the next GPU if there are several."""
    main = sys.modules["__main__"].__spec__
    program = [sys.argv[0]] if main is None else ["-m", main.name]
    environment = {**os.environ, PARENT: str(os.getpid())}
    gpus = torch.cuda.device_count()
    if gpus > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus))))
        environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[number % gpus]
    command = [sys.executable, *program, *sys.argv[1:]]
    return subprocess.Popen(command, env=environment)
