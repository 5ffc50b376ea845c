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
DIGITS = 4  # of a probability; training again changes the others


def round_probabilities(answer: Mapping[str, Any], top: int | None) -> dict[str, Any]:
    """Return an answer whose probabilities have 4 digits.

    Args:
        answer: What `Task.decode` returned for a row; `probabilities` is a mapping from label to
            probability, if there are labels.
        top: How many labels to keep, if not all: then `top` replaces `probabilities`, a list of
            labels with their probabilities, the most probable first.
    """
    rest = dict(answer)
    if "probabilities" not in rest:
        return rest
    exact = rest.pop("probabilities")
    rounded = {label: round(value, DIGITS) for label, value in exact.items()}
    if top is None:
        return {**rest, "probabilities": rounded}
    best = sorted(exact, key=exact.__getitem__, reverse=True)[:top]
    return {**rest, "top": [{"label": name, "probability": rounded[name]} for name in best]}


def write_predictions(path: str, columns: "Dataset", answers: list[dict[str, Any]]) -> None:
    """Write columns of the input with the answers, in input order.

    Args:
        path: A `.npz` file contains vectors only, as the array `vectors` (rows, features); a
            `.parquet` file contains any answers, as columns; any other file contains JSON lines.
            `-` writes JSON lines to standard output.
        columns: The columns of each row, such as its text.
        answers: The answer to each row.
    """
    pairs = list(zip(columns, answers, strict=True))
    lines = (f"{_to_json({**_finite(row), **answer})}\n" for row, answer in pairs)
    file = Path(path).resolve()  # the file that a link names is replaced, not the link
    if path == "-":
        sys.stdout.writelines(lines)
    elif path.endswith(".npz"):
        vectors = np.array([answer["vector"] for answer in answers], dtype=np.float32)
        with disk.replacing(file) as part, part.open("wb") as stream:
            np.savez(stream, vectors=vectors)
    elif path.endswith(".parquet"):
        table = pa.Table.from_pylist([{**row, **answer} for row, answer in pairs])
        with disk.replacing(file) as part:
            pq.write_table(table, part)
    else:
        disk.write_text(file, "".join(lines))


def _to_json(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False, default=str)  # dates become text


def _finite(value: Any) -> Any:
    """Return a value of the input without NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
