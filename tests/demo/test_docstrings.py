"""The embedded corpus: built once from installed packages, and from small ones written here."""

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset

import litpool
from litpool import InputError
from litpool.demo import docstrings
from litpool.demo.docstrings import LABELS, docstring_splits, summary

SMALL = 20  # rows a label: 16 train, 2 validation, 2 test
DUMP = f"""
import json
from litpool.demo.docstrings import docstring_splits
print(json.dumps({{split: rows.to_list() for split, rows in docstring_splits({SMALL}).items()}}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Dataset]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(litpool, "CACHE", tmp_path_factory.mktemp("cache"))
        yield docstring_splits(SMALL)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the corpus consist of one package, `zebra_pkg`, of 60 files with one function each."""
    monkeypatch.setattr(litpool, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(docstrings, "LABELS", ["zebra_pkg"])
    monkeypatch.syspath_prepend(tmp_path / "here")
    return write_package(tmp_path / "here" / "zebra_pkg", "zebra")


def write_package(folder: Path, word: str, files: int = 60) -> Path:
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    for n in range(files):
        doc = f'"""Run the {word} number {n}.\n\n    More of it."""'
        text = f"def run_{n}(self, a, *b, c=1, **d):\n    {doc}\n"
        (folder / f"part{n}.py").write_text(text)
    return folder


def rows_of(splits: dict[str, Dataset]) -> list[dict[str, Any]]:
    return [row | {"split": split} for split, rows in splits.items() for row in rows]


def test_every_label_has_its_share_of_every_split(installed: dict[str, Dataset]) -> None:
    for split, each in {"train": 16, "validation": 2, "test": 2}.items():
        feature = installed[split].features["label"]
        assert isinstance(feature, ClassLabel)
        names = feature.int2str(installed[split]["label"][:])
        assert {label: names.count(label) for label in LABELS} == dict.fromkeys(LABELS, each)


@pytest.mark.parametrize("column", ["file", "text"])
def test_no_file_and_no_text_is_in_two_splits(installed: dict[str, Dataset], column: str) -> None:
    train, validation, test = (
        set(installed[split][column]) for split in ("train", "validation", "test")
    )
    assert not train & validation | train & test | validation & test


def test_texts_are_one_line_of_four_words_or_more_and_occur_once(
    installed: dict[str, Dataset],
) -> None:
    texts = [row["text"] for row in rows_of(installed)]
    assert len(set(texts)) == len(texts)
    assert all(text == " ".join(text.split()) and len(text.split()) >= 4 for text in texts)


def test_a_row_names_the_file_its_text_stands_in(installed: dict[str, Dataset]) -> None:
    for row in installed["test"]:
        root, files = docstrings._files(LABELS[row["label"]])
        assert row["file"] in files
        assert row["text"].split()[0] in (root / row["file"]).read_text(encoding="utf-8")


def test_another_process_with_another_hash_seed_builds_the_same_rows(
    installed: dict[str, Dataset], tmp_path: Path
) -> None:
    paths = os.pathsep.join(
        [str(Path(litpool.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    )
    settings = {"PYTHONHASHSEED": "12345", "LITPOOL_CACHE": str(tmp_path), "PYTHONPATH": paths}
    run = subprocess.run(
        [sys.executable, "-c", DUMP], capture_output=True, check=True, env=os.environ | settings
    )
    assert json.loads(run.stdout) == {split: rows.to_list() for split, rows in installed.items()}


def test_neither_the_place_nor_the_order_of_files_changes_the_corpus(
    fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = rows_of(docstring_splits(30))
    write_package(tmp_path / "elsewhere" / "zebra_pkg", "zebra")
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    monkeypatch.setattr(litpool, "CACHE", tmp_path / "second")
    rglob = Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda top, pattern: sorted(rglob(top, pattern))[::-1])
    assert rows_of(docstring_splits(30)) == first
    assert docstrings._files("zebra_pkg")[0] == tmp_path / "elsewhere"


def test_packages_are_parsed_and_not_imported(fake: Path) -> None:
    assert len(rows_of(docstring_splits(30))) == 30
    assert "zebra_pkg" not in sys.modules


def test_tests_vendored_code_and_files_that_do_not_parse_are_left_out(fake: Path) -> None:
    for folder in ("tests", "_vendor"):
        write_package(fake / folder, f"{folder} beast")
    (fake / "template.py").write_text("def {{ name }}(): pass")
    (fake / "escape.py").write_text(
        "def f():\n    '''A digit is \\d in patterns.'''\n"
    )  # a SyntaxWarning
    with pytest.warns(UserWarning, match="zebra_pkg has only 61 of 1000 rows"):
        texts = {row["text"] for row in rows_of(docstring_splits(1000))}
    assert texts == {f"Run the zebra number {n}." for n in range(60)} | {
        "A digit is \\d in patterns."
    }


def test_signatures_tell_what_the_text_describes(fake: Path) -> None:
    (fake / "sub").mkdir()
    for n in range(30):
        code = f'"""The module of number {n}."""\nclass B{n}(x.A, C):\n'
        code += f'  """The class of number {n}."""\nclass D{n}:\n'
        (fake / "sub" / f"m{n}.py").write_text(code + f'  """The plain class, number {n}."""\n')
    with pytest.warns(UserWarning, match="has only"):
        found = {
            row["text"]: (row["signature"], row["file"]) for row in rows_of(docstring_splits(1000))
        }
    assert found["Run the zebra number 7."] == ("run_7(a, *b, c, **d)", "zebra_pkg/part7.py")
    assert found["The module of number 3."] == ("zebra_pkg.sub.m3", "zebra_pkg/sub/m3.py")
    assert found["The class of number 3."][0] == "class B3(x.A, C)"
    assert found["The plain class, number 3."][0] == "class D3"


def test_a_text_of_two_packages_stays_with_the_first(
    fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_package(tmp_path / "here" / "yak_pkg", "yak")
    (other / "part7.py").write_text('def f():\n    """run the ZEBRA, number 7!"""\n')
    monkeypatch.setattr(docstrings, "LABELS", ["zebra_pkg", "yak_pkg"])
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1")
    with pytest.warns(UserWarning, match="has only"):
        rows = rows_of(docstring_splits(1000))
    assert [row["label"] for row in rows if row["text"] == "Run the zebra number 7."] == [0]
    assert {row["text"] for row in rows if row["label"] == 1} == {
        f"Run the yak number {n}." for n in range(60) if n != 7
    }


def test_a_second_call_reads_the_cache(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = rows_of(docstring_splits(30))
    monkeypatch.setattr(docstrings, "_build", lambda per_label: pytest.fail("built again"))
    assert rows_of(docstring_splits(30)) == first


def test_another_version_of_a_package_or_of_the_code_is_another_corpus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = {docstrings._key(20), docstrings._key(30)}
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "0.1" if name == "torch" else version(name)
    )
    keys.add(docstrings._key(20))
    monkeypatch.undo()
    monkeypatch.setattr(docstrings, "__file__", __file__)
    assert len(keys | {docstrings._key(20)}) == 4


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "other"])
def test_a_damaged_cache_is_built_anew(fake: Path, damage: str) -> None:
    first = rows_of(docstring_splits(30))
    (path,) = (litpool.CACHE / "docstrings").iterdir()  # and no temporary file stays beside it
    whole = path.read_bytes()
    at = whole.index(b"zebra number")
    flipped = whole[:at] + b"Z" + whole[at + 1 :]
    path.write_bytes(
        {"cut": whole[:-9], "flip": flipped, "empty": b"", "other": b"PAR1 something else"}[damage]
    )
    assert rows_of(docstring_splits(30)) == first
    assert path.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_told_and_done_without(
    fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(litpool, "CACHE", tmp_path / "file")
    with pytest.warns(UserWarning, match="not written .* set LITPOOL_CACHE"):
        assert len(rows_of(docstring_splits(30))) == 30


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docstrings, "LABELS", [*LABELS, "no_such_pkg"])
    with pytest.raises(
        InputError, match=r"needs the package 'no_such_pkg': pip install no_such_pkg"
    ):
        docstring_splits(SMALL)


def test_a_package_without_sources_is_named(fake: Path) -> None:
    for path in fake.glob("part*.py"):
        path.unlink()
    with pytest.raises(InputError, match="package 'zebra_pkg': too few docstrings"):
        docstring_splits(30)


def test_fewer_rows_than_fill_three_splits_are_refused() -> None:
    with pytest.raises(InputError, match="per_label=9: give 10 or more"):
        docstring_splits(9)


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("Return the  sum\n  of two numbers.\n\nMore.", "Return the sum of two numbers."),
        ("add(x, y,\n    out=None)\n\nAdd arguments element-wise.", "Add arguments element-wise."),
        ("f(x) -> int\nCount the x.", "Count the x."),
        ("=====\nTitle\n=====\n\nWhat it is for.", "What it is for."),
        ("Title of it\n-----------\nWhat it is for.", "What it is for."),
        (".. currentmodule:: numpy\n\nWhat it is for.", "What it is for."),
        ("Do it.\n.. versionadded:: 2.0", "Do it."),
        ("Do it well.\nArgs:\n    x: the thing", "Do it well."),
        ("Args:\n    x: the thing to do it with", ""),
        ("Parameters\n----------\nx : the thing", ""),
        ("size (`int`, *optional*):\n    The size of it all.", ""),
        (">>> f(1)\n2\n\nThat was an example.", ""),
        ("Copyright (c) 2020 by the authors of this.", ""),
        ("", ""),
    ],
)
def test_a_summary_is_the_first_prose(docstring: str, expected: str) -> None:
    assert summary(docstring) == expected
