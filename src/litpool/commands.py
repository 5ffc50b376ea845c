"""What each command does once the command line is parsed. A public function is a command."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import yaml
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter

from litpool import InputError, interrupt, program, trust
from litpool.classes import class_name
from litpool.command_line import toolbox, values
from litpool.command_line.prediction import Devices, predict_rows
from litpool.command_line.prediction_file import FORMATS
from litpool.command_line.runs import hyperparameters
from litpool.data.module import TextDataModule
from litpool.ensemble import Ensemble
from litpool.loops import lightning, outputs, plain, tensorboard
from litpool.loops.checkpoint import SaveOptions, load
from litpool.loops.flags import read_flags
from litpool.loops.job import Flags, Job, Result
from litpool.loops.lightning import TextModule
from litpool.loops.log import Log
from litpool.loops.progress import ProgressLines
from litpool.loops.summary import score_lines
from litpool.predictor import Predictor, check_top, restore
from litpool.tasks.task import Task


@dataclass
class TrainingOptions:
    """The options of every command that trains.

    Args:
        ckpt_path: The run folder to resume from, or a checkpoint in it.
        init_from: The checkpoint whose encoder, pooling and, for the same labels, head a new run
            starts from.
        name: The name of the run folder in logs/JOB; by default `version_N`, with what the command
            line changes.
        save: When to write last.ckpt.
    """

    ckpt_path: str | None = None
    init_from: str | None = None  # read in app.py, like the name
    name: str | None = None
    save: SaveOptions = field(default_factory=SaveOptions)


@dataclass
class Run:
    """Everything a command works with, besides its own options.

    Args:
        trainer: Lightning's Trainer; the other loops use its device, run folder and logger.
        model: The model to train or score, with its data.
        config: The job as plain values, including all defaults.
        options: The command's own options as plain values.
        write_config: Writes config.yaml into the run folder.
        trusted: The modules of `--trust`.
        recorder: An extra log that gets every step of a training.
    """

    trainer: pl.Trainer
    model: TextModule
    config: dict[str, Any]
    options: dict[str, Any]
    write_config: Callable[[], None]
    trusted: list[str]
    recorder: Log | None = None

    @property
    def data(self) -> TextDataModule:
        """The rows and their batches."""
        return self.model.data

    @property
    def folder(self) -> Path:
        """The run folder. With several devices, all must ask: `log_dir` is a broadcast."""
        return Path(self.trainer.log_dir or self.trainer.default_root_dir)

    @property
    def parent(self) -> Path:
        """The folder of all runs of this job."""
        logger = self.trainer.logger
        return Path(logger.root_dir if isinstance(logger, TensorBoardLogger) else "logs")

    @property
    def writer(self) -> SummaryWriter | None:
        """The TensorBoard writer, if the logger has one."""
        logger = self.trainer.logger
        return logger.experiment if isinstance(logger, TensorBoardLogger) else None

    def read(self, stage: str) -> None:
        """Read, check and tokenize the data of a stage, before there is a run folder."""
        self.model.read(stage)
        if stage == "fit":
            values.check_interval(self.trainer, self.data)
            self._describe_start()
        self.warn(self.data)

    def _describe_start(self) -> None:
        """Say which weights a new run takes from the checkpoint of --init_from."""
        if self.model.initial is None or not self.trainer.is_global_zero:
            return
        pooling = self.model.pooling_alone()
        with torch.device("meta"):
            head = self.model.task.head(pooling.out_features)
        print(self.model.initial.describe(self.model.task, pooling, head))

    def warn(self, data: TextDataModule) -> None:
        """Warn if the tokenizer does not know the language of the rows, with the tool `check`."""
        if "check" in toolbox.tools():
            importlib.import_module("litpool.tools.check.tokens").warn(data)

    def flags(self, loop: str) -> Flags:
        """Return the trainer's flags for another loop, which refuses those it does not support."""
        return read_flags(self.config["trainer"], self.trainer, self.model.task, loop)

    def predictors(self, paths: list[str]) -> list[Predictor]:
        """Load checkpoints on the CPU; those after the first get the same task options."""
        models = []
        for number, path in enumerate(paths):
            content = load(path)
            stored = content["job"]["config"]
            _check_task(self.config["task"], stored["task"], path)
            config = {**stored, "task": self.config["task"]} if number else self.config
            file, cpu = Path(path), torch.device("cpu")
            models.append(restore(content, config, file, cpu, self.trusted))
        return models

    def job(self, loop: str, command: str, options: TrainingOptions) -> Job:
        """Read the data and build the network for a loop other than Lightning's.

        Args:
            loop: What error messages call the loop.
            command: The command that can resume the run.
            options: The options of the command.
        """
        flags = self.flags(loop)
        self.read("fit")
        self.write_config()
        logs = [] if self.recorder is None else [self.recorder]
        if not flags.progress and self.config["trainer"]["enable_progress_bar"] is None:
            steps = flags.steps(len(self.data.train_dataloader()))
            logs.append(ProgressLines(steps, every=flags.log_steps or 10))
        return Job(
            network=self.model.build(flags.device),
            recipe=self.model.recipe,
            data=self.data,
            flags=flags,
            folder=self.folder,
            config=self.config,
            writer=self.writer,
            logs=logs,
            command=command,
            options=trust.options(self.config),
            save_options=options.save,
            checkpoint=load(options.ckpt_path) if options.ckpt_path else None,
        )

    def conclude(self, result: Result) -> None:
        """Write metrics.json and the last of TensorBoard; print the scores and the run folder."""
        folder = self.folder
        logger = self.trainer.logger
        if not self.trainer.is_global_zero or logger is None:
            return
        outputs.write_metrics(folder, result.metrics)
        if isinstance(logger, TensorBoardLogger):
            self._complete(logger.experiment, result)
            logger.save()
        for line in score_lines(result.metrics):
            print(line)
        if result.best:
            config = {key: value for key, value in self.config.items() if key != "trainer"}
            command = f"{program()} predict --ckpt_path {result.best} --input FILE"
            print(f"predict     {command}{trust.options(config)}")
        print("curves      tensorboard --logdir logs")
        print(f"wrote {folder}")

    def _complete(self, writer: SummaryWriter, result: Result) -> None:
        """Write what is known at the end: config, hyperparameters, and two more figures."""
        config = yaml.safe_dump(self.config, sort_keys=False)
        writer.add_text("config", f"```yaml\n{config}```")
        split = next(split for split in ("train", "test", "validation") if split in self.data.rows)
        tensorboard.write_text_lengths(writer, self.data, split)
        tensorboard.write_losses(writer, result.best)
        values = hyperparameters(self.config)
        tensorboard.write_hyperparameters(writer, values, result.metrics, result.best)


