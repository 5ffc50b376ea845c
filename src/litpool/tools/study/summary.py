"""The report as Markdown: the sentences first, then tables, then the method."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from litpool.tools.study.choice import Json, rank_tuned

Key = tuple[str, int | None, bool]  # of a cell: pooling, layer, whitened

NONE = "\N{EN DASH}"  # shown for a missing value
COMPARISONS = ("headline", "published", "baseline")  # the entries that hold a sentence
REFERENCES = {
    "McNemar": "McNemar, Q. (1947). Note on the sampling error of the difference between "
    "correlated proportions or percentages. Psychometrika 12.",
    "Schuirmann": "Schuirmann, D. J. (1987). A comparison of the two one-sided tests procedure and "
    "the power approach for assessing the equivalence of average bioavailability. Journal of "
    "Pharmacokinetics and Biopharmaceutics 15.",
    "Nadeau": "Nadeau, C. and Bengio, Y. (2003). Inference for the generalization error. Machine "
    "Learning 52.",
    "Romano": "Romano, J. P. and Wolf, M. (2005). Exact and approximate stepdown methods for "
    "multiple hypothesis testing. Journal of the American Statistical Association 100.",
    "Varma": "Varma, S. and Simon, R. (2006). Bias in error estimation when using cross-validation "
    "for model selection. BMC Bioinformatics 7.",
    "Hewitt": "Hewitt, J. and Liang, P. (2019). Designing and interpreting probes with control "
    "tasks. EMNLP-IJCNLP.",
}


def key_of(cell: Json) -> Key:
    """Return what identifies a cell in its data set."""
    return cell["pooling"], cell["layer"], bool(cell["whitened"])


def summarize(result: Json) -> str:
    """Write the Markdown text for the content of study.json."""
    several = len(result["data"]) > 1
    first = result["verdict"] if several else _sentences(result["data"][0])[0]
    lines = [f"**{_plain(first)}**", ""]
    if several:
        lines += _side_by_side(result["data"])
    for data in result["data"]:
        lines += _section(data, skip=0 if several else 1)
    lines += ["## How to repeat it", "", *_fence(result.get("command") or NONE)]
    versions = (result.get("versions") or {}).items()
    lines += [", ".join(f"{name} {version}" for name, version in versions), ""]
    for text in references(result["data"]):
        lines += [f"- {text}"]
    return "\n".join(lines).rstrip() + "\n"


def method(data: Json) -> str:
    """Say in one paragraph how a data set's numbers were made; empty without a frozen arm."""
    how = data.get("method")
    if not how:
        return ""
    kfold, labels = how["resampling"] == "kfold", data["unit"] == "examples"
    sentences = _kfold(data, how) if kfold else _split(data, how)
    sentences.append("[CLS] of the last layer, the reference, was not a candidate.")
    if how.get("last_layer_only"):
        sentences.append(
            "The rows are too few to choose a layer by, so only the last one was a candidate."
        )
    if how.get("probe"):
        sentences.append(f"Labels are predicted by a linear probe ({how['probe']}).")
    if labels:
        sentences.append(
            "Where fewer than 25 rows tell two choices apart, no claim is more certain than the "
            "exact test (McNemar 1947)."
        )
    if any(cell.get("selectivity") is not None for cell in data["cells"]):
        sentences.append(
            "Selectivity is the score less that of a control task, in which every text type has a "
            "random label (Hewitt and Liang 2019)."
        )
    sentences += [
        "Only the planned comparisons, one for each sentence, make a claim. In each table the "
        "intervals hold for all rows together and the p values come from the same draws, so they "
        "cannot contradict each other (max-T, Romano and Wolf 2005).",
        f"A difference of {how['margin']:g} point{'s' * (how['margin'] != 1)} or less counts as "
        "not worth having; that claim takes two one-sided tests (Schuirmann 1987).",
    ]
    return " ".join(sentences)


def _kfold(data: Json, how: Json) -> list[str]:
    return [
        f"All {how['scored_rows']:,} {data['unit']} were divided into {how['folds']} folds, "
        f"{how['repeats']} times; {_together(how)}.",
        f"{_chosen(how).capitalize()} were chosen anew for each fold, without its rows (Varma and "
        "Simon 2006): the difference is what this way of choosing gains on rows that it has not "
        "seen.",
        "The interval includes the spread over train splits (Nadeau and Bengio 2003) and is never "
        "narrower than the number of rows allows.",
    ]


def _split(data: Json, how: Json) -> list[str]:
    rows = data["rows"]
    others = " and ".join(f"{rows[split]:,} {split}" for split in rows if split != "test")
    first = f"{_chosen(how)} were chosen on the {others} rows, then " if others else "all was "
    sentences = [
        f"The splits are those of the data set: {first}scored once on {how['scored_rows']:,} test "
        f"{data['unit']}.",
        f"The interval is that of the test rows; {_together(how)}.",
    ]
    if how.get("probe"):
        sentences.append(
            "One train split was used: what another one would change is not in the interval."
        )
    return sentences


def _chosen(how: Json) -> str:
    return "pooling, layer and strength" if how.get("probe") else "pooling and layer"


def _together(how: Json) -> str:
    column = how["groups"].removeprefix("data.group=")
    same = how["groups"] if column == how["groups"] else f"the same {column}"
    return f"rows with {same} count together"


def references(entries: Sequence[Json]) -> list[str]:
    """Return the works that the methods of the data sets cite."""
    text = " ".join(method(data) for data in entries)
    return [reference for author, reference in REFERENCES.items() if author in text]


