"""A worker of a sweep: takes one trial after the other, until all are finished."""

import contextlib
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import optuna
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from torch import OutOfMemoryError

from litpool import InputError, JobError, interrupt, reason
from litpool.command_line import plugins
from litpool.command_line.runs import LONGEST
from litpool.tools.sweep import space, storage
from litpool.tools.sweep.space import Choice, Range, Space
from litpool.tools.sweep.training import Fit, remove_checkpoints, remove_last

POLL = 1.0  # seconds between looks at what the other workers do
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
DEFAULT = -1  # in the comparison: the config as it is

FOLDER = "folder"
SECONDS = "seconds"
ERROR = "error"
RESULT = "result"

Train = Callable[[optuna.Trial], float]


class Surplus(Exception):
    """Another worker does this already."""


class Plan(NamedTuple):
    """What a worker works on.

    Args:
        fit: How to train.
        space: What varies.
        default: The point of the space that is the job as it is; None if it lies outside.
        database: Holds the trials.
        trials: The study of the trials.
        total: How many trials there are to be, over all workers.
        seed: That of the job; the fresh ones count up from it.
        seeds: How many fresh seeds there are.
        parent: The process that started this one as a further worker, or None.
    """

    fit: Fit
    space: Space
    default: dict[str, Any] | None
    database: RDBStorage
    trials: optuna.Study
    total: int
    seed: int
    seeds: int
    parent: int | None


def search(plan: Plan) -> None:
    """Run trials until so many are finished, counting those of all workers.

    Raises:
        JobError: No trial has a score.
    """
    study = plan.trials
    if plan.default is not None:
        storage.enqueue(study, plan.default)
    _work(plan, study, plan.total, lambda trial: _try(plan, trial))
    if best(study) is None:
        errors = [trial.user_attrs.get(ERROR) for trial in study.trials]
        last = next((error for error in reversed(errors) if error), "all were interrupted")
        raise JobError(f"none of the trials has a score; the last one: {last}")


def compare(plan: Plan, winner: FrozenTrial) -> tuple[list[Any], list[Any]]:
    """Train the winner and the config as it is with fresh seeds.

    Returns:
        The results of `score_rows` for the winner, and for the config as it is, seed by seed.
    """
    study = storage.open_comparison(plan.database)
    for seed in fresh_seeds(plan):
        for trial in (storage.origin(winner), DEFAULT):
            storage.enqueue(study, {"trial": trial, "seed": seed})
    _work(plan, study, None, lambda trial: _score(plan, trial))
    results = {
        (trial.params["trial"], trial.params["seed"]): trial.user_attrs[RESULT]
        for trial in study.get_trials(states=(TrialState.COMPLETE,))
    }
    first, second = (
        [results.get((number, seed)) for seed in fresh_seeds(plan)]
        for number in (storage.origin(winner), DEFAULT)
    )
    if None in first + second:
        raise JobError(
            "a training of the comparison failed in another worker; run the same command again"
        )
    return first, second


def _finished(plan: Plan, number: int) -> FrozenTrial:
    """Return the finished trial with a number."""
    trials = plan.trials.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return next(trial for trial in trials if storage.origin(trial) == number)


def fresh_seeds(plan: Plan) -> list[int]:
    """Return the seeds of the comparison, of which no trial has had one."""
    return [(plan.seed + number) % 2**32 for number in range(1, plan.seeds + 1)]


def best(study: optuna.Study) -> FrozenTrial | None:
    """Return the trial with the best validation score, of equals the first; None without any."""
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return max(
        finished, key=lambda trial: _rank(study, trial.value, storage.origin(trial)), default=None
    )


def _rank(study: optuna.Study, score: float | None, number: int) -> tuple[float, int]:
    """Return what is greater for a better trial: of equal scores, the first is better."""
    assert score is not None
    sign = 1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else -1
    return sign * score, -number


def is_default(trial: FrozenTrial, plan: Plan) -> bool:
    """Return whether a trial is the config as it is."""
    return plan.default is not None and trial.params == plan.default


# ---- taking trials


