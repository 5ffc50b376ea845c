"""What the plain loop and the Hugging Face Trainer are handed, and what both leave behind: log, checkpoints, scores."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from litpool import interrupt
from litpool.data.module import TextDataModule
from litpool.loops import run
from litpool.loops.checkpoint import contents, write
from litpool.loops.evaluation import Evaluation
from litpool.loops.flags import Flags
from litpool.loops.recipe import Recipe
from litpool.loops.recorder import Recorder
from litpool.model.network import TextModel
from litpool.tasks.task import Task

Batch = dict[str, Tensor]


@dataclass
class Job:
    """A training, whichever loop drives it.

    Args:
        network: What is trained.
        recipe: Optimizer and schedule.
        data: The batches.
        flags: How long, how precise, how often.
        folder: The run folder.
        logger: Writes for TensorBoard, if at all.
        config: The command's config, kept in checkpoints.
        recorder: Records every step, if at all.
    """

    network: TextModel
    recipe: Recipe
    data: TextDataModule
    flags: Flags
    folder: Path
    logger: TensorBoardLogger | None
    config: dict[str, Any]
    recorder: Recorder | None = None
    best: dict[str, float] = field(default_factory=dict)  # the metrics of best.ckpt

    @property
    def task(self) -> Task:
        """The task, which data and network share."""
        return self.data.task

    def autocast(self) -> torch.autocast:
        """The precision of forward passes, the loss included. Lightning does without the cache, so all loops do."""
        dtype = torch.float16 if self.flags.precision == "16-mixed" else torch.bfloat16
        enabled = self.flags.precision != "32-true"
        return torch.autocast(self.flags.device.type, dtype=dtype, enabled=enabled, cache_enabled=False)

    def moved(self, batch: Batch) -> Batch:
        """The batch on the device."""
        return {key: value.to(self.flags.device, non_blocking=True) for key, value in batch.items()}

    @torch.no_grad()
    def evaluate(self, split: str, step: int) -> dict[str, float]:
        """Score a split, validation or test, and write the metrics to the log; dropout is off meanwhile."""
        loader = self.data.val_dataloader() if split == "validation" else self.data.test_dataloader()
        evaluation = Evaluation(self.task, split, self.data.rows[split]).to(self.flags.device)
        self.network.eval()
        for batch in map(self.moved, loader):
            with self.autocast():
                evaluation.feed(batch, self.network(batch))
            self.stop_if_interrupted(step if split == "validation" else 0)
        self.network.train()
        metrics = evaluation.compute()
        if self.logger is not None:
            self.logger.log_metrics(metrics, step)
            evaluation.show(self.logger.experiment, step)
        return metrics

    def keep(self, metrics: dict[str, float], step: int) -> bool:
        """Write last.ckpt, and best.ckpt as well if no evaluation was better; returns whether that is so."""
        monitor, sign = self.task.monitor, 1 if self.task.monitor_mode == "max" else -1
        better = not self.best or sign * metrics[monitor] > sign * self.best[monitor]
        self.save("last", metrics, step)
        if better:
            self.best = metrics
            self.save("best", metrics, step)
        return better

    def save(self, name: str, metrics: dict[str, float], step: int) -> None:
        """Write a checkpoint as Lightning's `test` and `predict` read it."""
        checkpoint = {
            "pytorch-lightning_version": lightning.__version__,
            "epoch": 0,
            "global_step": step,
            "state_dict": {f"network.{key}": value for key, value in self.network.state_dict().items()},
            "litpool": contents(self.network, self.task, self.data.tokenizer_files, self.config, metrics),
        }
        write(checkpoint, self.checkpoint(name))

    def stop_if_interrupted(self, step: int) -> None:
        """Write last.ckpt, if a step has been taken since it was written, and end the run if SIGINT or SIGTERM came."""
        if interrupt.received():
            if step:
                self.save("last", {}, step)
            if self.checkpoint("last").exists():
                interrupt.advise(f"interrupted; the weights so far are in {self.checkpoint('last')}")
            interrupt.check()

    def checkpoint(self, name: str) -> Path:
        """Where the checkpoint `best` or `last` is."""
        return self.folder / "checkpoints" / f"{name}.ckpt"

    def finish(self, step: int) -> None:
        """Score the best checkpoint on the test split, if there are both, and conclude."""
        if not self.best:  # training ended before an evaluation was due
            self.save("last", {}, step)
            return
        best = self.checkpoint("best")
        saved = torch.load(best, map_location=self.flags.device, weights_only=True)
        self.task.load_state_dict(saved["litpool"]["task"])
        self.network.load_state_dict(
            {key.removeprefix("network."): value for key, value in saved["state_dict"].items()}
        )
        test = self.evaluate("test", step) if "test" in self.data.rows else {}
        run.conclude(self.folder, self.logger, self.config, self.best | test, str(best))


class Log:
    """The lines of the log: loss, learning rate, norm of the gradient, tokens a second.

    Args:
        job: Says where and how often to write.
    """

    def __init__(self, job: Job) -> None:
        self.logger, self.every = job.logger, job.flags.log_steps
        self.tokens = torch.zeros((), dtype=torch.long, device=job.flags.device)
        self.clock = time.perf_counter()

    def count(self, batch: Batch) -> None:
        """Count a batch's tokens."""
        self.tokens += batch["attention_mask"].sum()

    def write(self, step: int, loss: Tensor, lr: float, grad_norm: Tensor | float) -> None:
        """Write a line, every so many steps.

        Args:
            step: Optimizer steps done.
            loss: Of the last batch.
            lr: The learning rate of the next step.
            grad_norm: Before clipping.
        """
        if self.logger is None or step % self.every:
            return
        now = time.perf_counter()
        values = {"train/loss": float(loss), "train/lr": lr, "train/grad_norm": float(grad_norm)}
        speed = {"train/tokens_per_second": int(self.tokens) / (now - self.clock)}
        self.logger.log_metrics({**values, **speed}, step)
        self.tokens.zero_()
        self.clock = now
