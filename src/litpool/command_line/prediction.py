"""Prediction on the command line: block by block, on one device or several."""

import contextlib
import signal
from collections.abc import Callable, Collection
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from tqdm import tqdm

from litpool import JobError
from litpool.command_line.prediction_file import prediction_file
from litpool.command_line.terminal import Minutes
from litpool.data.rows import InputRows
from litpool.ensemble import Ensemble
from litpool.predictor import round_probabilities


class Devices:
    """The devices that the trainer's options name, and the processes on them.

    Args:
        trainer: Lightning's, of which only the options count: nothing is predicted with it.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.strategy = trainer.strategy

    def launch(self, function: Callable[[], None]) -> None:
        """Call a function in a process for each device, all at once."""
        launcher = self.strategy.launcher
        if launcher is None:
            self._start(function)
            return
        try:
            launcher.launch(lambda: self._start(function))
        except BaseException:
            if isinstance(launcher, _SubprocessScriptLauncher):
                launcher.kill(signal.SIGKILL)  # the others would wait for this process
            raise

    def _start(self, function: Callable[[], None]) -> None:
        self.strategy.setup_environment()
        try:
            function()
        finally:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()

    def prepare(self, ensemble: Ensemble) -> None:
        """Move the models to this process's device, in the precision of the options."""
        for member in ensemble.members:
            member.device = self.strategy.root_device
            network: Any = self.trainer.precision_plugin.convert_module(member.network)
            member.network = network.to(member.device)

    def answers(
        self, ensemble: Ensemble, columns: dict[str, list[Any]], before: int
    ) -> list[dict[str, Any]]:
        """Return the answers to some rows, of which each device answers a share.

        Only the first process gets answers; the others get an empty list.
        """
        rank, count = self.trainer.global_rank, self.trainer.world_size
        rows = len(next(iter(columns.values())))
        start, end = rows * rank // count, rows * (rank + 1) // count
        answers: list[dict[str, Any]] = []
        if start < end:
            share = {name: values[start:end] for name, values in columns.items()}
            with self.trainer.precision_plugin.forward_context():
                answers = ensemble.answers(share, before + start)
        if count == 1:
            return answers
        shares: list[Any] | None = [None] * count if rank == 0 else None
        torch.distributed.gather_object(answers, shares)
        return [answer for share in shares or [] for answer in share]


def predict_rows(
    devices: Devices,
    ensemble: Ensemble,
    rows: InputRows,
    output: str,
    top: int | None,
    keep: list[str],
) -> None:
    """Write the answers to all rows.

    Args:
        devices: Where to compute; only the first process writes.
        ensemble: The model or models.
        rows: The rows.
        output: The file, or `-`.
        top: How many labels to write, if not all.
        keep: Columns to copy.
    """
    devices.prepare(ensemble)
    task = ensemble.members[0].task
    shown = list(dict.fromkeys([*keep, *task.display_columns]))
    used = [*task.texts, *task.extras]
    is_first = devices.trainer.is_global_zero
    progress = _progress(devices.trainer, len(rows))
    with prediction_file(output, len(rows)) if is_first else contextlib.nullcontext() as write:
        done = 0
        for block in rows.blocks():
            columns = {name: block[name][:] for name in block.column_names if name in used}
            try:
                answers = devices.answers(ensemble, columns, done)
            except JobError as error:
                written = (
                    f"{done} rows were written" if output == "-" and done else "nothing was written"
                )
                raise JobError(f"{error}; {written}") from error
            if write:
                answers = [round_probabilities(answer, top) for answer in answers]
                taken = set(answers[0]).difference(task.display_columns, task.extras)
                names = {
                    name: _free_name(name, [*taken, *shown]) for name in taken.intersection(keep)
                }
                write(block.select_columns(shown).rename_columns(names), answers)
            done += len(block)
            progress(done, len(block))


def _progress(trainer: Any, total: int) -> Callable[[int, int], None]:
    """Return a function that shows how many rows are done, and gets how many of them are new.

    It draws a bar or prints a line a minute, as the trainer's options say, on the first device.
    """
    lines = [callback.lines for callback in trainer.callbacks if isinstance(callback, Minutes)]
    is_first = trainer.is_global_zero
    has_bar = is_first and trainer.progress_bar_callback is not None
    bar = tqdm(total=total, desc="predicting", unit="row", disable=not has_bar)

    def show(done: int, rows: int) -> None:
        bar.update(rows)
        if done == total:
            bar.close()
        for line in lines if is_first else []:
            line.scored("prediction", done, total, rows, unit="row")

    return show


def _free_name(name: str, taken: Collection[str]) -> str:
    while name in taken:
        name = f"input_{name}"
    return name
