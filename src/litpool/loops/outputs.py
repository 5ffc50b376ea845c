"""What a run writes besides checkpoints: figures and tables, predictions, metrics.json."""

import json
import math
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torchmetrics import MetricCollection

from litpool import __version__, disk
from litpool.tasks.task import Task

if TYPE_CHECKING:
    from datasets import Dataset

SHOWN = 20  # wrong answers in the table


def draw(
    writer: SummaryWriter, task: Task, metrics: MetricCollection, prefix: str, step: int
) -> None:
    """Draw the confusion matrix, if the task has one, as torchmetrics plots it."""
    if "confusion_matrix" not in metrics:
        return
    import matplotlib.pyplot as plt

    labels = task.labels
    plt.switch_backend("Agg")  # a figure for a file needs no window
    side = max(5.0, 0.8 * len(labels))
    figure, _ = metrics["confusion_matrix"].plot(labels=labels, add_text=len(labels) <= 30)
    figure.set_size_inches(side, side)
    figure.set_layout_engine("constrained")
    writer.add_figure(f"{prefix}/confusion_matrix", figure, step)


def write_mistakes(
    writer: SummaryWriter, task: Task, prefix: str, rows: "Dataset", predictions: Tensor, step: int
) -> None:
    """Write the worst of the wrong answers as a table."""
    mistakes = task.mistakes(predictions, rows)
    header = [*task.display_columns, "true", "predicted", task.mistake_measure]
    lines = [
        f"{len(mistakes)} of {len(rows)} rows, the worst first",
        "",
        f"| {' | '.join(header)} |",
        "|---" * len(header) + "|",
    ]
    for mistake in mistakes[:SHOWN]:
        row = rows[mistake.row]
        texts = [*(row[column] for column in task.display_columns), mistake.true, mistake.predicted]
        cells = [text.replace("|", "\\|").replace("\n", " ") for text in texts]
        lines.append(f"| {' | '.join(cells)} | {mistake.measure:.2f} |")
    writer.add_text(f"{prefix}/wrong", "\n".join(lines), step)


def write_scalars(writer: SummaryWriter, values: Mapping[str, float], step: int) -> None:
    """Draw numbers in TensorBoard."""
    for name, value in values.items():
        writer.add_scalar(name, value, step)


def write_metrics(folder: Path, metrics: Mapping[str, float]) -> None:
    """Write metrics.json.

    JSON has no NaN: an undefined metric, such as the correlation of equal scores, becomes null.
    """
    values = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
    text = json.dumps(values, indent=2, allow_nan=False)
    disk.write_text(folder / "metrics.json", f"{text}\n")


def versions() -> dict[str, str]:
    """Return the versions of the packages that the numbers depend on."""
    packages = ("torch", "lightning", "transformers", "accelerate")
    return {"litpool": __version__, **{name: version(name) for name in packages}}


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    """Flatten a nested config to the dotted keys and plain values that TensorBoard accepts."""
    flat: dict[str, str | int | float | bool] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        elif value is not None:
            plain = isinstance(value, str | int | float | bool)
            flat[f"{prefix}{key}"] = value if plain else json.dumps(value, default=str)
    return flat
