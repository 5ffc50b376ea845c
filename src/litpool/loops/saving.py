"""How and when the Lightning loop writes checkpoints."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from litpool import JobError, interrupt
from litpool.loops.checkpoint import write


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint as the other loops do: completely or not at all."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write to a local path; leave others, such as s3://, to Lightning."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            write(checkpoint, path)


class LastCheckpoint(ModelCheckpoint):
    """Writes last.ckpt after each validation and when training is interrupted or fails.

    Args:
        options: Further options of the command that resumes, such as ` --trust my_poolings`.
        **settings: The arguments of ModelCheckpoint.
    """

    def __init__(self, options: str = "", **settings: Any) -> None:
        super().__init__(filename="last", save_on_exception=True, **settings)
        self.options = options

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Write last.ckpt, unless training diverged: then the previous one is worth more.

        After a write that failed, for example on a full disk, keep the previous one as well.
        """
        if not isinstance(exception, JobError | OSError):
            super().on_exception(trainer, pl_module, exception)
            self._advise()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prepare for an interrupt that comes after training and before the test."""
        super().on_train_end(trainer, pl_module)
        self._advise()

    def _advise(self) -> None:
        """Say how to resume, in case the run is interrupted."""
        path = Path(str(self.dirpath), "last.ckpt")
        if path.exists():
            advice = f"resume with: python cli.py fit --ckpt_path {path}{self.options}"
        else:
            advice = "nothing has been trained yet"
        interrupt.advise(f"interrupted; {advice}")


def move_paths(checkpoint: dict[str, Any], trainer: Trainer) -> None:
    """Change the paths in a checkpoint to those of this run's folder.

    The run folder may have been moved. Also, Lightning deletes checkpoints that are no longer the
    best, so a path from a file must never be used as it is.
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
    """Make an interrupted validation start again, since its metrics so far are not saved."""
    if "loops" in checkpoint:  # a checkpoint of weights only has none
        loop = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
        loop["current"].update(ready=0, started=0, processed=0, completed=0)


def drop_weights(checkpoint: dict[str, Any], prefix: str) -> None:
    """Drop the weights whose names start with a prefix."""
    weights = checkpoint["state_dict"]
    checkpoint["state_dict"] = {
        name: weight for name, weight in weights.items() if not name.startswith(prefix)
    }
