"""The Lightning loop: a LightningModule around TextModel."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor
from torch.optim import Optimizer
from transformers import PretrainedConfig

from litpool import InputError, JobError, interrupt, trust
from litpool.data.added import require
from litpool.data.module import TextDataModule
from litpool.loops.checkpoint import contents, encoder_config, restore_rng, rng_state, write
from litpool.loops.divergence import FiniteCheck
from litpool.loops.evaluation import Evaluation
from litpool.loops.recipe import Recipe, configure
from litpool.model.encoder import Encoder, EncoderOptions, load_config, max_length
from litpool.model.markers import resolve
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
        self.config: dict[str, Any] = {}  # task, model and data as the command line understood them
        self.loss_now = self.grad_norm = torch.tensor(torch.nan)

    @property
    def datamodule(self) -> TextDataModule:
        """Where the rows, the tokenizer and the batches come from."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def encoder_config(self) -> PretrainedConfig:
        """The encoder's config: the checkpoint's if there is one, else what the options say."""
        return load_config(self.encoder) if self.restored is None else encoder_config(self.restored)

    def pooling_alone(self) -> Pooling:
        """The pooling without weights, on the meta device."""
        config = self.encoder_config()
        with torch.device("meta"):
            return self.pooling(config.hidden_size, config.num_hidden_layers)

    def check(self, length: int) -> None:
        """Refuse what the encoder does not bear, before data are read: it is built on the meta device, without weights.

        Raises:
            InputError: Texts of `length` tokens are too long for it, or the pooling or freezing is not for it.
        """
        config = self.encoder_config()
        limit = max_length(config) or length
        if not 3 <= length <= limit:
            raise InputError(f"data.max_length={length}: this encoder takes texts of 3 to {limit} tokens")
        pooling = self.pooling_alone()
        if self.task.on_tokens and type(pooling) is not MeanPooling:  # the default, which is not used either
            name, task = type(pooling).__name__, type(self.task).__name__
            raise InputError(f"model.pooling={name}: {task} reads the tokens, not their pooling; leave it out")
        with torch.device("meta"):
            Encoder(self.encoder, config, pretrained=False, pooler=pooling.needs_pooler_output)

    def read(self, data: TextDataModule, stage: str) -> None:
        """Read and tokenize what a stage needs, before a run folder is made.

        Raises:
            InputError: The data are no use; or a text lacks a marker that the pooling is to find there.
        """
        data.setup(stage)
        if self.encoder.train_new_tokens and self.restored is None and not data.new_ids:
            raise InputError("model.encoder.train_new_tokens: no token is new; name some in data.add_tokens")
        require(resolve(self.pooling_alone(), data.tokenizer), data.encoded, data.rows, self.task.texts)

    def configure_model(self) -> None:
        """Build the network, once the data have told the labels and the tokenizer."""
        if hasattr(self, "network"):
            return
        if self.encoder.train_new_tokens and isinstance(self.trainer.strategy, FSDPStrategy):  # hooks are lost there
            raise InputError("model.encoder.train_new_tokens: not with trainer.strategy=fsdp; use ddp")
        device = self.trainer.strategy.root_device.type
        new_ids = self.datamodule.new_ids if self.restored is None else self.restored.get("new_ids", {})
        self.network = TextModel(
            self.task,
            self.pooling,
            self.encoder,
            self.encoder_config(),
            pretrained=self.encoder.pretrained and self.restored is None,
            vocabulary=len(self.datamodule.tokenizer),
            attention="eager" if device == "cpu" else "sdpa",  # CPU: sdpa is slow with attention dropout
            new_ids=new_ids,
        )
        resolve(self.network.pooling, self.datamodule.tokenizer)

    def forward(self, batch: Batch) -> Tensor:
        """The task's output."""
        return self.network(batch)

    def configure_optimizers(self) -> Any:
        """AdamW and its schedule, stepped at each optimizer step."""
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise InputError("trainer.max_epochs=-1: the schedule must know its end; set max_epochs or max_steps")
        optimizer, schedule = configure(self.network, self.recipe, int(steps), self.trainer.precision != "16-mixed")
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
            gradients = [weight.grad for weight in self.network.parameters() if weight.grad is not None]
            self.grad_norm = torch.nn.utils.get_total_norm(gradients)
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif isinstance(self.trainer.strategy, FSDPStrategy):  # only the sharded whole knows its norm
            self.grad_norm = self.trainer.strategy.model.clip_grad_norm_(most)  # type: ignore[union-attr,operator]
        else:
            self.grad_norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), most)
        self.finite.check(self.trainer.global_step + 1, self.grad_norm)

    def on_train_start(self) -> None:
        """Start the random numbers anew, or where the resumed run stood, so that dropout goes on as well."""
        trainer = self.trainer
        folder = getattr(trainer.checkpoint_callback, "dirpath", None)
        self.finite = FiniteCheck(Path(folder) if folder else None, scaled=trainer.precision == "16-mixed")
        batches = trainer.max_steps * trainer.accumulate_grad_batches
        if 0 < batches < trainer.val_check_batch:  # type: ignore[operator]
            trainer.val_check_batch = batches  # a run of less than an epoch is validated at its end, too
        self.on_train_epoch_start()  # which is not called for an epoch that is resumed
        if self.restored is not None:
            restore_rng(self.restored["rng"])
        else:
            torch.manual_seed(torch.initial_seed())  # in all loops the same draws from here, whatever was drawn before

    def on_train_epoch_start(self) -> None:
        """Count tokens anew."""
        self.tokens, self.slots = torch.zeros((), dtype=torch.long, device=self.device), 0
        self.clock, self.clock_tokens = time.perf_counter(), 0

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Note the random numbers, to which an interrupted batch goes back; stop here if SIGINT or SIGTERM came."""
        self.rng_before = rng_state()
        if self.trainer.strategy.reduce_boolean_decision(interrupt.received(), all=False):  # on any device
            interrupt.stop()

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
        if self.slots:  # an epoch that is resumed at its very end has none
            self.log("train/padding", 1 - self.tokens / self.slots, sync_dist=True)

    def on_validation_model_train(self) -> None:
        """Training mode again after a validation, the frozen parts included: dropout acts in all of the network."""
        self.train()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Feed the metrics."""
        if self.trainer.world_size == 1:  # several devices stop together, at the next training batch
            interrupt.check()
        self.evaluation.feed(batch, self.network(batch))

    test_step = validation_step

    def predict_step(self, batch: Batch, batch_idx: int) -> tuple[Tensor, Tensor]:
        """Row numbers, and what the task keeps of the output."""
        kept = self.task.extract(self.network(batch), batch)
        return batch["index"].cpu(), kept.to(torch.promote_types(kept.dtype, torch.float32)).cpu()

    def on_validation_epoch_start(self) -> None:
        """Make ready the metrics of the validation split."""
        self.evaluation = Evaluation(self.task, "validation", self.datamodule.rows["validation"]).to(self.device)

    def on_test_epoch_start(self) -> None:
        """Make ready the metrics of the test split."""
        self.evaluation = Evaluation(self.task, "test", self.datamodule.rows["test"]).to(self.device)

    def on_validation_epoch_end(self) -> None:
        """Metrics over the whole split, on all devices: numbers to the log, the matrix and wrong answers drawn."""
        self.log_dict(self.evaluation.compute(), sync_dist=True)  # equal on all devices already
        if self.trainer.is_global_zero and isinstance(self.trainer.logger, TensorBoardLogger):
            self.evaluation.show(self.trainer.logger.experiment, self.trainer.global_step)

    on_test_epoch_end = on_validation_epoch_end

    # ---- the checkpoint

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over what the task had found then; leave out a head that the task, as it is set now, does without."""
        if not self.trainer.training:  # going on with training, `learn` has the last word
            self.task.load_state_dict(checkpoint["litpool"]["task"])
        if not any(True for _ in self.network.head.parameters()):
            weights = checkpoint["state_dict"]
            checkpoint["state_dict"] = {k: v for k, v in weights.items() if not k.startswith("network.head.")}

    def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
        """Take over a checkpoint's weights; where the command line has changed the network, say so in one line."""
        try:
            return super().load_state_dict(*arguments, **options)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"ckpt_path: its weights are not this network's ({reason}); leave out --model") from error

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add all that it takes to load the checkpoint on another machine, without the original weights."""
        logged = self.trainer.callback_metrics.items()
        metrics = {name: value.item() for name, value in logged if not name.startswith("train/")}
        files = self.datamodule.tokenizer_files
        checkpoint["litpool"] = contents(self.network, self.task, files, self.config, metrics)
        progress = self.trainer.fit_loop.epoch_loop.batch_progress.current
        if progress.processed < progress.ready:  # type: ignore[attr-defined]  # interrupted within a batch, which a resumed run takes again
            checkpoint["litpool"]["rng"] = self.rng_before


class WholeCheckpoints(TorchCheckpointIO):
    """Writes checkpoints as the other loops do: whole or not at all."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write to a local path; others, such as s3://, are Lightning's to write."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            write(checkpoint, path)


class LastCheckpoint(ModelCheckpoint):
    """last.ckpt, written after each validation and when training is interrupted or fails."""

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write it, unless training diverged: what was written before is worth more."""
        if not isinstance(exception, JobError):
            super().on_exception(trainer, pl_module, exception)
            self._advise(pl_module.config)  # type: ignore[arg-type]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training is done; an interrupt may still come before the test."""
        super().on_train_end(trainer, pl_module)
        self._advise(pl_module.config)  # type: ignore[arg-type]

    def _advise(self, config: dict[str, Any]) -> None:
        """Say how to resume, if the run is interrupted."""
        path = Path(str(self.dirpath), "last.ckpt")
        resume = f"go on with: python cli.py fit --ckpt_path {path}{trust.options(config)}"
        interrupt.advise(f"interrupted; {resume if path.exists() else 'nothing was trained yet'}")
