"""The report files of a made-up study: seven layers, two data sets, the second nearly empty."""

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


def make_cell(pooling: str, layer: int | None, whitened: bool, best: float) -> dict[str, Any]:
    depth = 3 if layer is None else layer
    test = best - 4.3 * (6 - depth) ** 0.8 + 1.37 * whitened
    return {
        "pooling": pooling,
        "layer": layer,
        "whitened": whitened,
        "strength": None,
        "validation": test + 1.234,
        "test": test,
        "low": None,
        "high": None,
        "geometry": {
            "anisotropy": 0.72 / (1 + depth) * (not whitened),
            "uniformity": -0.9 - 0.41 * depth,
            "alignment": 0.3 + 0.031 * depth,
            "effective_rank": 41.25 + 17.1 * depth + 90 * whitened,
        },
    }


def choose(cell: dict[str, Any], cls: float) -> dict[str, Any]:
    gain = cell["test"] - cls
    p = 0.0001 if abs(gain) > 1.3 else 0.41
    against = {"difference": gain, "low": gain - 1.2, "high": gain + 1.3, "p": p}
    return {
        **{name: cell[name] for name in ("pooling", "layer", "whitened", "test")},
        "low": cell["test"] - 2.1,
        "high": cell["test"] + 1.9,
        "against_cls": None if cell["pooling"] == "ClsPooling" else against,
    }


def baseline(name: str, test: float, *interval: float, coverage: float | None = None) -> Any:
    low, high = interval or (None, None)
    return {"name": name, "test": test, "low": low, "high": high, "coverage": coverage}


def pairs(name: str = "stsb") -> dict[str, Any]:
    """Return a data set with all values."""
    cells = [
        make_cell(pooling, layer, whitened, best)
        for whitened in (False, True)
        for pooling, best in OF_A_LAYER.items()
        for layer in range(7)
    ]
    cells += [
        make_cell(pooling, None, whitened, best + 10.4)
        for whitened in (False, True)
        for pooling, best in OF_NO_LAYER.items()
    ]
    best = [
        max((cell for cell in cells if cell["pooling"] == pooling), key=lambda cell: cell["test"])
        for pooling in OF_A_LAYER | OF_NO_LAYER
    ]
    means = {"MeanPooling": 85.2, "ClsPooling": 84.9}
    means |= {"AttentionPooling": 85.6, "LayerMixPooling": 84.2}
    runs = [
        {
            "pooling": pooling,
            "layer": 6,
            "seed": seed,
            "validation": mean + 3.03 * 0.31 * seed,
            "test": mean + 0.37 * seed * (-1) ** seed,
        }
        for pooling, mean in means.items()
        for seed in range(3)
    ]
    interval = "95% CI 7.1 to 9.9, p < 0.001"
    verdict = f"Here MeanPooling of layer 6 beats ClsPooling of layer 6 by 8.5 points ({interval})"
    return {
        "name": name,
        "task": "Similarity",
        "metric": "spearman",
        "unit": "pairs",
        "layers": 6,
        "rows": {"train": 5749, "validation": 1500, "test": 1379},
        "cells": cells,
        "chosen": [choose(cell, best[0]["test"]) for cell in best],
        "lead": {
            "first": "LastNPooling n=2",
            "second": "MeanPooling of layer 6",
            "difference": 0.123,
            "low": -0.31,
            "high": 0.56,
            "p": 0.731,
        },
        "baselines": [
            baseline("static embeddings, mean", 55.6, 51.9, 59.2),
            baseline("average of word vectors", 47.93, 43.4, 52.1, coverage=0.9134),
        ],
        "finetuned": runs,
        "verdict": f"{verdict} on {name}",
        "notes": ["the whitening was fitted on train"],
        "paper": [
            {"pooling": "MeanPooling", "test": 54.81},
            {"pooling": "ClsPooling", "test": 20.16},
        ],
    }


def few(name: str = "few") -> dict[str, Any]:
    """Return a data set too small for intervals, without a train split and alignment."""
    cells = [
        {**make_cell(pooling, layer, False, best), "strength": 0.1}
        for pooling, best in OF_A_LAYER.items()
        for layer in range(7)
    ]
    for row in cells:
        row["geometry"]["alignment"] = None
    keys = ("pooling", "layer", "whitened", "test", "low", "high")
    return {
        "name": name,
        "task": "Classification",
        "metric": "accuracy",
        "unit": "examples",
        "layers": 6,
        "rows": {"train": 40, "validation": 12, "test": 12},
        "cells": cells,
        "chosen": [{**{key: row[key] for key in keys}, "against_cls": None} for row in cells[6::7]],
        "lead": None,
        "baselines": [baseline("majority class", 51.0)],
        "finetuned": [],
        "verdict": "12 test examples are too few for intervals, 20 are needed",
        "notes": [],
    }


