"""How many steps a run of Lightning takes."""

import math

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler


def optimizer_steps(trainer: Trainer) -> float:
    """Return the optimizer steps of the whole run.

    Lightning's estimate does not know that GradientAccumulationScheduler changes the batches of a
    step from epoch to epoch.
    """
    steps = trainer.estimated_stepping_batches
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, GradientAccumulationScheduler) and trainer.max_epochs != -1:
            windows = map(callback.get_accumulate_grad_batches, range(trainer.max_epochs or 0))
            steps = sum(math.ceil(trainer.num_training_batches / window) for window in windows)
            return steps if trainer.max_steps == -1 else min(steps, trainer.max_steps)
    return steps
