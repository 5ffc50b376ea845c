"""The Lightning loop: a LightningModule around TextModel."""

import copy
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

from litpool import InputError, JobError, interrupt, reason
from litpool.data.added import require
from litpool.data.module import TextDataModule
from litpool.loops.checkpoint import (
    contents,
    encoder_config,
    not_finite,
    read,
    restore_rng,
    upgrade,
)
from litpool.loops.compatibility import check_compatibility
from litpool.loops.divergence import FiniteCheck
from litpool.loops.evaluation import Evaluation
from litpool.loops.initial import Initial
from litpool.loops.job import Batch, Result
from litpool.loops.log import Curves
from litpool.loops.optimizer import Recipe, configure
from litpool.loops.saving import StepStart, drop_weights, move_paths, set_resume_point
from litpool.loops.steps import optimizer_steps
from litpool.model.encoder import EncoderOptions, check_freezing, load_config
from litpool.model.markers import resolve
from litpool.model.network import TextModel, build_network
from litpool.model.pooling import MeanPooling, Pooling
from litpool.tasks.task import Task


class TextModule(LightningModule):
    """A text encoder with pooling and a task head, trained by a recipe.

    Args:
        task: Provides the head, the loss and the metrics.
        data: Provides the batches, the rows and the tokenizer.
        encoder: Which encoder, and how it starts.
        pooling: How token states become one vector: a class of litpool.model.pooling.
        recipe: Optimizer and schedule.
        saved: The job in the checkpoint whose weights will be loaded.
        config: The job as plain values, to be saved in checkpoints.
        initial: The checkpoint whose weights a new run starts from.
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
        initial: Initial | None = None,
    ) -> None:
        super().__init__()
        self.task = task
        self.data = data
        self.encoder = encoder
        self.pooling = pooling
        self.recipe = recipe
        self.saved = saved
        self.config = config or {}
        self.initial = initial
        self.loss_now = self.grad_norm = torch.tensor(torch.nan)
        self.step_start: StepStart | None = None

    # ---- before training

    def encoder_config(self) -> PretrainedConfig:
        """Return the encoder's config: that in the checkpoint, or else that of the options."""
        if self.saved is None:
            return load_config(self.encoder)
        config = encoder_config(self.saved)
        check_freezing(self.encoder, config)
        return config

    def pooling_alone(self) -> Pooling:
        """Return the pooling on the meta device, so without weights."""
        config = self.encoder_config()
        with torch.device("meta"):
            return self.pooling(config.hidden_size, config.num_hidden_layers)

    def check(self) -> None:
        """Refuse what the encoder does not support, before any data or weights are read."""
        config, pooling = self.encoder_config(), self.pooling_alone()
        check_compatibility(self.task, pooling, self.encoder, config, self.data.max_length)

    def read(self, stage: str) -> None:
        """Read and tokenize what a stage needs, before there is a run folder.

        Raises:
            InputError: The data cannot be used, or a text lacks a marker that the pooling needs.
        """
        self.data.setup(stage)
        if self.encoder.train_new_tokens and self.saved is None and not self.data.new_ids:
            raise InputError(
                "model.encoder.train_new_tokens: there are no new tokens; "
                "name some in data.add_tokens"
            )
        markers = resolve(self.pooling_alone(), self.data.tokenizer)
        require(markers, self.data.encoded, self.data.rows, self.task.texts)

    def build(self, device: torch.device) -> TextModel:
        """Build the network, whose shape depends on the labels and the tokenizer."""
        saved = self.saved
        network = build_network(
            self.task,
            self.pooling,
            self.encoder,
            self.encoder_config(),
            self.data.tokenizer,
            new_ids=self.data.new_ids if saved is None else saved.get("new_ids", {}),
            device=device,
            pretrained=self.encoder.pretrained and saved is None,
        )
        if self.initial is not None:
            self.initial.load_into(network, self.task)
            self.initial = None  # it holds another copy of the weights
        return network

    def configure_model(self) -> None:
        """Build the network; Lightning calls this on each device, before each stage."""
        if hasattr(self, "network"):
            return
        strategy = self.trainer.strategy
        if self.encoder.train_new_tokens and isinstance(strategy, FSDPStrategy):
            raise InputError(  # FSDP loses the hook that masks the other embeddings' gradients
                "model.encoder.train_new_tokens: not supported with trainer.strategy=fsdp; use ddp"
            )
        self.network = self.build(strategy.root_device)

    def configure_optimizers(self) -> Any:
        """Create AdamW and its schedule, which changes the learning rate at each optimizer step."""
        steps = optimizer_steps(self.trainer)
        if steps == float("inf"):
            steps = 0  # only trainer.max_time ends the run: the schedule is constant
        fused = self.trainer.precision != "16-mixed"
        optimizer, schedule = configure(self.network, self.recipe, int(steps), fused)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # ---- training

    def on_train_start(self) -> None:
        """Start checks and curves; seed dropout as the other loops do, or restore its state."""
        trainer: Any = self.trainer  # its connectors set attributes that mypy does not see
        folder = getattr(trainer.checkpoint_callback, "dirpath", None)
        scaled = trainer.precision == "16-mixed"
        self.finite = FiniteCheck(Path(folder) if folder else None, scaled)
        write = None if trainer.logger is None else trainer.logger.log_metrics
        self.curves = Curves(write, trainer.log_every_n_steps, trainer.world_size)
        batches = trainer.max_steps * trainer.accumulate_grad_batches
        if 0 < batches < (trainer.val_check_batch or 0):
            trainer.val_check_batch = batches  # validate a run of less than an epoch at its end
        if self.saved is not None and "rng" in self.saved:
            restore_rng(self.saved["rng"])
        else:
            torch.manual_seed(torch.initial_seed())

    def on_train_epoch_start(self) -> None:
        """Count tokens and time of this epoch; Lightning does not call this in a resumed one."""
        self.curves.restart()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Note where a resumed run starts this step; stop here after SIGINT or SIGTERM."""
        starts_step = batch_idx % self.trainer.accumulate_grad_batches == 0
        if starts_step:
            self.step_start = StepStart(self.trainer)
        if (starts_step or self.trainer.world_size == 1) and self._any_device(interrupt.received()):
            interrupt.stop()

    def _any_device(self, value: bool) -> bool:
        """Return whether something is true on any device."""
        return self.trainer.strategy.reduce_boolean_decision(value, all=False)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        loss = self.task.loss(self.network(batch), batch["labels"])
        self.loss_now = loss.detach()
        self.finite.add(loss, batch)
        self.curves.batch(batch)
        return loss

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as the trainer says; record and check the gradient norm before clipping."""
        limit = gradient_clip_val or torch.inf
        strategy = self.trainer.strategy
        weights = list(self.network.parameters())
        if gradient_clip_algorithm == "value":
            gradients = [weight.grad for weight in weights if weight.grad is not None]
            self.grad_norm = torch.nn.utils.get_total_norm(gradients)
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif isinstance(strategy, FSDPStrategy):
            sharded: Any = strategy.model  # each device has only a part of the gradient
            self.grad_norm = sharded.clip_grad_norm_(limit)
        else:
            self.grad_norm = torch.nn.utils.clip_grad_norm_(weights, limit)
        self.finite.check(self.trainer.global_step + 1, self.grad_norm, self._any_device)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Draw the curves; `self.log` at each step would cost a tiny encoder 10% of its time."""
        trainer = self.trainer
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch:
            lr = max(group["lr"] for group in trainer.optimizers[0].param_groups)
            self.curves.draw(trainer.global_step, self.loss_now, lr, self.grad_norm)

    def on_train_epoch_end(self) -> None:
        """Log the share of padding in this epoch's batches."""
        if self.curves.slots:  # none if the epoch was resumed at its very end
            self.log("train/padding", self.curves.padding, sync_dist=True)

    # ---- evaluation and prediction

    def on_validation_start(self) -> None:
        """Prepare for a validation in the middle of an optimizer step."""
        if self.step_start is not None:
            self.step_start.before_validation(self.trainer)
            self.curves.pause()

    def on_validation_epoch_start(self) -> None:
        """Start the metrics of the split."""
        split = "test" if self.trainer.testing else "validation"
        self.evaluation = Evaluation(self.task, split, self.data.rows[split]).to(self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the metrics."""
        if self.trainer.world_size == 1:  # several devices stop together, in training
            interrupt.check()
        self.evaluation.feed(batch, self.network(batch))

    def on_validation_epoch_end(self) -> None:
        """Log the metrics over all devices; draw the confusion matrix and the wrong answers."""
        metrics = self.evaluation.compute()
        fits = self.trainer.state.fn == "fit"
        self.log_dict(
            metrics, sync_dist=True, logger=False if fits else None
        )  # equal on all devices
        for logger in self.trainer.loggers if fits else ():  # Lightning draws them a step too early
            logger.log_metrics(metrics, self.trainer.global_step)
        if self.trainer.is_global_zero and isinstance(self.trainer.logger, TensorBoardLogger):
            self.evaluation.show(self.trainer.logger.experiment, self.trainer.global_step)

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    # ---- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what another machine needs to use the checkpoint without the original weights."""
        if name := not_finite(checkpoint["state_dict"]):  # on all devices, so that none waits
            raise JobError(f"{name} is not finite: training has diverged; lower model.recipe.lr")
        logged = self.trainer.callback_metrics.items()
        metrics = {name: value.item() for name, value in logged if not name.startswith("train/")}
        files, rows = self.data.tokenizer_files, self.data.fingerprint
        checkpoint.update(contents(self.network, self.task, files, self.config, metrics, rows))
        if "optimizer_states" in checkpoint:  # else it holds weights only
            if self.step_start is not None:
                self.step_start.rewind(checkpoint)
            set_resume_point(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Load the task's state; drop head weights that the task's present options do not need."""
        job = upgrade(checkpoint)["job"]
        if not self.trainer.training:  # in training, `learn` decides
            self.task.load_state_dict(job["task"])
        if not list(self.network.head.parameters()):
            drop_weights(checkpoint, "network.head.")
        move_paths(checkpoint, self.trainer)

    def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
        """Load weights; if they do not fit because of the command line, say so in one line."""
        try:
            return super().load_state_dict(*arguments, **options)
        except RuntimeError as error:
            raise InputError(
                f"ckpt_path: its weights do not fit this network ({reason(error)}); "
                "leave out --model"
            ) from error


def fit(trainer: Trainer, module: TextModule, ckpt_path: str | None = None) -> Result:
    """Train, keep the best checkpoint, score it on the test split.

    Args:
        trainer: Lightning's Trainer, with a ModelCheckpoint that monitors a metric.
        module: What to train, on its own data.
        ckpt_path: The checkpoint to resume from.
    """
    data = copy.copy(module.data)  # Lightning attaches the trainer to it, and so the network
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    path = getattr(trainer.checkpoint_callback, "best_model_path", "")
    if not path:  # fast_dev_run, or training ended before its first evaluation
        return Result()
    best = Path(path)
    if ckpt_path and not best.exists():  # the resumed run folder was moved
        best = Path(ckpt_path).parent / best.name
    metrics = read(str(best))["metrics"]
    if "test" in data.rows:
        if isinstance(trainer.strategy, FSDPStrategy):
            del module.network  # its weights are shards, and Lightning would shard them again
        (scores,) = trainer.test(
            module, data, ckpt_path=str(best), verbose=False, weights_only=True
        )
        metrics |= scores
    return Result(metrics, best)
