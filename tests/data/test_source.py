"""Rows from files, folders and data sets: what is read, and the errors for what cannot be."""

import gzip
import io
import json
import os
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from reading import read_rows

from litpool import InputError
from litpool.data import source as source_module
from litpool.data.source import Source, load_splits

ROWS = [{"text": f"text number {n}", "label": "odd" if n % 2 else "even"} for n in range(40)]


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def write_rows(path: Path, rows: list[dict[str, Any]] = ROWS) -> str:
    frame = pd.DataFrame(rows)
    if path.suffix in (".csv", ".tsv"):
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    elif path.suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(str(path))
    else:
        frame.to_json(path, orient="records", lines=path.suffix == ".jsonl", force_ascii=False)
    return str(path)


def load(
    given: Any,
    texts: str = "text",
    labels: str = "label",
    numeric: bool = False,
    **options: Any,
) -> dict[str, Dataset]:
    source = Source(given, **options)
    return load_splits(source, texts.split(), labels.split(), numeric=numeric)


def sizes(splits: dict[str, Dataset]) -> dict[str, int]:
    return {split: len(rows) for split, rows in splits.items()}


def read_all(
    path: str, texts: str = "text", labels: str = "label", **options: Any
) -> list[dict[str, Any]]:
    """All rows of one file, by making it the test split."""
    return load({"test": path}, texts, labels, **options)["test"].to_list()


