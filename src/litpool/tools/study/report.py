"""The report for people: study.csv for a spreadsheet, study.md to paste, study.html to look at.

A data set's cells are (pooling, layer, whitened). The chosen cell of each pooling is that of the
layer that was best on validation. Scores are in points. A missing value is an en dash, or an empty
field in study.csv.
"""

import csv
import html
import io
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from litpool.disk import write_text
from litpool.tools.study.choice import Json
from litpool.tools.study.summary import (
    GEOMETRY,
    NO_LAYER,
    Grid,
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

# To [CLS]; in the line `lead`, of the best two poolings.
DIFFERENCE = ("difference", "difference_low", "difference_high", "p")
# The columns of study.csv; any others in study.json follow.
FIELDS = [
    *("data", "kind", "pooling", "layer", "whitened", "chosen", "strength", "seed"),
    *("validation", "test", "low", "high", *DIFFERENCE, *GEOMETRY, "coverage"),
    *("rows_train", "rows_validation", "rows_test"),
]


def write(folder: Path, result: dict[str, Any]) -> None:
    """Write study.csv, study.md and study.html.

    Args:
        folder: The run folder.
        result: The content of study.json.
    """
    lines = [line for data in result["data"] for line in _lines(data)]
    names = dict.fromkeys([*FIELDS, *(name for line in lines for name in line)])
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_text(folder / "study.csv", table.getvalue())
    text = summarize(result)
    write_text(folder / "study.md", text)
    write_text(folder / "study.html", _page(result, text))


def _lines(data: Json) -> list[Json]:
    """Return one line per cell, baseline, training and published figure, and one for the lead."""
    lines = [_cell(cell, chosen(data).get(key_of(cell))) for cell in data["cells"]]
    for baseline in data.get("baselines") or []:
        values = {key: value for key, value in baseline.items() if key != "name"}
        lines.append({"kind": "baseline", "pooling": baseline["name"], **values})
    for kind in ("finetuned", "paper"):
        lines += [{"kind": kind, **values} for values in data.get(kind) or []]
    if lead := data.get("lead"):
        names = f"{lead['first']} - {lead['second']}"
        lines.append({"kind": "lead", "pooling": names, **_difference(lead)})
    rows = {f"rows_{split}": count for split, count in data["rows"].items()}
    return [{"data": data["name"], **line, **rows} for line in lines]


def _cell(cell: Json, choice: Json | None) -> Json:
    """Return a cell's line; a chosen one has its interval and difference to [CLS]."""
    line = {"kind": "cell", **cell, "chosen": choice is not None, **(cell.get("geometry") or {})}
    line.pop("geometry", None)
    if choice is None:
        return line
    interval = {name: choice[name] for name in ("low", "high") if choice.get(name) is not None}
    return {**line, **interval, **_difference(choice.get("against_cls") or {})}


def _difference(comparison: Json) -> Json:
    values = map(comparison.get, ("difference", "low", "high", "p"))
    return dict(zip(DIFFERENCE, values, strict=True))


def _page(result: dict[str, Any], text: str) -> str:
    """Return a page that draws itself from the data in it; without scripts it shows the text."""
    content = json.dumps(_finite({**result, "config": config_text(result)}), ensure_ascii=False)
    names = ", ".join(data["name"] for data in result["data"])
    parts = {"TITLE": html.escape(f"Study: {names}"), "TEXT": html.escape(text)}
    parts["DATA"] = content.replace("<", "\\u003c")  # so that no text can end the script
    page = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], page)


def _finite(value: Any) -> Any:
    """Replace NaN and infinities, which browsers do not read, by None."""
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def heat_map(data: Json) -> "Figure":
    """Draw the test scores of a data set, poolings by layers, the whitened ones below the raw."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    families = sorted({bool(cell["whitened"]) for cell in data["cells"]})
    grids = {whitened: grid_of(data, whitened) for whitened in families}
    width = 4 + 0.6 * max(len(grid.layers) for grid in grids.values())
    height = sum(0.35 * len(grid.poolings) + 0.8 for grid in grids.values())
    figure = Figure((width, height), layout="constrained")
    FigureCanvasAgg(figure)  # draws without a window
    scores = [cell["test"] for cell in data["cells"]]
    rows = figure.subplots(len(grids), squeeze=False)[:, 0]
    for axes, (whitened, grid) in zip(rows, grids.items(), strict=True):
        _draw(axes, grid, min(scores), max(scores))
        axes.set_title(f"{data['name']}: test score{', whitened' * whitened}")
    return figure


def _draw(axes: "Axes", grid: Grid, low: float, high: float) -> None:
    values = [[math.nan if score is None else score for score in row] for row in grid.scores]
    axes.imshow(values, cmap="cividis", vmin=low, vmax=high, aspect="auto")
    layers = [NO_LAYER if layer is None else str(layer) for layer in grid.layers]
    axes.set_xticks(range(len(layers)), layers)
    axes.set_yticks(range(len(grid.poolings)), grid.poolings)
    for row, scores in enumerate(values):
        for column, score in enumerate(scores):
            if not math.isnan(score):
                color = "black" if score > (low + high) / 2 else "white"
                text = axes.text(column, row, number(score), color=color, fontsize=8)
                text.set(ha="center", va="center")
