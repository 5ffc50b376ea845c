"""The commands: what each one does, once the command line is understood. Only commands print and write reports."""

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import yaml
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter

from litpool import InputError, JobError, interrupt, toolbox, trust
from litpool.data.module import TextDataModule
from litpool.loops import lightning, outputs
from litpool.loops.flags import read_flags
from litpool.loops.job import Flags, Job, Result
from litpool.loops.lightning import TextModule
from litpool.loops.log import Log
from litpool.tasks.task import Task


@dataclass
class Run:
    """What a command is given.

    Args:
        trainer: Lightning's; the other loops take the device, the run folder and the logger from it.
        model: What is trained or scored; it knows its data.
        config: The job as it was understood: plain values, all defaults included.
        options: The command's own options, as plain values.
        write_config: Writes config.yaml into the run folder.
        recorder: Gets every step of a training, if there is one.
    """

    trainer: pl.Trainer
    model: TextModule
    config: dict[str, Any]
    options: dict[str, Any]
    write_config: Callable[[], None]
    recorder: Log | None = None

    @property
    def data(self) -> TextDataModule:
        """The rows and their batches."""
        return self.model.data

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(
            self.trainer.log_dir or self.trainer.default_root_dir
        )  # log_dir asks all devices

    @property
    def parent(self) -> Path:
        """The folder of all runs of this job."""
        return Path(
            self.trainer.logger.root_dir
            if isinstance(self.trainer.logger, TensorBoardLogger)
            else "logs"
        )

    @property
    def writer(self) -> SummaryWriter | None:
        """Writes for TensorBoard, if a logger does."""
        return (
            self.trainer.logger.experiment
            if isinstance(self.trainer.logger, TensorBoardLogger)
            else None
        )

    def read(self, stage: str) -> None:
        """Read, check and tokenize what a stage needs, before a run folder is made."""
        self.model.read(stage)
        self.warn(self.data)

    def warn(self, data: TextDataModule) -> None:
        """Warn of a tokenizer that does not know the language of the rows, where the tool `check` is there."""
        if "check" in toolbox.tools():
            importlib.import_module("litpool.tools.check.tokens").warn(data)

    def flags(self, loop: str) -> Flags:
        """The trainer's flags for another loop, which refuses those that it has no counterpart for."""
        return read_flags(self.config["trainer"], self.trainer, self.model.task, loop)

    def job(self, flags: Flags) -> Job:
        """A training for another loop: the rows are read, the network is built."""
        self.read("fit")
        self.write_config()
        return Job(
            network=self.model.build(flags.device),
            recipe=self.model.recipe,
            data=self.data,
            flags=flags,
            folder=self.folder,
            config=self.config,
            writer=self.writer,
            recorder=self.recorder,
        )

    def conclude(self, result: Result) -> None:
        """Write metrics.json and the hparams tab; print the score, what may come next, and the run folder."""
        folder = self.folder  # on all devices
        if self.trainer.is_global_zero and self.trainer.logger is not None:
            report(folder, self.trainer.logger, self.config, result)


def fit(run: Run, ckpt_path: str | None = None) -> None:  # noqa: D417
    """Train on the train split, keep the best checkpoint, score it on the test split.

    Args:
        ckpt_path: A checkpoint to go on from, such as RUN/checkpoints/last.ckpt.
    """
    run.read("fit")
    with interrupt.deferred():
        result = lightning.fit(run.trainer, run.model, ckpt_path)
    if result.best:
        run.conclude(result)


def fit_hf(run: Run) -> None:
    """Train as `fit` does, with the Hugging Face Trainer around the same network."""
    from litpool.loops import huggingface  # late: importing the Trainer takes its time

    job = run.job(run.flags("the Hugging Face Trainer"))
    with interrupt.deferred():
        result = huggingface.fit(job)
    if result.best:
        run.conclude(result)


def fit_plain(run: Run) -> None:
    """Train as `fit` does, with a loop written by hand."""
    from litpool.loops import plain

    job = run.job(run.flags("the plain loop"))
    with interrupt.deferred():
        result = plain.fit(job)
    if result.best:
        run.conclude(result)


def validate(run: Run, ckpt_path: str | None = None) -> None:  # noqa: D417
    """Score a checkpoint (or the untrained network) on the validation split.

    Args:
        ckpt_path: The checkpoint, such as RUN/checkpoints/best.ckpt.
    """
    run.read("validate")
    run.trainer.validate(run.model, run.data, ckpt_path=ckpt_path, verbose=False, weights_only=True)
    run.conclude(_scores(run.trainer))


