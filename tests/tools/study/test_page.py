"""study.html in a browser, as wide as a desk's screen and as a phone's, light and dark."""

import functools
import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import sample_studies as samples

from litpool.tools.study.report import write

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
CASES = {
    "scores": [samples.scores()],
    "labels": [samples.labels()],
    "published split": [samples.published_split()],
    "test only": [samples.only_test()],
    "several": [samples.scores(), samples.labels(), samples.few(), samples.tie()],
    "one pooling": [samples.one_pooling()],
    "tie": [samples.tie()],
    "too few": [samples.few()],
    "fine-tuned": [samples.finetuned_only()],
    "hostile": [samples.scores(samples.HOSTILE)],
}
VIEWS = [(1440, "light"), (1440, "dark"), (390, "light"), (390, "dark")]
HEIGHTS = {1440: 900, 390: 844}

# A frame is as narrow as it is told to be; a headless window is at least 500 pixels wide.
FRAME = '<iframe style="width: {width}px; height: {height}px; border: 0" srcdoc="{page}"></iframe>'
MEASURE = Path(__file__).with_name("measure_page.js")


@functools.cache
def browser() -> str:
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    pytest.skip(f"no browser here: none of {', '.join(BROWSERS)}")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int, str], Any]:
    """What a browser makes of each page in each view; under `console`, what it complains of."""
    folder = tmp_path_factory.mktemp("page")
    frames = []
    for data in CASES.values():
        write(folder, samples.study(*data))
        page = html.escape((folder / "study.html").read_text())
        for width, scheme in VIEWS:
            frame = FRAME.format(width=width, height=HEIGHTS[width], page=page)
            frames.append(frame.replace("<iframe", f'<iframe data-scheme="{scheme}"'))
    script = f'<pre id="result"></pre><script>{MEASURE.read_text()}</script>'
    (folder / "all.html").write_text("\n".join(['<meta charset="utf-8">', *frames, script]))
    command = [browser(), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--hide-scrollbars", "--enable-logging=stderr", "--virtual-time-budget=20000"]
    command += [f"--user-data-dir={folder / 'profile'}", (folder / "all.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    (text,) = re.findall(r'<pre id="result">(.*?)</pre>', done.stdout, re.DOTALL)
    results = iter(json.loads(html.unescape(text)))
    views = {(case, *view): next(results) for case in CASES for view in VIEWS}
    return views | {("console", 0, ""): [*re.findall(r".*CONSOLE.*", done.stderr)]}


def count(data: list[dict[str, Any]]) -> int:
    """Return how many intervals the data hold that the page shows."""
    several = len(data) > 1
    total = 0
    for entry in data:
        rows = entry["chosen"] + (entry["same_layer"] or {"poolings": []})["poolings"]
        differences = [row["against_cls"] for row in rows if row["against_cls"]]
        total += sum(difference["low"] is not None for difference in differences)
        headline = entry["headline"]
        if headline and headline["low"] is not None:
            total += 1 + several  # also in the overview
    return total


def first_sentence(case: str) -> str:
    data = CASES[case]
    headline = data[0]["headline"]
    return headline["sentence"] if headline and len(data) == 1 else samples.study(*data)["verdict"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_the_page_shows_the_sentence_and_draws_all_that_the_data_hold(
    case: str, view: tuple[int, str], seen: dict[tuple[str, int, str], Any]
) -> None:
    page = seen[(case, *view)]
    assert page["sentence"].replace("\N{NO-BREAK SPACE}", " ") == first_sentence(case)
    assert 0 < page["bottom"] < HEIGHTS[view[0]]  # seen without scrolling
    assert page["intervals"] == count(CASES[case])
    assert page["drawn"]
    assert page["cells"] == sum(len(entry["cells"]) for entry in CASES[case])
    announced = [entry["headline"] for entry in CASES[case] if entry["headline"]]
    assert page["announced"] == len(announced)
    assert page["planned"] == sum(headline["low"] is not None for headline in announced)
    for entry in CASES[case]:
        for name in ("headline", "published", "baseline", "confirm"):
            if entry[name]:
                assert " ".join(entry[name]["sentence"].split()) in " ".join(page["text"].split())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_the_page_fits_its_window_and_can_be_read(
    case: str, view: tuple[int, str], seen: dict[tuple[str, int, str], Any]
) -> None:
    page = seen[(case, *view)]
    assert page["wider"] <= 0
    assert page["outside"] == []
    assert page["overlap"] == []
    assert page["contrast"] >= 4.5  # WCAG 2, level AA


def test_no_page_has_an_error(seen: dict[tuple[str, int, str], Any]) -> None:
    assert seen[("console", 0, "")] == []


def test_a_click_sorts_the_table_of_all_cells(seen: dict[tuple[str, int, str], Any]) -> None:
    names = seen[("labels", 1440, "light")]["sorted"]
    assert len(names) == len(samples.labels()["cells"])
    assert names[:7] == ["[CLS]"] * 7
    assert names[-1].startswith("Weighted")


def test_no_text_in_the_data_becomes_markup(seen: dict[tuple[str, int, str], Any]) -> None:
    page = seen[("hostile", 1440, "light")]
    assert page["scripts"] == 2  # the data and the page's own
    assert "<script>alert('a|b')</script>" in page["text"]


def test_no_page_speaks_of_a_validation_split_that_is_not_there(
    seen: dict[tuple[str, int, str], Any],
) -> None:
    text = seen[("test only", 1440, "light")]["text"].partition("References")[0]
    assert "alidation" not in text