def refusal(given: Any, texts: str = "text", labels: str = "label", **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        load(given, texts, labels, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Formats


@pytest.mark.parametrize("ending", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, ending: str) -> None:
    assert read_all(write_rows(tmp_path / f"rows.{ending}")) == ROWS


def test_only_the_named_columns_come_back(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.csv", [{"id": 3, "label": 1, "text": "b"}])
    assert read_all(path) == [{"text": "b", "label": "1"}]
    assert read_all(path, labels="") == [{"text": "b"}]


def test_words_that_look_like_missing_values_are_texts(tmp_path: Path) -> None:
    texts = ["NA", "null", "None", "nan", "N/A", "-"]
    path = write(tmp_path / "a.csv", "text,label\n" + "".join(f"{text},x\n" for text in texts))
    assert [row["text"] for row in read_all(path)] == texts


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    assert read_all(write(tmp_path / "a.csv", b"\xef\xbb\xbftext,label\r\na,x\r\n")) == [
        {"text": "a", "label": "x"}
    ]


def test_only_line_feeds_end_lines(tmp_path: Path) -> None:
    text = "one\u2028two\x85three\x0cfour\x1cfive\u2029six"
    assert (
        read_all(write(tmp_path / "a.tsv", f"label\ttext\nx\t{text}\r\n"), quoting=False)[0]["text"]
        == text
    )
    assert read_all(write(tmp_path / "a.csv", f"label,text\nx,{text}\n"))[0]["text"] == text
    assert (
        read_all(
            write(tmp_path / "a.jsonl", json.dumps({"text": text, "label": 1}, ensure_ascii=False))
        )[0]["text"]
        == text
    )


def test_quoted_fields_hold_delimiters_quotes_and_line_ends(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text,label\n"one, ""two""\nthree",x\nfour,y\n')
    assert [row["text"] for row in read_all(path)] == ['one, "two"\nthree', "four"]


def test_without_quoting_quotes_are_text_and_the_last_column_takes_the_rest(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.train", '1 "so good" it is\n0 "bad\n\n')
    rows = read_all(path, columns=["label", "text"], delimiter=" ", quoting=False)
    assert rows == [{"text": '"so good" it is', "label": "1"}, {"text": '"bad', "label": "0"}]


def test_a_field_may_be_longer_than_the_csv_module_expects(tmp_path: Path) -> None:
    assert (
        len(read_all(write(tmp_path / "a.csv", f"text,label\n{'a' * 200_000},x\n"))[0]["text"])
        == 200_000
    )


def test_a_tab_written_as_a_shell_passes_it_is_a_tab(tmp_path: Path) -> None:
    assert read_all(write(tmp_path / "a.txt", "text\tlabel\na\tx\n"), delimiter="\\t") == [
        {"text": "a", "label": "x"}
    ]


# Encodings, packed files, objects


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("latin-1", "un café très fin"),
        ("cp1252", "it\u2019s a café"),
        ("cp949", "배우들의 연기가 훌륭하다"),
        ("utf-16", "배우들의 café"),
        ("utf-8-sig", "café"),
    ],
)
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_text_in_another_encoding_is_proposed_and_read(
    tmp_path: Path, encoding: str, text: str, ending: str
) -> None:
    row = {"text": text, "label": "x"}
    content = f"text,label\n{text},x\n" if ending == "csv" else json.dumps(row, ensure_ascii=False)
    path = write(tmp_path / f"a.{ending}", content.encode(encoding))
    assert read_all(path, encoding=encoding) == [row]
    if encoding != "utf-8-sig":
        message = refusal({"test": path})
        assert f"a.{ending}: not UTF-8 (byte 0x" in message
        assert f"set --data.encoding {encoding} if '" in message


def test_the_proposal_shows_how_it_reads_the_words_around_the_first_wrong_byte(
    tmp_path: Path,
) -> None:
    path = write(
        tmp_path / "a.csv", "text,label\nPlain words, und Änderungen,x\n".encode("latin-1")
    )
    assert "set --data.encoding latin-1 if 'words, und Änderungen,x' reads" in refusal(path)
    path = write(tmp_path / "b.csv", "text,label\ncafé,x\n")
    assert "b.csv: not ASCII (byte 0xc3 at offset 14); set --data.encoding utf-8 if " in refusal(
        path, encoding="ascii"
    )


@pytest.mark.parametrize("name", ["latin-0", "", "hex", "rot13", "idna", "a\0b"])
def test_an_unknown_encoding_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"data.encoding=.*: not an encoding that Python knows"):
        Source("x", encoding=name)


@pytest.mark.parametrize("ending", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_packed_files_are_read_as_they_would_be_unpacked(tmp_path: Path, ending: str) -> None:
    plain = Path(write_rows(tmp_path / f"rows.{ending}"))
    packed = write(tmp_path / f"rows.{ending}.gz", gzip.compress(plain.read_bytes()))
    assert read_all(packed) == ROWS
    assert load(packed)["test"].to_list() == load(str(plain))["test"].to_list()


def test_packed_files_in_a_folder_and_packed_texts_are_found(tmp_path: Path) -> None:
    for name, rows in (("my-train.csv", ROWS), ("my-dev.CSV", ROWS[:5]), ("my-test.csv", ROWS[:6])):
        plain = Path(write_rows(tmp_path / name.lower(), rows))
        write(tmp_path / f"{name}.gz", gzip.compress(plain.read_bytes()))
        plain.unlink()
    assert sizes(load(str(tmp_path))) == {"train": 40, "validation": 5, "test": 6}
    texts = write(tmp_path / "new.txt.gz", gzip.compress(b"a, b\nc\n"))
    assert read_rows(texts, Source("x"), ["text"])["text"][:] == ["a, b", "c"]


@pytest.mark.parametrize("damage", ["cut", "changed", "not packed"])
def test_a_damaged_packed_file_is_refused(tmp_path: Path, damage: str) -> None:
    content = bytearray(gzip.compress(b"text,label\n" + b"a film,x\n" * 50))
    if damage == "changed":
        content[20] ^= 255
    damaged = {"cut": content[:-12], "changed": content, "not packed": b"text,label\na,x\n"}
    path = write(tmp_path / "a.csv.gz", bytes(damaged[damage]))
    assert "a.csv.gz: not a gzip file, or damaged (" in refusal(path)


NESTED = [
    {"text": "one", "labels": {"real-label": "a", "by": {"name": "Ada"}}, "id": 1},
    {"text": "two", "labels": {"real-label": "b", "by": None}, "id": 2},
]


def write_nested(path: Path, rows: list[dict[str, Any]]) -> str:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        lines = path.suffix == ".jsonl"
        path.write_text("\n".join(map(json.dumps, rows)) if lines else json.dumps(rows))
    return str(path)


@pytest.mark.parametrize("ending", ["json", "jsonl", "parquet"])
def test_a_dotted_name_is_a_column_inside_an_object(tmp_path: Path, ending: str) -> None:
    path = write_nested(tmp_path / f"a.{ending}", NESTED)
    assert read_all(path, labels="labels.real-label") == [
        {"text": "one", "labels.real-label": "a"},
        {"text": "two", "labels.real-label": "b"},
    ]
    rows = read_rows(path, Source("x"), ["text"], keep=["labels.by.name", "id"])
    assert rows.to_list() == [
        {"text": "one", "labels.by.name": "Ada", "id": 1},
        {"text": "two", "labels.by.name": None, "id": 2},
    ]
    assert "did you mean 'labels.real-label'?" in refusal(path, labels="real-label")
    assert "did you mean 'labels.real-label'?" in refusal(path, labels="labels.reallabel")
    assert "row 1: 'text.real' needs an object with the key 'real', there is 'one'" in refusal(
        path, labels="text.real"
    )
    assert "1 of 2 rows lack a text or label, first row 2" in refusal(path, labels="labels.by.name")
    literal = [{**row, "labels.real-label": "own"} for row in NESTED]
    path = write_nested(tmp_path / f"b.{ending}", literal)
    assert {row["labels.real-label"] for row in read_all(path, labels="labels.real-label")} == {
        "own"
    }


def test_a_dotted_name_of_a_data_set_is_a_column_inside_a_struct(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ClassLabel(names=["bad", "good"])
    features = Features({"text": Value("string"), "gold": {"label": names, "by": Value("string")}})
    rows = [{"text": "one", "gold": {"label": 1, "by": "Ada"}}]
    hub(monkeypatch, DatasetDict(test=Dataset.from_list(rows, features=features)))
    assert load("some/set", labels="gold.label")["test"].to_list() == [
        {"text": "one", "gold.label": "good"}
    ]
    assert "no column 'gold.lable'" in refusal("some/set", labels="gold.lable")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["0", "1", "-2"], [0, 1, -2]),
        (["0", "4.5", "-1e2"], [0.0, 4.5, -100.0]),
        (["1", "2", "b"], ["1", "2", "b"]),
        (["007", "1"], ["007", "1"]),
        (["12345678901234567890", "1.5"], ["12345678901234567890", "1.5"]),
        (["nan", "1"], ["nan", "1"]),
        (["a|b", "b"], ["a|b", "b"]),
    ],
)
def test_scores_of_text_files_are_numbers_where_all_are(
    tmp_path: Path, values: list[str], expected: list[Any]
) -> None:
    path = write(tmp_path / "a.csv", "text,label\n" + "".join(f"t,{value}\n" for value in values))
    labels = [row["label"] for row in read_all(path, numeric=True)]
    assert labels == expected
    assert [type(label) for label in labels] == [type(value) for value in expected]


@pytest.mark.parametrize("values", [["3.1", "3.10"], ["1", "1e0", "1.0"], ["0", "1"], ["007", "7"]])
@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_names_of_text_files_are_the_strings_in_the_file(
    tmp_path: Path, values: list[str], ending: str
) -> None:
    rows = [{"text": f"t {value}", "label": value} for value in values]
    assert read_all(write_rows(tmp_path / f"a.{ending}", rows)) == rows


def test_rows_are_divided_by_numbers_in_order_however_a_file_stores_them(tmp_path: Path) -> None:
    rows = [{"text": f"text {n}", "label": n % 13} for n in range(200)]
    numbers = load(write_rows(tmp_path / "a.jsonl", rows))
    strings = load(write_rows(tmp_path / "a.csv", rows))
    for split in ("train", "validation", "test"):
        assert strings[split]["text"][:] == numbers[split]["text"][:]
        assert strings[split]["label"][:] == [str(label) for label in numbers[split]["label"]]


def test_a_label_is_of_one_kind_in_all_splits(tmp_path: Path) -> None:
    files = {
        "train": write(tmp_path / "a.csv", "text,label\na,1\nb,2\n"),
        "test": write(tmp_path / "b.csv", "text,label\nc,x\n"),
    }
    splits = load(files)
    assert {str(rows.features["label"].dtype) for rows in splits.values()} == {"string"}


@pytest.mark.parametrize("label", [["a", "b"], {"text": ["x"], "start": [3]}, 1.5, True])
def test_json_labels_stay_as_they_are(tmp_path: Path, label: Any) -> None:
    path = write_rows(tmp_path / "a.json", [{"text": f"t{n}", "label": label} for n in range(20)])
    splits = load(path)
    assert sizes(splits) == {"train": 16, "validation": 2, "test": 2}
    assert all(row == label for rows in splits.values() for row in rows["label"])


def test_class_labels_of_parquet_files_become_their_names(tmp_path: Path) -> None:
    features = Features(
        {"id": Value("int64"), "text": Value("string"), "label": ClassLabel(names=["bad", "good"])}
    )
    table = {"id": [1, 2], "text": ["a", "b"], "label": [1, 0]}
    Dataset.from_dict(table, features=features).to_parquet(str(tmp_path / "test.parquet"))
    rows = load({"test": [str(tmp_path / "test.parquet")] * 2})["test"]
    assert rows.column_names == ["text", "label"]
    assert rows["label"][:] == ["good", "bad", "good", "bad"]


def test_categories_of_a_pandas_parquet_file_are_texts(tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": ["a", "b"], "label": ["x", "y"]}).astype("category")
    frame.to_parquet(tmp_path / "a.parquet")
    assert read_all(str(tmp_path / "a.parquet")) == [
        {"text": "a", "label": "x"},
        {"text": "b", "label": "y"},
    ]


# Splits


@pytest.mark.parametrize("seed", range(5))
def test_a_single_file_is_divided_without_loss_or_overlap(tmp_path: Path, seed: int) -> None:
    rows = [{"text": f"t{n}", "label": "abbcccc"[n % 7]} for n in range(700)]
    path = write_rows(tmp_path / "a.jsonl", rows)
    splits = load(path, seed=seed)
    assert sizes(splits) == {"train": 560, "validation": 70, "test": 70}
    assert sorted(text for part in splits.values() for text in part["text"]) == sorted(
        row["text"] for row in rows
    )
    for part in splits.values():  # 1 : 2 : 4, to within a row
        counts, share = Counter(part["label"]), len(part) / 7
        assert all(
            abs(counts[label] - share * times) <= 1
            for label, times in {"a": 1, "b": 2, "c": 4}.items()
        )
        assert part["text"][:] == sorted(part["text"], key=lambda text: int(text[1:]))
    again, other = load(path, seed=seed), load(path, seed=seed + 1)
    assert all(again[split].to_list() == splits[split].to_list() for split in splits)
    assert all(set(other[split]["text"]) != set(splits[split]["text"]) for split in splits)


def test_a_label_with_a_single_row_is_trained_on(tmp_path: Path) -> None:
    rows = [*ROWS, {"text": "lone", "label": "aaa"}, {"text": "alone", "label": "zzz"}]
    for seed in range(20):
        assert {"aaa", "zzz"} <= set(
            load(write_rows(tmp_path / "a.csv", rows), seed=seed)["train"]["label"]
        )


@pytest.mark.parametrize("label", [lambda n: n / 7, lambda n: f"name {n}", lambda n: n])
def test_scores_and_labels_that_all_differ_are_divided_too(tmp_path: Path, label: Any) -> None:
    path = write_rows(
        tmp_path / "a.csv", [{"text": f"t {n}", "label": label(n)} for n in range(50)]
    )
    assert sizes(load(path)) == {"train": 40, "validation": 5, "test": 5}


def test_rows_without_labels_are_divided_too(tmp_path: Path) -> None:
    assert sizes(load(write_rows(tmp_path / "a.csv"), labels="")) == {
        "train": 32,
        "validation": 4,
        "test": 4,
    }


def test_three_rows_are_enough_and_two_are_not(tmp_path: Path) -> None:
    assert sizes(load(write_rows(tmp_path / "a.csv", ROWS[:3]))) == {
        "train": 1,
        "validation": 1,
        "test": 1,
    }
    assert "too few rows" in refusal(write_rows(tmp_path / "b.csv", ROWS[:2]))


def test_a_list_of_files_is_one_set_of_rows(tmp_path: Path) -> None:
    files = [
        write_rows(tmp_path / "a.csv", ROWS[:20]),
        write_rows(tmp_path / "b.parquet", ROWS[20:]),
    ]
    splits = load(files)
    assert sizes(splits) == {"train": 32, "validation": 4, "test": 4}
    assert {text for rows in splits.values() for text in rows["text"]} == {
        row["text"] for row in ROWS
    }


def test_a_mapping_may_name_several_files_a_split(tmp_path: Path) -> None:
    one, two = write_rows(tmp_path / "a.csv", ROWS[:20]), write_rows(tmp_path / "b.csv", ROWS[20:])
    assert sizes(load({"train": [one, two], "validation": one})) == {"train": 40, "validation": 20}
    assert sizes(load({"test": [two]})) == {"test": 20}


def test_validation_is_split_off_train_and_test_is_not_invented(tmp_path: Path) -> None:
    splits = load({"train": write_rows(tmp_path / "a.csv")})
    assert sizes(splits) == {"train": 36, "validation": 4}
    assert Counter(splits["validation"]["label"]) == {"odd": 2, "even": 2}
    assert not set(splits["train"]["text"]) & set(splits["validation"]["text"])


@pytest.mark.parametrize(
    "names",
    [
        ["stsa.binary.train.csv", "stsa.binary.dev.csv", "stsa.binary.test.csv"],
        ["ratings_training.tsv", "ratings_valid.tsv", "ratings_test.tsv"],
        ["stsb-en-train.json", "stsb-en-VAL.json", "Test.json"],
        [
            "train-00000-of-00001.parquet",
            "validation-00000-of-00001.parquet",
            "test-00000-of-00001.parquet",
        ],
    ],
)
def test_the_files_of_a_folder_are_told_by_their_names(tmp_path: Path, names: list[str]) -> None:
    for n, name in enumerate(names):
        write_rows(tmp_path / name, ROWS[: 10 + n])
    write(tmp_path / "README.md", "contest and trainer are no split names")
    assert sizes(load(str(tmp_path))) == {"train": 10, "validation": 11, "test": 12}


def test_max_rows_draws_from_each_split_by_seed(tmp_path: Path) -> None:
    files = {
        "train": write_rows(tmp_path / "a.csv"),
        "validation": write_rows(tmp_path / "b.csv", ROWS[:4]),
    }
    first, again, other = (load(files, max_rows=5, seed=seed) for seed in (0, 0, 1))
    assert sizes(first) == {"train": 5, "validation": 4}
    assert first["train"].to_list() == again["train"].to_list() != other["train"].to_list()
    assert "data.max_rows=0" in refusal(files, max_rows=0)


# Data sets


def test_the_embedded_corpus_is_a_source(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Dataset.from_list([row | {"file": "f"} for row in ROWS])
    monkeypatch.setattr(
        source_module, "docstring_splits", lambda: {"train": rows, "validation": rows, "test": rows}
    )
    splits = load("docstrings", max_rows=7)
    assert sizes(splits) == {"train": 7, "validation": 7, "test": 7}
    assert splits["train"].column_names == ["text", "label"]


def hub(monkeypatch: pytest.MonkeyPatch, result: Any) -> list[Any]:
    calls: list[Any] = []

    def load_dataset(path: str, **options: Any) -> Any:
        calls.append((path, options))
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


def test_a_hub_data_set_is_loaded_by_id_config_and_revision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = Dataset.from_list(ROWS)
    calls = hub(
        monkeypatch, DatasetDict(train=rows, validation=rows.select(range(8)), unsupervised=rows)
    )
    splits = load("nyu-mll/glue", hub_config="sst2", revision="abc")
    assert calls == [("nyu-mll/glue", {"name": "sst2", "revision": "abc"})]
    assert sizes(splits) == {"train": 40, "validation": 8}


def test_splits_of_a_hub_data_set_serve_as_told(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Dataset.from_list(ROWS)
    hub(
        monkeypatch,
        DatasetDict(
            train=rows, validation_matched=rows, validation_mismatched=rows.select(range(7))
        ),
    )
    assert sizes(load("some/set", splits={"train": "train", "test": "validation_mismatched"})) == {
        "train": 36,
        "validation": 4,
        "test": 7,
    }
    assert "validation_matched and validation_mismatched both look like" in refusal("some/set")
    assert "no split 'dev', it has train, validation_matched" in refusal(
        "some/set", splits={"test": "dev"}
    )
    assert "must be some of train, validation, test" in refusal("some/set", splits={"dev": "train"})


def test_labels_that_the_hub_keeps_back_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["a", "b"])})
    rows = Dataset.from_dict({"text": ["x", "y"], "label": [-1, -1]}, features=features)
    hub(monkeypatch, DatasetDict(train=rows, test=rows))
    assert "some/set, split test: 2 of 2 rows lack a text or label" in refusal(
        "some/set", splits={"test": "test"}
    )


def test_incomplete_rows_of_a_data_set_are_left_out_on_demand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub(
        monkeypatch,
        DatasetDict(
            test=Dataset.from_dict({"text": ["a", None, "c"], "label": [1.0, 2.0, float("nan")]})
        ),
    )
    assert "2 of 3 rows" in refusal("some/set")
    with pytest.warns(UserWarning, match="2 of 3 rows lack a text or label, first row 2"):
        assert load("some/set", drop_empty=True)["test"].to_list() == [{"text": "a", "label": 1.0}]


def test_what_is_neither_a_file_nor_on_the_hub_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub(monkeypatch, ConnectionError("Couldn't reach\n 'imdbb' on the Hub"))
    message = refusal("imdbb")
    assert message.startswith(
        "data.source 'imdbb': not a file, a folder of files or a Hub data set that loads"
    )
    assert "ConnectionError: Couldn't reach 'imdbb'" in message


def test_a_folder_laid_out_as_a_hub_data_set_is_loaded_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    (folder / "small").mkdir(parents=True)
    head = "---\nconfigs:\n- config_name: small\n  data_files:\n"
    write(
        folder / "README.md",
        head
        + "  - split: learn\n    path: small/a.csv\n  - split: exam\n    path: small/b.csv\n---\n",
    )
    write_rows(folder / "small" / "a.csv")
    write_rows(folder / "small" / "b.csv", ROWS[:6])
    splits = load(str(folder), hub_config="small", splits={"train": "learn", "test": "exam"})
    assert sizes(splits) == {"train": 36, "validation": 4, "test": 6}
    assert splits["test"].to_list() == ROWS[:6]


# Rows to predict


@pytest.mark.parametrize("ending", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_rows_to_predict_need_no_label_and_keep_their_order(tmp_path: Path, ending: str) -> None:
    rows = [{"text": text} for text in ("c", "a", "b")]
    assert (
        read_rows(
            write_rows(tmp_path / f"a.{ending}", rows), Source("x", max_rows=1), ["text"]
        ).to_list()
        == rows
    )


def test_a_text_file_holds_one_text_a_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", '42\n"so", he said\twell\n\n')
    source = Source(
        "x", columns=["label", "text"], delimiter=" "
    )  # of the training files, not of this one
    assert read_rows(path, source, ["review"])["review"][:] == ["42", '"so", he said\twell']


@pytest.mark.parametrize("delimiter", ["\t", "\\t"])
def test_a_text_file_with_a_header_is_read_as_the_training_files_are(
    tmp_path: Path, delimiter: str
) -> None:
    source = Source("x", delimiter=delimiter, quoting=False)
    path = write(tmp_path / "ratings.txt", "id\tdocument\tlabel\n1\tgood\t1\n")
    assert read_rows(path, source, ["document"]).to_list() == [{"document": "good"}]


def test_two_texts_are_separated_by_a_tab(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "a b\tc d\ne\tf\n")
    rows = read_rows(path, Source("x"), ["one", "two"])
    assert rows.to_list() == [{"one": "a b", "two": "c d"}, {"one": "e", "two": "f"}]
    with pytest.raises(InputError, match="row 1: 1 fields, must be 2"):
        read_rows(write(tmp_path / "b.txt", "a b c\n"), Source("x"), ["one", "two"])


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("first\nsecond", ["first", "second"]),
        ('\n{"text": "one", "n": 1}\n\n{"text": "two"}\n', ["one", "two"]),
    ],
)
def test_standard_input_holds_lines_or_jsonl(
    monkeypatch: pytest.MonkeyPatch, typed: str, expected: list[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed.encode())))
    assert read_rows("-", Source("x"), ["text"])["text"][:] == expected