def test(run: Run, ckpt_path: str | None = None) -> None:  # noqa: D417, PT028 (no test of pytest)
    """Score a checkpoint (or the untrained network) on the test split.

    Args:
        ckpt_path: The checkpoint, such as RUN/checkpoints/best.ckpt.
    """
    run.read("test")
    run.trainer.test(run.model, run.data, ckpt_path=ckpt_path, verbose=False, weights_only=True)
    run.conclude(_scores(run.trainer))


def _scores(trainer: pl.Trainer) -> Result:
    return Result({name: value.item() for name, value in trainer.callback_metrics.items()})


def predict(  # noqa: D417
    run: Run, ckpt_path: str | None = None, input: str = "-", output: str = "predictions.jsonl"
) -> None:
    """Answer the rows of a file (CSV, TSV, JSON, JSONL, Parquet, TXT) or of standard input.

    Args:
        ckpt_path: The checkpoint, such as RUN/checkpoints/best.ckpt.
        input: The file with the texts; `-` for standard input, one text a line or JSON lines.
        output: What to write, in input order: JSON lines, a `.parquet` file, or, for vectors alone, a `.npz` file
            with the array `vectors`; `-` for JSON lines on standard output.
    """
    task, trainer = run.model.task, run.trainer
    _check_output(output, task)
    run.data.read_input(input)
    run.model.read("predict")
    parts = trainer.predict(run.model, run.data, ckpt_path=ckpt_path, weights_only=True)
    assert parts is not None
    index, kept = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    if trainer.world_size > 1:
        index, kept = _from_all_devices(index), _from_all_devices(kept)
    _check_finite(kept, index, task)
    if trainer.is_global_zero:
        rows = run.data.rows["predict"]
        answers = task.decode(task.assemble(kept, index), rows)
        outputs.write_predictions(output, rows.select_columns(task.display_columns), answers)
        if output != "-":
            print(f"wrote {output}")


def _check_output(output: str, task: Task) -> None:
    """Refuse a file that cannot be written, before anything is read."""
    path = Path(output)
    if output == "-":
        return
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(
            f"output={output}: name a file in a folder that exists, or - for standard output"
        )
    if path.suffix not in outputs.OUTPUTS:
        raise InputError(f"output={output}: the ending must be one of {', '.join(outputs.OUTPUTS)}")
    if path.suffix == ".npz" and not task.gives_vectors:
        raise InputError(
            f"output={output}: only vectors go into .npz, and the answers are others; use .jsonl"
        )


def _check_finite(kept: torch.Tensor, index: torch.Tensor, task: Task) -> None:
    """Refuse to answer from an output that is not a number; a span that is not there scores minus infinity."""
    wrong = kept.isnan() if task.on_tokens else ~kept.isfinite()
    if wrong.any():
        rows = index[wrong.reshape(len(index), -1).any(1)].unique().tolist()
        several = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        raise JobError(
            f"the output for row {rows[0] + 1}{several} is not finite; no answer was written"
        )


def _from_all_devices(part: torch.Tensor) -> torch.Tensor:
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, part)
    return torch.cat(parts)


def report(folder: Path, logger: Logger | None, config: Mapping[str, Any], result: Result) -> None:
    """Write metrics.json and the hparams tab; print the score, what may come next, and the run folder.

    Args:
        folder: The run folder.
        logger: Gets the config as text, and as hparams with the final metrics, if it writes for TensorBoard.
        config: The command's config: seed_everything, task, model, data.
        result: What is reported.
    """
    metrics = result.metrics
    outputs.write_metrics(folder, metrics)
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_text(
            "config", f"```yaml\n{yaml.safe_dump(dict(config), sort_keys=False)}```"
        )
        final = {f"final/{name}": value for name, value in metrics.items() if name.count("/") == 1}
        logger.log_hyperparams(outputs.flatten(config), final)
        logger.save()
    for split in ("val", "test"):
        numbers = {
            name.split("/")[1]: value
            for name, value in metrics.items()
            if re.fullmatch(f"{split}/[^/]+", name)
        }
        if numbers:
            print(
                f"{split:<12}" + ", ".join(f"{name} {value:.4f}" for name, value in numbers.items())
            )
    if result.best:
        needed = trust.options({key: value for key, value in config.items() if key != "trainer"})
        print(f"predict     python cli.py predict --ckpt_path {result.best} --input FILE{needed}")
    print("curves      tensorboard --logdir logs")
    print(f"wrote {folder}")
