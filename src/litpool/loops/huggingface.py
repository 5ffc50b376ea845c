"""The Hugging Face Trainer around the same network, batches and recipe.

It shows both ways to adapt the Trainer. From outside: a model that returns its loss, an optimizer
and a schedule as arguments, callbacks. And by overriding methods: where batches come from, how the
loss is scaled, how to evaluate.
"""

import math
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from accelerate.utils import AutocastKwargs
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from litpool.loops.checkpoint import restore_rng
from litpool.loops.divergence import FiniteCheck
from litpool.loops.job import Batch, Job, Result
from litpool.loops.optimizer import configure
from litpool.model.network import TextModel
from litpool.tasks.task import Task


class LossModel(nn.Module):
    """The network as the Trainer expects a model: batch columns as keywords, a loss and logits.

    Args:
        network: Computes the logits.
        task: Computes the loss.
        finite: Checks every loss.
    """

    # Because of **batch, the Trainer would otherwise assume that the loss is scaled already.
    accepts_loss_kwargs = False

    def __init__(self, network: TextModel, task: Task, finite: FiniteCheck) -> None:
        super().__init__()
        self.network = network
        self.task = task
        self.finite = finite
        self.loss_now = torch.tensor(math.nan)

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """Return loss and logits; as in the other loops, autocast includes the loss."""
        logits = self.network(batch)
        loss = self.task.loss(logits, batch["labels"])
        self.loss_now = loss.detach()
        self.finite.add(loss, batch)
        return {"loss": loss, "logits": logits}


class TextTrainer(Trainer):
    """The Trainer with the batches, the loss scaling and the evaluation of the other loops.

    Args:
        job: What to train, and how.
        finite: Checks the gradient norm of every step.
        **options: The arguments of the Trainer.
    """

    # `compute_loss` scales; the Trainer would divide a short last window by its own length.
    loss_is_scaled_for_ga = True

    def __init__(self, job: Job, finite: FiniteCheck, **options: Any) -> None:
        super().__init__(**options)
        self.job = job
        self.finite = finite
        self.accelerator.autocast_handler = AutocastKwargs(cache_enabled=False)

    def get_train_dataloader(self) -> DataLoader[Batch]:
        """Return batches in the order of the other loops, which a resumed run can skip."""
        loader: Any = self.job.data.train_dataloader()
        return DataLoader(
            loader.dataset,
            batch_sampler=loader.sampler,
            collate_fn=partial(collate, loader.collate_fn),
            generator=loader.generator,
            num_workers=loader.num_workers,
            pin_memory=loader.pin_memory,
        )

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Return the batch's share of the mean loss of the step."""
        self.job.log.batch(inputs)
        return model(**inputs)["loss"] / self.args.gradient_accumulation_steps

    def _get_grad_norm(self, model: nn.Module, grad_norm: Tensor | float | None = None) -> float:
        """Return the gradient norm, which the Trainer needs before a step, and check it."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        self.finite.check(self.state.global_step + 1, norm)
        return norm

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Score the validation split with the task's own metrics, and call the callbacks."""
        metrics = self.job.validate()
        handler = self.callback_handler
        self.control = handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    # ---- resuming

    def _load_from_checkpoint(self, *_: Any, **__: Any) -> None:
        """Load no weights, as the job has; its checkpoints are not in the Trainer's format."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Restore the random state, once the Trainer has skipped the batches that are done."""
        restore_rng(self.job.rng)


def collate(columns: Callable[[dict[str, list[Any]]], Batch], rows: list[dict[str, Any]]) -> Batch:
    """Collate rows with a function of columns; the Trainer can only skip batches of rows."""
    return columns({name: [row[name] for row in rows] for name in rows[0]})


