"""One training of a sweep: exactly what `fit` does, in this process.

A process of its own would first import for as long as a short trial trains. The network is freed
before the next training starts.
"""

import contextlib
import gc
import io
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
import yaml
from lightning.pytorch.callbacks import Callback

from litpool import InputError, interrupt
from litpool.app import CLI
from litpool.command_line.runs import logger_of
from litpool.commands import Run
from litpool.disk import make_folder, write_text
from litpool.loops import lightning
from litpool.loops.checkpoint import SaveOptions
from litpool.loops.steps import optimizer_steps
from litpool.tools.sweep import space
from litpool.tools.sweep.scores import score_rows

JOB = "job.yaml"
RESULT = "result.json"  # in the folder of a training that is done

Report = Callable[[int, float], None]


class Fit(NamedTuple):
    """What all trainings of a sweep share.

    Args:
        folder: The sweep's folder, which contains the job.
        trusted: The modules of `--trust`.
    """

    folder: Path
    trusted: list[str]

    def write_job(self, config: Mapping[str, Any]) -> None:
        """Write the job as it is, which every training reads."""
        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        write_text(self.folder / JOB, text)

    def _job_arguments(self) -> list[str]:
        trust = [part for module in self.trusted for part in ("--trust", module)]
        return ["fit", "--config", str(self.folder / JOB), *trust]

    def parse(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Parse the job with some keys changed, and check it as `fit` does before it reads data.

        Raises:
            InputError: A key does not exist, or a value cannot be used.
        """
        arguments = [*self._job_arguments(), *space.arguments(values)]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return CLI(arguments, None, _only_parse).job_config()

    def train(
        self, name: str, values: Mapping[str, Any], seed: int | None, report: Report | None
    ) -> dict[str, Any]:
        """Train, or read the result of a training that was done before.

        A training that was interrupted continues from its last checkpoint.

        Args:
            name: The name of the run folder.
            values: The keys of the job that differ.
            seed: The seed, for a training that is scored on the test split; None for a trial,
                which never sees that split.
            report: Gets the number of each validation, from 1, and its score.

        Returns:
            `validation`, the best score; of a training that is scored, also what `score_rows`
            returns.
        """
        folder = self.folder / name
        done = folder / RESULT
        if not done.exists():
            make_folder(folder)
            command = _Command(folder, scored=seed is not None, report=report)
            extra = [] if seed is None else [f"--seed_everything={seed}"]
            try:
                with _output_in(folder / "output.txt"), interrupt.deferred():
                    _run([*self._arguments(folder), *space.arguments(values), *extra], command)
            finally:
                free_memory()
        return json.loads(done.read_text(encoding="utf-8"))

    def _arguments(self, folder: Path) -> list[str]:
        arguments = self._job_arguments()
        last = folder / "checkpoints" / "last.ckpt"
        if last.exists():
            arguments += ["--ckpt_path", str(last)]
        off = "--trainer.enable_progress_bar=false"
        return [*arguments, f"--trainer.logger={json.dumps(logger_of(folder))}", off]


def _only_parse(run: Run, save: SaveOptions = SaveOptions()) -> None:  # noqa: B008
    """Do nothing: the command line is parsed and checked."""


def _run(arguments: list[str], command: "_Command") -> None:
    """Run `fit` with another function; a name of its own, so that nothing keeps the network."""

    def fit(run: Run, save: SaveOptions = SaveOptions(), ckpt_path: str | None = None) -> None:  # noqa: B008
        command.fit(run, ckpt_path)

    CLI(arguments, None, fit)


class _Command(NamedTuple):
    """What `fit` does in a sweep."""

    folder: Path
    scored: bool
    report: Report | None

    def fit(self, run: Run, ckpt_path: str | None) -> None:
        """Train, and write the result."""
        run.read("fit")
        if not self.scored:
            run.data.rows.pop("test", None)  # so that no trial can be chosen by it
        if self.report is not None:
            callbacks: list[Callback] = getattr(run.trainer, "callbacks")  # noqa: B009 (mypy)
            # First, so that last.ckpt knows which validations have been reported.
            callbacks.insert(0, Reporter(run.model.task.monitor, self.report))
        result = lightning.fit(run.trainer, run.model, ckpt_path)
        monitor = run.model.task.monitor
        if monitor not in result.metrics:
            raise InputError(
                "trainer: training ended before its first validation, so there is no score; train "
                "longer, or set trainer.val_check_interval"
            )
        run.conclude(result)
        content: dict[str, Any] = {"validation": result.metrics[monitor]}
        if self.scored:
            content |= score_rows(run.model)
        write_text(self.folder / RESULT, json.dumps(content))


class Reporter(Callback):
    """Reports the score of each validation; its number survives an interruption.

    Args:
        monitor: The metric.
        report: Gets the number, from 1, and the score. It raises to stop the training.
    """

    def __init__(self, monitor: str, report: Report) -> None:
        self.monitor = monitor
        self.report = report
        self.count = 0

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.count = int(state_dict["count"])

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report, unless the training is done anyway."""
        self.count += 1
        if trainer.global_step < optimizer_steps(trainer):
            self.report(self.count, trainer.callback_metrics[self.monitor].item())


@contextlib.contextmanager
def _output_in(file: Path) -> Iterator[None]:
    """Append what a training prints to a file."""
    with (
        open(file, "a", encoding="utf-8") as output,
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
    ):
        yield


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let one worker at a time write the sweep's own files; do not wait long for one killed."""
    lock = folder / "writing"
    start = time.monotonic()
    while True:
        with contextlib.suppress(FileExistsError):
            lock.mkdir()
            break
        if time.monotonic() - start > 30:  # writing takes seconds: its owner was killed
            with contextlib.suppress(FileNotFoundError):
                lock.rmdir()
            start = time.monotonic()
        time.sleep(0.1)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            lock.rmdir()


def free_memory() -> None:
    """Free the memory of a network that only reference cycles hold."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a training that nobody will need."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def remove_last(folder: Path) -> None:
    """Remove what only resuming a training needs."""
    for name in ("last.ckpt", "last.prev.ckpt"):
        (folder / "checkpoints" / name).unlink(missing_ok=True)
