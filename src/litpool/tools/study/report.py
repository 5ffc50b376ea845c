"""What a study found, for people: study.csv for a spreadsheet, study.md to paste, study.html to look at.

A data set's cells are (pooling, layer, whitened); the chosen ones, one of each pooling, had their layer chosen on
validation. Scores are in points. What is not known is an en dash, in study.csv an empty field.
"""

import csv
import html
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from litpool.tools.study.summary import (
    GEOMETRY,
    OWN,
    Grid,
    Row,
    chosen,
    config_text,
    grid_of,
    key_of,
    number,
    summarize,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DIFFERENCE = (
    "difference",
    "difference_low",
    "difference_high",
    "p",
)  # to [CLS]; in the line `lead` of the best two
# The columns of study.csv; others that study.json may have follow.
FIELDS = [
    *(
        "data",
        "kind",
        "pooling",
        "layer",
        "whitened",
        "chosen",
        "strength",
        "seed",
        "validation",
        "test",
        "low",
        "high",
    ),
    *(*DIFFERENCE, *GEOMETRY, "coverage", "rows_train", "rows_validation", "rows_test"),
]


def write(folder: Path, result: dict[str, Any]) -> None:
    """Write study.csv, study.md and study.html.

    Args:
        folder: Where to.
        result: The content of study.json.
    """
    lines = [line for data in result["data"] for line in _lines(data)]
    with (folder / "study.csv").open("w", encoding="utf-8", newline="") as file:
        names = dict.fromkeys([*FIELDS, *(name for line in lines for name in line)])
        writer = csv.DictWriter(file, list(names), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    text = summarize(result)
    (folder / "study.md").write_text(text, encoding="utf-8")
    (folder / "study.html").write_text(_page(result, text), encoding="utf-8")


# study.csv


def _lines(data: Row) -> list[Row]:
    """One for each cell, baseline, fine-tuned run and figure of the paper, and one for the best two poolings."""
    lines = [_cell(cell, chosen(data).get(key_of(cell))) for cell in data["cells"]]
    for baseline in data.get("baselines") or []:
        lines.append({"kind": "baseline", "pooling": baseline["name"], **baseline})
        del lines[-1]["name"]
    for kind in ("finetuned", "paper"):
        lines += [{"kind": kind, **one} for one in data.get(kind) or []]
    if lead := data.get("lead"):
        lines.append(
            {"kind": "lead", "pooling": f"{lead['first']} - {lead['second']}", **_difference(lead)}
        )
    rows = {f"rows_{split}": count for split, count in data["rows"].items()}
    return [{"data": data["name"], **line, **rows} for line in lines]


def _cell(cell: Row, choice: Row | None) -> Row:
    """With the interval and the difference to [CLS] if it is a chosen one."""
    line = {"kind": "cell", **cell, "chosen": choice is not None, **(cell.get("geometry") or {})}
    line.pop("geometry", None)
    if choice is None:
        return line
    interval = {name: choice[name] for name in ("low", "high") if choice.get(name) is not None}
    return {**line, **interval, **_difference(choice.get("against_cls") or {})}


def _difference(comparison: Row) -> Row:
    return dict(
        zip(DIFFERENCE, map(comparison.get, ("difference", "low", "high", "p")), strict=True)
    )


# study.html


def _page(result: dict[str, Any], text: str) -> str:
    """The page, which draws itself from the data in it; without scripts it shows the text."""
    content = json.dumps(_finite({**result, "config": config_text(result)}), ensure_ascii=False)
    names = ", ".join(data["name"] for data in result["data"])
    parts = {"TITLE": html.escape(f"Study: {names}"), "TEXT": html.escape(text)}
    parts["DATA"] = content.replace("<", "\\u003c")  # so that no text in it ends the script
    page = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], page)


def _finite(value: Any) -> Any:
    """Without NaN and infinities, which browsers do not read."""
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# TensorBoard


def heat_map(data: Row) -> "Figure":
    """The test scores of a data set, poolings by layers; the whitened ones below the raw ones."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # late: not every command draws
    from matplotlib.figure import Figure

    grids = {
        whitened: grid_of(data, whitened)
        for whitened in sorted({bool(c["whitened"]) for c in data["cells"]})
    }
    height = sum(0.35 * len(grid.poolings) + 0.8 for grid in grids.values())
    figure = Figure(
        (4 + 0.6 * max(len(grid.layers) for grid in grids.values()), height), layout="constrained"
    )
    FigureCanvasAgg(figure)  # a figure for a file needs no window
    scores = [cell["test"] for cell in data["cells"]]
    for axes, (whitened, grid) in zip(
        figure.subplots(len(grids), squeeze=False)[:, 0], grids.items(), strict=True
    ):
        _draw(axes, grid, min(scores), max(scores))
        axes.set_title(f"{data['name']}: test score{', whitened' * whitened}")
    return figure


def _draw(axes: "Axes", grid: Grid, low: float, high: float) -> None:
    values = [[math.nan if score is None else score for score in row] for row in grid.scores]
    axes.imshow(values, cmap="cividis", vmin=low, vmax=high, aspect="auto")
    axes.set_xticks(
        range(len(grid.layers)), [OWN if layer is None else str(layer) for layer in grid.layers]
    )
    axes.set_yticks(range(len(grid.poolings)), grid.poolings)
    for place, scores in enumerate(values):
        for column, score in enumerate(scores):
            if not math.isnan(score):
                colour = "black" if score > (low + high) / 2 else "white"
                axes.text(
                    column, place, number(score), ha="center", va="center", color=colour, fontsize=8
                )