class Housekeeping(TrainerCallback):
    """Progress, evaluation and logging. A callback steers the Trainer through `control`.

    Args:
        job: What to train, and how.
        batches: Batches per epoch.
    """

    def __init__(self, job: Job, batches: int) -> None:
        self.job = job
        self.batches = batches

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the log and the progress bar."""
        hidden = not self.job.flags.progress
        step, steps = state.global_step, state.max_steps
        self.bar = tqdm(total=steps, initial=step, desc="training", disable=hidden)
        self.job.log.start(self.job.network, kwargs["optimizer"].optimizer)  # not accelerate's

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Change the order of the rows; the Trainer does so only for samplers that it knows."""
        kwargs["train_dataloader"].batch_sampler.set_epoch(self.job.progress.epoch)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop here after SIGINT or SIGTERM."""
        self.job.stop_if_interrupted()

    on_substep_end = on_step_begin  # between the batches of a step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Evaluate when the flags say so."""
        batch = self.job.progress.batch + self.job.flags.accumulate
        self.job.advance(min(batch, self.batches), self.batches)
        control.should_evaluate = self.job.progress.due
        self.bar.update()

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Report the step with the loss of its last batch; the Trainer's is a mean of several."""
        logs = kwargs["logs"]
        if "grad_norm" not in logs:  # the summary at the end
            return
        loss = kwargs["model"].loss_now
        lr = max(kwargs["lr_scheduler"].get_last_lr())
        self.job.log.step(state.global_step, loss, logs["loss"], lr, logs["grad_norm"])

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop early if there was no improvement for too long."""
        control.should_training_stop |= self.job.is_done(state.max_steps)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the progress bar and the log, now that the weights are final."""
        self.bar.close()
        self.job.log.finish()


def arguments(job: Job, steps: int) -> TrainingArguments:
    """Translate the flags to the Trainer's arguments; do all else as Lightning does."""
    flags = job.flags
    settings = TrainingArguments(
        output_dir=str(job.folder),
        max_steps=steps,  # includes the epochs
        gradient_accumulation_steps=flags.accumulate,
        max_grad_norm=flags.clip if flags.clip < math.inf else 0,  # 0 is no clipping
        bf16=flags.precision == "bf16-mixed",
        fp16=flags.precision == "16-mixed",
        use_cpu=flags.device.type == "cpu",
        seed=torch.initial_seed() % 2**32,
        logging_strategy="steps" if job.log.every else "no",
        logging_steps=job.log.every or flags.log_steps,
        logging_nan_inf_filter=False,  # show a loss that is not finite
        eval_strategy="steps",  # on_step_end says which
        save_strategy="no",  # the job saves
        disable_tqdm=True,  # Housekeeping has the bar
        report_to="none",  # on_log reports
    )
    settings._n_gpu = min(settings.n_gpu, 1)  # else the Trainer splits each batch over all GPUs
    return settings


def fit(job: Job) -> Result:
    """Train, keep the best checkpoint, score it on the test split."""
    batches = len(job.data.train_dataloader())
    steps = job.flags.steps(batches)
    half = job.flags.precision == "16-mixed"
    job.network.to(job.flags.device)
    finite = FiniteCheck(job.checkpoints, scaled=half)
    optimizer, schedule = configure(job.network, job.recipe, steps, fused=not half)
    trainer = TextTrainer(
        job,
        finite,
        model=LossModel(job.network, job.task, finite),
        args=arguments(job, steps),
        train_dataset=job.data.encoded["train"],
        eval_dataset=job.data.encoded["validation"],
        optimizers=(optimizer, schedule),
        callbacks=[Housekeeping(job, batches)],
    )
    trainer.remove_callback(PrinterCallback)
    torch.manual_seed(torch.initial_seed())  # from here, dropout draws the same in all loops
    progress = job.start(optimizer, schedule, trainer.accelerator.scaler)
    if progress.due:
        job.validate()
    if not job.is_done(steps):
        with tempfile.TemporaryDirectory() as folder:
            state = TrainerState(global_step=progress.step)
            state.train_batch_size = trainer.args.per_device_train_batch_size
            state.save_to_json(f"{folder}/trainer_state.json")
            trainer.train(resume_from_checkpoint=folder if progress.step else None)
    return job.finish()
