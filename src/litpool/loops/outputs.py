"""What a run writes besides checkpoints: predictions and metrics.json."""

import json
import math
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from litpool import __version__, disk

if TYPE_CHECKING:
    from datasets import Dataset

OUTPUTS = (".jsonl", ".parquet", ".npz")  # the file formats of predictions


def write_predictions(path: str, texts: "Dataset", answers: list[dict[str, Any]]) -> None:
    """Write the texts with their answers, in input order.

    Args:
        path: A `.npz` file contains vectors only, as the array `vectors` (rows, features); a
            `.parquet` file contains any answers, as columns; any other file contains JSON lines.
            `-` writes JSON lines to standard output.
        texts: The rows.
        answers: The answer to each row.
    """
    rows = [{**row, **answer} for row, answer in zip(texts, answers, strict=True)]
    lines = (f"{json.dumps(row, ensure_ascii=False, allow_nan=False)}\n" for row in rows)
    file = Path(path).resolve()  # the file that a link names is replaced, not the link
    if path == "-":
        sys.stdout.writelines(lines)
    elif path.endswith(".npz"):
        vectors = np.array([row["vector"] for row in rows], dtype=np.float32)
        with disk.replacing(file) as part, part.open("wb") as stream:
            np.savez(stream, vectors=vectors)
    elif path.endswith(".parquet"):
        table = pa.Table.from_pylist(rows)
        with disk.replacing(file) as part:
            pq.write_table(table, part)
    else:
        disk.write_text(file, "".join(lines))


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
