"""The report as Markdown: the verdict first, then tables."""

import math
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from litpool.tools.study.choice import Json

Key = tuple[str, int | None, bool]  # of a cell: pooling, layer, whitened

NONE = "\N{EN DASH}"  # shown for a missing value
NO_LAYER = "no layer"  # the column of poolings of several layers, or of the pooler output
GEOMETRY = ("anisotropy", "uniformity", "alignment", "effective_rank")


class Grid(NamedTuple):
    """Test scores, poolings by layers; the last column is for poolings without a layer, None."""

    poolings: list[str]
    layers: list[int | None]
    scores: list[list[float | None]]  # one row per pooling


def grid_of(data: Json, whitened: bool) -> Grid:
    """Arrange the raw or the whitened test scores of a data set."""
    scores = {
        key_of(cell)[:2]: cell["test"]
        for cell in data["cells"]
        if bool(cell["whitened"]) == whitened
    }
    poolings = list(dict.fromkeys(pooling for pooling, _ in scores))
    layers = sorted(
        {layer for _, layer in scores}, key=lambda layer: math.inf if layer is None else layer
    )
    rows = [[scores.get((pooling, layer)) for layer in layers] for pooling in poolings]
    return Grid(poolings, layers, rows)


def key_of(cell: Json) -> Key:
    """Return what identifies a cell in its data set."""
    return cell["pooling"], cell["layer"], bool(cell["whitened"])


def chosen(data: Json) -> dict[Key, Json]:
    """Return the chosen cells of a data set, one per pooling."""
    return {key_of(cell): cell for cell in data["chosen"]}


def summarize(result: dict[str, Any]) -> str:
    """Write the Markdown text for the content of study.json."""
    lines = [f"**{_plain(result['verdict'])}**", ""]
    if len(result["data"]) > 1:
        lines += _side_by_side(result["data"])
    for data in result["data"]:
        lines += _section(data, result["verdict"])
    lines += ["## How this was made", "", *_fence(result.get("command") or NONE)]
    lines += _fence(config_text(result), "yaml")
    lines += _table(("", "version"), (result.get("versions") or {}).items())
    seconds = result.get("seconds") or {}
    lines += _table(("", "seconds"), [(part, number(value)) for part, value in seconds.items()])
    return "\n".join(lines).rstrip() + "\n"


def config_text(result: dict[str, Any]) -> str:
    """Return the study's config as YAML."""
    config = result.get("config")
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True) if config else ""


def _side_by_side(entries: list[Json]) -> list[str]:
    """Show the test score of each pooling, data sets as columns; papers' figures in brackets."""
    scores: dict[str, dict[int, str]] = {}
    for column, data in enumerate(entries):
        ours = _scores(data)
        paper = _paper(data)
        for name in dict.fromkeys([*ours, *paper]):
            published = f" ({number(paper[name])} in the paper)" if name in paper else ""
            scores.setdefault(name, {})[column] = number(ours.get(name)) + published
    columns = range(len(entries))
    rows = [(name, *(row.get(column, NONE) for column in columns)) for name, row in scores.items()]
    return _table(("test score", *(data["name"] for data in entries)), rows)


def _paper(data: Json) -> dict[str, float]:
    """Return the published test score of each pooling."""
    return {figure["pooling"]: figure["test"] for figure in data.get("paper") or []}


def _scores(data: Json) -> dict[str, float]:
    """Return the test score of each pooling's raw chosen cell.

    Without a frozen arm it is the mean over seeds, of the fine-tuned layer with the highest mean on
    validation.
    """
    if data["chosen"]:
        return {cell["pooling"]: cell["test"] for cell in data["chosen"] if not cell["whitened"]}
    runs = data.get("finetuned") or []
    validation = {
        key: statistics.fmean(scores) for key, scores in _group(runs, "validation").items()
    }
    order = sorted(_group(runs).items(), key=lambda group: validation[group[0]])
    # The last layer of a pooling overwrites the others.
    return {pooling: statistics.fmean(scores) for (pooling, _), scores in order}


def _section(data: Json, verdict: str) -> list[str]:
    rows = ", ".join(f"{_count(count)} {split}" for split, count in data["rows"].items())
    lines = [
        f"## {_plain(data['name'])}",
        "",
        f"{_plain(data['task'])}, {data['metric']} x 100; rows: {rows}.",
        "",
    ]
    lines += [f"**{_plain(data['verdict'])}**", ""] * (data["verdict"] != verdict)
    lines += [*(f"- {_plain(note)}" for note in data["notes"]), ""] if data["notes"] else []
    if data["chosen"]:
        lines += ["### The chosen layer of each pooling", "", *_chosen_table(data), *_lead(data)]
    lines += _baselines(data.get("baselines") or []) + _finetuned(data.get("finetuned") or [])
    for whitened in sorted({bool(cell["whitened"]) for cell in data["cells"]}):
        grid = grid_of(data, whitened)
        lines += [f"### Test scores, poolings by layers{', whitened' * whitened}", ""]
        table = [
            (name, *map(number, row)) for name, row in zip(grid.poolings, grid.scores, strict=True)
        ]
        lines += _table(
            (
                "pooling",
                *(NO_LAYER if layer is None else f"layer {layer}" for layer in grid.layers),
            ),
            table,
        )
    return lines + _geometry(data)


