"""The report of a comparison: compare.json and compare.md."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from litpool.disk import write_text
from litpool.loops.outputs import versions
from litpool.tools.compare.verdict import Record, verdict

WARMUP = 5  # first steps to leave out of the times: they allocate memory and fill caches


def write(
    folder: Path,
    records: Mapping[str, list[Record]],
    differences: Sequence[tuple[str, str, str]],
    left_out: str | None,
) -> None:
    """Write compare.json and compare.md, and print the latter.

    Args:
        folder: The folder to write to.
        records: The records of each loop, one per repeat.
        differences: The settings that differ in `stock`: the name, our value, and its value.
        left_out: Why `stock` was asked for but left out, if it was.
    """
    ours = {loop: repeats for loop, repeats in records.items() if loop != "stock"}
    line = verdict(ours) if ours else "only stock was run"
    table = {loop: _column(repeats) for loop, repeats in records.items()}
    content = {
        "verdict": line,
        "table": table,
        "stock_differs": [
            {"setting": name, "ours": value, "stock": stock} for name, value, stock in differences
        ],
        "left_out": left_out,
        "versions": versions(),
        "runs": records,
    }
    write_text(folder / "compare.json", json.dumps(content, indent=1))
    lines = [f"**{line}**", "", *_markdown(table)]
    if left_out:
        lines += ["", f"stock is left out: {left_out}."]
    if "stock" in records:
        lines += ["", "These settings differ in stock:", ""]
        lines += [f"- {name}: {value} here, {stock} there" for name, value, stock in differences]
    write_text(folder / "compare.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


def _markdown(table: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return the lines of a table in Markdown, given its columns."""
    columns = table.values()
    names = dict.fromkeys(name for column in columns for name in column)
    lines = [f"| | {' | '.join(table)} |", "|---" * (len(table) + 1) + "|"]
    for name in names:
        cells = [column.get(name, "") for column in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _column(repeats: Sequence[Record]) -> dict[str, str]:
    first = repeats[0]
    steps = first["steps"]
    times = [seconds_per_step(record) * 1e3 for record in repeats]
    span = f" ({min(times):.1f} to {max(times):.1f})" if len(times) > 1 else ""
    scores = {
        name: f"{value:.4f}"
        for name, value in first["metrics"].items()
        if name.startswith(("val/", "test/")) and name.count("/") == 1
    }
    return {
        "steps": str(len(steps)),
        "loss, first step": f"{steps[0]['loss']:.6f}",
        "loss, last step": f"{steps[-1]['loss']:.6f}",
        **scores,
        "ms a step": f"{statistics.median(times):.1f}{span}",
        "tokens a second": f"{statistics.median(map(_tokens_per_second, repeats)):.0f}",
        "peak memory": f"{max(record['peak_memory'] for record in repeats) / 2**20:.0f} MiB",
        "sha256 of the weights": first["sha256"][:12],
    }


def seconds_per_step(record: Record) -> float:
    """Return the median time of a step after the warmup."""
    return statistics.median(step["seconds"] for step in _timed(record))


def _tokens_per_second(record: Record) -> float:
    steps = _timed(record)
    return sum(step["tokens"] for step in steps) / sum(step["seconds"] for step in steps)


def _timed(record: Record) -> list[dict[str, Any]]:
    """Return the steps after the warmup, which is at most half of them."""
    steps = record["steps"]
    return steps[min(WARMUP, len(steps) // 2) :]
