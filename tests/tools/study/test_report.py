"""What the report files say of a made-up study: seven layers, two data sets, the second one with little known."""

import csv
import io
import json
import math
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from litpool.tools.study.report import heat_map, write

HERE = Path(__file__).parents[3]
OF_A_LAYER = {
    "ClsPooling": 73.5,
    "MeanPooling": 82.0,
    "MeanPooling without special tokens": 81.7,
    "MaxPooling": 78.8,
}
OF_A_LAYER |= {
    "MinPooling": 78.3,
    "MeanSqrtLenPooling": 82.0,
    "WeightedMeanPooling": 81.6,
    "LastTokenPooling": 78.0,
}
OF_NO_LAYER = {
    "PoolerOutput": 73.1,
    "FirstLastPooling": 81.6,
    "LastNPooling n=2": 82.1,
    "LastNPooling n=4": 81.2,
}
HOSTILE = "<script>alert('a|b')</script> & 'quoted' </script><!-- \n ``` 한국어"


def cell(pooling: str, layer: int | None, whitened: bool, best: float) -> dict[str, Any]:
    depth = 3 if layer is None else layer
    test = best - 4.3 * (6 - depth) ** 0.8 + 1.37 * whitened
    geometry = {
        "anisotropy": 0.72 / (1 + depth) * (not whitened),
        "uniformity": -0.9 - 0.41 * depth,
    }
    geometry |= {
        "alignment": 0.3 + 0.031 * depth,
        "effective_rank": 41.25 + 17.1 * depth + 90 * whitened,
    }
    key = {"pooling": pooling, "layer": layer, "whitened": whitened}
    return {
        **key,
        "strength": None,
        "validation": test + 1.234,
        "test": test,
        "low": None,
        "high": None,
    } | {"geometry": geometry}


def choose(one: dict[str, Any], cls: float) -> dict[str, Any]:
    gain = one["test"] - cls
    against = {
        "difference": gain,
        "low": gain - 1.2,
        "high": gain + 1.3,
        "p": 0.0001 if abs(gain) > 1.3 else 0.41,
    }
    kept = {name: one[name] for name in ("pooling", "layer", "whitened", "test")}
    interval = {"low": one["test"] - 2.1, "high": one["test"] + 1.9}
    return {**kept, **interval, "against_cls": None if one["pooling"] == "ClsPooling" else against}


def pairs(name: str = "stsb", worse: float = 0) -> dict[str, Any]:
    """A data set of which everything is known."""
    kinds = (False, True)
    cells = [
        cell(p, n, w, best - worse)
        for w in kinds
        for p, best in OF_A_LAYER.items()
        for n in range(7)
    ]
    cells += [
        cell(p, None, w, best + 10.4 - worse) for w in kinds for p, best in OF_NO_LAYER.items()
    ]
    best = [
        max((c for c in cells if c["pooling"] == p), key=lambda c: c["test"])
        for p in OF_A_LAYER | OF_NO_LAYER
    ]
    chosen = [choose(one, best[0]["test"]) for one in best]
    static = {
        "name": "static embeddings, mean",
        "test": 55.6,
        "low": 51.9,
        "high": 59.2,
        "coverage": None,
    }
    glove = {
        "name": "average of word vectors",
        "test": 47.93,
        "low": 43.4,
        "high": 52.1,
        "coverage": 0.9134,
    }
    scores = {
        "MeanPooling": 85.2,
        "ClsPooling": 84.9,
        "AttentionPooling": 85.6,
        "LayerMixPooling": 84.2,
    }
    runs = [
        {
            "pooling": p,
            "layer": 6,
            "seed": s,
            "validation": score + 3.03 * 0.31 * s,
            "test": score + 0.37 * s * (-1) ** s,
        }
        for p, score in scores.items()
        for s in range(3)
    ]
    said = "Here MeanPooling of layer 6 beats ClsPooling of layer 6 by 8.5 points (95% CI 7.1 to 9.9, p < 0.001)"
    lead = {
        "first": "LastNPooling n=2",
        "second": "MeanPooling of layer 6",
        "difference": 0.123,
        "low": -0.31,
    }
    return {
        **{"name": name, "task": "Similarity", "metric": "spearman", "unit": "pairs", "layers": 6},
        **{
            "rows": {"train": 5749, "validation": 1500, "test": 1379},
            "cells": cells,
            "chosen": chosen,
        },
        **{
            "lead": {**lead, "high": 0.56, "p": 0.731},
            "baselines": [static, glove],
            "finetuned": runs,
        },
        **{"verdict": f"{said} on {name}", "notes": ["the whitening was fitted on train"]},
        "paper": [
            {"pooling": "MeanPooling", "test": 54.81},
            {"pooling": "ClsPooling", "test": 20.16},
        ],
    }