def study(*data: dict[str, Any]) -> dict[str, Any]:
    encoder = {"name": "sentence-transformers/all-MiniLM-L6-v2", "pretrained": True}
    return {
        "verdict": data[0]["verdict"],
        "data": list(data),
        "command": "python cli.py study --config configs/studies/stsb.yaml --study.seed 0",
        "config": {
            "seed_everything": 0,
            "model": {"encoder": encoder},
            "data": {"batch_size": 32, "max_length": 128},
        },
        "versions": {"litpool": "0.1.0", "torch": "2.13.0"},
        "seconds": {"encoding": 41.2, "total": 63.55},
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write(folder, study(pairs(), few()))
    return folder


def write_hostile(folder: Path) -> None:
    """Write a study with markup, a line break and a table's bar in every text."""
    data = {**pairs(HOSTILE), "task": HOSTILE, "verdict": HOSTILE, "notes": [HOSTILE]}
    data["baselines"] = [{**data["baselines"][0], "name": HOSTILE}]
    data["chosen"] = [{**cell, "pooling": HOSTILE} for cell in data["chosen"]]
    texts = {"command": HOSTILE, "config": {"text": HOSTILE}, "versions": {HOSTILE: HOSTILE}}
    write(folder, {**study(data), **texts})


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
    fields = re.findall(r"[^,\n]+", (written / "study.csv").read_text())
    written_numbers = {float(field) for field in fields if is_number(field)}
    assert numbers([{**data, "layers": None} for data in (pairs(), few())]) <= written_numbers


def is_number(field: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", field) is not None


def test_the_csv_has_one_line_per_cell_and_empty_fields_for_missing_values(written: Path) -> None:
    lines = list(csv.DictReader(io.StringIO((written / "study.csv").read_text())))
    cells = [line for line in lines if line["kind"] == "cell"]
    assert len(cells) == 2 * (8 * 7 + 4) + 8 * 7
    for line in cells:
        if line["data"] == "few":
            assert line["low"] == line["high"] == line["difference"] == ""
    assert sum(line["chosen"] == "True" for line in cells) == 12 + 8
    assert not {"None", "null", "nan"} & {field for line in lines for field in line.values()}


def test_a_chosen_cell_has_its_interval_and_difference_in_the_csv(written: Path) -> None:
    lines = csv.DictReader(io.StringIO((written / "study.csv").read_text()))
    key = ("stsb", "MaxPooling", "True")
    (line,) = [row for row in lines if (row["data"], row["pooling"], row["chosen"]) == key]
    (chosen,) = [cell for cell in pairs()["chosen"] if cell["pooling"] == "MaxPooling"]
    assert (float(line["low"]), float(line["high"])) == (chosen["low"], chosen["high"])
    assert float(line["difference"]) == chosen["against_cls"]["difference"]
    assert float(line["p"]) == 0.0001


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


def test_the_markdown_shows_each_chosen_cell_with_interval_difference_and_the_papers_figure(
    written: Path,
) -> None:
    text = (written / "study.md").read_text()
    row = "| MeanPooling | 6 | yes | 83.4 | 81.3 to 85.3 | +8.5 | +7.3 to +9.8 | < 0.001 | 54.8 |"
    assert row in text
    assert "| MaxPooling | 6 | no | 78.8 | – | – | – | – |" in text  # noqa: RUF001
    assert "| AttentionPooling | 6 | 3 | 85.7 | 85.2 to 86.3 | 0.57 |" in text
    assert "| average of word vectors | 47.9 | 43.4 to 52.1 | 91.3% |" in text


def test_a_missing_value_is_an_en_dash_in_the_markdown(written: Path) -> None:
    assert not re.search(r"\b(None|null|nan)\b", (written / "study.md").read_text())


def test_a_study_of_the_finetuned_arm_alone_has_only_its_tables(tmp_path: Path) -> None:
    empty = {"cells": [], "chosen": [], "lead": None, "paper": [], "baselines": []}
    write(tmp_path, study({**pairs(), **empty}))
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
        attributes["content"]
        for _, attributes in page.tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_the_page_escapes_the_texts_in_the_data(tmp_path: Path) -> None:
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
        cells = [cell for cell in pairs()["cells"] if cell["whitened"] == whitened]
        for cell in cells:
            column = layers.index("no layer" if cell["layer"] is None else str(cell["layer"]))
            assert values[names.index(cell["pooling"]), column] == cell["test"]
        assert len(axes.texts) == len(cells)


def test_the_heat_map_of_one_cell_can_be_drawn(tmp_path: Path) -> None:
    data = few()
    figure = heat_map({**data, "cells": data["cells"][:1]})
    figure.savefig(tmp_path / "one.png")
    assert [text.get_text() for text in figure.axes[0].texts] == ["55.5"]