def _side_by_side(entries: Sequence[Json]) -> list[str]:
    """Show each data set's planned comparison in a line."""
    heads = ("data set", "chosen", "against [CLS]", "95% interval", "claim")
    rows = []
    for data in entries:
        if headline := data.get("headline"):
            difference = _signed(headline["difference"])
            names = (data["name"], headline["first"]["name"], difference)
            rows.append((*names, _interval(headline, _signed), headline["claim"]))
    return _table(heads, rows)


def _sentences(data: Json) -> list[str]:
    claims = [data[name]["sentence"] for name in COMPARISONS if data.get(name)]
    return claims or [data["verdict"]]


def _section(data: Json, skip: int) -> list[str]:
    """Show a data set without its first `skip` sentences."""
    rows = ", ".join(f"{count:,} {split}" for split, count in data["rows"].items())
    lines = [
        f"## {_plain(data['name'])}",
        "",
        f"{_plain(data['task'])}, {data['metric']} x 100; rows: {rows}.",
        "",
    ]
    sentences = [*_sentences(data)[skip:], *data["notes"]]
    lines += [f"- {_plain(sentence)}" for sentence in sentences]
    lines += ["", *_next(data), *_chosen_table(data), *_same_layer(data)]
    lines += _baselines(data.get("baselines") or []) + _finetuned(data.get("finetuned") or [])
    if data.get("paper"):
        figures = [f"{figure['pooling']} {number(figure['test'])}" for figure in data["paper"]]
        lines += [f"Published scores: {_plain(', '.join(figures))}.", ""]
    return lines + [method(data), ""] * bool(data.get("method"))


def _next(data: Json) -> list[str]:
    """Show the proposal."""
    lines = []
    if proposal := data.get("proposal"):
        layers = proposal["num_hidden_layers"]
        pooling = _plain(proposal["pooling"])
        if proposal["file"] is None:
            where = f"{pooling} of layer {proposal['layer']}"
            line = f"`fit` cannot train {where}: the encoder cannot be cut after this layer."
        else:
            shorter = "" if layers is None else f" and the first {layers} layers"
            line = f"{_plain(proposal['file'])} is the job with {pooling}{shorter}{_why(data)}."
        lines += [line, ""]
    return lines


def _why(data: Json) -> str:
    """Say why the reference is proposed, where it is."""
    reference = data["headline"]["second"]["pooling"], data["headline"]["second"]["layer"]
    proposed = data["proposal"]["pooling"], data["proposal"]["layer"]
    return ", as the choice is not ahead of it" if proposed == reference else ""


def _chosen_table(data: Json) -> list[str]:
    """Show the chosen cells with their difference to [CLS]."""
    rows = []
    for cell in sorted(data["chosen"], key=lambda cell: (bool(cell["whitened"]), -cell["test"])):
        whitened = ", whitened" * bool(cell["whitened"])
        row = [cell["pooling"] + whitened, number(cell["layer"], 0), number(cell["test"])]
        rows.append([*row, _interval(cell), *_against(cell)])
    heads = ("pooling", "layer", "score", "95% interval", "against [CLS]", "95% interval", "p")
    table = _table(heads, rows)
    return ["### The chosen layer of each pooling", "", *table] if rows else []


def _same_layer(data: Json) -> list[str]:
    if not (same := data.get("same_layer")):
        return []
    rows = [
        (cell["pooling"], number(cell["test"]), _interval(cell), *_against(cell))
        for cell in sorted(same["poolings"], key=lambda cell: -cell["test"])
    ]
    heads = ("pooling", "score", "95% interval", "against [CLS]", "95% interval", "p")
    return [f"### All poolings at layer {same['layer']}", "", *_table(heads, rows)]


def _against(cell: Json) -> tuple[str, str, str]:
    against = cell.get("against_cls") or {}
    difference = _signed(against.get("difference"))
    return difference, _interval(against, _signed), _p(against.get("p"))


def _baselines(baselines: list[Json]) -> list[str]:
    heads = ("baseline", "score", "95% interval", "words covered")
    rows = [
        (row["name"], number(row["test"]), _interval(row), number(row["coverage"], style=".1%"))
        for row in baselines
    ]
    return ["### Baselines", "", *_table(heads, rows)] if rows else []


def _finetuned(runs: list[Json]) -> list[str]:
    """Show the spread over seeds of each pooling and layer."""
    rows = []
    for (pooling, layer), scores in rank_tuned(runs).items():
        spread = _interval({"low": min(scores), "high": max(scores)})
        rows.append((pooling, number(layer, 0), len(scores), number(fmean(scores)), spread))
    heads = ("pooling", "layer", "seeds", "mean", "lowest to highest")
    return ["### Fine-tuned", "", *_table(heads, rows)] if rows else []


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [f"| {' | '.join(_plain(text) for text in row)} |" for row in [heads, *rows]]
    return [lines[0], "|---" * len(heads) + "|", *lines[1:], ""] if len(lines) > 1 else []


def _fence(text: str) -> list[str]:
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return [fence, text.rstrip(), fence, ""]


def _plain(text: object) -> str:
    """Escape text so that Markdown sees no tag, no end of a table's field and no new line."""
    line = re.sub(r"&(?=#?\w+;)", "&amp;", " ".join(str(text).split()))
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", line).replace("|", "\\|")


def number(value: float | None, digits: int = 1, style: str = "") -> str:
    """Format a number, or a dash if it is missing."""
    return NONE if value is None else format(value, style or f".{digits}f")


def _signed(value: float | None) -> str:
    return number(value, style="+.1f")


def _interval(values: Mapping[str, Any], show: Callable[[float], str] = number) -> str:
    low, high = values.get("low"), values.get("high")
    return NONE if low is None or high is None else f"{show(low)} to {show(high)}"


def _p(p: float | None) -> str:
    return NONE if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"
