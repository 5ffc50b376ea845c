"""The commands: what each one does, once the command line is understood."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger

from litpool.data.module import TextDataModule
from litpool.loops import run
from litpool.loops.flags import read_flags
from litpool.loops.job import Job
from litpool.loops.lightning import TextModule
from litpool.loops.recorder import Recorder


class Trainer(pl.Trainer):
    """Lightning's Trainer; each method is a command, its arguments are the command's options."""

    def fit(self, model: TextModule, datamodule: TextDataModule, ckpt_path: str | None = None) -> None:  # type: ignore[override]  # noqa: D417
        """Train on the train split, keep the best checkpoint, score it on the test split.

        Args:
            ckpt_path: A checkpoint to go on from, such as RUN/checkpoints/last.ckpt.
        """
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
            output: The JSON lines to write, in input order; `-` for standard output.
        """
        parts = super().predict(model, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True)
        assert parts is not None
        index, logits = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        if self.world_size > 1:
            index, logits = _from_all_devices(index), _from_all_devices(logits)
        if self.is_global_zero:
            answers = model.task.decode(logits[index.argsort()])
            run.write_predictions(output, datamodule.rows["predict"].select_columns(model.task.texts), answers)

    def fit_hf(self, model: TextModule, datamodule: TextDataModule) -> None:
        """Train as `fit` does, with the Hugging Face Trainer around the same network."""
        from litpool.loops import huggingface  # late: importing the Trainer takes its time

        huggingface.fit(self._job(model, datamodule, "the Hugging Face Trainer"))

    def fit_plain(self, model: TextModule, datamodule: TextDataModule) -> None:
        """Train as `fit` does, with a loop written by hand."""
        from litpool.loops import plain

        plain.fit(self._job(model, datamodule, "the plain loop"))

    def _job(self, model: TextModule, datamodule: TextDataModule, loop: str) -> Job:
        """What the other loops are handed; of Lightning, only the device, the run folder and the logger are used."""
        flags = read_flags(model.config["trainer"], self, model.task, loop)
        datamodule.setup("fit")
        for callback in self.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, SaveConfigCallback):
                callback.setup(self, model, "fit")
        model.trainer, self.datamodule = self, datamodule
        model.configure_model()
        recorders = [callback for callback in self.callbacks if isinstance(callback, Recorder)]  # type: ignore[attr-defined]
        return Job(
            network=model.network,
            recipe=model.recipe,
            data=datamodule,
            flags=flags,
            folder=Path(self.log_dir or self.default_root_dir),
            logger=self.logger if isinstance(self.logger, TensorBoardLogger) else None,
            config=model.config,
            recorder=recorders[0] if recorders else None,
        )


def _from_all_devices(part: torch.Tensor) -> torch.Tensor:
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, part)
    return torch.cat(parts)
