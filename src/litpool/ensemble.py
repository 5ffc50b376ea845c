"""Several checkpoints as one: the mean of their probabilities, scores or normalized vectors."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from litpool import InputError
from litpool.predictor import Predictor
from litpool.tasks.task import Columns


class Ensemble:
    """Models whose answers are averaged.

    Args:
        members: The models, at least one.

    Raises:
        InputError: They differ in their labels or in the size of their vectors, or their answers
            have no mean.
    """

    def __init__(self, members: Sequence[Predictor]) -> None:
        self.members = members
        first, *others = members
        if others and first.task.on_tokens:
            raise InputError(
                f"ckpt_path: {type(first.task).__name__} answers with a part of a text, which has "
                "no mean; name one checkpoint"
            )
        for other in others:
            if set(other.task.labels) != set(first.task.labels):
                raise InputError(
                    f"ckpt_path={other.path}: its labels are {', '.join(other.task.labels)}, those "
                    f"of {first.path} are {', '.join(first.task.labels)}; name checkpoints of one "
                    "task"
                )
            sizes = [model.network.pooling.out_features for model in (other, first)]
            if first.task.gives_vectors and sizes[0] != sizes[1]:
                raise InputError(
                    f"ckpt_path={other.path}: its vectors have {sizes[0]} features, those of "
                    f"{first.path} have {sizes[1]}; name checkpoints with vectors of one size"
                )

    def answers(self, columns: Columns, before: int = 0) -> list[dict[str, Any]]:
        """Return the mean answer to each row, or a single model's; `before` is for errors."""
        answers = [member.answers(columns, before=before) for member in self.members]
        return [mean(row) if len(row) > 1 else row[0] for row in zip(*answers, strict=True)]


def mean(answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mean of the answers to one row.

    Raises:
        InputError: An answer consists of anything but numbers, labels and a vector.
    """
    result: dict[str, Any] = {}
    for name, value in answers[0].items():
        values = [answer[name] for answer in answers]
        if name == "probabilities":
            result[name] = {label: fmean(part[label] for part in values) for label in value}
        elif name == "vector":
            vectors = np.array(values)  # (M, F)
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            result[name] = (vectors / np.maximum(lengths, 1e-12)).mean(axis=0).tolist()
        elif name in ("label", "labels"):
            result[name] = value  # its place; the probabilities decide below
        elif isinstance(value, float):
            result[name] = fmean(values)
        else:
            raise InputError(f"ckpt_path: the answer {name!r} has no mean; name one checkpoint")
    probabilities = result.get("probabilities", {})
    if "label" in result:
        result["label"] = max(probabilities, key=probabilities.__getitem__)
    if "labels" in result:
        result["labels"] = [label for label, value in probabilities.items() if value > 0.5]
    return result
