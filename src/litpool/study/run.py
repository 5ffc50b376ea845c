"""The command `study`: what it asks for before it starts, and what it leaves in the run folder."""

import json
import shlex
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from litpool import InputError
from litpool.data.module import TextDataModule
from litpool.loops.compare import versions
from litpool.loops.lightning import TextModule
from litpool.model.encoder import load_config
from litpool.study import frozen
from litpool.study.cells import check_asked
from litpool.study.options import StudyOptions

PROJECTED = 2_000  # texts in TensorBoard's projector


def prepare(module: TextModule, data: TextDataModule, options: StudyOptions) -> None:
    """Check what is asked for, then read and tokenize the three splits.

    Raises:
        InputError: A task, a pooling, a file or a split that is no use; weights were not loaded for it.
    """
    data.task = frozen.task_of(module.task)
    check_asked(options.poolings, module.encoder, load_config(module.encoder))
    if options.word_vectors is not None and not Path(options.word_vectors).is_file():
        raise InputError(f"study.word_vectors={options.word_vectors}: no such file; name a text file of word vectors")
    data.setup("fit")
    data.setup("test")


def conduct(
    module: TextModule,
    data: TextDataModule,
    options: StudyOptions,
    device: torch.device,
    folder: Path,
    logger: Logger | None,
) -> None:
    """Study, write the report into the run folder and the vectors for TensorBoard, and tell the verdict.

    Args:
        module: Says which encoder.
        data: `prepare` has seen it.
        options: What is studied beside the rule.
        device: Where it is computed.
        folder: The run folder.
        logger: Gets the test texts' vectors if it writes for TensorBoard.
    """
    from litpool.study import report  # late: it draws

    studied = frozen.study(module, data, options, device)
    result = {
        "verdict": studied.told["verdict"],
        "notes": studied.told["notes"],
        "command": shlex.join(["python", "cli.py", *sys.argv[1:]]),
        "config": module.config,
        "versions": {**versions(), "numpy": version("numpy"), "scikit-learn": version("scikit-learn")},
        "seconds": studied.seconds,
        "data": [studied.told],
    }
    result = rounded(result)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / "study.json").write_text(f"{text}\n", encoding="utf-8")
    report.write(folder, result)
    if isinstance(logger, TensorBoardLogger):
        _project(logger, data, studied.projected)
    for line in (result["verdict"], *result["notes"], f"wrote {folder}"):
        print(line)


def rounded(value: Any) -> Any:
    """The same with its floats rounded to 6 digits after the point."""
    if isinstance(value, Mapping):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(part) for part in value]
    return round(float(value), 6) + 0.0 if isinstance(value, float) else value  # + 0.0: no -0.0


def _project(logger: TensorBoardLogger, data: TextDataModule, cells: Mapping[str, Any]) -> None:
    """The vectors of at most 2,000 test texts for TensorBoard's projector, with the texts and labels beside them."""
    rows, columns = data.rows["test"], data.task.texts
    for name, vectors in cells.items():
        count = min(len(rows), PROJECTED // len(vectors))  # vectors are (K, n, d)
        labels = [str(label) for label in rows[:count][data.task.label]] if data.task.label else [""] * count
        texts = [rows[:count][column] for column in columns]
        texts = texts if len(vectors) > 1 else [[" / ".join(pair) for pair in zip(*texts, strict=True)]]
        shown = [
            [" ".join(text.split())[:80], label] for part in texts for text, label in zip(part, labels, strict=True)
        ]
        matrix = torch.from_numpy(np.concatenate([part[:count] for part in vectors]))
        logger.experiment.add_embedding(matrix, shown, metadata_header=["text", "label"], tag=name.replace(" ", "_"))
    logger.save()
