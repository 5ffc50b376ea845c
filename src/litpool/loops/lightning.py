"""The Lightning loop: a LightningModule around TextModel."""

import time
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import MeanMetric
from transformers import PretrainedConfig

from litpool import InputError
from litpool.data.module import TextDataModule
from litpool.loops import run
from litpool.loops.checkpoint import contents, encoder_config
from litpool.loops.recipe import Recipe, configure
from litpool.model.encoder import EncoderOptions, load_config
from litpool.model.network import TextModel
from litpool.model.pooling import MeanPooling, Pooling
from litpool.tasks.task import Task

Batch = dict[str, Tensor]


class TextModule(LightningModule):
    """A text encoder with pooling and a task head, trained by a recipe.

    Args:
        task: Gives the head, the loss and the metrics.
        encoder: Which encoder, and how it starts.
        pooling: How token states become one vector: a class of litpool.model.pooling.
        recipe: Optimizer and schedule.
    """

    def __init__(
        self,
        task: Task,
        encoder: EncoderOptions = EncoderOptions(),  # noqa: B008 (the parser reads the default)
        pooling: Callable[[int, int], Pooling] = MeanPooling,
        recipe: Recipe = Recipe(),  # noqa: B008
    ) -> None:
        super().__init__()
        self.task, self.encoder, self.pooling, self.recipe = task, encoder, pooling, recipe
        self.restored: dict[str, Any] | None = None  # what a checkpoint says, set before its weights are loaded
        self.outputs: list[tuple[Tensor, Tensor]] = []  # (row numbers, logits) of the split under evaluation
        self.config: dict[str, Any] = {}  # task, model and data as the command line understood them
        self.loss_now = self.grad_norm = torch.tensor(torch.nan)

    @property
    def datamodule(self) -> TextDataModule:
        """Where the rows, the tokenizer and the batches come from."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def encoder_config(self) -> PretrainedConfig:
        """The encoder's config: the checkpoint's if there is one, else what the options say."""
        return load_config(self.encoder) if self.restored is None else encoder_config(self.restored)

    def configure_model(self) -> None:
        """Build the network, once the data have told the labels and the tokenizer."""
        if hasattr(self, "network"):
            return
        device = self.trainer.strategy.root_device.type
        self.network = TextModel(
            self.task,
            self.pooling,
            self.encoder,
            self.encoder_config(),
            pretrained=self.encoder.pretrained and self.restored is None,
            vocabulary=len(self.datamodule.tokenizer),
            attention="eager" if device == "cpu" else "sdpa",  # CPU: sdpa is slow with attention dropout
        )
        self.metrics = self.task.metrics()
        self.mean_loss = MeanMetric()

    def forward(self, batch: Batch) -> Tensor:
        """The task's logits."""
        return self.network(batch)

    def configure_optimizers(self) -> Any:
        """AdamW and its schedule, stepped at each optimizer step."""
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise InputError("trainer.max_epochs=-1: the schedule must know its end; set max_epochs or max_steps")
        optimizer, schedule = configure(self.network, self.recipe, int(steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch."""
        loss = self.task.loss(self.network(batch), batch["labels"])
        self.loss_now = loss.detach()
        self.tokens += batch["attention_mask"].sum()
        self.slots += batch["attention_mask"].numel()
        return loss

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as the trainer says; where that is by norm, or not at all, the norm is had on the way."""
        if gradient_clip_algorithm == "value" or isinstance(self.trainer.strategy, FSDPStrategy):
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        else:
            self.grad_norm = torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val or torch.inf)

    def on_train_start(self) -> None:
        """Go on with the random numbers where the resumed run stood, so that dropout goes on as well."""
        if self.restored is not None:
            torch.set_rng_state(self.restored["rng"])

    def on_train_epoch_start(self) -> None:
        """Count tokens anew."""
        self.tokens, self.slots = torch.zeros((), dtype=torch.long, device=self.device), 0
        self.clock, self.clock_tokens = time.perf_counter(), 0

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Write a line of the log; by hand, since `self.log` at each step costs a tiny encoder a tenth of its time."""
        trainer, step = self.trainer, self.trainer.global_step
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch
        if trainer.logger is None or not stepped or step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        now, tokens = time.perf_counter(), int(self.tokens)
        values = {
            "train/loss": float(self.loss_now),
            "train/lr": max(group["lr"] for group in trainer.optimizers[0].param_groups),
            "train/grad_norm": float(self.grad_norm),
            "train/tokens_per_second": (tokens - self.clock_tokens) / (now - self.clock) * trainer.world_size,
        }
        trainer.logger.log_metrics(values, step)
        self.clock, self.clock_tokens = now, tokens

    def on_train_epoch_end(self) -> None:
        """Log the share of padding in this epoch's batches."""
        self.log("train/padding", 1 - self.tokens / self.slots, sync_dist=True)

    def on_validation_model_train(self) -> None:
        """Training mode again after a validation, the frozen parts included: dropout acts in all of the network."""
        self.train()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Feed the metrics."""
        self._evaluate(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Feed the metrics."""
        self._evaluate(batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> tuple[Tensor, Tensor]:
        """Row numbers and logits."""
        return batch["index"].cpu(), self.network(batch).float().cpu()

    def _evaluate(self, batch: Batch) -> None:
        logits = self.network(batch)
        self.task.update(self.metrics, logits, batch["labels"])
        self.mean_loss.update(self.task.loss(logits, batch["labels"]), len(logits))
        self.outputs.append((batch["index"], logits))

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the validation split."""
        self._conclude("val", "validation")

    def on_test_epoch_end(self) -> None:
        """Log the metrics of the test split."""
        self._conclude("test", "test")

    def _conclude(self, prefix: str, split: str) -> None:
        """Metrics over the whole split, on all devices: numbers to the log, the matrix and wrong answers drawn."""
        index, logits = (torch.cat(parts) for parts in zip(*self.outputs, strict=True))
        self.outputs.clear()
        computed = {**self.metrics.compute(), "loss": self.mean_loss.compute()}
        numbers = {f"{prefix}/{name}": value.item() for name, value in computed.items() if value.ndim == 0}
        self.log_dict(numbers, sync_dist=True)  # equal on all devices already
        if self.trainer.is_global_zero and isinstance(self.trainer.logger, TensorBoardLogger):
            writer, step = self.trainer.logger.experiment, self.trainer.global_step
            run.draw(writer, self.task, self.metrics, prefix, step)
            run.tell_mistakes(writer, self.task, prefix, self.datamodule.rows[split], index, logits, step)
        self.metrics.reset()
        self.mean_loss.reset()

    # ---- the checkpoint

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add all that it takes to load the checkpoint on another machine, without the original weights."""
        metrics = {name: value.item() for name, value in self.trainer.callback_metrics.items()}
        files = self.datamodule.tokenizer_files
        checkpoint["litpool"] = contents(self.network, self.task, files, self.config, metrics)
