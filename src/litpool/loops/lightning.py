"""The Lightning loop: a LightningModule around TextModel."""

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor
from torch.optim import Optimizer
from transformers import PretrainedConfig

from litpool import InputError, JobError, interrupt
from litpool.data.added import require
from litpool.data.module import TextDataModule
from litpool.loops.checkpoint import (
    contents,
    encoder_config,
    not_finite,
    read,
    restore_rng,
    rng_state,
    upgrade,
)
from litpool.loops.divergence import FiniteCheck
from litpool.loops.evaluation import Evaluation
from litpool.loops.job import Result
from litpool.loops.optimizer import Recipe, configure
from litpool.loops.saving import drop_weights, move_paths, restart_validation
from litpool.model.encoder import Encoder, EncoderOptions, load_config, max_length
from litpool.model.markers import resolve
from litpool.model.network import TextModel, build_network
from litpool.model.pooling import MeanPooling, Pooling
from litpool.tasks.task import Task

Batch = dict[str, Tensor]


class TextModule(LightningModule):
    """A text encoder with pooling and a task head, trained by a recipe.

    Args:
        task: Gives the head, the loss and the metrics.
        data: Gives the batches, the rows and the tokenizer.
        encoder: Which encoder, and how it starts.
        pooling: How token states become one vector: a class of litpool.model.pooling.
        recipe: Optimizer and schedule.
        saved: The job in a checkpoint whose weights will be loaded.
        config: The whole job as plain values, kept in checkpoints.
    """

    def __init__(
        self,
        task: Task,
        data: TextDataModule,
        encoder: EncoderOptions = EncoderOptions(),  # noqa: B008 (the parser reads the default)
        pooling: Callable[[int, int], Pooling] = MeanPooling,
        recipe: Recipe = Recipe(),  # noqa: B008
        saved: dict[str, Any] | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.task, self.data, self.encoder, self.pooling, self.recipe = (
            task,
            data,
            encoder,
            pooling,
            recipe,
        )
        self.saved, self.config = saved, config or {}
        self.loss_now = self.grad_norm = torch.tensor(torch.nan)

    def encoder_config(self) -> PretrainedConfig:
        """The encoder's config: the checkpoint's if there is one, else what the options say."""
        return load_config(self.encoder) if self.saved is None else encoder_config(self.saved)

    def pooling_alone(self) -> Pooling:
        """The pooling without weights, on the meta device."""
        config = self.encoder_config()
        with torch.device("meta"):
            return self.pooling(config.hidden_size, config.num_hidden_layers)

    def check(self) -> None:
        """Refuse what the encoder does not support, before data are read; nothing is built but on the meta device.

        Raises:
            InputError: Texts may be too long for the encoder, or the pooling or freezing is not for it.
        """
        config, length = self.encoder_config(), self.data.max_length
        limit = max_length(config) or length
        if not 3 <= length <= limit:
            raise InputError(
                f"data.max_length={length}: this encoder takes texts of 3 to {limit} tokens"
            )
        pooling = self.pooling_alone()
        if (
            self.task.on_tokens and type(pooling) is not MeanPooling
        ):  # the default, which is not used either
            name, task = type(pooling).__name__, type(self.task).__name__
            raise InputError(
                f"model.pooling={name}: {task} reads the tokens, not their pooling; leave it out"
            )
        with torch.device("meta"):
            Encoder(self.encoder, config, pretrained=False, pooler=pooling.needs_pooler_output)

    def read(self, stage: str) -> None:
        """Read and tokenize what a stage needs, before a run folder is made.

        Raises:
            InputError: The data cannot be used; or a text lacks a marker that the pooling looks for.
        """
        self.data.setup(stage)
        if self.encoder.train_new_tokens and self.saved is None and not self.data.new_ids:
            raise InputError(
                "model.encoder.train_new_tokens: no token is new; name some in data.add_tokens"
            )
        require(
            resolve(self.pooling_alone(), self.data.tokenizer),
            self.data.encoded,
            self.data.rows,
            self.task.texts,
        )

    def build(self, device: torch.device) -> TextModel:
        """The network, once the data are read, since labels and tokenizer determine its shape."""
        saved = self.saved
        return build_network(
            self.task,
            self.pooling,
            self.encoder,
            self.encoder_config(),
            self.data.tokenizer,
            new_ids=self.data.new_ids if saved is None else saved.get("new_ids", {}),
            device=device,
            pretrained=self.encoder.pretrained and saved is None,
        )

    def configure_model(self) -> None:
        """Build the network; Lightning calls this on each device."""
        if hasattr(self, "network"):
            return
        if self.encoder.train_new_tokens and isinstance(
            self.trainer.strategy, FSDPStrategy
        ):  # hooks are lost there
            raise InputError(
                "model.encoder.train_new_tokens: not with trainer.strategy=fsdp; use ddp"
            )
        self.network = self.build(self.trainer.strategy.root_device)

    def forward(self, batch: Batch) -> Tensor:
        """The task's output."""
        return self.network(batch)

    def configure_optimizers(self) -> Any:
        """AdamW and its schedule, stepped at each optimizer step."""
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise InputError(
                "trainer.max_epochs=-1: the schedule must know its end; set max_epochs or max_steps"
            )
        optimizer, schedule = configure(
            self.network, self.recipe, int(steps), self.trainer.precision != "16-mixed"
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch."""
        loss = self.task.loss(self.network(batch), batch["labels"])
        self.loss_now = loss.detach()
        self.finite.add(loss, batch)
        self.tokens += batch["attention_mask"].sum()
        self.slots += batch["attention_mask"].numel()
        return loss

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as the trainer says, and record the gradient's norm before; a norm that is not finite ends the run."""
        most = gradient_clip_val or torch.inf
        if gradient_clip_algorithm == "value":
            gradients = [
                weight.grad for weight in self.network.parameters() if weight.grad is not None
            ]
            self.grad_norm = torch.nn.utils.get_total_norm(gradients)
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif isinstance(
            self.trainer.strategy, FSDPStrategy
        ):  # only the sharded whole knows its norm
            self.grad_norm = self.trainer.strategy.model.clip_grad_norm_(most)  # type: ignore[union-attr,operator]
        else:
            self.grad_norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), most)
        self.finite.check(self.trainer.global_step + 1, self.grad_norm, self._any_device)

    def on_train_start(self) -> None:
        """Start the random numbers anew, or where the resumed run stood, so that dropout goes on as well."""
        trainer = self.trainer
        folder = getattr(trainer.checkpoint_callback, "dirpath", None)
        self.finite = FiniteCheck(
            Path(folder) if folder else None, scaled=trainer.precision == "16-mixed"
        )
        batches = trainer.max_steps * trainer.accumulate_grad_batches
        if 0 < batches < trainer.val_check_batch:  # type: ignore[operator]
            trainer.val_check_batch = (
                batches  # a run of less than an epoch is validated at its end, too
            )
        self.on_train_epoch_start()  # which is not called for an epoch that is resumed
        if self.saved is not None:
            restore_rng(self.saved["rng"])
        else:
            torch.manual_seed(
                torch.initial_seed()
            )  # in all loops the same draws from here, whatever was drawn before

    def on_train_epoch_start(self) -> None:
        """Count tokens anew."""
        self.tokens, self.slots = torch.zeros((), dtype=torch.long, device=self.device), 0
        self.clock, self.clock_tokens = time.perf_counter(), 0

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Note the random numbers, to which an interrupted batch goes back; stop here if SIGINT or SIGTERM came."""
        self.rng_before = rng_state()
        starts_step = batch_idx % self.trainer.accumulate_grad_batches == 0
        if (starts_step or self.trainer.world_size == 1) and self._any_device(interrupt.received()):
            interrupt.stop()

    def _any_device(self, value: bool) -> bool:
        """Whether something is true on any device."""
        return self.trainer.strategy.reduce_boolean_decision(value, all=False)

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
            "train/tokens_per_second": (tokens - self.clock_tokens)
            / (now - self.clock)
            * trainer.world_size,
        }
        trainer.logger.log_metrics(values, step)
        self.clock, self.clock_tokens = now, tokens

    def on_train_epoch_end(self) -> None:
        """Log the share of padding in this epoch's batches."""
        if self.slots:  # an epoch that is resumed at its very end has none
            self.log("train/padding", 1 - self.tokens / self.slots, sync_dist=True)

    def on_validation_model_train(self) -> None:
        """Training mode again after a validation, the frozen parts included: dropout acts in all of the network."""
        self.train()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Feed the metrics."""
        if (
            self.trainer.world_size == 1
        ):  # several devices stop together, at the next training batch
            interrupt.check()
        self.evaluation.feed(batch, self.network(batch))

    test_step = validation_step

    def predict_step(self, batch: Batch, batch_idx: int) -> tuple[Tensor, Tensor]:
        """Row numbers, and what the task keeps of the output."""
        kept = self.task.extract(self.network(batch), batch)
        return batch["index"].cpu(), kept.to(torch.promote_types(kept.dtype, torch.float32)).cpu()

    def on_validation_epoch_start(self) -> None:
        """Make ready the metrics of the validation split."""
        self.evaluation = Evaluation(self.task, "validation", self.data.rows["validation"]).to(
            self.device
        )

    def on_test_epoch_start(self) -> None:
        """Make ready the metrics of the test split."""
        self.evaluation = Evaluation(self.task, "test", self.data.rows["test"]).to(self.device)

    def on_validation_epoch_end(self) -> None:
        """Metrics over the whole split, on all devices: numbers to the log, the matrix and wrong answers drawn."""
        self.log_dict(self.evaluation.compute(), sync_dist=True)  # equal on all devices already
        if self.trainer.is_global_zero and isinstance(self.trainer.logger, TensorBoardLogger):
            self.evaluation.show(self.trainer.logger.experiment, self.trainer.global_step)

    on_test_epoch_end = on_validation_epoch_end

    # ---- the checkpoint

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over the task's state; leave out a head that the task, as it is set now, lacks."""
        job = upgrade(checkpoint)["job"]
        if not self.trainer.training:  # while training, `learn` has the last word
            self.task.load_state_dict(job["task"])
        if not any(True for _ in self.network.head.parameters()):
            drop_weights(checkpoint, "network.head.")
        move_paths(checkpoint, self.trainer)

    def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
        """Take over a checkpoint's weights; where the command line has changed the network, say so in one line."""
        try:
            return super().load_state_dict(*arguments, **options)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"ckpt_path: its weights are not this network's ({reason}); leave out --model"
            ) from error

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what it takes to load it on another machine, without the original weights."""
        if name := not_finite(checkpoint["state_dict"]):  # on all devices, so that none waits
            raise JobError(
                f"{name} is not finite, the weights have diverged; lower model.recipe.lr"
            )
        logged = self.trainer.callback_metrics.items()
        metrics = {name: value.item() for name, value in logged if not name.startswith("train/")}
        files = self.data.tokenizer_files
        checkpoint.update(contents(self.network, self.task, files, self.config, metrics))
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress.current
        if progress.processed < progress.ready:  # a resumed run takes this batch again
            checkpoint["job"]["rng"] = self.rng_before
        restart_validation(checkpoint)


def fit(trainer: Trainer, module: TextModule, ckpt_path: str | None = None) -> Result:
    """Train, keep the best checkpoint, score it on the test split.

    Args:
        trainer: Lightning's, with a ModelCheckpoint that monitors a metric.
        module: What is trained, on its own data.
        ckpt_path: The checkpoint to resume from.
    """
    data = copy.copy(module.data)  # Lightning attaches the trainer to it, and with that the network
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    path = getattr(trainer.checkpoint_callback, "best_model_path", "")
    if (
        not path
    ):  # fast_dev_run keeps none, nor does a training that ends before an evaluation is due
        return Result()
    best = Path(path)
    if ckpt_path and not best.exists():  # a resumed run folder that was moved
        best = Path(ckpt_path).parent / best.name
    metrics = read(str(best))["metrics"]
    if "test" in data.rows:
        metrics |= trainer.test(
            module, data, ckpt_path=str(best), verbose=False, weights_only=True
        )[0]
    return Result(metrics, best)