def _work(plan: Plan, study: optuna.Study, count: int | None, train: Train) -> None:
    """Run trials of a study until none is left; wait for those of the other workers."""
    taken: list[int] = []

    def objective(trial: optuna.Trial) -> float:
        taken.append(trial.number)
        _take(study, trial, count)
        return train(trial)

    while plan.parent is None or plan.parent == os.getppid():  # the parent may have been killed
        interrupt.check()
        storage.release_dead(study)
        if not _is_free(study, count):
            if not study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                return
            time.sleep(POLL)
            optuna.storages.fail_stale_trials(study)
            continue
        try:
            study.optimize(objective, n_trials=1)
        except Surplus:
            continue
        except (KeyboardInterrupt, SystemExit):  # Lightning turns Ctrl-C into SystemExit
            if taken:
                storage.release(study, taken[-1])
            interrupt.advise("interrupted; run the same command again to continue the sweep")
            raise
    raise JobError("the first worker has ended")


def _is_free(study: optuna.Study, count: int | None) -> bool:
    """Return whether there is a trial to take: one that waits, or a new one."""
    trials = study.get_trials(deepcopy=False)
    if any(trial.state == TrialState.WAITING for trial in trials):
        return True
    return count is not None and sum(trial.state != TrialState.FAIL for trial in trials) < count


def _take(study: optuna.Study, trial: optuna.Trial, count: int | None) -> None:
    """Keep a trial that was taken, unless another worker has taken the same, or the last one.

    Raises:
        Surplus: It has.
    """
    storage.claim(trial)
    trials = study.get_trials(deepcopy=False)
    fixed = storage.asked(next(other for other in trials if other.number == trial.number))
    before = [
        other for other in trials if other.number < trial.number and other.state != TrialState.FAIL
    ]
    if fixed is None and (count is None or len(before) >= count):
        raise Surplus
    if fixed is not None and any(storage.asked(other) == fixed for other in before):
        raise Surplus


# ---- what a trial does


def _try(plan: Plan, trial: optuna.Trial) -> float:
    """Train with the drawn values; return the best validation score."""
    number = storage.origin(trial)
    drawn = {key: draw(trial, key, part) for key, part in plan.space.items()}
    values = space.point(plan.space, drawn, plan.default)
    name = folder_name(f"trial-{number}", values)
    trial.set_user_attr(FOLDER, name)
    for step, value in _reported(plan.trials, number):
        trial.report(value, step)
    start = time.perf_counter()
    try:
        value = _train(plan, trial, name, values)
    except optuna.TrialPruned:
        _conclude(plan, trial, start, name, "stopped early")
        raise
    except (InputError, JobError, MisconfigurationException, OutOfMemoryError) as error:
        problem = _reason(plan, error)
        trial.set_user_attr(ERROR, problem)
        _conclude(plan, trial, start, name, f"failed: {problem}")
        raise optuna.TrialPruned from error
    _conclude(plan, trial, start, name, f"{value:.4g}", value)
    return value


def _train(plan: Plan, trial: optuna.Trial, name: str, values: Mapping[str, Any]) -> float:
    def report(step: int, value: float) -> None:
        trial.report(value, step)
        if trial.should_prune():
            raise optuna.TrialPruned

    with _explained():
        result = plan.fit.train(name, values, None, report)
    value = float(result["validation"])
    if not math.isfinite(value):
        raise JobError("the validation score is not defined")
    return value


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Say in one line what went wrong in a training, where Lightning's errors are long."""
    try:
        yield
    except (InputError, JobError, optuna.TrialPruned):
        raise
    except Exception as error:
        explained = plugins.report(error)
        if explained is None:
            raise
        raise explained from error


def _reason(plan: Plan, error: Exception) -> str:
    """Return why the values of a trial cannot be trained.

    Raises:
        Exception: The values are not the reason, or no trial before this one had a score, so the
            next ones would hardly do better.
    """
    if isinstance(error.__cause__, OSError):  # such as a full disk
        raise error
    if isinstance(error, InputError | MisconfigurationException) and best(plan.trials) is None:
        raise error
    return reason(error, 300)