def _check_task(task: dict[str, Any], other: dict[str, Any], path: str) -> None:
    """Refuse a checkpoint of an ensemble that has another task than the first."""
    if class_name(other) != class_name(task):
        raise InputError(
            f"ckpt_path={path}: its task is {class_name(other)}, that of the first checkpoint is "
            f"{class_name(task)}; name checkpoints of one task"
        )


def fit(run: Run, **options: Any) -> None:
    """Train on the train split, keep the best checkpoint, score it on the test split."""
    ckpt_path = TrainingOptions(**options).ckpt_path
    run.read("fit")
    _train(run, lambda: lightning.fit(run.trainer, run.model, ckpt_path))


def fit_hf(run: Run, **options: Any) -> None:
    """Train like `fit`, with the Hugging Face Trainer around the same network."""
    from litpool.loops import huggingface

    job = run.job("the Hugging Face Trainer", "fit_hf", TrainingOptions(**options))
    _train(run, lambda: huggingface.fit(job))


def fit_plain(run: Run, **options: Any) -> None:
    """Train like `fit`, with a hand-written loop."""
    job = run.job("the plain loop", "fit_plain", TrainingOptions(**options))
    _train(run, lambda: plain.fit(job))


def _train(run: Run, loop: Callable[[], Result]) -> None:
    """Train with signals deferred to the end of a step, and report unless nothing was evaluated."""
    with interrupt.deferred():
        result = loop()
    if result.best:
        run.conclude(result)
    elif run.trainer.is_global_zero:
        print("training ended before its first evaluation, so there is no best.ckpt to score")
        print(f"wrote {run.folder}")


