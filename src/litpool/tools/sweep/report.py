"""What a sweep writes into its folder: tables, figures, and the winner as a config."""

import csv
import io
import json
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState
from torch.utils.tensorboard import SummaryWriter

from litpool import program
from litpool.commands import Run
from litpool.disk import replacing, write_text
from litpool.loops.figures import BLUE, INK, MUTED, ORANGE, style
from litpool.loops.outputs import versions
from litpool.tools.sweep import claim, space, storage
from litpool.tools.sweep.training import JOB
from litpool.tools.sweep.worker import ERROR, FOLDER, SECONDS, Plan, fresh_seeds, is_default

MIN_TRIALS = 4  # finished ones, for importances
NOTE = (
    "The share of the variation of the validation score that a key explains (fANOVA), from {} "
    "trials. With few trials this is a hint, not a measurement."
)

Json = dict[str, Any]
Results = tuple[list[Json], list[Json]] | None


def write(plan: Plan, winner: FrozenTrial, results: Results, run: Run) -> str:
    """Write the report; return the sentence about the winner.

    Args:
        plan: The sweep.
        winner: The trial with the best validation score.
        results: Those of `score_rows` for the winner and the config as it is; None for none.
        run: The job.
    """
    monitor = run.model.task.monitor
    metric = monitor.partition("/")[2]
    folder = plan.fit.folder
    trials = [_describe(plan, trial) for trial in finished(plan.trials)]
    importance = importances(plan.trials, plan.seed)
    content: Json = {
        "sentence": conclude(plan, winner, results, metric),
        "command": storage.without_password(shlex.join([*program().split(), *sys.argv[1:]])),
        "monitor": monitor,
        "mode": run.model.task.monitor_mode,
        "winner": storage.origin(winner),
        "default": next((line["number"] for line in trials if line["default"]), None),
        "trials": trials,
        "importance": importance,
        "comparison": _comparison(plan, results),
        "job": json.loads(json.dumps(run.config, default=str)),
        "versions": {**versions(), "optuna": version("optuna")},
    }
    _write_winner(plan, winner, content)
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    write_text(folder / "sweep.json", f"{text}\n")
    write_text(folder / "sweep.csv", _table(plan, trials))
    write_text(folder / "sweep.md", markdown(content))
    with style():
        figures = {"history": history(trials, monitor, content["mode"])}
        if importance:
            figures["importance"] = importance_figure(importance)
        _write_figures(folder, figures)
    return content["sentence"]


def conclude(plan: Plan, winner: FrozenTrial, results: Results, metric: str) -> str:
    """Return the sentence about the winner."""
    count = len(finished(plan.trials))
    if is_default(winner, plan):
        return (
            f"None of {count} trials has a higher validation {metric} than the config as it is, "
            "so there is nothing to compare"
        )
    name = space.label(space.point(plan.space, winner.params, plan.default))
    if results is None:
        return (
            f"{name} has the best validation {metric} of {count} trials, {winner.value:.4g}; no "
            "claim, since sweep.seeds=0 compares nothing on the test split"
        )
    return claim.sentence(name, metric, *results)


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that are done, in the order in which they began."""
    trials = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
    return sorted(trials, key=storage.origin)


def importances(study: optuna.Study, seed: int) -> dict[str, float]:
    """Return how much each key matters, the most first; empty if the trials cannot say."""
    trials = study.get_trials(states=(TrialState.COMPLETE,))
    if len(trials) < MIN_TRIALS or len({trial.value for trial in trials}) < 2:
        return {}
    if len(trials[0].params) < 2:
        return {}
    return get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=seed))


def _describe(plan: Plan, trial: FrozenTrial) -> Json:
    error = trial.user_attrs.get(ERROR)
    done = trial.state == TrialState.COMPLETE
    return {
        "number": storage.origin(trial),
        "state": "finished" if done else "failed" if error else "stopped early",
        "score": round(float(trial.value or 0), 6) if done else None,
        "validations": {
            str(step): round(value, 6) for step, value in trial.intermediate_values.items()
        },
        "values": space.point(plan.space, trial.params, plan.default),
        "default": is_default(trial, plan),
        "seconds": trial.user_attrs.get(SECONDS),
        "folder": trial.user_attrs.get(FOLDER),
        "error": error,
    }


def _comparison(plan: Plan, results: Results) -> Json | None:
    if results is None:
        return None
    winner, default = results
    lines = [
        {"seed": seed, "winner": one["test"], "default": other["test"]}
        for seed, one, other in zip(fresh_seeds(plan), winner, default, strict=True)
    ]
    found = claim.compare(winner, default)
    values = [value if np.isfinite(value) else None for value in found]
    interval = dict(zip(("difference", "low", "high"), values, strict=True))
    return {"runs": lines, "rows": winner[0]["rows"], **interval}


def _write_winner(plan: Plan, winner: FrozenTrial, content: Json) -> None:
    """Write the job with the winner's values, which `fit` can train."""
    job = yaml.safe_load((plan.fit.folder / JOB).read_text(encoding="utf-8"))
    values = space.point(plan.space, winner.params, plan.default)
    changed = plan.fit.parse(values)
    for section in ("task", "model", "data", "trainer"):
        job[section] = changed[section]
    path = plan.fit.folder / "winner.yaml"
    head = f"# {program()} fit --config {path}\n#\n# {content['sentence']}\n"
    write_text(path, head + yaml.safe_dump(job, sort_keys=False, allow_unicode=True))