def draw(trial: optuna.Trial, key: str, part: Choice | Range) -> Any:
    """Draw a value for a key; `part.apply` makes it one of the config's."""
    if isinstance(part, Choice):
        return trial.suggest_categorical(key, list(part.options))
    if part.whole:
        step = int(part.step or 1)
        return trial.suggest_int(key, int(part.low), int(part.high), step=step, log=part.log)
    return trial.suggest_float(key, part.low, part.high, step=part.step, log=part.log)


def _reported(study: optuna.Study, number: int) -> list[tuple[int, float]]:
    """Return what the interrupted beginnings of a trial have reported."""
    reported: dict[int, float] = {}
    for trial in study.get_trials(deepcopy=False):
        if storage.origin(trial) == number and trial.state == TrialState.FAIL:
            reported |= trial.intermediate_values
    return sorted(reported.items())


def folder_name(name: str, values: Mapping[str, Any]) -> str:
    """Return the name of a training's folder, which shows its values, as `--name` allows it."""
    text = re.sub(r"[^A-Za-z0-9.+=-]+", "_", f"{name}-{space.label(values, '-')}")
    return text[:LONGEST].rstrip("-_.=")


def _score(plan: Plan, trial: optuna.Trial) -> float:
    """Train a winner or the config as it is with a fresh seed; return the test score.

    The winner is that of the trial, which may be an earlier one than this worker's.
    """
    number, seed = trial.suggest_int("trial", -1, 2**31), trial.suggest_int("seed", 0, 2**32)
    if number == DEFAULT:
        name, shown, values = f"default-seed={seed}", "config as it is", {}
    else:
        name, shown = f"winner-{number}-seed={seed}", f"trial {number}"
        values = space.point(plan.space, _finished(plan, number).params, plan.default)
    start = time.perf_counter()
    with _explained():
        result = plan.fit.train(name, values, seed, None)
    trial.set_user_attr(RESULT, result)
    remove_last(plan.fit.folder / name)
    if number == DEFAULT:
        remove_checkpoints(plan.fit.folder / name)
    seconds = time.perf_counter() - start
    print(f"seed {seed}  {shown}: test {result['test']:.4g}  {_time(seconds)}", flush=True)
    return float(result["test"])


# ---- what is said about a trial


def _conclude(
    plan: Plan,
    trial: optuna.Trial,
    start: float,
    name: str,
    outcome: str,
    value: float | None = None,
) -> None:
    """Note how long a trial took, print its line, and remove checkpoints that nobody needs."""
    seconds = time.perf_counter() - start
    trial.set_user_attr(SECONDS, round(seconds, 1))
    number = storage.origin(trial)
    leader = best(plan.trials)
    leads = value is not None and (
        leader is None
        or _rank(plan.trials, value, number)
        > _rank(plan.trials, leader.value, storage.origin(leader))
    )
    if leads and leader is not None:
        remove_checkpoints(plan.fit.folder / str(leader.user_attrs.get(FOLDER)))
    if not leads:
        remove_checkpoints(plan.fit.folder / name)
    remove_last(plan.fit.folder / name)
    if leads:
        record = "the best so far"
    elif leader is None:
        record = "no score so far"
    else:
        record = f"best {leader.value:.4g} (trial {storage.origin(leader)})"
    values = space.label(space.point(plan.space, trial.params, plan.default))
    left = _time_left(plan, seconds)
    print(f"trial {number}  {values}  {outcome}  {record}  {_time(seconds)}{left}", flush=True)


def _time_left(plan: Plan, seconds: float) -> str:
    """Say how long the rest takes, the trainings at the end included."""
    trials = plan.trials.get_trials(deepcopy=False)
    done = [trial for trial in trials if trial.state in FINISHED]
    running = max(1, sum(trial.state == TrialState.RUNNING for trial in trials))
    times = [float(trial.user_attrs.get(SECONDS, seconds)) for trial in done] + [seconds]
    trainings = max(0, plan.total - len(times)) + 2 * plan.seeds
    if not trainings:
        return ""
    return f"  {_time(trainings * sum(times) / len(times) / running)} left"


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
