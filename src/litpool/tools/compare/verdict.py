"""The verdict: whether loops did the same, and if not, at which step they diverged, and why."""

from collections.abc import Mapping
from fractions import Fraction
from itertools import pairwise
from typing import Any

Record = dict[str, Any]  # a training, as `Recorder` wrote it

FIELDS = {  # of a step, each after those that it depends on
    "rows": "rows",
    "training": "training mode",
    "lr": "learning rate",
    "loss": "loss",
    "grad_norm": "gradient norm",
    "clipped_norm": "gradient norm after clipping",
}


def verdict(records: Mapping[str, list[Record]]) -> str:
    """Return one line: that the loops are identical, or where each first differs from the first.

    Args:
        records: The records of each loop, one per repeat.
    """
    lines = [
        f"{loop} differs from itself"
        for loop, (record, *repeats) in records.items()
        if any(_difference(record, repeat) for repeat in repeats)
    ]
    reference, *others = records
    for loop in others:
        pair = {reference: records[reference][0], loop: records[loop][0]}
        if difference := _difference(*pair.values()):
            lines.append(_describe(*difference, pair))
    if lines:
        return "; ".join(lines)
    steps = len(records[reference][0]["steps"])
    return f"identical for all {steps} steps, and in the weights at the end: {', '.join(records)}"


def _difference(left: Record, right: Record) -> tuple[int, str] | None:
    """Return the first step at which two records differ, counted from 1, and the field.

    The step is 0 for a difference after the last step that both have.
    """
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
    if field == "number of steps":
        counts = " vs ".join(str(len(record["steps"])) for record in pair.values())
        return f"{names} differ only in the {field}, {counts}"
    if field == "weights at the end":
        return f"{names} differ only in the {field}"
    left, right = (record["steps"][step - 1][field] for record in pair.values())
    values = f" {left:.6g} vs {right:.6g}" if isinstance(left, float) else ""
    cause = _cause(field, left, right, pair)
    return f"{names} first differ at step {step}: {FIELDS[field]}{values}; {cause}"


def _cause(field: str, left: Any, right: Any, pair: Mapping[str, Record]) -> str:
    """Return what the records say about the cause of a difference between two values."""
    first, second = pair
    if field == "rows":
        return "the loops shuffle differently"
    if field == "training":
        return f"{second if left else first} trains in eval mode, without dropout"
    if field == "lr":
        changes = [f"after {_lr_changes(record)} in {name}" for name, record in pair.items()]
        return f"of {len(pair[first]['steps'])} steps, it changes {' and '.join(changes)}"
    if field == "clipped_norm":
        return ", ".join(f"{name} {_clipping(record)}" for name, record in pair.items())
    ratio = Fraction(left / right).limit_denominator(16) if right else Fraction(1)
    if ratio != 1 and abs(left / right - ratio) < 1e-5 * ratio:
        return f"the accumulated loss is scaled differently, by a factor of {ratio}"
    if pair[first]["groups"] != pair[second]["groups"]:
        return ", ".join(f"{name} {_decay(record)}" for name, record in pair.items())
    return (
        "rows, learning rates, clipping and weight decay are equal so far; the arithmetic differs"
    )


def _lr_changes(record: Record) -> int:
    rates = [step["lr"] for step in record["steps"]]
    return sum(before != after for before, after in pairwise(rates))


def _clipping(record: Record) -> str:
    clipped = [
        step["clipped_norm"]
        for step in record["steps"]
        if step["clipped_norm"] < step["grad_norm"] * (1 - 1e-4)
    ]
    return f"clips at {max(clipped):.4g}" if clipped else "does not clip"


def _decay(record: Record) -> str:
    groups = record["groups"]
    vectors = sum(group["vectors"] for group in groups)
    decayed = sum(group["vectors"] for group in groups if group["weight_decay"])
    highest = max(group["weight_decay"] for group in groups)
    return f"decays weights by {highest:g}, including {decayed} of {vectors} biases and norms"
