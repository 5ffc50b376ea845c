"""The commands: what each one does, once the command line is understood."""

import sys
from pathlib import Path
from typing import Any, Literal, get_args

import lightning.pytorch as pl
import torch
from jsonargparse.typing import PositiveInt
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger

from litpool import InputError, JobError, interrupt
from litpool.data.module import TextDataModule
from litpool.loops import run
from litpool.loops.flags import Flags, read_flags
from litpool.loops.job import Job
from litpool.loops.lightning import TextModule
from litpool.loops.recorder import Recorder
from litpool.study.options import StudyOptions
from litpool.tasks.task import Task

Loop = Literal["plain", "lightning", "huggingface", "stock"]


class Trainer(pl.Trainer):
    """Lightning's Trainer; each method is a command, its arguments are the command's options."""

    def fit(self, model: TextModule, datamodule: TextDataModule, ckpt_path: str | None = None) -> None:  # type: ignore[override]  # noqa: D417
        """Train on the train split, keep the best checkpoint, score it on the test split.

        Args:
            ckpt_path: A checkpoint to go on from, such as RUN/checkpoints/last.ckpt.
        """
        with interrupt.deferred():
            super().fit(model, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True)

    def validate(self, model: TextModule, datamodule: TextDataModule, ckpt_path: str | None = None) -> Any:  # type: ignore[override]  # noqa: D417
        """Score a checkpoint (or the untrained network) on the validation split.

        Args:
            ckpt_path: The checkpoint, such as RUN/checkpoints/best.ckpt.
        """
        return super().validate(model, datamodule=datamodule, ckpt_path=ckpt_path, verbose=False, weights_only=True)

    def test(self, model: TextModule, datamodule: TextDataModule, ckpt_path: str | None = None) -> Any:  # type: ignore[override]  # noqa: D417
        """Score a checkpoint (or the untrained network) on the test split.

        Args:
            ckpt_path: The checkpoint, such as RUN/checkpoints/best.ckpt.
        """
        return super().test(model, datamodule=datamodule, ckpt_path=ckpt_path, verbose=False, weights_only=True)

    def predict(  # type: ignore[override]  # noqa: D417
        self,
        model: TextModule,
        datamodule: TextDataModule,
        ckpt_path: str | None = None,
        input: str = "-",
        output: str = "predictions.jsonl",
    ) -> None:
        """Answer the rows of a file (CSV, TSV, JSON, JSONL, Parquet, TXT) or of standard input.

        Args:
            ckpt_path: The checkpoint, such as RUN/checkpoints/best.ckpt.
            input: The file with the texts; `-` for standard input, one text a line or JSON lines.
            output: What to write, in input order: JSON lines, a `.parquet` file, or, for vectors alone, a `.npz` file
                with the array `vectors`; `-` for JSON lines on standard output.
        """
        parts = super().predict(model, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True)
        assert parts is not None
        index, kept = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        if self.world_size > 1:
            index, kept = _from_all_devices(index), _from_all_devices(kept)
        if self.is_global_zero:
            _check_finite(kept, index, model.task)
            rows = datamodule.rows["predict"]
            answers = model.task.decode(model.task.assemble(kept, index), rows)
            run.write_predictions(output, rows.select_columns(model.task.shown), answers)

    def fit_hf(self, model: TextModule, datamodule: TextDataModule) -> None:
        """Train as `fit` does, with the Hugging Face Trainer around the same network."""
        from litpool.loops import huggingface  # late: importing the Trainer takes its time

        job = self._job(model, datamodule, "the Hugging Face Trainer")
        with interrupt.deferred():
            huggingface.fit(job)

    def fit_plain(self, model: TextModule, datamodule: TextDataModule) -> None:
        """Train as `fit` does, with a loop written by hand."""
        from litpool.loops import plain

        job = self._job(model, datamodule, "the plain loop")
        with interrupt.deferred():
            plain.fit(job)

    def fit_stock(self, model: TextModule, datamodule: TextDataModule) -> None:
        """Train as the Trainer does by default, for `compare`."""
        from litpool.loops import stock

        flags = self._start(model, datamodule, "the Trainer")
        recorder = self._recorder()
        assert recorder is not None
        stock.fit(flags, datamodule, model.encoder, self._folder(), self.logger, recorder)

    def compare(  # noqa: D417
        self,
        model: TextModule,
        datamodule: TextDataModule,
        loops: list[Loop] = ["plain", "lightning", "huggingface", "stock"],  # noqa: B006 (the parser reads it)
        steps: PositiveInt | None = None,
        repeat: PositiveInt = 1,
    ) -> None:
        """Train with all loops, one after the other: the same job step by step, and what it costs.

        Args:
            loops: Which; `stock` is the Trainer as it comes, with AutoModelForSequenceClassification.
            steps: Optimizer steps to train, instead of the whole job.
            repeat: How often to train with each loop, for the times.
        """
        from litpool.loops import compare, stock

        flags = read_flags(model.config["trainer"], self, model.task, "one of the loops")
        model.read(datamodule, "fit")
        config = {**model.config, "trainer": {**model.config["trainer"], **self._cut(steps, datamodule)}}
        parent = Path(self.logger.root_dir if isinstance(self.logger, TensorBoardLogger) else "logs")
        folder = compare.folder_of(config, parent)
        left_out = stock.cannot(model.task) if "stock" in loops else None
        chosen = [loop for loop in loops if loop != "stock" or not left_out]
        if not chosen:
            raise InputError(f"loops={loops}: there is none to run; name some of {', '.join(get_args(Loop))}")
        try:
            runs = compare.run_loops(config, folder, chosen, repeat)
        except KeyboardInterrupt:
            sys.exit("interrupted; the same command goes on with the loops that are missing")
        pooling = model.config["model"]["pooling"]["class_path"].rpartition(".")[2]
        compare.report(folder, runs, stock.differences(flags, model.recipe, pooling, datamodule), left_out)
        print(f"wrote {folder}")

    def study(  # noqa: D417
        self,
        model: TextModule,
        datamodule: TextDataModule,
        study: StudyOptions = StudyOptions(),  # noqa: B008 (the parser reads the default)
    ) -> None:
        """Tell which pooling of which layer represents a text: all of them, frozen, with their uncertainty.

        Frozen, the encoder works in float32 on one device, whatever the trainer's flags say; they are for the arm
        `finetuned`.

        Args:
            study: What is studied beside all layers and all poolings without weights of their own.
        """
        from litpool.study import run as studies  # late: not every command needs it

        if self.world_size > 1:
            raise InputError(f"trainer.devices={self.world_size}: a study runs on one device; set trainer.devices=1")
        if self.logger is None:
            raise InputError("trainer.logger=false: a study needs its run folder; leave it out")
        found = studies.prepare(model, datamodule, study)
        self._save_config(model)
        parent = Path(self.logger.root_dir if isinstance(self.logger, TensorBoardLogger) else "logs")
        studies.conduct(model, found, study, self.strategy.root_device, self._folder(), self.logger, parent)

    def check(self, model: TextModule, datamodule: TextDataModule) -> None:
        """Look at data, tokenizer and encoder before a run: a table of what is well, and of what is not.

        The exit status is 1 where a line is an error.
        """
        from litpool import check as checks  # late: not every command needs it

        model.trainer, self.datamodule = self, datamodule
        if checks.conduct(model, datamodule, self._folder()):
            sys.exit(1)

    def _cut(self, steps: int | None, datamodule: TextDataModule) -> dict[str, int]:
        """The flags that end training after so many steps, with an evaluation there if it is within an epoch."""
        if steps is None:
            return {}
        steps = int(steps)  # the parser's own kind of int is unknown to YAML
        batches = steps * self.accumulate_grad_batches
        within = batches < len(datamodule.train_dataloader())
        return {"max_steps": steps, **({"val_check_interval": batches} if within else {})}

    def _job(self, model: TextModule, datamodule: TextDataModule, loop: str) -> Job:
        """What the other loops are handed; of Lightning, only the device, the run folder and the logger are used."""
        flags = self._start(model, datamodule, loop)
        model.trainer, self.datamodule = self, datamodule
        model.configure_model()
        return Job(
            network=model.network,
            recipe=model.recipe,
            data=datamodule,
            flags=flags,
            folder=self._folder(),
            logger=self.logger if isinstance(self.logger, TensorBoardLogger) else None,
            config=model.config,
            recorder=self._recorder(),
        )

    def _start(self, model: TextModule, datamodule: TextDataModule, loop: str) -> Flags:
        """Check the flags, read the data, and only then write config.yaml."""
        flags = read_flags(model.config["trainer"], self, model.task, loop)
        model.read(datamodule, "fit")
        self._save_config(model)
        return flags

    def _save_config(self, model: TextModule) -> None:
        for callback in self.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, SaveConfigCallback):
                callback.setup(self, model, "fit")

    def _folder(self) -> Path:
        return Path(self.log_dir or self.default_root_dir)

    def _recorder(self) -> Recorder | None:
        return next((c for c in self.callbacks if isinstance(c, Recorder)), None)  # type: ignore[attr-defined]


def _check_finite(kept: torch.Tensor, index: torch.Tensor, task: Task) -> None:
    """Refuse to answer from an output that is not a number; a span that is not there scores minus infinity."""
    wrong = kept.isnan() if task.on_tokens else ~kept.isfinite()
    if wrong.any():
        rows = index[wrong.flatten(1).any(1)].unique().tolist()
        several = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        raise JobError(f"the output for row {rows[0] + 1}{several} is not finite; no answer was written")


def _from_all_devices(part: torch.Tensor) -> torch.Tensor:
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, part)
    return torch.cat(parts)