def _chosen_table(data: Json) -> list[str]:
    """Show the chosen cells with their difference to [CLS], and the paper's figures if any."""
    heads = [
        "pooling",
        "layer",
        "whitened",
        "test",
        "95% interval",
        "against [CLS]",
        "95% interval",
        "p",
    ]
    paper = _paper(data)
    rows = []
    for cell in sorted(data["chosen"], key=lambda cell: (bool(cell["whitened"]), -cell["test"])):
        against = cell.get("against_cls") or {}
        row = [*_name(cell), number(cell["test"]), _interval(cell)]
        row += [_signed(against.get("difference")), _interval(against, _signed)]
        row.append(_p(against.get("p")))
        rows.append(row + [number(paper.get(cell["pooling"]))] * bool(paper))
    return _table(heads + ["paper"] * bool(paper), rows)


def _lead(data: Json) -> list[str]:
    if not (lead := data.get("lead")):
        return []
    interval = f"95% interval {_interval(lead, _signed)}, p {_p(lead['p'])}"
    raw = "Not whitened: " if any(cell["whitened"] for cell in data["chosen"]) else ""
    names = f"{_plain(lead['first'])} against the runner-up {_plain(lead['second'])}"
    return [f"{raw}{names}: {_signed(lead['difference'])} points ({interval}).", ""]


def _baselines(baselines: list[Json]) -> list[str]:
    heads = ("baseline", "test", "95% interval", "words covered")
    rows = [
        (row["name"], number(row["test"]), _interval(row), _share(row.get("coverage")))
        for row in baselines
    ]
    return ["### Baselines", "", *_table(heads, rows)] if rows else []


def _finetuned(runs: list[Json]) -> list[str]:
    """Show the spread over seeds of each pooling and layer."""
    rows = []
    groups = sorted(_group(runs).items(), key=lambda group: -statistics.fmean(group[1]))
    for (pooling, layer), scores in groups:
        mean = number(statistics.fmean(scores))
        spread = _interval({"low": min(scores), "high": max(scores)})
        deviation = number(statistics.stdev(scores), 2) if len(scores) > 1 else NONE
        rows.append((pooling, _layer(layer), len(scores), mean, spread, deviation))
    heads = ("pooling", "layer", "seeds", "mean test", "lowest to highest", "standard deviation")
    return ["### Fine-tuned", "", *_table(heads, rows)] if rows else []


def _group(runs: list[Json], split: str = "test") -> dict[tuple[str, int | None], list[float]]:
    """Group the scores of all seeds by pooling and layer."""
    groups: dict[tuple[str, int | None], list[float]] = {}
    for run in runs:
        groups.setdefault((run["pooling"], run["layer"]), []).append(run[split])
    return groups


def _geometry(data: Json) -> list[str]:
    heads = ("pooling", "layer", "whitened", *(name.replace("_", " ") for name in GEOMETRY))
    rows = []
    for cell in data["cells"]:
        if key_of(cell) in chosen(data):
            geometry = cell.get("geometry") or {}
            values = [
                number(geometry.get(name), 1 if name == "effective_rank" else 3)
                for name in GEOMETRY
            ]
            rows.append([*_name(cell), *values])
    return ["### Geometry of the chosen cells", "", *_table(heads, rows)] if rows else []


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [f"| {' | '.join(_plain(text) for text in row)} |" for row in [heads, *rows]]
    return [lines[0], "|---" * len(heads) + "|", *lines[1:], ""] if len(lines) > 1 else []


def _fence(text: str, language: str = "") -> list[str]:
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return [f"{fence}{language}", text.rstrip(), fence, ""]


def _plain(text: object) -> str:
    """Escape text so that Markdown sees no tag, no end of a table's field and no new line."""
    line = re.sub(r"&(?=#?\w+;)", "&amp;", " ".join(str(text).split()))
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", line).replace("|", "\\|")


def _name(cell: Json) -> tuple[str, str, str]:
    return cell["pooling"], _layer(cell["layer"]), "yes" if cell["whitened"] else "no"


def _layer(layer: int | None) -> str:
    return NONE if layer is None else str(layer)


def number(value: float | None, digits: int = 1, sign: str = "") -> str:
    """Format a number, or a dash if it is missing or not finite."""
    return NONE if value is None or not math.isfinite(value) else f"{value:{sign}.{digits}f}"


def _signed(value: float | None) -> str:
    return number(value, sign="+")


def _count(value: int | None) -> str:
    return NONE if value is None else f"{value:,}"


def _share(value: float | None) -> str:
    return NONE if value is None else f"{value:.1%}"


def _interval(values: Mapping[str, Any], show: Callable[[float], str] = number) -> str:
    low, high = values.get("low"), values.get("high")
    return NONE if low is None or high is None else f"{show(low)} to {show(high)}"


def _p(p: float | None) -> str:
    return NONE if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"
