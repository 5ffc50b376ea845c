"""How and when the Lightning loop writes checkpoints."""

import copy
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from litpool import JobError, interrupt, program
from litpool.loops.checkpoint import SaveClock, SaveOptions, rng_state, write


class StepStart:
    """The state at the first batch of an optimizer step, from which a resumed run repeats it.

    Args:
        trainer: Lightning's Trainer.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.step = trainer.global_step
        self.progress = copy.deepcopy(trainer.fit_loop.state_dict())
        self.rng = rng_state()
        self.callbacks: dict[str, Any] | None = None

    def before_validation(self, trainer: Trainer) -> None:
        """Note the state of the callbacks, since a validation within the step will be repeated."""
        if trainer.global_step == self.step:
            callbacks: list[Callback] = getattr(trainer, "callbacks")  # noqa: B009 (mypy)
            states = {callback.state_key: callback.state_dict() for callback in callbacks}
            self.callbacks = copy.deepcopy(states)

    def rewind(self, checkpoint: dict[str, Any]) -> None:
        """Make a checkpoint that was written within this step resume at its start.

        The checkpoint does not contain the gradients of the step's first batches.
        """
        if checkpoint["global_step"] != self.step:
            return
        checkpoint["loops"]["fit_loop"] = self.progress
        checkpoint["job"]["rng"] = self.rng
        if self.callbacks is not None:
            checkpoint["callbacks"] = self.callbacks


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint as the other loops do: completely or not at all, best.ckpt to score."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write to a local path; leave others, such as s3://, to Lightning."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
        elif Path(path).name == "best.ckpt":  # no run resumes from it
            states = ("optimizer_states", "lr_schedulers")
            write({key: value for key, value in checkpoint.items() if key not in states}, path)
        else:
            write(checkpoint, path)


class LastCheckpoint(ModelCheckpoint):
    """Writes last.ckpt: after validation, every few minutes, and when training ends or is stopped.

    Args:
        options: Further options of the command that resumes, such as ` --trust my_poolings`.
        save: When to write it between validations.
        **settings: The arguments of ModelCheckpoint.
    """

    def __init__(self, options: str = "", save: SaveOptions | None = None, **settings: Any) -> None:
        super().__init__(
            filename="last", save_on_exception=True, save_on_train_epoch_end=False, **settings
        )
        self.options = options
        self.clock = SaveClock(save or SaveOptions())

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train no further if EarlyStopping had ended the run, which Lightning does not save."""
        super().on_train_start(trainer, pl_module)
        for callback in trainer.early_stopping_callbacks:
            if callback.wait_count >= callback.patience or callback.stopped_epoch:
                trainer.should_stop = True
            if callback.monitor.startswith("val/"):  # in a resumed epoch without validation, no
                callback._check_on_train_epoch_end = False  # metric is there at its end

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        due = self.clock.due(trainer.global_step)
        if trainer.strategy.reduce_boolean_decision(due, all=False):
            trainer.save_checkpoint(self.format_checkpoint_name({}))
            self.clock.restart(trainer.global_step)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        self.clock.restart(trainer.global_step)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Write last.ckpt, unless training diverged or a write failed: keep the previous one."""
        if not isinstance(exception, JobError | OSError):
            super().on_exception(trainer, pl_module, exception)
            self._advise()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it unless that is done, and prepare for an interrupt before or in the test."""
        super().on_train_end(trainer, pl_module)
        if not self._should_skip_saving_checkpoint(trainer):  # no validation followed the last step
            self._save_checkpoint(trainer, self.format_checkpoint_name({}))
        self._advise()

    def _advise(self) -> None:
        """Say how to resume, in case the run is interrupted."""
        path = Path(str(self.dirpath), "last.ckpt")
        if path.exists():
            advice = f"resume with: {program()} fit --ckpt_path {path}{self.options}"
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


def set_resume_point(checkpoint: dict[str, Any]) -> None:
    """Make a resumed run repeat an interrupted validation, and continue right after its last batch.

    The metrics of an interrupted validation are not saved. Lightning counts an epoch that max_steps
    cut short as done, and would leave out its other rows if the run gets more to do; after an epoch
    without a validation it would leave out the next one.
    """
    loop = checkpoint["loops"]["fit_loop"]
    validated = loop["epoch_loop.val_loop.batch_progress"]["current"]
    validated.update(ready=0, started=0, processed=0, completed=0)
    cut_short = not loop["epoch_loop.batch_progress"]["is_last_batch"]
    for counts in loop["epoch_progress"].values():
        if cut_short or counts["completed"] == counts["started"] == counts["ready"]:
            counts["processed"] = counts["completed"] = max(counts["started"] - 1, 0)


def drop_weights(checkpoint: dict[str, Any], prefix: str) -> None:
    """Drop the weights whose names start with a prefix."""
    weights = checkpoint["state_dict"]
    checkpoint["state_dict"] = {
        name: weight for name, weight in weights.items() if not name.startswith(prefix)
    }
