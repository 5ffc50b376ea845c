"""golden.json: what an export has to answer, so that anyone can test it anywhere.

It holds 32 texts with their token ids and the network's outputs, what the outputs would be with
common mistakes, and the sha256 of every file.
"""

import hashlib
import json
import math
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from litpool import InputError, __version__
from litpool.loops.checkpoint import short_names
from litpool.tools.export.graph import Graph, Model, split_rows

NAME = "golden.json"
CARD = "README.md"

TOLERANCE = {"torch": 1e-5, "onnx": 1e-4, "sentence-transformers": 1e-5, "huggingface": 1e-5}
"""How far an output may be from ours: this, times the largest absolute value of its row if over 1.

A torch export has the same bits as ours on the machine that exported it, not on every other.
"""

PACKAGES = (
    "torch", "transformers", "tokenizers", "sentence-transformers", "onnx", "onnxruntime",
    "safetensors",
)  # fmt: skip

DATA = ("max_length", "batch_size", "prefix")  # the options that prediction needs

Golden = dict[str, Any]


def outputs(graph: Graph, model: Model, encoded: dict[str, list[Any]]) -> list[Tensor]:
    """Return the network's output for each row."""
    rows = []
    for batch in model.batches(encoded):
        rows += split_rows(graph.run(batch), batch)
    return rows


def numbers(output: Tensor) -> list[Any]:
    """Return an output as plain values that JSON keeps exactly; None where a span cannot be."""
    if output.ndim == 2:
        lowest = torch.finfo(output.dtype).min
        return [None if row[0] == lowest else row for row in output.tolist()]
    return output.tolist()


def describe(
    model: Model, format: str, texts: Sequence[Sequence[str]], encoded: dict[str, list[Any]]
) -> Golden:
    """Return golden.json without outputs and files: the job, the texts and their token ids.

    Nothing in it depends on the name of this package, so that you can rename it.
    """
    data, encoder = model.config["data"], model.network.encoder.config
    rows = []
    for number, row in enumerate(texts):
        ids = encoded["input_ids"][number]
        entry: dict[str, Any] = {"texts": list(row), "ids": ids}
        if model.output == "spans":
            entry["special_tokens_mask"] = encoded["special_tokens_mask"][number]
        entry["truncated"] = len(ids) >= model.max_length
        rows.append(entry)
    job = {
        "task": model.config["task"],
        "model": {"pooling": model.config["model"].get("pooling")},
        "data": {name: data[name] for name in DATA if name in data},
    }
    return {
        "version": __version__,
        "format": format,
        "task": type(model.task).__name__,
        "pooling": "" if model.task.on_tokens else model.network.pooling.describe(),
        "output": model.output,
        "labels": model.task.labels,
        "max_length": model.max_length,
        "prefixes": [model.prefixes.get(name, "") for name in model.columns],
        "tolerance": TOLERANCE[format],
        "machine": platform.machine(),
        "versions": versions(),
        "job": short_names(job, __name__.partition(".")[0]),
        "shape": [encoder.hidden_size, encoder.num_hidden_layers],
        "state": model.task.state_dict(),
        "added_special_ids": model.added_special_ids,
        "stock": False,
        "rows": rows,
    }


def versions() -> dict[str, str]:
    """Return the versions of the installed packages that an export may need."""
    result = {"python": platform.python_version(), "litpool": __version__}
    for name in PACKAGES:
        try:
            result[name] = version(name)
        except PackageNotFoundError:
            continue
    return result


def hashes(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file in a folder but golden.json, by its relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    names = [path.relative_to(folder).as_posix() for path in files]
    return {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in names
        if name != NAME and not name.startswith(".")  # the Hub's client adds .gitattributes, .cache
    }


def write(folder: Path, golden: Golden) -> None:
    """Write golden.json, as the last file of an export."""
    text = json.dumps({**golden, "files": hashes(folder)}, ensure_ascii=False, allow_nan=False)
    (folder / NAME).write_text(text + "\n", encoding="utf-8")


def read(folder: Path) -> Golden:
    """Read golden.json.

    Raises:
        InputError: There is none, or it is not what `export` of this version writes.
    """
    path = folder / NAME
    if folder.is_dir() and not path.exists():
        raise InputError(f"{folder}: holds no {NAME}; name a folder that `export` wrote")
    try:
        golden = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read ({type(error).__name__}); name a folder that `export` wrote"
        ) from error
    keys = {"version", "format", "output", "tolerance", "rows", "files", "faults", "labels"}
    keys |= {"job", "state", "shape"}
    if not isinstance(golden, dict) or not keys <= golden.keys():
        raise InputError(f"{path}: not written by `export`; name a folder that `export` wrote")
    if golden["version"] != __version__:
        raise InputError(
            f"{path}: written by litpool {golden['version']}, this is {__version__}; export again"
        )
    return golden


def is_close(output: Sequence[float], expected: Sequence[float], tolerance: float) -> bool:
    """Return whether each number is within the tolerance of what is expected."""
    scale = max(1.0, max(map(abs, expected), default=0.0))
    return len(output) == len(expected) and all(
        math.isfinite(value) and abs(value - other) <= tolerance * scale
        for value, other in zip(output, expected, strict=True)
    )
