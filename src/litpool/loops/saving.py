"""Checkpoints of the Lightning loop: how they are written, and when."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from litpool import JobError, interrupt
from litpool.loops.checkpoint import write


class WholeCheckpoints(TorchCheckpointIO):
    """Writes checkpoints as the other loops do: whole or not at all."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write to a local path; others, such as s3://, are Lightning's to write."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            write(checkpoint, path)


class LastCheckpoint(ModelCheckpoint):
    """last.ckpt, written after each validation and when training is interrupted or fails.

    Args:
        options: What the command that resumes needs beside the path, such as ` --trust my_poolings`.
        **settings: ModelCheckpoint's own.
    """

    def __init__(self, options: str = "", **settings: Any) -> None:
        super().__init__(filename="last", save_on_exception=True, **settings)
        self.options = options

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Write it, unless training diverged: what was written before is worth more."""
        if not isinstance(exception, JobError):
            super().on_exception(trainer, pl_module, exception)
            self._advise()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training is done; an interrupt may still come before the test."""
        super().on_train_end(trainer, pl_module)
        self._advise()

    def _advise(self) -> None:
        """Say how to resume, if the run is interrupted."""
        path = Path(str(self.dirpath), "last.ckpt")
        resume = f"go on with: python cli.py fit --ckpt_path {path}{self.options}"
        interrupt.advise(f"interrupted; {resume if path.exists() else 'nothing was trained yet'}")


def move_paths(checkpoint: dict[str, Any], trainer: Trainer) -> None:
    """Make the paths in a checkpoint those of this run's folder.

    A run folder may have been moved. And Lightning deletes the checkpoints that are no longer the
    best, so that no path from a file may be taken as it stands.
    """
    states = checkpoint.get("callbacks", {})
    for callback in trainer.checkpoint_callbacks:
        state = states.get(callback.state_key)
        if not isinstance(callback, ModelCheckpoint) or not isinstance(state, dict):
            continue
        folder = Path(str(callback.dirpath))
        state["dirpath"] = str(callback.dirpath)
        for key in ("best_model_path", "last_model_path", "kth_best_model_path"):
            if state.get(key):
                state[key] = str(folder / Path(str(state[key])).name)
        best = state.get("best_k_models", {})
        state["best_k_models"] = {
            str(folder / Path(str(path)).name): score for path, score in best.items()
        }


def restart_validation(checkpoint: dict[str, Any]) -> None:
    """Let a validation that was interrupted start again: its metrics so far are not saved."""
    if "loops" in checkpoint:  # not in one of weights only
        loop = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
        loop["current"].update(ready=0, started=0, processed=0, completed=0)


def drop_weights(checkpoint: dict[str, Any], prefix: str) -> None:
    """Leave out the weights whose names start with a prefix."""
    weights = checkpoint["state_dict"].items()
    kept = {name: weight for name, weight in weights if not name.startswith(prefix)}
    checkpoint["state_dict"] = kept
