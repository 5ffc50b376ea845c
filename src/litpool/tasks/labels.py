"""Label names and class weights, as every task with labels uses them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from torch import Tensor

from litpool import InputError

ClassWeights = Literal["balanced"] | dict[str, float] | None


def learn_labels(names: Mapping[str, Iterable[str]], column: str, known: list[str]) -> list[str]:
    """Return the known label names or, if there are none, those of the rows.

    Args:
        names: The labels of each split's rows.
        column: Their column, for error messages.
        known: The label names in a checkpoint; empty before the first training.

    Raises:
        InputError: There are fewer than two labels, or a split has an unknown one.
    """
    labels = known or _distinct_labels(names, column)
    for split, values in names.items():
        if unknown := sorted(set(values).difference(labels)):
            raise InputError(
                f"the {split} split has the label {unknown[0]!r} in column {column!r}, which the "
                f"train split does not have; known: {', '.join(labels[:20])}; correct the file, or "
                "add an example of it to the train split"
            )
    return labels


def _distinct_labels(names: Mapping[str, Iterable[str]], column: str) -> list[str]:
    """Return the labels of the train split, or of all splits if there is no train split.

    They are in numerical order if all are numbers, otherwise in alphabetical order.
    """
    distinct = set(names["train"]) if "train" in names else set().union(*names.values())
    if len(distinct) < 2:
        raise InputError(
            f"column {column!r} holds {len(distinct)} label ({', '.join(distinct)}); "
            "at least 2 are needed"
        )
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
