"""The last lines of a command: the scores of each split, and what they are worth."""

import math
import re
from collections.abc import Mapping

DETAILED = ("accuracy", "spearman")  # the metrics with details, such as test/accuracy/low


def score_lines(metrics: Mapping[str, float]) -> list[str]:
    """Return a line for each split, without the metrics of single labels, such as val/f1/good."""
    lines = []
    for split in ("val", "test"):
        scores = [
            f"{name.removeprefix(f'{split}/')} {value:.3f}{_remark(metrics, name)}"
            for name, value in metrics.items()
            if re.fullmatch(f"{split}/[^/]+", name)
        ]
        if scores:
            lines.append(f"{split:<12}{', '.join(scores)}")
    return lines


def _remark(metrics: Mapping[str, float], name: str) -> str:
    """Return the interval of a score and what it is compared with, in parentheses."""
    if name.partition("/")[2] not in DETAILED:
        return ""
    prefix = f"{name}/"
    details = {
        key.removeprefix(prefix): value for key, value in metrics.items() if key.startswith(prefix)
    }
    parts = []
    if "low" in details:
        parts.append(f"95% CI {details['low']:.3f} to {details['high']:.3f}")
        if name.endswith("spearman") and details["low"] <= 0 <= details["high"]:
            parts[-1] += ": not clearly different from 0"
    if "majority" in details:
        parts.append(f"majority class {details['majority']:.3f}{_verdict(metrics[name], details)}")
    if math.isnan(metrics[name]):
        parts.append("all predictions or all scores are equal")
    return f" ({'; '.join(parts)})" if parts else ""


def _verdict(accuracy: float, details: Mapping[str, float]) -> str:
    """Return what to say about an accuracy that does not clearly beat the majority class."""
    if details["answers"] == 1:
        return ": the model predicts one class only"
    if details["gain_low"] > 0.5:
        return ""
    better = accuracy > details["majority"] + 1e-6  # the accuracy is a float32
    return ": not clearly better" if better else ": not better"