def few(name: str = "few") -> dict[str, Any]:
    """A data set too small for intervals, without a train split and without geometry's alignment."""
    cells = [
        {**cell(p, n, False, best), "strength": 0.1}
        for p, best in OF_A_LAYER.items()
        for n in range(7)
    ]
    for one in cells:
        one["geometry"]["alignment"] = None
    chosen = [
        {k: c[k] for k in ("pooling", "layer", "whitened", "test", "low", "high")}
        for c in cells[6::7]
    ]
    return {
        **{
            "name": name,
            "task": "Classification",
            "metric": "accuracy",
            "unit": "examples",
            "layers": 6,
        },
        **{
            "rows": {"train": 40, "validation": 12, "test": 12},
            "cells": cells,
            "lead": None,
            "finetuned": [],
        },
        "chosen": [{**one, "against_cls": None} for one in chosen],
        "baselines": [
            {"name": "majority class", "test": 51.0, "low": None, "high": None, "coverage": None}
        ],
        **{"verdict": "12 test examples are too few for intervals, 20 are needed", "notes": []},
    }


def study(*data: dict[str, Any]) -> dict[str, Any]:
    encoder = {"name": "sentence-transformers/all-MiniLM-L6-v2", "pretrained": True}
    return {
        **{"verdict": data[0]["verdict"], "data": list(data)},
        "command": "python cli.py study --config configs/studies/stsb.yaml --study.seed 0",
        "config": {
            "seed_everything": 0,
            "model": {"encoder": encoder},
            "data": {"batch_size": 32, "max_length": 128},
        },
        **{
            "versions": {"litpool": "0.1.0", "torch": "2.13.0"},
            "seconds": {"encoding": 41.2, "whole": 63.55},
        },
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write(folder, study(pairs(), few()))
    return folder


def write_hostile(folder: Path) -> None:
    """With markup, a line break and a table's bar in every text."""
    data = {**pairs(HOSTILE), "task": HOSTILE, "verdict": HOSTILE, "notes": [HOSTILE]}
    data["baselines"] = [{**data["baselines"][0], "name": HOSTILE}]
    data["chosen"] = [{**one, "pooling": HOSTILE} for one in data["chosen"]]
    write(
        folder,
        {
            **study(data),
            "command": HOSTILE,
            "config": {"text": HOSTILE},
            "versions": {HOSTILE: HOSTILE},
        },
    )


def numbers(value: Any) -> set[float]:
    if isinstance(value, dict | list):
        return set().union(*map(numbers, value.values() if isinstance(value, dict) else value))
    return (
        {float(value)} if isinstance(value, int | float) and not isinstance(value, bool) else set()
    )


class Page(HTMLParser):
    """The tags of a page, and the text in each `<script>`."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script" and data.strip():
            self.scripts.append(data)


# study.csv


def test_every_number_of_a_data_set_is_in_the_csv(written: Path) -> None:
    told = {
        float(field)
        for field in re.findall(r"[^,\n]+", (written / "study.csv").read_text())
        if is_number(field)
    }
    assert numbers([{**data, "layers": None} for data in (pairs(), few())]) <= told


def is_number(field: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", field) is not None


def test_the_csv_has_one_line_a_cell_and_empty_fields_for_what_is_not_known(written: Path) -> None:
    lines = list(csv.DictReader(io.StringIO((written / "study.csv").read_text())))
    cells = [line for line in lines if line["kind"] == "cell"]
    assert len(cells) == 2 * (8 * 7 + 4) + 8 * 7
    assert [
        (line["low"], line["high"], line["difference"]) for line in cells if line["data"] == "few"
    ] == [("",) * 3] * 56
    assert sum(line["chosen"] == "True" for line in cells) == 12 + 8
    assert not {"None", "null", "nan"} & {field for line in lines for field in line.values()}


def test_a_chosen_cell_has_its_interval_and_difference_in_the_csv(written: Path) -> None:
    lines = csv.DictReader(io.StringIO((written / "study.csv").read_text()))
    (line,) = [
        x for x in lines if (x["data"], x["pooling"], x["chosen"]) == ("stsb", "MaxPooling", "True")
    ]
    (one,) = [one for one in pairs()["chosen"] if one["pooling"] == "MaxPooling"]
    assert (float(line["low"]), float(line["high"])) == (one["low"], one["high"])
    assert (float(line["difference"]), float(line["p"])) == (
        one["against_cls"]["difference"],
        0.0001,
    )


# study.md


def tables(text: str) -> list[list[list[str]]]:
    blocks = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    return [[re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()] for block in blocks]


def test_the_markdown_starts_with_the_verdict_and_its_tables_are_proper(
    written: Path, tmp_path: Path
) -> None:
    write_hostile(tmp_path)
    text = (written / "study.md").read_text()
    assert text.startswith(f"**{pairs()['verdict']}**\n")
    assert f"**{few()['verdict']}**" in text
    for table in tables(text) + tables((tmp_path / "study.md").read_text()):
        assert table[1] == ["---"] * len(table[0])
        assert {len(row) for row in table} == {len(table[0])}
    assert "<script" not in (tmp_path / "study.md").read_text().split("## How this was made")[0]
    assert len(tables(text)) == len(re.findall(r"^\|---", text, re.MULTILINE)) == 13


def test_the_markdown_tells_each_chosen_cell_with_interval_difference_and_the_papers_figure(
    written: Path,
) -> None:
    text = (written / "study.md").read_text()
    row = "| MeanPooling | 6 | yes | 83.4 | 81.3 to 85.3 | +8.5 | +7.3 to +9.8 | < 0.001 | 54.8 |"
    assert row in text
    assert "| MaxPooling | 6 | no | 78.8 | – | – | – | – |" in text  # noqa: RUF001
    assert "| AttentionPooling | 6 | 3 | 85.7 | 85.2 to 86.3 | 0.57 |" in text
    assert "| average of word vectors | 47.9 | 43.4 to 52.1 | 91.3% |" in text


def test_what_is_not_known_is_an_en_dash_in_the_markdown(written: Path) -> None:
    assert not re.search(r"\b(None|null|nan)\b", (written / "study.md").read_text())


def test_a_study_of_the_finetuned_arm_alone_has_tables_of_it_only(tmp_path: Path) -> None:
    write(
        tmp_path,
        study({**pairs(), "cells": [], "chosen": [], "lead": None, "paper": [], "baselines": []}),
    )
    heads = [table[0] for table in tables((tmp_path / "study.md").read_text())]
    assert [head[0].strip() for head in heads] == ["pooling", "", ""]
    assert len((tmp_path / "study.csv").read_text().splitlines()) == 1 + 4 * 3


# study.html


def test_the_page_loads_nothing(written: Path) -> None:
    text = (written / "study.html").read_text()
    page = Page(text)
    assert not re.search(r"https?:|//\w+\.\w+/|@import|url\(", text)
    assert not [tag for tag, attributes in page.tags if {"src", "href"} & set(attributes)]
    (policy,) = [
        a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_the_page_escapes_what_the_data_say(tmp_path: Path) -> None:
    write_hostile(tmp_path)
    text = (tmp_path / "study.html").read_text()
    page = Page(text)
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert "alert('a" not in text.replace("\\u003cscript>alert('a", "")
    assert "innerHTML" not in text
    assert json.loads(page.scripts[0])["data"][0]["name"] == HOSTILE


def test_the_page_has_the_study_and_each_verdict_with_and_without_scripts(written: Path) -> None:
    text = (written / "study.html").read_text()
    content = json.loads(Page(text).scripts[0])
    assert content["data"] == json.loads(json.dumps([pairs(), few()]))
    assert content["command"] == study(pairs())["command"]
    without = text[text.index("<noscript>") : text.index("</noscript>")]
    assert "too few for intervals" in without
    assert "by 8.5 points (95% CI 7.1 to 9.9, p &lt; 0.001) on stsb" in without


def test_the_page_sorts_its_table_and_says_so_to_screen_readers(written: Path) -> None:
    script = Page((written / "study.html").read_text()).scripts[1]
    assert 'setAttribute("aria-sort"' in script
    assert 'el("button", { type: "button", onclick: () => sort(at) }' in script


def test_numbers_that_are_not_finite_do_not_break_the_page(tmp_path: Path) -> None:
    data = few()
    data["cells"][0]["geometry"]["uniformity"] = math.nan
    write(tmp_path, study(data))
    content = json.loads(Page((tmp_path / "study.html").read_text()).scripts[0])
    assert content["data"][0]["cells"][0]["geometry"]["uniformity"] is None


def test_the_page_is_shipped_with_the_package() -> None:
    shipped = tomllib.loads((HERE / "pyproject.toml").read_text())["tool"]["setuptools"][
        "package-data"
    ]["litpool"]
    package = HERE / "src" / "litpool"
    assert package / "tools" / "study" / "page.html" in {
        path for pattern in shipped for path in package.glob(pattern)
    }


# TensorBoard


def test_the_heat_map_has_the_test_score_of_each_cell() -> None:
    figure = heat_map(pairs())
    assert len(figure.axes) == 2
    for axes, whitened in zip(figure.axes, (False, True), strict=True):
        values = axes.images[0].get_array()
        assert values is not None
        names = [label.get_text() for label in axes.get_yticklabels()]
        layers = [label.get_text() for label in axes.get_xticklabels()]
        assert layers == ["0", "1", "2", "3", "4", "5", "6", "no layer"]
        cells = [one for one in pairs()["cells"] if one["whitened"] == whitened]
        for one in cells:
            place = layers.index("no layer" if one["layer"] is None else str(one["layer"]))
            assert values[names.index(one["pooling"]), place] == one["test"]
        assert len(axes.texts) == len(cells)


def test_the_heat_map_of_one_cell_can_be_drawn(tmp_path: Path) -> None:
    data = few()
    figure = heat_map({**data, "cells": data["cells"][:1]})
    figure.savefig(tmp_path / "one.png")
    assert [text.get_text() for text in figure.axes[0].texts] == ["55.5"]
