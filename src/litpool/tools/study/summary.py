"""What a study found as Markdown: the verdict first, then tables."""

import math
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import yaml

Row = dict[str, Any]  # an object of study.json
Key = tuple[str, int | None, bool]  # of a cell: pooling, layer, whitened

NONE = "\N{EN DASH}"  # what is shown where nothing is known
OWN = "no layer"  # the column of poolings that are not of one layer
GEOMETRY = ("anisotropy", "uniformity", "alignment", "effective_rank")


class Grid(NamedTuple):
    """Test scores, poolings by layers; poolings that are not of one layer have theirs under the last one, None."""

    poolings: list[str]
    layers: list[int | None]
    scores: list[list[float | None]]  # a row for each pooling


def grid_of(data: Row, whitened: bool) -> Grid:
    """The raw or the whitened test scores of a data set."""
    scores = {
        key_of(cell)[:2]: cell["test"]
        for cell in data["cells"]
        if bool(cell["whitened"]) == whitened
    }
    poolings = list(dict.fromkeys(pooling for pooling, _ in scores))
    layers = sorted(
        {layer for _, layer in scores}, key=lambda layer: math.inf if layer is None else layer
    )
    return Grid(
        poolings,
        layers,
        [[scores.get((pooling, layer)) for layer in layers] for pooling in poolings],
    )


def key_of(cell: Row) -> Key:
    """What sets a cell apart from the others of its data set."""
    return cell["pooling"], cell["layer"], bool(cell["whitened"])


def chosen(data: Row) -> dict[Key, Row]:
    """The chosen cells of a data set, one of each pooling."""
    return {key_of(one): one for one in data["chosen"]}


def summarize(result: dict[str, Any]) -> str:
    """The Markdown text.

    Args:
        result: The content of study.json.
    """
    lines = [f"**{_plain(result['verdict'])}**", ""]
    if len(result["data"]) > 1:
        lines += _side_by_side(result["data"])
    for data in result["data"]:
        lines += _section(data, result["verdict"])
    lines += ["## How this was made", "", *_fence(result.get("command") or NONE)]
    lines += _fence(config_text(result), "yaml")
    lines += _table(("", "version"), (result.get("versions") or {}).items())
    lines += _table(
        ("", "seconds"), [(name, number(s)) for name, s in (result.get("seconds") or {}).items()]
    )
    return "\n".join(lines).rstrip() + "\n"


def config_text(result: dict[str, Any]) -> str:
    """The study's config as YAML."""
    config = result.get("config")
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True) if config else ""


def _side_by_side(everything: list[Row]) -> list[str]:
    """The test score of each pooling, data sets as columns; the paper's figure in brackets."""
    scores: dict[str, dict[int, str]] = {}
    for column, data in enumerate(everything):
        ours = _scores(data)
        paper = {one["pooling"]: one["test"] for one in data.get("paper") or []}
        for name in dict.fromkeys([*ours, *paper]):
            told = f" ({number(paper[name])} in the paper)" if name in paper else ""
            scores.setdefault(name, {})[column] = number(ours.get(name)) + told
    columns = range(len(everything))
    rows = [(name, *(row.get(column, NONE) for column in columns)) for name, row in scores.items()]
    return _table(("test score", *(data["name"] for data in everything)), rows)


def _scores(data: Row) -> dict[str, float]:
    """Of each pooling the test score of its chosen cell, not whitened; without a frozen arm, the mean over seeds.

    Where several layers were fine-tuned it is that of the layer whose mean is highest on validation.
    """
    if data["chosen"]:
        return {one["pooling"]: one["test"] for one in data["chosen"] if not one["whitened"]}
    runs = data.get("finetuned") or []
    validated = {
        key: statistics.fmean(scores) for key, scores in _by_seed(runs, "validation").items()
    }
    order = sorted(_by_seed(runs).items(), key=lambda group: validated[group[0]])
    return {
        pooling: statistics.fmean(scores) for (pooling, _), scores in order
    }  # the last of a name stays


def _section(data: Row, said: str) -> list[str]:
    rows = ", ".join(f"{_count(count)} {split}" for split, count in data["rows"].items())
    lines = [
        f"## {_plain(data['name'])}",
        "",
        f"{_plain(data['task'])}, {data['metric']} x 100; rows: {rows}.",
        "",
    ]
    lines += [f"**{_plain(data['verdict'])}**", ""] * (data["verdict"] != said)
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
            ("pooling", *(OWN if layer is None else f"layer {layer}" for layer in grid.layers)),
            table,
        )
    return lines + _geometry(data)


