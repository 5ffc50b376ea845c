"""Whether loops do the same, and if not, at which step they part, and why."""

from collections.abc import Mapping
from fractions import Fraction
from itertools import pairwise
from typing import Any

Record = dict[str, Any]

FIELDS = {  # of a step, in the order in which one follows from the other
    "rows": "rows",
    "training": "training mode",
    "lr": "learning rate",
    "loss": "loss",
    "grad_norm": "gradient norm",
    "clipped_norm": "gradient norm after clipping",
}


def verdict(runs: Mapping[str, list[Record]]) -> str:
    """One line: identical, or where each loop first differs from the first one.

    Args:
        runs: The repeats of each loop, as `Recorder` wrote them.
    """
    first, *others = runs
    lines = [
        f"{loop} differs from itself"
        for loop in runs
        if any(_difference(run, runs[loop][0]) for run in runs[loop])
    ]
    for loop in others:
        if difference := _difference(runs[first][0], runs[loop][0]):
            step, field = difference
            lines.append(_describe(step, field, {first: runs[first][0], loop: runs[loop][0]}))
    steps = len(runs[first][0]["steps"])
    return (
        "; ".join(lines)
        or f"identical for all {steps} steps, and in the weights at the end: {', '.join(runs)}"
    )


def _difference(left: Record, right: Record) -> tuple[int, str] | None:
    """The first step (1 is the first) at which two runs differ, and in what; step 0 is past the last one."""
    pairs = zip(left["steps"], right["steps"], strict=False)
    for number, (one, other) in enumerate(pairs, start=1):
        for field in FIELDS:
            if one[field] != other[field]:
                return number, field
    if len(left["steps"]) != len(right["steps"]):
        return 0, "number of steps"
    return (0, "weights at the end") if left["sha256"] != right["sha256"] else None


def _describe(step: int, field: str, pair: Mapping[str, Record]) -> str:
    names = " and ".join(pair)
    if not step:
        counts = " vs ".join(str(len(run["steps"])) for run in pair.values())
        return f"{names} differ only in the {field}" + (
            f", {counts}" if field == "number of steps" else ""
        )
    left, right = (run["steps"][step - 1][field] for run in pair.values())
    values = f" {left:.6g} vs {right:.6g}" if isinstance(left, float) else ""
    return (
        f"{names} first differ at step {step}: {FIELDS[field]}{values}; {_cause(step, field, pair)}"
    )


def _cause(step: int, field: str, pair: Mapping[str, Record]) -> str:
    """What the records say about the cause."""
    if field == "rows":
        return "they shuffle otherwise"
    if field == "training":
        silent = [name for name, run in pair.items() if not run["steps"][step - 1]["training"]]
        return f"{silent[0]} trains in eval mode, without dropout"
    if field == "lr":
        changes = [f"{name}'s changes after {_lr_changes(run)}" for name, run in pair.items()]
        return f"of {len(next(iter(pair.values()))['steps'])} steps, {' and '.join(changes)}"
    if field == "clipped_norm":
        return ", ".join(f"{name} {_clipping(run)}" for name, run in pair.items())
    left, right = (run["steps"][step - 1][field] for run in pair.values())
    ratio = Fraction(left / right).limit_denominator(16) if right else Fraction(1)
    if ratio != 1 and abs(left / right - ratio) < 1e-5 * ratio:
        return f"the accumulated loss is scaled otherwise, by a factor of {ratio}"
    groups = [run["groups"] for run in pair.values()]
    if groups[0] != groups[1]:
        return ", ".join(f"{name} {_decay(run)}" for name, run in pair.items())
    return "rows, learning rates, clipping and weight decay are the same so far: the arithmetic differs"


def _lr_changes(run: Record) -> int:
    rates = [step["lr"] for step in run["steps"]]
    return sum(before != after for before, after in pairwise(rates))


def _clipping(run: Record) -> str:
    clipped = [
        s["clipped_norm"] for s in run["steps"] if s["clipped_norm"] < s["grad_norm"] * (1 - 1e-4)
    ]
    return f"clips at {max(clipped):.4g}" if clipped else "does not clip"


def _decay(run: Record) -> str:
    vectors = sum(group["vectors"] for group in run["groups"])
    decayed = sum(group["vectors"] for group in run["groups"] if group["weight_decay"])
    most = max(group["weight_decay"] for group in run["groups"])
    return f"decays weights by {most:g}, {decayed} of {vectors} biases and norms among them"
