"""The plain user's way, for `compare`: AutoModelForSequenceClassification, and the Trainer with its defaults."""

import math
from pathlib import Path
from typing import Any

import torch
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

from litpool.commands import Run
from litpool.data.module import TextDataModule
from litpool.demo.encoder import locate
from litpool.loops import outputs
from litpool.loops.evaluation import Evaluation
from litpool.loops.job import Flags
from litpool.loops.log import Log
from litpool.loops.optimizer import Recipe
from litpool.model.encoder import EncoderOptions, load_config
from litpool.tasks.task import Task

PROBLEMS: dict[
    str, Any
] = {  # the tasks that AutoModelForSequenceClassification knows, and its names for them
    "Classification": "single_label_classification",
    "MultiLabelClassification": "multi_label_classification",
    "Regression": "regression",
}


def unsupported(task: Task) -> str | None:
    """Why the stock way cannot express a task, if it cannot."""
    kind = type(task).__name__
    return None if kind in PROBLEMS else f"AutoModelForSequenceClassification does not do {kind}"


def training_arguments(flags: Flags, data: TextDataModule, folder: Path) -> TrainingArguments:
    """What the job itself says (how long, how many rows to a step, which precision); all else as it comes."""
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
        logging_steps=1,  # for the record
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    settings._n_gpu = min(settings.n_gpu, 1)  # the other columns use one GPU, too
    return settings


def fit_stock(run: Run) -> None:
    """Train as the Trainer does by default; score the last weights, which is what it leaves."""
    flags = run.flags("the Trainer")
    run.read("fit")
    run.write_config()
    assert run.recorder is not None
    assert run.writer is not None
    metrics = _fit(
        flags, run.data, run.model.encoder, run.folder, RecorderCallback(run.recorder, run.writer)
    )
    outputs.write_metrics(run.folder, metrics)


def _fit(
    flags: Flags,
    data: TextDataModule,
    options: EncoderOptions,
    folder: Path,
    callback: "RecorderCallback",
) -> dict[str, float]:
    config = load_config(options)
    config.num_labels = max(1, len(data.task.labels))
    config.problem_type = PROBLEMS[type(data.task).__name__]
    if options.pretrained:
        model = AutoModelForSequenceClassification.from_pretrained(
            locate(options.name), config=config
        )
    else:
        model = AutoModelForSequenceClassification.from_config(config)
    if len(data.tokenizer) > config.vocab_size:
        model.resize_token_embeddings(len(data.tokenizer))
    trainer = Trainer(
        model=model,
        args=training_arguments(flags, data, folder),
        data_collator=DataCollatorWithPadding(data.tokenizer),
        train_dataset=data.encoded["train"],
        callbacks=[callback],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    scores = [
        _score(trainer, data, split) for split in ("validation", "test") if split in data.encoded
    ]
    return {name: value for metrics in scores for name, value in metrics.items()}


class RecorderCallback(TrainerCallback):
    """Hands the steps to the recorder and to TensorBoard.

    Args:
        recorder: For `compare`.
        writer: For TensorBoard.
    """

    def __init__(self, recorder: Log, writer: SummaryWriter) -> None:
        self.recorder, self.writer = recorder, writer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look on from here."""
        self.recorder.start(kwargs["model"], kwargs["optimizer"].optimizer)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A step."""
        logs = kwargs["logs"]
        if "grad_norm" in logs:
            loss, lr, norm = logs["loss"], logs["learning_rate"], logs["grad_norm"]
            self.recorder.step(state.global_step, loss, loss, lr, norm)
            lines = {"train/loss": loss, "train/lr": lr, "train/grad_norm": norm}
            outputs.write_scalars(self.writer, lines, state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The weights are final."""
        self.recorder.finish()


def _score(trainer: Trainer, data: TextDataModule, split: str) -> dict[str, float]:
    rows = data.encoded[split]
    logits = torch.as_tensor(trainer.predict(rows).predictions)
    evaluation = Evaluation(data.task, split, data.rows[split])
    evaluation.feed({name: torch.tensor(rows[name][:]) for name in ("labels", "index")}, logits)
    return evaluation.compute()


def differences(
    flags: Flags, recipe: Recipe, pooling: str, data: TextDataModule
) -> list[tuple[str, str, str]]:
    """Which settings differ: the setting, ours, and what the defaults make of it."""
    defaults = training_arguments(flags, data, Path())
    shares = {
        name: value
        for name, value in vars(data.task).items()
        if name in ("class_weights", "label_smoothing")
    }
    rows: list[tuple[str, Any, Any]] = [
        ("learning rate", recipe.lr, defaults.learning_rate),
        ("warmup", recipe.warmup, defaults.warmup_steps),
        ("schedule", recipe.schedule, SchedulerType(defaults.lr_scheduler_type).value),
        ("weight decay", recipe.weight_decay, defaults.weight_decay),
        ("layer decay", recipe.layer_decay, 1.0),
        ("factor on the head's learning rate", recipe.head_lr_factor, 1.0),
        ("AdamW's betas", tuple(recipe.betas), (defaults.adam_beta1, defaults.adam_beta2)),
        ("AdamW's epsilon", recipe.eps, defaults.adam_epsilon),
        ("largest gradient norm", flags.clip, defaults.max_grad_norm),
        *((name.replace("_", " "), value or None, None) for name, value in shares.items()),
        ("attention", "eager" if flags.device.type == "cpu" else "sdpa", "sdpa"),
        ("order of the rows", "by length" if data.length_grouping else "random, ours", "random"),
        ("from tokens to a vector", pooling, "the model class's own head"),
        ("weights that are scored", "best on validation", "last"),
    ]
    return [(name, str(ours), str(stock)) for name, ours, stock in rows if ours != stock]