def test_a_blank_line_among_texts_is_refused_since_answers_would_shift(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"1 of 3 rows lack a text or label, first row 2"):
        read_rows(write(tmp_path / "a.txt", "a\n\nb\n"), Source("x"), ["text"])


# Refusals


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "", "a.csv: empty"),
        ("a.jsonl", " \n\n", "a.jsonl: empty"),
        ("a.csv", "text,label\n", "a.csv: no rows"),
        ("a.json", "[]", "no column 'text'"),
        ("a.csv", b"text,label\ncaf\xe9,x\n", "a.csv: not UTF-8 (byte 0xe9 at offset 14)"),
        (
            "a.csv",
            "txt,label\na,x\n",
            "no column 'text', there is ['txt', 'label']; did you mean 'txt'?",
        ),
        ("a.csv", "TEXT,label\na,x\n", "there is ['TEXT', 'label']; did you mean 'TEXT'?"),
        ("a.csv", "body,label\na,x\n", "there is ['body', 'label']; set the task's columns"),
        ("a.csv", "text,label,text\na,x,b\n", "2 columns are called 'text'"),
        (
            "a.csv",
            "text,label\na,x\n,y\n\n \t,z\n",
            "2 of 3 rows lack a text or label, first row 3 (column 'text')",
        ),
        ("a.csv", "text,label\na,\n", "name another column"),
        ("a.jsonl", '{"text": "a", "label": 1}\n\n{"text": "b"}\n', "first row 3 (column 'label')"),
        ("a.csv", "text,label\n1,x\n2.5,y\n", "'text' contains only numbers (1, ...)"),
        ("a.csv", "text,label\n0001,x\n-.5e3,y\n", "'text' contains only numbers (0001, ...)"),
        (
            "a.jsonl",
            '{"text": "a", "label": 1}\n{"text": 3, "label": 1}',
            "row 2: 'text' is 3, must be text",
        ),
        ("a.json", '[{"text": ["a"], "label": 1}]', "row 1: 'text' is ['a'], must be text"),
        (
            "a.jsonl",
            '{"text": "a", "label": 1}\n{"text": "b", "label": "x"}',
            "a column mixes types",
        ),
        ("a.jsonl", '{"text": "\\ud800", "label": 1}', "a column mixes types"),
        ("a.csv", "text,label\na,x\n\nb\n", "row 4: 1 fields, must be 2"),
        ("a.csv", 'text,label\n"a\nb",x\na,b,c\n', "row 4: 3 fields, must be 2"),
        (
            "a.csv",
            'text,label\na,x\n"b,x\nc,y\n',
            "row 3: unexpected end of data; fix the quotes, or set data.quoting",
        ),
        (
            "a.jsonl",
            '{"text": "a", "label": 1}\n{"text"}',
            "row 2: not JSON (Expecting ':' delimiter)",
        ),
        ("a.json", '[\n{"text": "a",\n}]', "row 3: not JSON"),
        (
            "a.json",
            '{"text": "a"}\n{"text": "b"}',
            "row 2: not JSON (Extra data); if each line is an object of its own, name it .jsonl",
        ),
        ("a.json", '{"data": []}', "contains one dict, must be a list of objects"),
        ("a.json", f"[{'1' * 5000}]", "row 1: Exceeds the limit"),
        (
            "a.jsonl",
            '{"text": "a", "label": 1.5}\n{"text": "b", "label": true}',
            "'label' mixes true or false with numbers",
        ),
        ("a.jsonl", '{"text": "a", "text": "b"}', "row 1: the key 'text' occurs twice"),
        ("a.jsonl", '["a"]', "row 1: \"['a']\" must be an object"),
        (
            "a.txt",
            "text label\na x\n",
            "set data.delimiter to one character (now None), or name the file after its format",
        ),
        ("a.parquet", b"PAR1 but not really", "a.parquet: not a Parquet file"),
        ("a.parquet", b"", "a.parquet: not a Parquet file"),
    ],
)
def test_a_bad_file_is_refused_with_its_name_and_row(
    tmp_path: Path, name: str, content: str | bytes, said: str
) -> None:
    message = refusal({"test": write(tmp_path / name, content)})
    assert said in message
    assert str(tmp_path / name) in message


