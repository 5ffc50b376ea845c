"""A Python that has only some of the installed distributions, as a fresh environment has."""

import re
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

NEEDS = {  # what the cards ask for
    "onnx": {"numpy", "onnxruntime", "tokenizers"},
    "torch": {"numpy", "torch", "tokenizers"},
    "sentence-transformers": {"sentence-transformers"},
    "huggingface": {"torch", "transformers"},
}
FORBIDDEN = {
    "onnx": ["litpool", "lightning", "torch", "transformers"],
    "torch": ["litpool", "lightning", "transformers"],
    "sentence-transformers": ["litpool", "lightning"],
    "huggingface": ["litpool", "lightning"],
}


def python(format: str, folder: Path) -> list[str]:
    """Return the command of a Python that finds nothing but its own library.

    The packages of a format are linked into the folder; a program adds it to `sys.path`.
    """
    install(NEEDS[format], folder)
    return [sys.executable, "-I", "-S"]


def packages(names: set[str]) -> set[str]:
    """Return distributions with all that they require, but for extras."""
    found: set[str] = set()
    waiting = sorted(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            required = distribution(name).requires or []
        except PackageNotFoundError:  # for another platform
            continue
        found.add(name)
        needed = [Requirement(line) for line in required]
        waiting += [
            need.name for need in needed if not need.marker or need.marker.evaluate({"extra": ""})
        ]
    return found


def install(names: set[str], folder: Path) -> None:
    """Link installed distributions with all that they require into an otherwise empty folder."""
    folder.mkdir()
    for name in packages(names):
        files = distribution(name).files or []
        tops = {file.parts[0] for file in files if file.parts[0] not in ("..", "__pycache__")}
        for top in tops:
            if not (folder / top).exists():
                (folder / top).symlink_to(Path(str(distribution(name).locate_file(top))))
