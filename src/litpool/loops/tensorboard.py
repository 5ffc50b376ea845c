"""What a run shows in TensorBoard: curves, figures, tables and a row of HPARAMS."""

import html
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import summary_v2 as hparams
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from litpool.data.prefix import encode_with_prefixes
from litpool.loops import figures
from litpool.tasks.outcome import Decisions, Scores
from litpool.tasks.task import Task

if TYPE_CHECKING:
    from datasets import Dataset

    from litpool.data.module import TextDataModule

MISTAKES = 20  # wrong answers in the table
UNBROKEN = 24  # characters of an answer that are kept in one line
SAMPLE = 2_000  # rows whose texts are measured
UNCUT = 1_000_000  # a max_length that cuts nothing off
SHOWN = ("lr", "model.encoder.name", "model.pooling", "seed_everything", "trainer.max_epochs")

LAYOUT = {"at a glance": {"loss": ["Multiline", ["train/loss", "val/loss"]]}}


def curves(values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is no curve: Lightning's `epoch`, single labels, and what a score is worth."""
    return {
        name: value
        for name, value in values.items()
        if name != "epoch" and not re.match("(val|test)/.*/", name)
    }


def write_scalars(writer: SummaryWriter, values: Mapping[str, float], step: int) -> None:
    """Add a point to the curve of each value."""
    for name, value in curves(values).items():
        writer.add_scalar(name, value, step)


def write_evaluation(
    writer: SummaryWriter,
    task: Task,
    matrix: Tensor | None,
    prefix: str,
    rows: "Dataset",
    predictions: Tensor,
    step: int,
) -> None:
    """Write what one evaluation showed.

    Args:
        writer: Where to write.
        task: Interprets the predictions.
        matrix: The confusion matrix, (C, C), or (C, 2, 2) if a row has several labels.
        prefix: `val` or `test`.
        rows: The rows; with several devices, this one's.
        predictions: Their assembled predictions.
        step: How many steps the optimizer has taken.
    """
    writer.add_custom_scalars(LAYOUT)
    counts = None if matrix is None else matrix.long().cpu().numpy()
    outcome = task.outcome(predictions, rows)
    with figures.style():
        if counts is not None and counts.ndim == 2:
            figure = figures.confusion_matrix(counts, task.labels)
            writer.add_figure(f"{prefix}/confusion_matrix", figure, step)
        if isinstance(outcome, Decisions):
            figure = figures.reliability(outcome.confidence.double().numpy(), outcome.right.numpy())
            writer.add_figure(f"{prefix}/reliability", figure, step)
        if isinstance(outcome, Scores):
            names = outcome.true_name, outcome.predicted_name
            pair = outcome.true.double().numpy(), outcome.predicted.double().numpy()
            writer.add_figure(f"{prefix}/scores", figures.scatter(*pair, names), step)
    if counts is not None:
        writer.add_text(f"{prefix}/labels", label_table(counts, task.labels), step)
    writer.add_text(f"{prefix}/wrong", mistake_table(task, rows, predictions), step)


def label_table(counts: np.ndarray[Any, np.dtype[np.int64]], labels: list[str]) -> str:
    """Return precision, recall and F1 of each label, the lowest F1 first, as a Markdown table.

    A label that neither the rows nor the answers have has no F1 and comes last.

    Args:
        counts: The confusion matrix: (C, C), or (C, 2, 2) if a row has several labels.
        labels: The label names.
    """
    if counts.ndim == 2:
        right, rows, answers = counts.diagonal(), counts.sum(1), counts.sum(0)
    else:
        right, rows, answers = counts[:, 1, 1], counts[:, 1].sum(1), counts[:, :, 1].sum(1)
    f1 = np.where(rows + answers, 2 * right / np.maximum(rows + answers, 1), np.inf)
    lines = ["| label | F1 | precision | recall | rows | predicted |", "|---" * 6 + "|"]
    for place in np.argsort(f1, kind="stable"):
        precision = _share(right[place], answers[place])
        recall = _share(right[place], rows[place])
        score = _share(2 * right[place], rows[place] + answers[place])
        cells = f"{_cell(labels[place])} | {score} | {precision} | {recall}"
        lines.append(f"| {cells} | {rows[place]:,} | {answers[place]:,} |")
    return "\n".join(lines)


def mistake_table(task: Task, rows: "Dataset", predictions: Tensor) -> str:
    """Return the worst of the wrong answers as a Markdown table."""
    mistakes = task.mistakes(predictions, rows)
    answers = [_unbroken(name) for name in ("true", "predicted", task.mistake_measure)]
    header = [*task.display_columns, *answers]
    lines = [
        f"{len(mistakes):,} of {len(rows):,} rows, the worst first",
        "",
        f"| {' | '.join(header)} |",
        "|---" * len(header) + "|",
    ]
    for mistake in mistakes[:MISTAKES]:
        row = rows[mistake.row]
        cells = [_cell(row[column]) for column in task.display_columns]
        answers = [mistake.true, mistake.predicted, f"{mistake.measure:.2f}"]
        cells += [_unbroken(answer) for answer in answers]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Return a text for a cell of a table, where it looks as it is: `*args` is no emphasis."""
    line = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", line)


def _unbroken(text: str) -> str:
    """Return a short text for a cell that TensorBoard would break in its middle otherwise."""
    return f"<pre>{_cell(text)}</pre>" if len(text) <= UNBROKEN else _cell(text)


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.3f}" if whole else "none"


def write_text_lengths(writer: SummaryWriter, data: "TextDataModule", split: str) -> None:
    """Draw how many tokens the texts of a split have; of many rows, evenly spaced ones."""
    rows = data.rows[split]
    sample = rows.select(range(0, len(rows), -(-len(rows) // SAMPLE)))
    encoded = encode_with_prefixes(data.task, sample[:], data.tokenizer, UNCUT, data.prefixes)
    texts: list[list[int]] = []
    for ids in encoded["input_ids"]:
        texts += ids if isinstance(ids[0], list) else [ids]
    lengths = np.array([len(ids) for ids in texts])
    total = round(len(lengths) * len(rows) / len(sample))
    prefix = "val" if split == "validation" else split
    with figures.style():
        figure = figures.text_lengths(lengths, data.max_length, total)
        writer.add_figure(f"{prefix}/text_lengths", figure)


def write_losses(writer: SummaryWriter, best: Path | None) -> None:
    """Draw the losses of a run, in two colors: TensorBoard gives all curves of a run the same.

    Args:
        writer: The writer of the run folder, whose curves are read back.
        best: The best checkpoint, if there is one.
    """
    writer.flush()
    events = EventAccumulator(writer.log_dir).Reload()
    if not {"train/loss", "val/loss"} <= set(events.Tags()["scalars"]):
        return  # nothing was trained, or not long enough
    train, validation = _points(events, "train/loss"), _points(events, "val/loss")
    last = int(max(train[0, -1], validation[0, -1]))
    with figures.style():
        figure = figures.losses(train, validation, _step(best) if best else None)
        writer.add_figure("train/losses", figure, last)


def _points(events: EventAccumulator, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the steps and the values of a curve, (2, N), without those that are not finite."""
    points = events.Scalars(name)
    return np.array([(one.step, one.value) for one in points if math.isfinite(one.value)]).T


def _step(checkpoint: Path) -> int:
    """Return how many steps the optimizer had taken."""
    content = torch.load(str(checkpoint), map_location="cpu", weights_only=True, mmap=True)
    return int(content["global_step"])


def write_hyperparameters(
    writer: SummaryWriter,
    values: Mapping[str, str | int | float | bool],
    metrics: Mapping[str, float],
    best: Path | None,
) -> None:
    """Add the run to the table HPARAMS, with its final metrics beside its hyperparameters.

    TensorBoard takes a metric of this table from the last point of a curve. The metrics of the best
    checkpoint need not be the last ones, so they become a run of their own, in the folder `best`,
    with a point on each curve of the validation split.

    Args:
        writer: The writer of the run folder.
        values: The hyperparameters.
        metrics: The final metrics.
        best: The best checkpoint, if there is one.
    """
    final = {name: value for name, value in curves(metrics).items() if not math.isnan(value)}
    selected = {name: value for name, value in final.items() if best and name.startswith("val/")}
    if best and selected:
        with SummaryWriter(f"{writer.log_dir}/best") as points:
            write_scalars(points, selected, _step(best))
    columns = [
        hparams.Metric(name, group="best" if name in selected else "", display_name=name)
        for name in final
    ]
    table = hparams.hparams_config_pb([hparams.HParam(name) for name in values], columns)
    _show_first(table)
    file = writer._get_file_writer()
    file.add_summary(table)
    folder = Path(writer.log_dir)
    trial = f"{folder.name} ({folder.parent})"  # the table shows only the first characters
    file.add_summary(hparams.hparams_pb(dict(values), trial_id=trial))


def _show_first(table: Any) -> None:
    """Mark the hyperparameters to show first, as those that differ between the runs.

    TensorBoard sorts by this mark and by name, and takes it from the first run alone, which cannot
    know what will differ.

    Args:
        table: TensorBoard's message about the columns of the table.
    """
    plugin = table.value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(plugin.content)
    for info in content.experiment.hparam_infos:
        info.differs = info.name in SHOWN
    plugin.content = content.SerializeToString()
