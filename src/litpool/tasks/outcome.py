"""What a task shows of its predictions next to the truth; TensorBoard draws it."""

from typing import NamedTuple

from torch import Tensor


class Decisions(NamedTuple):
    """How sure the model was of each decision, (N,), 0 to 1, and whether it was right, (N,)."""

    confidence: Tensor
    right: Tensor


class Scores(NamedTuple):
    """True and predicted scores, both (N,), and what they are called."""

    true: Tensor
    predicted: Tensor
    true_name: str = "true score"
    predicted_name: str = "predicted score"


Outcome = Decisions | Scores
