"""The database of a sweep: one Optuna study of the trials, one of the comparison at the end.

Several workers may use it at the same time, and any of them may be killed at any moment. A trial
belongs to a worker only while it is RUNNING; if the worker is gone, the trial fails, and a copy
with the same parameters waits to be taken up.
"""

import contextlib
import os
import random
import re
import socket
import time
import warnings
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna import Study, Trial
from optuna.exceptions import (
    ExperimentalWarning,
    StorageInternalError,
    UpdateFinishedTrialError,
)
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

from litpool import InputError, JobError, reason

TRIALS = "sweep"
COMPARISON = "comparison"
FACTS = "facts"  # what makes a sweep this one, in the study's attributes

HEARTBEAT = 10  # seconds from one sign of life of a worker to the next
GRACE = 60  # seconds without one, after which a worker on another machine counts as gone
TIMEOUT = 60  # seconds to wait while another worker writes
ATTEMPTS = 5  # to make the tables, which two workers may do at the same moment

OWNER = "owner"  # host and process of the worker
ORIGIN = "origin"  # the number of the trial that this one continues

Facts = dict[str, Any]


class Sampler(TPESampler):
    """TPE, seeded anew for each trial: workers with the same seed must not draw the same.

    Args:
        seed: The seed of the sweep.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed=seed, multivariate=True)
        self.seed = seed

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Start again, with a seed for this trial; TPE itself can only be reseeded at random."""
        seed = random.Random(f"{self.seed} {trial.number}").getrandbits(32)
        super().__init__(seed=seed, multivariate=True)


def url_of(storage: str | None, folder: Path) -> str:
    """Return the URL of the database."""
    if storage and "://" in storage:
        return storage
    return f"sqlite:///{Path(storage) if storage else folder / 'sweep.db'}"


def without_password(text: str) -> str:
    """Return a text, such as a URL or a command, with passwords in URLs replaced by ***."""
    return re.sub(r"(://[^\s:/@]*:)[^\s@]+@", r"\1***@", text)


def open_storage(url: str) -> RDBStorage:
    """Open the database, and make its tables if it is new.

    Raises:
        InputError: It cannot be opened, or is no database.
    """
    if url.startswith("sqlite:///"):
        file = Path(url.removeprefix("sqlite:///"))
        if file.is_dir() or not file.parent.is_dir():
            raise InputError(f"sweep.storage={file}: name a file in a folder that exists")
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _open(url)
        except (SQLAlchemyError, StorageInternalError, ImportError, RuntimeError) as error:
            problem = reason(error.__cause__ or error)
            retry = isinstance(error, SQLAlchemyError | StorageInternalError)
            if attempt == ATTEMPTS or not retry or "not a database" in problem:
                raise InputError(
                    f"sweep.storage={without_password(url)}: cannot be opened "
                    f"({without_password(problem)}); name a new file, or "
                    "the URL of a database that you may write to"
                ) from error
            time.sleep(random.random())
    raise AssertionError


def _open(url: str) -> RDBStorage:
    sqlite = url.startswith("sqlite")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # the heartbeat
        storage = RDBStorage(
            url,
            engine_kwargs={"connect_args": {"timeout": TIMEOUT}} if sqlite else None,
            heartbeat_interval=HEARTBEAT,
            grace_period=GRACE,
            heartbeat_stale_trial_callback=enqueue_again,
        )
    if sqlite:
        # Python's driver begins a transaction only when it writes, so two workers could both read
        # that a trial waits, and both take it.
        event.listen(storage.engine, "connect", _no_implicit_transactions)
        event.listen(storage.engine, "begin", _begin)
        storage.engine.dispose()  # the connections made before
    return storage


def _no_implicit_transactions(connection: Any, record: Any) -> None:
    connection.isolation_level = None


