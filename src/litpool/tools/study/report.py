"""The report for people: study.csv for a spreadsheet, study.md to paste, study.html to look at.

A data set's cells are (pooling, layer, whitened). Scores are in points. A missing value is an en
dash, or an empty field in study.csv.
"""

import html
import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import yaml

from litpool.disk import write_text
from litpool.tools.study.summary import (
    COMPARISONS,
    Json,
    key_of,
    method,
    number,
    references,
    summarize,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Light for low scores, dark for high ones; the page and the figure both draw with it.
PALETTE = ("#f6f1dc", "#c5dfc9", "#71b9bb", "#2f7fa8", "#1d3f73")
DARK = 0.75  # white text is easier to read from here on, as a share of the palette
MARK = "#d6286b"  # around the planned choice
LOWEST = 0.2  # the share of cells that have the first colour, so that a bad layer takes no other
# The columns of study.csv; any others in study.json follow.
FIELDS = (
    *("data", "kind", "pooling", "layer", "whitened", "chosen", "C", "seed", "validation"),
    *("test", "low", "high", "logistic", "difference", "difference_low", "difference_high", "p"),
    *("against", "claim", "equivalence_p", "rows_needed", "selectivity"),
    *("anisotropy", "uniformity", "alignment", "effective_rank", "coverage"),
    *("rows_train", "rows_validation", "rows_test"),
)

NESTED = ["against_cls", "first", "geometry", "name", "second", "sentence"]  # in no column


def write(folder: Path, result: Json) -> None:
    """Write study.csv, study.md and study.html.

    Args:
        folder: The run folder.
        result: The content of study.json.
    """
    lines = [line for data in result["data"] for line in _lines(data)]
    table = pd.DataFrame(lines, dtype=object).drop(columns=NESTED, errors="ignore")
    names = list(dict.fromkeys([*FIELDS, *table.columns]))
    write_text(
        folder / "study.csv", table.reindex(columns=names).to_csv(index=False, lineterminator="\n")
    )
    text = summarize(result)
    write_text(folder / "study.md", text)
    write_text(folder / "study.html", _page(result, text))


def _lines(data: Json) -> list[Json]:
    """Return one line per cell, comparison, baseline, training and published figure.

    A chosen cell has its interval and difference to [CLS].
    """
    chosen = {key_of(cell): _scores(cell) for cell in data["chosen"]}
    lines: list[Json] = []
    for cell in data["cells"]:
        choice = {"chosen": key_of(cell) in chosen, **chosen.get(key_of(cell), {})}
        lines.append({"kind": "cell", **cell, **(cell["geometry"] or {}), **choice})
    if same := data["same_layer"]:
        place = {"kind": "same layer", "layer": same["layer"]}
        lines += [{**place, **_scores(cell)} for cell in same["poolings"]]
    for name in COMPARISONS:
        if comparison := data[name]:
            sides = {**comparison["first"], "against": comparison["second"]["name"]}
            lines.append({"kind": f"{name} comparison", **sides, **_difference(comparison)})
    baselines = [{"pooling": baseline["name"], **baseline} for baseline in data["baselines"]]
    others = {
        "baseline": baselines,
        "finetuned": data["finetuned"],
        "confirm": data["confirm"]["runs"] if data["confirm"] else [],
        "paper": data["paper"],
    }
    lines += [{"kind": kind, **entry} for kind, entries in others.items() for entry in entries]
    rows = {f"rows_{split}": count for split, count in data["rows"].items()}
    return [{"data": data["name"], **line, **rows} for line in lines]


def _scores(cell: Json) -> Json:
    """Return a cell's values with those of its comparison to [CLS] beside them."""
    return cell | _difference(cell.get("against_cls") or {})


def _difference(comparison: Json) -> Json:
    names = {"low": "difference_low", "high": "difference_high"}
    return {names.get(name, name): value for name, value in comparison.items()}


def _page(result: Json, text: str) -> str:
    """Return a page that draws itself from the data in it; without scripts it shows the text."""
    entries = [
        {**data, "method_text": method(data), "color_range": color_range(data)}
        for data in result["data"]
    ]
    content = {
        **result,
        "data": entries,
        "config": yaml.safe_dump(result["config"], sort_keys=False, allow_unicode=True),
        "references": references(entries),
        "palette": PALETTE,
    }
    names = ", ".join(data["name"] for data in entries)
    parts = {"TITLE": html.escape(f"Study: {names}"), "TEXT": html.escape(text)}
    encoded = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    parts["DATA"] = encoded.replace("<", "\\u003c")  # so that no text can end the script
    page = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], page)


def color_range(data: Json) -> tuple[float, float] | None:
    """Return the scores that get the first and the last colour; None if there are no cells."""
    scores = [cell["test"] for cell in data["cells"]]
    return (float(np.quantile(scores, LOWEST)), max(scores)) if scores else None


def heat_map(data: Json) -> "Figure":
    """Draw the scores of a data set, poolings by layers, the whitened ones below the raw."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    families = sorted({bool(cell["whitened"]) for cell in data["cells"]})
    poolings = {cell["pooling"] for cell in data["cells"]}
    layers = {cell["layer"] for cell in data["cells"]}
    size = (4 + 0.6 * len(layers), len(families) * (0.35 * len(poolings) + 0.8))
    figure = Figure(size, layout="constrained")
    FigureCanvasAgg(figure)  # draws without a window
    rows = figure.subplots(len(families), squeeze=False)[:, 0]
    for axes, whitened in zip(rows, families, strict=True):
        _draw(axes, data, whitened)
        axes.set_title(f"{data['name']}: score in points{', whitened' * whitened}")
    return figure


def _draw(axes: "Axes", data: Json, whitened: bool) -> None:
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    cells = [cell for cell in data["cells"] if bool(cell["whitened"]) == whitened]
    poolings = list(dict.fromkeys(cell["pooling"] for cell in cells))
    layers = sorted(
        {cell["layer"] for cell in cells},
        key=lambda layer: math.inf if layer is None else layer,
    )
    values = np.full((len(poolings), len(layers)), math.nan)
    low, high = color_range(data) or (0, 0)
    colors = LinearSegmentedColormap.from_list("study", PALETTE)
    announced = key_of(data["headline"]["first"]) if data.get("headline") else None
    for cell in cells:
        row, column = poolings.index(cell["pooling"]), layers.index(cell["layer"])
        values[row, column] = cell["test"]
        dark = cell["test"] > low + DARK * (high - low)
        color = "white" if dark else "black"
        axes.text(column, row, number(cell["test"]), color=color, ha="center", va="center", size=8)
        if key_of(cell) == announced:
            corner = (column - 0.5, row - 0.5)
            axes.add_patch(
                Rectangle(corner, 1, 1, fill=False, edgecolor=MARK, linewidth=3, zorder=3)
            )
    axes.imshow(values, cmap=colors, vmin=low, vmax=high, aspect="auto")
    axes.set_xticks(range(len(layers)), ["none" if at is None else str(at) for at in layers])
    axes.set_yticks(range(len(poolings)), poolings)
