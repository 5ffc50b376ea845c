"""Test an export folder against its golden.json, with the format's own runtime."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from litpool import InputError
from litpool.tools.export import golden as golden_file
from litpool.tools.export.diagnosis import diagnose, flat
from litpool.tools.export.golden import CARD, Golden
from litpool.tools.export.runtimes import check_installed, module_of


def verify_folder(folder: Path, trusted: Sequence[str] = ()) -> tuple[list[str], str]:
    """Return what is wrong with an export, and a summary if nothing is.

    Args:
        folder: The export.
        trusted: The modules of the user's whose classes it may name.

    Raises:
        InputError: The folder is not an export of this version, it names a class of a module that
            is not trusted, or the package that runs it is not installed.
    """
    golden = golden_file.read(folder)
    problems, damaged = changed_files(folder, golden)
    problems += _labels(folder, golden)
    try:
        ids, outputs = module_of(golden["format"]).run(folder, golden, trusted)
    except InputError:  # it names a class that is not trusted
        raise
    except Exception as error:  # a damaged file may raise anything in any library
        check_installed(folder, error)
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        return [*problems, f"does not run: {reason}"], ""
    other = [n for n, row in enumerate(golden["rows"]) if list(ids[n]) != row["ids"]]
    reasons = diagnose(golden, outputs)
    problems += reasons
    if other:
        text = " ".join(golden["rows"][other[0]]["texts"])
        problems.append(
            f"another tokenizer: {len(other)} of {len(ids)} texts have other token ids, "
            f"the first is {text[:40]!r}"
        )
    if reasons and damaged:
        problems.append("damaged or edited weights: the outputs differ, and a file has changed")
    return problems, "" if problems else summary(golden, outputs)


def summary(golden: Golden, outputs: list[list[float]]) -> str:
    """Return how near the outputs are to ours."""
    worst = 0.0
    for row, output in zip(golden["rows"], outputs, strict=True):
        gaps = [abs(a - b) for a, b in zip(output, flat(row["output"]), strict=True)]
        worst = max([worst, *gaps])
    near = "bit-equal" if worst == 0 else f"at most {worst:.1e} off"
    return f"{len(outputs)} texts, {near}, {len(golden['files'])} files unchanged"


def changed_files(folder: Path, golden: Golden) -> tuple[list[str], bool]:
    """Return the files that are missing or differ, and whether one holds weights.

    The card is the user's to edit, so it does not count.
    """
    problems, weights = [], False
    for name, digest in golden["files"].items():
        path = folder / name
        if name == CARD:
            continue
        if not path.is_file():
            problems.append(f"{name}: missing")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            problems.append(f"{name}: damaged or edited, its sha256 is not that in golden.json")
            weights |= path.suffix in (".safetensors", ".onnx", ".pt2")
    return problems, weights


def _labels(folder: Path, golden: Golden) -> list[str]:
    """Return whether the labels beside a graph are in another order."""
    for name, key in (("labels.json", "labels"), ("config.json", "id2label")):
        path = folder / name
        if not path.is_file() or not golden["labels"]:
            continue
        labels = _read(path).get(key, {})
        names = list(labels.values()) if isinstance(labels, dict) else labels
        if key == "id2label" and not golden["stock"]:
            continue
        if names != golden["labels"]:
            return [f"{name}: the labels are in another order: {names}, not {golden['labels']}"]
    return []


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # `changed_files` reports it
        return {}
    return content if isinstance(content, dict) else {}