def _begin(connection: Any) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def open_trials(storage: RDBStorage, facts: Facts, seed: int, mode: str, prune: bool) -> Study:
    """Open the study of the trials.

    Args:
        storage: The database.
        facts: Job and space, by which a sweep is recognized.
        seed: The seed of the sampler.
        mode: `max` or `min`.
        prune: Whether to stop bad trials early.

    Raises:
        InputError: The database holds another study.
    """
    names = {summary.study_name for summary in storage.get_all_studies()}
    if others := names - {TRIALS, COMPARISON}:
        raise InputError(
            f"sweep.storage={without_password(storage.url)}: holds another study, "
            f"{sorted(others)[0]!r}; give the sweep a storage of its own"
        )
    pruner: BasePruner = MedianPruner(n_startup_trials=5) if prune else NopPruner()
    study = _open_study(storage, TRIALS, mode, Sampler(seed), pruner)
    stored = study.user_attrs.get(FACTS)
    if stored is None:
        study.set_user_attr(FACTS, facts)
        stored = study.user_attrs[FACTS]
    if stored != facts:
        raise InputError(
            f"sweep.storage={without_password(storage.url)}: holds another sweep "
            f"({first_difference(stored, facts)}); give this one a storage of its own"
        )
    return study


def open_comparison(storage: RDBStorage) -> Study:
    """Open the study of the trainings at the end, of which each one waits to be taken."""
    return _open_study(storage, COMPARISON, "max", Sampler(0), NopPruner())


def _open_study(
    storage: RDBStorage, name: str, mode: str, sampler: Sampler, pruner: BasePruner
) -> Study:
    return optuna.create_study(
        study_name=name,
        storage=storage,
        sampler=sampler,
        pruner=pruner,
        direction="maximize" if mode == "max" else "minimize",
        load_if_exists=True,
    )


def first_difference(stored: Any, own: Any, key: str = "") -> str:
    """Say which value of a sweep differs first: `data.batch_size is 32 there and 16 here`."""
    if isinstance(stored, dict) and isinstance(own, dict):
        for name in dict.fromkeys([*own, *stored]):
            if stored.get(name) != own.get(name):
                below = f"{key}.{name}".lstrip(".")
                return first_difference(stored.get(name), own.get(name), below)
    short = (f"{value}"[:80] for value in (stored, own))
    return "{} is {} there and {} here".format(key.removeprefix("job."), *short)


# ---- trials whose worker is gone


def claim(trial: Trial) -> None:
    """Note which worker a trial belongs to."""
    trial.set_user_attr(OWNER, [socket.gethostname(), os.getpid()])


def origin(trial: FrozenTrial | Trial) -> int:
    """Return the number of the trial that this one continues, or its own."""
    return int(trial.user_attrs.get(ORIGIN, trial.number))


def asked(trial: FrozenTrial) -> dict[str, Any] | None:
    """Return the parameters that a trial was enqueued with; None if it was not."""
    return trial.system_attrs.get("fixed_params")


def enqueue(study: Study, params: dict[str, Any]) -> None:
    """Let a trial with these parameters wait, unless there is one; of two, a worker drops one."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.FAIL]
    if all(params not in (asked(trial), trial.params) for trial in trials):
        study.enqueue_trial(params)


def enqueue_again(study: Study, trial: FrozenTrial) -> None:
    """Let a failed trial wait with the same parameters, unless that is done."""
    first = origin(trial)
    others = [other for other in study.get_trials(deepcopy=False) if other.number > trial.number]
    if any(other.user_attrs.get(ORIGIN) == first for other in others):
        return
    if params := trial.params or asked(trial):  # else nothing was drawn yet
        study.enqueue_trial(params, user_attrs={ORIGIN: first})


def release(study: Study, number: int) -> None:
    """Give up a trial that cannot be finished here; another one continues it."""
    trial = next(trial for trial in study.get_trials(deepcopy=False) if trial.number == number)
    if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
        return
    enqueue_again(study, trial)
    if not trial.state.is_finished():
        with contextlib.suppress(UpdateFinishedTrialError, ValueError):
            study.tell(number, state=TrialState.FAIL)


def release_dead(study: Study) -> None:
    """Give up the trials of workers on this machine that do not exist any more.

    Those on other machines are known by their heartbeat, which takes longer.
    """
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if _is_dead(trial):
            release(study, trial.number)


def _is_dead(trial: FrozenTrial) -> bool:
    owner = trial.user_attrs.get(OWNER)
    if owner is None:  # killed before it said so
        assert trial.datetime_start is not None
        return datetime.now() - trial.datetime_start > timedelta(seconds=GRACE)
    host, process = owner
    return host == socket.gethostname() and process != os.getpid() and not _exists(process)


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Say in one line that the database failed."""
    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        raise JobError(
            f"the sweep's storage failed ({reason(error.__cause__ or error)}); "
            "run the same command again to continue"
        ) from error
