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

from litpool.loops.job import Batch, Job, Log
from litpool.loops.recipe import configure
from litpool.model.network import TextModel
from litpool.tasks.task import Task


class LossModel(nn.Module):
    """The network as the Trainer wants a model: the columns of a batch in by name, the loss and the logits out.

    Args:
        network: Gives the logits.
        task: Gives the loss.
    """

    accepts_loss_kwargs = False  # because of **batch, the Trainer would else take the loss for one that is scaled

    def __init__(self, network: TextModel, task: Task) -> None:
        super().__init__()
        self.network, self.task = network, task
        self.loss_now = torch.tensor(math.nan)

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """Loss and logits; the loss within the Trainer's autocast, as in the other loops."""
        logits = self.network(batch)
        loss = self.task.loss(logits, batch["labels"])
        self.loss_now = loss.detach()
        return {"loss": loss, "logits": logits}


class TextTrainer(Trainer):
    """The Trainer with our batches, our scaling of the loss and our evaluation.

    Args:
        job: What is trained, and how.
        log: Counts tokens.
        **options: The Trainer's own.
    """

    loss_is_scaled_for_ga = True  # by compute_loss; the Trainer would divide a short last window by its true length

    def __init__(self, job: Job, log: Log, **options: Any) -> None:
        super().__init__(**options)
        self.job, self.log_lines = job, log
        self.accelerator.autocast_handler = AutocastKwargs(cache_enabled=False)  # as in the other loops

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
        self.log_lines.count(inputs)
        return model(**inputs)["loss"] / self.args.gradient_accumulation_steps

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Score the validation split with the task's own metrics, and tell the callbacks."""
        metrics = self.job.evaluate("validation", self.state.global_step)
        if self.job.keep(metrics, self.state.global_step):
            pass
        named = {f"eval_{name}": value for name, value in metrics.items()}  # the names that callbacks look for
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, named)
        return named