def validate(run: Run, ckpt_path: str | None = None) -> None:  # noqa: D417
    """Score a checkpoint (or the untrained network) on the validation split.

    Args:
        ckpt_path: The checkpoint, such as RUN/checkpoints/best.ckpt, or the run folder.
    """
    run.read("validate")
    run.trainer.validate(run.model, run.data, ckpt_path=ckpt_path, verbose=False, weights_only=True)
    run.conclude(_scores(run.trainer))


def test(run: Run, ckpt_path: str | None = None) -> None:  # noqa: D417, PT028 (not a pytest test)
    """Score a checkpoint (or the untrained network) on the test split.

    Args:
        ckpt_path: The checkpoint, such as RUN/checkpoints/best.ckpt, or the run folder.
    """
    run.read("test")
    run.trainer.test(run.model, run.data, ckpt_path=ckpt_path, verbose=False, weights_only=True)
    run.conclude(_scores(run.trainer))


def _scores(trainer: pl.Trainer) -> Result:
    return Result({name: value.item() for name, value in trainer.callback_metrics.items()})


def predict(  # noqa: D417
    run: Run,
    ckpt_path: str | list[str] | None = None,
    input: str = "-",
    output: str = "predictions.jsonl",
    top: int | None = None,
    keep: str | list[str] = [],  # noqa: B006 (the parser reads the default)
) -> None:
    """Write predictions for the rows of a file (CSV, TSV, JSON, JSONL, Parquet, TXT) or of stdin.

    Args:
        ckpt_path: The checkpoint, such as RUN/checkpoints/best.ckpt, or the run folder. Given
            several times, the answers are the mean of these checkpoints': of the probabilities,
            the scores or the normalized vectors.
        input: The file with the texts; `-` for standard input, one text per line or JSON lines.
        output: The file to write, in input order: JSON lines; `.parquet`; or, for vectors only,
            `.npz` with the array `vectors`. `-` writes JSON lines to standard output.
        top: Write only this many labels, the most probable first, each with its probability.
        keep: A column of the input, or a list of columns, to copy to the output. If the answer has
            a column of the same name, such as `label`, the copy is called `input_label`.
    """
    from litpool.data.rows import InputRows

    task = run.model.task
    kept = [keep] if isinstance(keep, str) else keep
    _check_output(output, input, task, kept)
    check_top(top, task)
    paths = [ckpt_path] if isinstance(ckpt_path, str) else ckpt_path or []
    with InputRows(input, run.data.source, task.texts, task.extras, kept) as rows:
        ensemble = Ensemble(run.predictors(paths))
        devices = Devices(run.trainer)
        devices.launch(lambda: predict_rows(devices, ensemble, rows, output, top, kept))
    if run.trainer.is_global_zero and output != "-":
        print(f"wrote {output}")


def _check_output(output: str, input: str, task: Task, keep: list[str]) -> None:
    """Refuse a file that cannot be written, before reading anything."""
    if output == "-":
        return
    path = Path(output)
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(
            f"output={output}: name a file in a folder that exists, or - for standard output"
        )
    if path.exists() and Path(input).exists() and path.samefile(input):
        raise InputError(f"output={output}: is the input, which would be lost; name another file")
    if path.suffix not in FORMATS:
        raise InputError(f"output={output}: the ending must be one of {', '.join(FORMATS)}")
    if path.suffix == ".npz" and not task.gives_vectors:
        raise InputError(f"output={output}: .npz holds vectors only; use .jsonl or .parquet")
    if path.suffix == ".npz" and keep:
        raise InputError(f"keep={keep}: .npz holds vectors only; use .jsonl or .parquet")
