"""The files of a run besides its checkpoints: metrics.json, and the versions for reports."""

import json
import math
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from litpool import __version__, disk


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
