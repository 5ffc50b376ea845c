"""Label names and class weights, as every task with labels uses them."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from litpool import InputError, listed

if TYPE_CHECKING:
    from datasets import Dataset

LISTED = 20  # labels in an error message

ClassWeights = Literal["balanced"] | dict[str, float] | None

ADVICE: dict[type, str] = {
    list: "for several labels in a row, use --task MultiLabelClassification",
    dict: "set task.label to another column",
    bytes: "save the labels as text",
}
"""How to fix a label of a type that is no name."""


def label_name(value: Any) -> str:
    """Return the name of a label, without blanks around it."""
    return str(value).strip()


def label_names(splits: Mapping[str, "Dataset"], column: str) -> dict[str, list[str]]:
    """Return the label names of each split's rows, and warn if there were blanks around them.

    Raises:
        InputError: A label is a list, a mapping or bytes.
    """
    names: dict[str, list[str]] = {}
    spaced = []
    for split, rows in splits.items():
        values = rows[column][:]
        for number, value in enumerate(values, start=1):
            if type(value) in ADVICE:
                raise InputError(
                    f"the {split} split, row {number}: {column!r} is {str(value)[:40]}, "
                    f"must be a text or a number; {ADVICE[type(value)]}"
                )
        spaced += [value for value in values if isinstance(value, str) and value != value.strip()]
        names[split] = [label_name(value) for value in values]
    if spaced:
        from lightning.pytorch.utilities import rank_zero_warn

        total = sum(map(len, names.values()))
        rank_zero_warn(
            f"column {column!r}: {len(spaced):,} of {total:,} labels begin or end with a blank, "
            f"which is left out: {spaced[0]!r} becomes {label_name(spaced[0])!r}"
        )
    return names


def learn_labels(names: Mapping[str, Sequence[str]], column: str, known: list[str]) -> list[str]:
    """Return the label names of the checkpoint or, if there is none, those of the rows.

    Raises:
        InputError: There are fewer than two labels, or a split has an unknown one.
    """
    labels = known or _distinct_labels(names, column)
    for split, values in names.items():
        if unknown := sorted(set(values).difference(labels)):
            advice = "correct the file, or add an example of it to the train split"
            if len(labels) > max(LISTED, sum(map(len, names.values())) / 2):
                advice = (
                    "most rows have a label of their own: set task.label to another column, or, "
                    "for numbers such as scores, use --task Regression"
                )
            if twin := next((name for name in labels if are_alike(name, unknown[0])), None):
                advice = f"if it means the label {twin!r}, write both alike"
            learned = listed([_short(label) for label in labels], LISTED)
            raise InputError(
                f"the {split} split has the label {_short(unknown[0])!r} in column {column!r}, "
                f"which the train split does not have; known: {learned}; {advice}"
            )
    return labels


def _short(label: str) -> str:
    return label if len(label) <= 40 else f"{label[:39]}…"


def are_alike(first: str, second: str) -> bool:
    """Return whether two labels differ only in case, or only in how they write a number."""
    return _number(first) == _number(second) or first.casefold() == second.casefold()


def _number(name: str) -> float:
    """Return the number that a name writes; NaN, which equals nothing, if there is none."""
    try:
        return float(name)
    except ValueError:
        return math.nan


def _warn_of_equal_numbers(labels: Sequence[str], column: str) -> None:
    """Warn of the first two labels that are the same number, such as 1 and 1.0."""
    by_number = sorted((_number(name), name) for name in labels if not math.isnan(_number(name)))
    for (number, first), (next_number, second) in pairwise(by_number):
        if number == next_number:
            from lightning.pytorch.utilities import rank_zero_warn

            rank_zero_warn(
                f"column {column!r}: {first!r} and {second!r} are two labels, although they are "
                "the same number; if they mean the same, write them alike"
            )
            return


def _distinct_labels(names: Mapping[str, Sequence[str]], column: str) -> list[str]:
    """Return the labels of the train split, or of all splits if there is no train split.

    They are in numerical order if all are numbers, otherwise in alphabetical order.
    """
    distinct = set(names["train"]) if "train" in names else set().union(*names.values())
    if len(distinct) < 2:
        raise InputError(
            f"column {column!r} holds {len(distinct)} label ({', '.join(distinct)}); "
            "at least 2 are needed"
        )
    _warn_of_equal_numbers(list(distinct), column)
    alphabetical = sorted(distinct)  # so that 1 and 01, equal as numbers, have an order as well
    try:
        return sorted(alphabetical, key=float)
    except ValueError:
        return alphabetical


def label_weights(
    weights: ClassWeights, labels: Sequence[str], counts: Counter[str]
) -> list[float] | None:
    """Return the weight of each label; `counts` is how often each occurs in the train split."""
    if weights is None:
        return None
    if weights == "balanced":
        return [counts.total() / (len(labels) * max(counts[name], 1)) for name in labels]
    assert isinstance(weights, dict)
    if unknown := sorted(set(weights).difference(labels)):
        raise InputError(
            f"task.class_weights names {unknown[0]!r}, which is not a label; "
            f"known: {', '.join(labels)}"
        )
    for name, weight in weights.items():
        if not 0 <= weight < 1e30:  # the loss is a float32
            raise InputError(f"task.class_weights: {name}={weight}; give a number from 0 to 1e30")
    return [float(weights.get(name, 1.0)) for name in labels]


def rank_by_confidence(wrong: Tensor, confidence: Tensor) -> list[int]:
    """Return the rows that are wrong, (N,), most confident first."""
    rows = wrong.nonzero().flatten()
    return rows[confidence[rows].argsort(descending=True)].tolist()