def _chosen_table(data: Row) -> list[str]:
    """With the difference to [CLS], and the paper's figures where there are some."""
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
    paper = {one["pooling"]: one["test"] for one in data.get("paper") or []}
    rows = []
    for one in sorted(data["chosen"], key=lambda one: (bool(one["whitened"]), -one["test"])):
        against = one.get("against_cls") or {}
        row = [*_name(one), number(one["test"]), _interval(one), _signed(against.get("difference"))]
        row += [_interval(against, _signed), _p(against.get("p"))]
        rows.append(row + [number(paper.get(one["pooling"]))] * bool(paper))
    return _table(heads + ["paper"] * bool(paper), rows)


def _lead(data: Row) -> list[str]:
    if not (lead := data.get("lead")):
        return []
    size = f"{_signed(lead['difference'])} points (95% interval {_interval(lead, _signed)}, p {_p(lead['p'])})"
    raw = "Not whitened: " if any(one["whitened"] for one in data["chosen"]) else ""
    return [
        f"{raw}{_plain(lead['first'])} against the runner-up {_plain(lead['second'])}: {size}.",
        "",
    ]


def _baselines(baselines: list[Row]) -> list[str]:
    heads = ("baseline", "test", "95% interval", "words covered")
    rows = [
        (one["name"], number(one["test"]), _interval(one), _share(one.get("coverage")))
        for one in baselines
    ]
    return ["### Baselines", "", *_table(heads, rows)] if rows else []


def _finetuned(runs: list[Row]) -> list[str]:
    """The spread over seeds of each pooling and layer."""
    rows = []
    for (pooling, layer), scores in sorted(
        _by_seed(runs).items(), key=lambda group: -statistics.fmean(group[1])
    ):
        spread = _interval({"low": min(scores), "high": max(scores)})
        deviation = number(statistics.stdev(scores), 2) if len(scores) > 1 else NONE
        rows.append(
            (
                pooling,
                _layer(layer),
                len(scores),
                number(statistics.fmean(scores)),
                spread,
                deviation,
            )
        )
    heads = ("pooling", "layer", "seeds", "mean test", "lowest to highest", "standard deviation")
    return ["### Fine-tuned", "", *_table(heads, rows)] if rows else []


def _by_seed(runs: list[Row], split: str = "test") -> dict[tuple[str, int | None], list[float]]:
    """The scores of all seeds, by pooling and layer."""
    groups: dict[tuple[str, int | None], list[float]] = {}
    for run in runs:
        groups.setdefault((run["pooling"], run["layer"]), []).append(run[split])
    return groups


def _geometry(data: Row) -> list[str]:
    heads = ("pooling", "layer", "whitened", *(name.replace("_", " ") for name in GEOMETRY))
    rows = []
    for cell in (cell for cell in data["cells"] if key_of(cell) in chosen(data)):
        found = cell.get("geometry") or {}
        rows.append(
            [
                *_name(cell),
                *(number(found.get(n), 1 if n == "effective_rank" else 3) for n in GEOMETRY),
            ]
        )
    return ["### Geometry of the chosen cells", "", *_table(heads, rows)] if rows else []


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [f"| {' | '.join(_plain(text) for text in row)} |" for row in [heads, *rows]]
    return [lines[0], "|---" * len(heads) + "|", *lines[1:], ""] if len(lines) > 1 else []


def _fence(text: str, language: str = "") -> list[str]:
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return [f"{fence}{language}", text.rstrip(), fence, ""]


def _plain(text: object) -> str:
    """Text that is neither a tag nor the end of a table's field nor a new line to Markdown."""
    line = re.sub(r"&(?=#?\w+;)", "&amp;", " ".join(str(text).split()))
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", line).replace("|", "\\|")


def _name(cell: Row) -> tuple[str, str, str]:
    return cell["pooling"], _layer(cell["layer"]), "yes" if cell["whitened"] else "no"


def _layer(layer: int | None) -> str:
    return NONE if layer is None else str(layer)


def number(value: float | None, digits: int = 1, sign: str = "") -> str:
    """A number as it is shown."""
    known = value is not None and math.isfinite(value)
    return f"{value:{sign}.{digits}f}" if known else NONE


def _signed(value: float | None) -> str:
    return number(value, sign="+")


def _count(value: int | None) -> str:
    return NONE if value is None else f"{value:,}"


def _share(value: float | None) -> str:
    return NONE if value is None else f"{value:.1%}"


def _interval(one: Mapping[str, Any], told: Callable[[float], str] = number) -> str:
    low, high = one.get("low"), one.get("high")
    return NONE if low is None or high is None else f"{told(low)} to {told(high)}"


def _p(p: float | None) -> str:
    return NONE if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"
