"""The Hugging Face Trainer around the same network, batches and recipe.

It shows both ways to make the Trainer one's own. As it is: a model that returns its loss, an optimizer and a schedule
handed over, callbacks. And by overriding its methods: where the batches come from, how the loss is scaled, what an
evaluation is.
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
    """The network as the Trainer wants a model: the columns of a batch in by name, the loss and the logits out.

    Args:
        network: Gives the logits.
        task: Gives the loss.
        finite: Is shown every loss.
    """

    accepts_loss_kwargs = (
        False  # because of **batch, the Trainer would else take the loss for one that is scaled
    )

    def __init__(self, network: TextModel, task: Task, finite: FiniteCheck) -> None:
        super().__init__()
        self.network, self.task, self.finite = network, task, finite
        self.loss_now = torch.tensor(math.nan)

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """Loss and logits; the loss within the Trainer's autocast, as in the other loops."""
        logits = self.network(batch)
        loss = self.task.loss(logits, batch["labels"])
        self.loss_now = loss.detach()
        self.finite.add(loss, batch)
        return {"loss": loss, "logits": logits}


class TextTrainer(Trainer):
    """The Trainer with our batches, our scaling of the loss and our evaluation.

    Args:
        job: What is trained, and how.
        finite: Is shown every gradient's norm.
        **options: The Trainer's own.
    """

    loss_is_scaled_for_ga = (
        True  # by compute_loss; the Trainer would divide a short last window by its true length
    )

    def __init__(self, job: Job, finite: FiniteCheck, **options: Any) -> None:
        super().__init__(**options)
        self.job, self.finite = job, finite
        self.accelerator.autocast_handler = AutocastKwargs(
            cache_enabled=False
        )  # as in the other loops

    def get_train_dataloader(self) -> DataLoader[Batch]:
        """Batches of texts of similar length, in the order of the other loops."""
        return self.job.data.train_dataloader()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """The batch's share of the loss that the step goes down on."""
        self.job.log.batch(inputs)
        return model(**inputs)["loss"] / self.args.gradient_accumulation_steps

    def _get_grad_norm(self, model: nn.Module, grad_norm: Tensor | float | None = None) -> float:
        """The gradient's norm, which the Trainer asks for before it updates the weights; checked here."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        self.finite.check(self.state.global_step + 1, norm)
        return norm

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Score the validation split with the task's own metrics, and tell the callbacks."""
        metrics = self.job.evaluate("validation", self.state.global_step)
        named = {
            f"eval_{name}": value for name, value in metrics.items()
        }  # as callbacks look for them
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, named)
        return named


class Housekeeping(TrainerCallback):
    """What is done at certain moments: the Trainer's callbacks see its state, and steer it by setting `control`.

    Args:
        job: What is trained, and how.
        batches: Of an epoch.
    """

    def __init__(self, job: Job, batches: int) -> None:
        self.job, self.batches = job, batches

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the random numbers anew, so that dropout draws as in the other loops."""
        self.job.log.start(
            self.job.network, kwargs["optimizer"].optimizer
        )  # not accelerate's wrapper of it
        torch.manual_seed(torch.initial_seed())

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Another order of the rows; the Trainer tells the epoch only to samplers that it knows."""
        kwargs["train_dataloader"].sampler.set_epoch(round(state.epoch or 0))

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop here if SIGINT or SIGTERM came; the Trainer asks between the batches of a step, too."""
        self.job.stop_if_interrupted(state.global_step)

    on_substep_end = on_step_begin

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Evaluate when the flags say so; the Trainer counts steps on across epochs, Lightning batches within one."""
        window = self.job.flags.accumulate
        epoch, steps = divmod(state.global_step - 1, math.ceil(self.batches / window))
        control.should_evaluate = self.job.flags.due(
            epoch, min((steps + 1) * window, self.batches), self.batches
        )

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write a line of the log; the loss is the last batch's, where the Trainer gives a mean since the last line."""
        logs = kwargs["logs"]
        if "grad_norm" not in logs:  # a summary, at the end
            return
        lr = max(kwargs["lr_scheduler"].get_last_lr())
        self.job.log.step(
            state.global_step, kwargs["model"].loss_now, logs["loss"], lr, logs["grad_norm"]
        )

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep the last and the best checkpoint, as Lightning writes them."""
        metrics = {name.removeprefix("eval_"): value for name, value in kwargs["metrics"].items()}
        self.job.keep(metrics, state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The weights are final."""
        self.job.log.finish()


class Bar(ProgressCallback):
    """The Trainer's progress bar, less the lines of the log between."""

    def on_log(self, *_: Any, **__: Any) -> None:
        """Nothing."""


def arguments(job: Job, steps: int) -> TrainingArguments:
    """Lightning's flags as the Trainer's. What stands in no flag of ours is as Lightning has it, too."""
    flags = job.flags
    settings = TrainingArguments(
        output_dir=str(job.folder),
        max_steps=steps,  # the epochs are counted in it
        gradient_accumulation_steps=flags.accumulate,
        max_grad_norm=flags.clip if flags.clip < math.inf else 0,  # 0 is no clipping
        bf16=flags.precision == "bf16-mixed",
        fp16=flags.precision == "16-mixed",
        use_cpu=flags.device.type == "cpu",
        seed=torch.initial_seed() % 2**32,
        logging_strategy="steps" if job.log.every else "no",
        logging_steps=job.log.every or flags.log_steps,
        logging_nan_inf_filter=False,  # a loss that is not finite shall be seen
        eval_strategy="steps",  # which ones is for on_step_end to say
        metric_for_best_model=job.task.monitor,
        greater_is_better=job.task.monitor_mode == "max",
        save_strategy="no",  # on_evaluate keeps the checkpoints
        disable_tqdm=not flags.progress,
        report_to="none",  # on_log writes for TensorBoard
    )
    settings._n_gpu = min(
        settings.n_gpu, 1
    )  # or else it would spread each batch over all GPUs that it sees
    return settings


def fit(job: Job) -> Result:
    """Train, keep the best checkpoint, score it on the test split."""
    batches = len(job.data.train_dataloader())
    steps = job.flags.steps(batches)
    job.network.to(job.flags.device)
    finite = FiniteCheck(job.checkpoints, scaled=job.flags.precision == "16-mixed")
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
        optimizers=configure(
            job.network, job.recipe, steps, fused=job.flags.precision != "16-mixed"
        ),
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    if job.flags.progress:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(Bar)
    trainer.train()
    return job.finish(trainer.state.global_step)
