"""Stops training before an update whose loss or gradient is not finite. All loops share it."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from litpool import JobError, listed

SHOWN = 32  # row numbers in a message


class FiniteCheck:
    """Remembers the batches since the last optimizer step, to say which one went wrong.

    Args:
        checkpoints: The folder of last.ckpt, from which a failed run can resume; None if it has
            no such folder.
        scaled: Whether gradients are scaled for float16. An infinite gradient is then no error:
            the scaler skips the step.
    """

    def __init__(self, checkpoints: Path | None, scaled: bool = False) -> None:
        self.checkpoints = checkpoints
        self.scaled = scaled
        self.window: list[tuple[Tensor, Tensor]] = []  # loss and row numbers of each batch

    def add(self, loss: Tensor, batch: Mapping[str, Tensor]) -> None:
        """Remember the loss of a batch, a scalar, and its row numbers, (B,)."""
        self.window.append((loss.detach(), batch["index"]))

    def check(
        self, step: int, grad_norm: Tensor | float, any_device: Callable[[bool], bool] = bool
    ) -> None:
        """Check the step that the optimizer is about to take.

        Args:
            step: The number of the step; the first is 1.
            grad_norm: The gradient norm before clipping.
            any_device: Returns whether something is true on any device, so that all stop together.

        Raises:
            JobError: The gradient norm or a loss since the last step is not finite.
        """
        losses = torch.stack([loss for loss, _ in self.window])
        norm = torch.as_tensor(grad_norm, device=losses.device)
        finite = torch.isfinite(losses).all() & (self.scaled or torch.isfinite(norm))
        if not any_device(not bool(finite)):  # bool() is the only wait for the device
            self.window.clear()
            return
        culprits = [(loss, rows) for loss, rows in self.window if not loss.isfinite()]
        if any_device(bool(culprits)) and not culprits:
            raise JobError(f"step {step}: the loss on another device is not finite")
        quantity, value = ("loss", culprits[0][0]) if culprits else ("gradient norm", norm)
        rows = torch.cat([rows for _, rows in culprits or self.window]).unique() + 1
        raise JobError(
            f"step {step}: the {quantity} is {float(value)}, "
            f"on rows {listed(rows.tolist(), SHOWN)} of the train split; "
            f"the weights were not updated; {self._last_checkpoint()}; "
            "lower model.recipe.lr, or set trainer.gradient_clip_val"
        )

    def _last_checkpoint(self) -> str:
        path = self.checkpoints / "last.ckpt" if self.checkpoints else None
        if path and path.exists():
            return f"the last good checkpoint is {path}"
        return "there is no checkpoint yet"