def test_without_quoting_a_short_line_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "label\ttext\n1\ta\n1 b\n")
    assert "row 3: 1 fields, must be 2" in refusal(path, quoting=False)


@pytest.mark.parametrize("name", ["text", "label"])
def test_a_parquet_file_with_two_columns_of_one_name_is_refused(tmp_path: Path, name: str) -> None:
    table = pa.table([["a"], ["b"], ["c"]], names=["text", "label", name])
    pq.write_table(table, tmp_path / "a.parquet")
    assert f"2 columns are called {name!r}" in refusal({"test": str(tmp_path / "a.parquet")})


def test_numbers_in_a_parquet_file_are_no_texts(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.parquet", [{"text": 1, "label": "x"}])
    assert "'text' contains int64, must be text" in refusal({"test": path})


def test_files_that_disagree_about_a_column_are_refused(tmp_path: Path) -> None:
    one = write_rows(tmp_path / "a.json", [{"text": "a", "label": 1}])
    two = write_rows(tmp_path / "b.json", [{"text": "a", "label": "x"}])
    assert "a column has different types" in refusal([one, two])


@pytest.mark.parametrize(
    "given", ["./none", "none.csv", "none.parquet", "/none", ["none"], {"train": "none.txt"}]
)
def test_a_file_that_is_not_there_is_not_looked_for_on_the_hub(
    monkeypatch: pytest.MonkeyPatch, given: Any
) -> None:
    hub(monkeypatch, AssertionError("asked the Hub"))
    assert "No such file or directory" in refusal(given)


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_a_folder_where_a_file_should_be_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    assert "name a file that exists" in refusal([str(tmp_path / name)])


def test_a_file_that_may_not_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", deny)
    assert "a.csv: Permission denied" in refusal(write_rows(tmp_path / "a.csv"))


def test_a_folder_that_may_not_be_listed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", deny)
    assert "Permission denied; name a file or folder that exists and can be read" in refusal(
        str(tmp_path)
    )


def test_a_column_may_be_used_twice(tmp_path: Path) -> None:
    for name in ("a.csv", "a.parquet"):
        assert read_all(write_rows(tmp_path / name), "text text", "label") == ROWS


def test_a_folder_must_hold_one_file_for_a_split(tmp_path: Path) -> None:
    assert "there is nothing" in refusal(str(tmp_path))
    write_rows(tmp_path / "rows.csv")
    write(tmp_path / "notes.md", "")
    assert (
        "no name contains train, validation (dev) or test, there is notes.md, rows.csv"
        in refusal(str(tmp_path))
    )
    write_rows(tmp_path / "dev.csv")
    write_rows(tmp_path / "val.csv")
    assert "dev.csv and val.csv both look like the validation split" in refusal(str(tmp_path))


@pytest.mark.parametrize("given", [{"dev": "a.csv"}, {}])
def test_a_mapping_must_name_splits(given: dict[str, str]) -> None:
    assert "the keys must be some of train, validation, test" in refusal(given)


@pytest.mark.parametrize("given", [[], {"train": []}])
def test_no_file_at_all_is_refused(given: Any) -> None:
    assert "no file for" in refusal(given)


@pytest.mark.parametrize(
    "option", [{"splits": {"test": "test"}}, {"hub_config": "a"}, {"revision": "main"}]
)
def test_options_of_hub_data_sets_are_refused_for_files(
    tmp_path: Path, option: dict[str, Any]
) -> None:
    assert "are for Hub data sets" in refusal(write_rows(tmp_path / "a.csv"), **option)


def test_a_quoted_file_needs_a_delimiter_of_one_character(tmp_path: Path) -> None:
    assert "set data.delimiter to one character (now '||')" in refusal(
        write_rows(tmp_path / "a.csv"), delimiter="||"
    )


def test_empty_rows_are_left_out_on_demand_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,label\na,1\n,2\nb,\nc,3\n")
    with pytest.warns(
        UserWarning, match=r"a\.csv: 2 of 4 rows lack a text or label, first row 3 .*; left out"
    ):
        assert read_all(path, drop_empty=True) == [
            {"text": "a", "label": "1"},
            {"text": "c", "label": "3"},
        ]


# Real files


@pytest.fixture
def data() -> Path:
    folder = os.environ.get("LITPOOL_TEST_DATA")
    if not folder:
        pytest.skip("LITPOOL_TEST_DATA names no folder with real data files")
    return Path(folder)


def test_nsmc_is_read_but_for_its_eight_empty_documents(data: Path) -> None:
    files = {
        "train": str(data / "nsmc/ratings_train.txt"),
        "test": str(data / "nsmc/ratings_test.txt"),
    }
    with pytest.raises(
        InputError,
        match=r"5 of 150000 rows lack a text or label, first row 25859 \(column 'document'\)",
    ):
        load(files, "document", delimiter="\t", quoting=False)
    with pytest.warns(UserWarning, match="lack a text or label") as caught:
        splits = load(
            str(data / "nsmc"), "document", delimiter="\t", quoting=False, drop_empty=True
        )
    said = [
        re.findall(r"(ratings_\w+).txt: (\d+) of (\d+) rows .* row (\d+) ", str(w.message))[0]
        for w in caught
    ]
    assert sorted(said) == [
        ("ratings_test", "3", "50000", "5748"),
        ("ratings_train", "5", "150000", "25859"),
    ]
    assert sizes(splits) == {"train": 134_996, "validation": 14_999, "test": 49_997}
    assert splits["test"][0] == {"document": "굳 ㅋ", "label": "1"}


def test_sst2_is_read_without_header_and_quoting(data: Path) -> None:
    splits = load(str(data / "sst2"), columns=["label", "text"], delimiter=" ", quoting=False)
    assert sizes(splits) == {"train": 6920, "validation": 872, "test": 1821}
    assert splits["validation"][0] == {"text": "one long string of cliches .", "label": "0"}
    assert {label for rows in splits.values() for label in rows["label"]} == {"0", "1"}


def test_stsb_is_read_without_header(data: Path) -> None:
    splits = load(
        str(data / "stsb"),
        "sentence1 sentence2",
        "score",
        numeric=True,
        columns=["sentence1", "sentence2", "score"],
    )
    assert sizes(splits) == {"train": 5749, "validation": 1500, "test": 1379}
    assert all(0 <= score <= 5 for rows in splits.values() for score in rows["score"])
    assert splits["test"][0] == {
        "sentence1": "A girl is styling her hair.",
        "sentence2": "A girl is brushing her hair.",
        "score": 2.5,
    }


def test_korsts_is_read_without_quoting_and_refused_with(data: Path) -> None:
    splits = load(str(data / "korsts"), "sentence1 sentence2", "score", quoting=False)
    assert sizes(splits) == {"train": 5749, "validation": 1500, "test": 1379}
    assert "set data.quoting false" in refusal(str(data / "korsts"), "sentence1 sentence2", "score")
