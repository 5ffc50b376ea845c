"""What the logits of one label of several say: answers, mistakes, and how sure they are."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from litpool.tasks.labels import rank_by_confidence
from litpool.tasks.outcome import Decisions
from litpool.tasks.task import Mistake


def label_answers(logits: Tensor, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Return the most probable label and all probabilities of each row, from logits (N, C)."""
    probabilities = logits.float().softmax(-1)  # (N, C)
    answers = []
    for best, row in zip(probabilities.argmax(-1).tolist(), probabilities.tolist(), strict=True):
        by_label = dict(zip(labels, row, strict=True))
        answers.append({"label": labels[best], "probabilities": by_label})
    return answers


def label_mistakes(logits: Tensor, targets: Sequence[int], labels: Sequence[str]) -> list[Mistake]:
    """Return the rows whose most probable label, from logits (N, C), is wrong."""
    true = torch.tensor(targets)  # (N,)
    confidence, predicted = logits.float().softmax(-1).max(-1)  # each (N,)
    mistakes = []
    for row in rank_by_confidence(predicted != true, confidence):
        names = labels[int(true[row])], labels[int(predicted[row])]
        mistakes.append(Mistake(row, *names, float(confidence[row])))
    return mistakes


def label_decisions(logits: Tensor, targets: Sequence[int]) -> Decisions:
    """Return how sure the most probable labels, from logits (N, C), are, and which are right."""
    confidence, predicted = logits.float().softmax(-1).max(-1)  # each (N,)
    return Decisions(confidence, predicted == torch.tensor(targets))
