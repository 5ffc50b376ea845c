"""The Hugging Face Trainer around the same network, batches and recipe.

It shows both ways to adapt the Trainer. From outside: a model that returns its loss, an optimizer
and a schedule as arguments, callbacks. And by overriding methods: where batches come from, how the
loss is scaled, how to evaluate.
"""

import math
from typing import Any

import torch
from accelerate.utils import AutocastKwargs
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

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
        """Return batches of texts of similar length, in the order of the other loops."""
        return self.job.data.train_dataloader()

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
        scores = self.job.evaluate("validation", self.state.global_step)
        # EarlyStoppingCallback looks for this prefix
        metrics = {f"eval_{name}": value for name, value in scores.items()}
        handler = self.callback_handler
        self.control = handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class Housekeeping(TrainerCallback):
    """Seeding, evaluation, logging and checkpoints. A callback steers the Trainer by `control`.

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
        """Seed again, so that dropout draws the same as in the other loops."""
        optimizer = kwargs["optimizer"].optimizer  # without accelerate's wrapper
        self.job.log.start(self.job.network, optimizer)
        torch.manual_seed(torch.initial_seed())

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Change the order of the rows; the Trainer does so only for samplers that it knows."""
        kwargs["train_dataloader"].sampler.set_epoch(round(state.epoch or 0))

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop here after SIGINT or SIGTERM."""
        self.job.stop_if_interrupted(state.global_step)

    on_substep_end = on_step_begin  # between the batches of a step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Evaluate when the flags say so.

        The Trainer counts steps across epochs, Lightning counts batches within an epoch.
        """
        flags = self.job.flags
        steps_per_epoch = math.ceil(self.batches / flags.accumulate)
        epoch, step = divmod(state.global_step - 1, steps_per_epoch)
        batch = min((step + 1) * flags.accumulate, self.batches)
        control.should_evaluate = flags.due(epoch, batch, self.batches)

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
        """Write the last and the best checkpoint, as Lightning does."""
        metrics = {name.removeprefix("eval_"): value for name, value in kwargs["metrics"].items()}
        self.job.keep(metrics, state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the log, now that the weights are final."""
        self.job.log.finish()


class Bar(ProgressCallback):
    """The Trainer's progress bar, which prints no log lines."""

    def on_log(self, *_: Any, **__: Any) -> None:
        """Print nothing."""


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
        metric_for_best_model=job.task.monitor,
        greater_is_better=job.task.monitor_mode == "max",
        save_strategy="no",  # on_evaluate saves
        disable_tqdm=not flags.progress,
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
    callbacks: list[TrainerCallback] = [Housekeeping(job, batches)]
    if job.flags.patience is not None:
        callbacks.append(EarlyStoppingCallback(job.flags.patience))
    trainer = TextTrainer(
        job,
        finite,
        model=LossModel(job.network, job.task, finite),
        args=arguments(job, steps),
        train_dataset=job.data.encoded["train"],
        eval_dataset=job.data.encoded["validation"],
        optimizers=configure(job.network, job.recipe, steps, fused=not half),
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    if job.flags.progress:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(Bar)
    trainer.train()
    return job.finish(trainer.state.global_step)