def _table(plan: Plan, trials: Sequence[Json]) -> str:
    """Return the trials as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["number", "state", "score", *plan.space, "seconds", "folder", "error"])
    for trial in trials:
        values = [
            value if isinstance(value, str | int | float) else json.dumps(value)
            for value in trial["values"].values()
        ]
        head = [trial["number"], trial["state"], trial["score"]]
        writer.writerow([*head, *values, trial["seconds"], trial["folder"], trial["error"]])
    return text.getvalue()


# ---- Markdown


def markdown(content: Json) -> str:
    """Return the report as Markdown."""
    metric = content["monitor"]
    sign = 1 if content["mode"] == "max" else -1
    ranked = sorted(
        content["trials"],
        key=lambda trial: (trial["score"] is None, -sign * (trial["score"] or 0), trial["number"]),
    )
    keys = list(ranked[0]["values"])
    lines = ["# Sweep", "", f"{content['sentence']}.", "", f"`{content['command']}`", ""]
    lines += ["## Trials", "", f"| trial | {metric} | {' | '.join(keys)} | seconds |"]
    lines += ["|---" * (len(keys) + 3) + "|"]
    for trial in ranked:
        score = trial["state"] if trial["score"] is None else f"{trial['score']:.4f}"
        name = f"{trial['number']} (the config as it is)" if trial["default"] else trial["number"]
        values = " | ".join(space.show(value) for value in trial["values"].values())
        lines.append(f"| {name} | {score} | {values} | {trial['seconds']:.0f} |")
    failed = [trial for trial in ranked if trial["error"]]
    lines += [f"\nTrial {trial['number']} failed: {trial['error']}" for trial in failed]
    if content["importance"]:
        count = sum(trial["score"] is not None for trial in ranked)
        lines += [
            "",
            "## Importance",
            "",
            NOTE.format(count),
            "",
            "| key | importance |",
            "|---|---|",
        ]
        lines += [f"| {key} | {value:.2f} |" for key, value in content["importance"].items()]
    if content["comparison"]:
        lines += _comparison_lines(content)
    return "\n".join([*lines, ""])


def _comparison_lines(content: Json) -> list[str]:
    metric = content["monitor"].partition("/")[2]
    lines = ["", f"## Test {metric} with fresh seeds", "", "| seed | winner | config as it is |"]
    lines += ["|---|---|---|"]
    for run in content["comparison"]["runs"]:
        lines.append(f"| {run['seed']} | {run['winner']:.4f} | {run['default']:.4f} |")
    return lines


# ---- figures


def history(trials: Sequence[Json], monitor: str, mode: str) -> Figure:
    """Draw the score of each trial, and the best so far."""
    scored = [trial for trial in trials if trial["score"] is not None]
    numbers = [trial["number"] for trial in scored]
    scores = [trial["score"] for trial in scored]
    best = (np.maximum if mode == "max" else np.minimum).accumulate(scores)
    figure = _figure(2.6)
    axes = figure.subplots()
    axes.step(numbers, best, where="post", color=BLUE, label="best so far")
    axes.scatter(numbers, scores, s=14, color=MUTED, label="trial", zorder=2)
    default = [trial for trial in scored if trial["default"]]
    if default:
        point = ([default[0]["number"]], [default[0]["score"]])
        axes.scatter(*point, s=26, color=ORANGE, label="config as it is", zorder=3)
    axes.set(xlabel="trial", ylabel=monitor)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=8)
    return figure


def importance_figure(importance: dict[str, float]) -> Figure:
    """Draw how much each key matters."""
    names = list(importance)[::-1]
    figure = _figure(0.9 + 0.3 * len(names))
    axes = figure.subplots()
    bars = axes.barh(names, [importance[name] for name in names], color=BLUE)
    axes.bar_label(bars, fmt="{:.2f}", padding=3, color=INK, fontsize=8)
    axes.set(xlim=(0, 1.15), xlabel="share of the variation of the score")
    return figure


def _figure(height: float) -> Figure:
    figure = Figure((4.6, height), layout="constrained")
    FigureCanvasAgg(figure)  # draws without a window
    return figure


def _write_figures(folder: Path, figures: dict[str, Figure]) -> None:
    """Write the figures as PNG files, and for TensorBoard."""
    for old in folder.glob("events.out.tfevents.*"):  # of an earlier report
        old.unlink(missing_ok=True)
    with SummaryWriter(str(folder)) as writer:
        for name, figure in figures.items():
            with replacing(folder / f"{name}.png") as part:
                figure.savefig(part, format="png", dpi=150)
            writer.add_figure(f"sweep/{name}", figure)
