"""Stops a training before an update by a loss or a gradient that is not finite. All loops share it."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from litpool import JobError

SHOWN = 32  # row numbers in a message


class FiniteCheck:
    """Remembers the batches since the last optimizer step, to say which one went wrong.

    Args:
        checkpoints: The folder of last.ckpt, which a failed training is to be resumed from; None: there is none.
        scaled: Whether gradients are scaled for float16: then an infinite gradient is skipped, not an error.
    """

    def __init__(self, checkpoints: Path | None, scaled: bool = False) -> None:
        self.checkpoints, self.scaled = checkpoints, scaled
        self.window: list[tuple[Tensor, Tensor]] = []  # loss and row numbers of each batch

    def add(self, loss: Tensor, batch: Mapping[str, Tensor]) -> None:
        """Note a batch's loss, a scalar, and its row numbers, (B,)."""
        self.window.append((loss.detach(), batch["index"]))

    def check(
        self, step: int, grad_norm: Tensor | float, any_device: Callable[[bool], bool] = bool
    ) -> None:
        """Check the step that is about to be taken; 1 is the first.

        Args:
            step: Its number.
            grad_norm: The norm of the gradient before clipping.
            any_device: Tells whether something is true on any device, so that all stop together.

        Raises:
            JobError: A loss since the last step, or the norm of the gradient, is not finite.
        """
        losses = torch.stack([loss for loss, _ in self.window])
        norm = torch.as_tensor(grad_norm, device=losses.device)
        fine = torch.isfinite(losses).all() & (self.scaled or torch.isfinite(norm))
        if not any_device(not bool(fine)):  # one wait for the device
            self.window.clear()
            return
        wrong = [(loss, rows) for loss, rows in self.window if not loss.isfinite()]
        if any_device(bool(wrong)) and not wrong:
            raise JobError(f"step {step}: the loss on another device is not finite")
        value = wrong[0][0].item() if wrong else float(norm)
        what = "the loss is" if wrong else "the norm of the gradient is"
        rows = torch.cat([rows for _, rows in wrong or self.window]).unique().tolist()
        raise JobError(
            f"step {step}: {what} {value}, on rows {_listed(rows)} of the train split; the weights "
            f"were not updated; {self._last_good()}; lower model.recipe.lr, or set "
            "trainer.gradient_clip_val"
        )

    def _last_good(self) -> str:
        path = self.checkpoints / "last.ckpt" if self.checkpoints else None
        if path and path.exists():
            return f"the last good checkpoint is {path}"
        return "no checkpoint was written before"


def _listed(rows: list[int]) -> str:
    """Row numbers, 1 being the first; of many only some."""
    numbers = ", ".join(str(row + 1) for row in rows[:SHOWN])
    return numbers if len(rows) <= SHOWN else f"{numbers} and {len(rows) - SHOWN} more"
