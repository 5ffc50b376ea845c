"""What a run leaves behind: the confusion matrix and wrong answers in TensorBoard, hparams, metrics.json, a summary."""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torchmetrics import MetricCollection

from litpool.tasks.task import Task

if TYPE_CHECKING:  # slow to import, and not needed until there are rows
    from datasets import Dataset

SHOWN = 20  # wrong answers in the table


def draw(writer: SummaryWriter, task: Task, metrics: MetricCollection, prefix: str, step: int) -> None:
    """Draw the confusion matrix, where the task has one, as torchmetrics plots it."""
    import matplotlib.pyplot as plt  # late: not every command draws

    if "confusion_matrix" not in metrics:
        return
    labels = task.labels
    plt.switch_backend("Agg")  # a figure for a file needs no window
    side = max(5.0, 0.8 * len(labels))
    figure, _ = metrics["confusion_matrix"].plot(labels=labels, add_text=len(labels) <= 30)
    figure.set_size_inches(side, side)
    figure.set_layout_engine("constrained")
    writer.add_figure(f"{prefix}/confusion_matrix", figure, step)


def tell_mistakes(
    writer: SummaryWriter, task: Task, prefix: str, rows: "Dataset", index: Tensor, logits: Tensor, step: int
) -> None:
    """Write the most confident wrong answers as a table."""
    labels = index.new_tensor(task.targets(rows[index.tolist()][task.label]))
    mistakes = task.mistakes(logits.float().cpu(), labels.cpu())
    lines = [f"{len(mistakes)} of {len(logits)} rows, the most confident first", ""]
    lines += [f"| {' | '.join(task.texts)} | true | predicted | confidence |", "|---" * (len(task.texts) + 3) + "|"]
    for mistake in mistakes[:SHOWN]:
        row = rows[int(index[mistake.row])]
        texts = [row[column].replace("|", "\\|").replace("\n", " ") for column in task.texts]
        lines.append(f"| {' | '.join(texts)} | {mistake.true} | {mistake.predicted} | {mistake.confidence:.2f} |")
    writer.add_text(f"{prefix}/wrong", "\n".join(lines), step)


def write_predictions(path: str, texts: "Dataset", answers: list[dict[str, Any]]) -> None:
    """Write the texts with their answers as JSON lines, in input order; `-` is standard output."""
    lines = (json.dumps({**row, **answer}, ensure_ascii=False) for row, answer in zip(texts, answers, strict=True))
    if path == "-":
        sys.stdout.writelines(f"{line}\n" for line in lines)
        return
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)
    print(f"wrote {path}")


def conclude(
    folder: Path, logger: Logger | None, config: Mapping[str, Any], metrics: Mapping[str, float], best: str | None
) -> None:
    """Write metrics.json, fill the hparams tab, and tell the score, the folder, and what may come next.

    Args:
        folder: The run folder.
        logger: Gets the config as text, and as hparams with the final metrics, if it writes for TensorBoard.
        config: The command's config: seed_everything, task, model, data.
        metrics: The final metrics, such as `test/accuracy`.
        best: The best checkpoint, if there was training.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(dict(metrics), indent=2)
    (folder / "metrics.json").write_text(f"{text}\n", encoding="utf-8")
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_text("config", f"```yaml\n{yaml.safe_dump(dict(config), sort_keys=False)}```")
        final = {f"final/{name}": value for name, value in metrics.items() if name.count("/") == 1}
        logger.log_hyperparams(flatten(config), final)
        logger.save()
    for split in ("val", "test"):
        numbers = {name.split("/")[1]: value for name, value in metrics.items() if re.fullmatch(f"{split}/[^/]+", name)}
        if numbers:
            print(f"{split:<12}" + ", ".join(f"{name} {value:.4f}" for name, value in numbers.items()))
    if best:
        print(f"predict     python cli.py predict --ckpt_path {best} --input FILE")
    print("curves      tensorboard --logdir logs")
    print(f"wrote {folder}")


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    """A nested config as the dotted keys and plain values that TensorBoard's hparams tab takes."""
    flat: dict[str, str | int | float | bool] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        elif value is not None:
            plain = isinstance(value, str | int | float | bool)
            flat[f"{prefix}{key}"] = value if plain else json.dumps(value, default=str)
    return flat
