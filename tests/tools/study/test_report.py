"""The report files of made-up studies; test_page.py looks at the page in a browser."""

import csv
import io
import json
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from sample_studies import (
    HOSTILE,
    LAYERS,
    few,
    find,
    finetuned_only,
    labels,
    only_test,
    published_split,
    scores,
    study,
)

from litpool.tools.study.report import LOWEST, PALETTE, color_range, heat_map, write
from litpool.tools.study.summary import REFERENCES, method

HERE = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write(folder, study(scores(), labels(), few()))
    return folder


def write_hostile(folder: Path) -> None:
    """Write a study with markup, a line break and a table's bar in every text."""
    data = {**scores(HOSTILE), "task": HOSTILE, "verdict": HOSTILE, "notes": [HOSTILE]}
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


def lines_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "study.csv").read_text())))


def test_every_number_of_a_data_set_is_in_the_csv(written: Path) -> None:
    fields = {field for line in lines_of(written) for field in line.values()}
    written_numbers = {float(field) for field in fields if is_number(field)}
    # how it was made, and what to do with it, are no results
    left_out = dict.fromkeys(("layers", "method", "proposal"))
    assert numbers([{**data, **left_out} for data in (scores(), labels(), few())]) <= (
        written_numbers
    )


def is_number(field: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", field) is not None


def test_the_csv_has_one_line_per_cell_and_empty_fields_for_missing_values(written: Path) -> None:
    cells = [line for line in lines_of(written) if line["kind"] == "cell"]
    assert len(cells) == 4 * (8 * (LAYERS + 1) + 4)
    for line in cells:
        if line["data"] == "few":
            assert line["low"] == line["difference_high"] == line["p"] == ""
    assert sum(line["chosen"] == "True" for line in cells) == 4 * 12
    fields = {field for line in lines_of(written) for field in line.values()}
    assert not {"None", "null", "nan"} & fields


def test_the_csv_has_the_comparisons_and_the_interval_of_a_chosen_cell(written: Path) -> None:
    lines = [line for line in lines_of(written) if line["data"] == "stsb"]
    kinds = {line["kind"]: line for line in lines}
    headline = scores()["headline"]
    assert float(kinds["headline comparison"]["difference"]) == headline["difference"]
    assert float(kinds["headline comparison"]["difference_low"]) == headline["low"]
    assert kinds["headline comparison"]["claim"] == "beats"
    assert kinds["published comparison"]["against"] == "MeanPooling of layer 6"
    assert kinds["baseline comparison"]["against"] == "static embeddings, mean"
    key = ("MaxPooling", "True", "False")
    (line,) = [row for row in lines if (row["pooling"], row["chosen"], row["whitened"]) == key]
    (chosen,) = [
        cell
        for cell in scores()["chosen"]
        if cell["pooling"] == "MaxPooling" and not cell["whitened"]
    ]
    assert (float(line["low"]), float(line["high"])) == (chosen["low"], chosen["high"])
    assert float(line["difference"]) == chosen["against_cls"]["difference"]
    assert float(line["p"]) == 0.0004


# study.md


def tables(text: str) -> list[list[list[str]]]:
    blocks = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    return [[re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()] for block in blocks]


def test_the_markdown_starts_with_the_verdict_and_its_tables_are_proper(
    written: Path, tmp_path: Path
) -> None:
    write_hostile(tmp_path)
    text = (written / "study.md").read_text()
    assert text.startswith("**the verdict on all data sets**\n")
    for data in (scores(), labels(), few()):
        for name in ("headline", "published", "baseline"):
            if data[name]:
                assert f"- {data[name]['sentence']}\n" in text
    for table in tables(text) + tables((tmp_path / "study.md").read_text()):
        assert table[1] == ["---"] * len(table[0])
        assert {len(row) for row in table} == {len(table[0])}
    assert "<script" not in (tmp_path / "study.md").read_text().split("## How to repeat it")[0]
    assert len(tables(text)) == len(re.findall(r"^\|---", text, re.MULTILINE)) == 10


def test_the_markdown_shows_each_chosen_cell_with_interval_difference_and_published_scores(
    written: Path,
) -> None:
    text = (written / "study.md").read_text()
    row = "| MeanPooling | 5 | 82.4 | 80.3 to 84.3 | +9.8 | +7.9 to +11.8 | < 0.001 |"
    assert row in text
    assert "| MaxPooling | 5 | 79.2 | – | +6.6 | – |" in text  # noqa: RUF001
    assert "Published scores: MeanPooling 54.8" in text
    assert "| AttentionPooling | 6 | 3 | 85.7 | 85.2 to 86.3 |" in text
    assert "| average of word vectors | 47.9 | 43.4 to 52.1 | 91.3% |" in text
    assert "fit.yaml is the job with MeanPooling and the first 5 layers." in text


def test_a_layer_that_cannot_be_trained_is_said(tmp_path: Path) -> None:
    data = scores()
    data["proposal"] |= {"file": None, "num_hidden_layers": None}
    write(tmp_path, study(data))
    sentence = (
        "`fit` cannot train MeanPooling of layer 5: the encoder cannot be cut after this layer."
    )
    assert sentence in (tmp_path / "study.md").read_text()


def test_a_missing_value_is_an_en_dash_in_the_markdown(written: Path) -> None:
    assert not re.search(r"\b(None|null|nan)\b", (written / "study.md").read_text())


def test_a_study_of_the_finetuned_arm_alone_has_only_its_table(tmp_path: Path) -> None:
    write(tmp_path, study(finetuned_only()))
    heads = [table[0][0].strip() for table in tables((tmp_path / "study.md").read_text())]
    assert heads == ["pooling"]
    assert len((tmp_path / "study.csv").read_text().splitlines()) == 1 + 3 * 3


# The method


def test_the_method_says_what_was_done_and_nothing_else() -> None:
    kfold, split = method(labels()), method(published_split())
    assert "divided into 5 folds, 2 times" in kfold
    assert "rows with the same package count together" in kfold
    assert "rows with identical texts count together" in split
    assert "One train split" not in kfold
    assert "One train split was used" in split
    assert "strength" in split
    assert not re.search("train split|strength", method(scores()))  # nothing was trained
    assert "5,749 train and 1,500 validation rows" in split
    assert "McNemar" in split
    assert "McNemar" in kfold
    assert "McNemar" not in method(scores())
    assert ("Selectivity" in kfold, "Selectivity" in split) == (True, False)
    assert "validation" not in method(only_test())
    assert method(finetuned_only()) == ""


def test_a_wider_margin_and_too_few_rows_for_a_choice_are_told() -> None:
    data = labels()
    data["method"] |= {"margin": 2.5, "last_layer_only": True}
    assert "2.5 points or less" in method(data)
    assert "only the last one was a candidate" in method(data)


def test_every_reference_that_is_cited_is_listed(written: Path) -> None:
    listed = [text for text in REFERENCES.values() if text in (written / "study.md").read_text()]
    cited = {
        author
        for data in (scores(), labels(), few())
        for author in re.findall(r"(\w+)(?: and \w+)? \d{4}\)", method(data))
    }
    assert cited
    assert len(listed) == len(cited)


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


def test_the_page_has_the_study_and_each_sentence_with_and_without_scripts(written: Path) -> None:
    text = (written / "study.html").read_text()
    content = json.loads(Page(text).scripts[0])
    for shown, data in zip(content["data"], (scores(), labels(), few()), strict=True):
        assert data.items() <= shown.items()
    assert content["command"] == study(scores())["command"]
    without = text[text.index("<noscript>") : text.index("</noscript>")]
    assert "too few for an interval" in without
    assert "by 9.8 points (95% CI 7.7 to 11.9, p &lt; 0.001" in without


def test_the_page_is_shipped_with_the_package() -> None:
    shipped = tomllib.loads((HERE / "pyproject.toml").read_text())["tool"]["setuptools"][
        "package-data"
    ]["litpool"]
    package = HERE / "src" / "litpool"
    assert package / "tools" / "study" / "page.html" in {
        path for pattern in shipped for path in package.glob(pattern)
    }


# The heat map


def test_one_bad_layer_takes_no_colour_from_the_others() -> None:
    data = scores()
    others = [cell["test"] for cell in data["cells"] if cell["layer"] != 0]
    low, high = color_range(data) or (0, 0)
    assert high == max(others)
    assert low >= min(others)
    assert sum(cell["test"] < low for cell in data["cells"]) <= LOWEST * len(data["cells"])


def test_page_and_figure_have_one_colour_scale(written: Path) -> None:
    content = json.loads(Page((written / "study.html").read_text()).scripts[0])
    image = heat_map(scores()).axes[0].images[0]
    assert content["data"][0]["color_range"] == list(image.get_clim())
    ends = [image.cmap(0.0), image.cmap(1.0)]
    assert [rgb(color) for color in (PALETTE[0], PALETTE[-1])] == [
        tuple(round(255 * part) for part in color[:3]) for color in ends
    ]
    assert content["palette"] == list(PALETTE)


def rgb(color: str) -> tuple[int, ...]:
    return tuple(int(color[at : at + 2], 16) for at in (1, 3, 5))


def test_the_heat_map_has_the_score_of_each_cell_and_marks_the_announced_one() -> None:
    figure = heat_map(scores())
    assert len(figure.axes) == 2
    for axes, whitened in zip(figure.axes, (False, True), strict=True):
        values = axes.images[0].get_array()
        assert values is not None
        names = [label.get_text() for label in axes.get_yticklabels()]
        layers = [label.get_text() for label in axes.get_xticklabels()]
        assert layers == ["0", "1", "2", "3", "4", "5", "6", "none"]
        cells = [cell for cell in scores()["cells"] if cell["whitened"] == whitened]
        for cell in cells:
            column = layers.index("none" if cell["layer"] is None else str(cell["layer"]))
            assert values[names.index(cell["pooling"]), column] == cell["test"]
        assert len(axes.texts) == len(cells)
    (mark,) = figure.axes[0].patches
    announced = find(scores()["cells"], "MeanPooling", 5)
    assert (mark.get_x(), mark.get_y()) == (announced["layer"] - 0.5, 1 - 0.5)
    assert not figure.axes[1].patches


def test_the_heat_map_of_one_cell_can_be_drawn(tmp_path: Path) -> None:
    data = few()
    figure = heat_map({**data, "cells": data["cells"][:1]})
    figure.savefig(tmp_path / "one.png")
    assert [text.get_text() for text in figure.axes[0].texts] == ["43.7"]
