"""Training without litpool: AutoModelForSequenceClassification, and the Trainer by default."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PrinterCallback,
    SchedulerType,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from litpool.classes import class_name
from litpool.commands import Run
from litpool.data.module import TextDataModule
from litpool.demo.encoder import locate
from litpool.loops import outputs, tensorboard
from litpool.loops.evaluation import Evaluation
from litpool.loops.job import Flags
from litpool.loops.log import Log
from litpool.model.encoder import EncoderOptions, load_config
from litpool.tasks.task import Task

# The tasks that AutoModelForSequenceClassification supports, with its names for them.
PROBLEMS: dict[str, Any] = {
    "Classification": "single_label_classification",
    "MultiLabelClassification": "multi_label_classification",
    "Regression": "regression",
}


def unsupported(task: Task) -> str | None:
    """Return why AutoModelForSequenceClassification cannot be used for a task, if it cannot."""
    name = type(task).__name__
    return (
        None if name in PROBLEMS else f"AutoModelForSequenceClassification does not support {name}"
    )


def fit_stock(run: Run) -> None:
    """Train as the Trainer does by default, and score the last weights, which it ends with."""
    flags = run.flags("the Trainer")
    run.read("fit")
    run.write_config()
    assert run.recorder is not None
    assert run.writer is not None
    data = run.data
    trainer = Trainer(
        model=_build(run.model.encoder, data),
        args=_training_arguments(flags, data, run.folder),
        data_collator=DataCollatorWithPadding(data.tokenizer),
        train_dataset=data.encoded["train"],
        callbacks=[RecorderCallback(run.recorder, run.writer)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    metrics: dict[str, float] = {}
    for split in ("validation", "test"):
        if split in data.encoded:
            metrics |= _score(trainer, data, split)
    outputs.write_metrics(run.folder, metrics)


def _build(options: EncoderOptions, data: TextDataModule) -> nn.Module:
    config = load_config(options)
    config.num_labels = max(1, len(data.task.labels))
    config.problem_type = PROBLEMS[type(data.task).__name__]
    if options.pretrained:
        path = locate(options.name)
        model = AutoModelForSequenceClassification.from_pretrained(path, config=config)
    else:
        model = AutoModelForSequenceClassification.from_config(config)
    if len(data.tokenizer) > config.vocab_size:
        model.resize_token_embeddings(len(data.tokenizer))
    return model


def _training_arguments(flags: Flags, data: TextDataModule, folder: Path) -> TrainingArguments:
    """Set the job's length, batch size and precision, and leave the rest at its default."""
    batches = math.ceil(len(data.encoded["train"]) / data.batch_size)
    settings = TrainingArguments(
        output_dir=str(folder),
        max_steps=flags.steps(batches),
        per_device_train_batch_size=data.batch_size,
        per_device_eval_batch_size=data.batch_size,
        gradient_accumulation_steps=flags.accumulate,
        bf16=flags.precision == "bf16-mixed",
        fp16=flags.precision == "16-mixed",
        use_cpu=flags.device.type == "cpu",
        logging_steps=1,  # for the recorder
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    settings._n_gpu = min(settings.n_gpu, 1)  # the other loops use one GPU, too
    return settings


class RecorderCallback(TrainerCallback):
    """Passes each step on to the recorder and to TensorBoard.

    Args:
        recorder: The recorder.
        writer: The TensorBoard writer.
    """

    def __init__(self, recorder: Log, writer: SummaryWriter) -> None:
        self.recorder, self.writer = recorder, writer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        optimizer = kwargs["optimizer"].optimizer  # without accelerate's wrapper
        self.recorder.start(kwargs["model"], optimizer)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        logs = kwargs["logs"]
        if "grad_norm" not in logs:  # a summary, at the end
            return
        loss, lr, norm = logs["loss"], logs["learning_rate"], logs["grad_norm"]
        self.recorder.step(state.global_step, loss, loss, lr, norm)
        values = {"train/loss": loss, "train/lr": lr, "train/grad_norm": norm}
        tensorboard.write_scalars(self.writer, values, state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.recorder.finish()


def _score(trainer: Trainer, data: TextDataModule, split: str) -> dict[str, float]:
    rows = data.encoded[split]
    logits = torch.as_tensor(trainer.predict(rows).predictions)
    evaluation = Evaluation(data.task, split, data.rows[split])
    evaluation.feed({name: torch.tensor(rows[name][:]) for name in ("labels", "index")}, logits)
    return evaluation.compute()


def differences(run: Run, flags: Flags) -> list[tuple[str, str, str]]:
    """Return the settings that differ: the name, our value, and the default."""
    defaults = _training_arguments(flags, run.data, Path())
    recipe, task = run.model.recipe, run.data.task
    pooling = class_name(run.config["model"]["pooling"])
    rows: list[tuple[str, Any, Any]] = [
        ("learning rate", recipe.lr, defaults.learning_rate),
        ("warmup", recipe.warmup, defaults.warmup_steps),
        ("schedule", recipe.schedule, SchedulerType(defaults.lr_scheduler_type).value),
        ("weight decay", recipe.weight_decay, defaults.weight_decay),
        ("layer decay", recipe.layer_decay, 1.0),
        ("factor on the head's learning rate", recipe.head_lr_factor, 1.0),
        ("AdamW's betas", tuple(recipe.betas), (defaults.adam_beta1, defaults.adam_beta2)),
        ("AdamW's epsilon", recipe.eps, defaults.adam_epsilon),
        ("maximum gradient norm", flags.clip, defaults.max_grad_norm),
        ("class weights", getattr(task, "class_weights", None) or None, None),
        ("label smoothing", getattr(task, "label_smoothing", None) or None, None),
        ("attention", "eager" if flags.device.type == "cpu" else "sdpa", "sdpa"),
        (
            "order of the rows",
            "by length" if run.data.length_grouping else "random, by litpool",
            "random",
        ),
        ("pooling", pooling, "the model's own head"),
        ("scored weights", "best on validation", "last"),
    ]
    return [(name, str(ours), str(stock)) for name, ours, stock in rows if ours != stock]
