"""Generated files go through reading, learning and encoding: refused in one line, or unchanged.

The property, for each file: an InputError with a message of one line, or rows with the values that
were written, in their order. What is accepted although it is not equal:

- CSV, TSV: values are the strings in the file. A record of one blank field, and the line ends at
  the end of the file, are no rows.
- JSON, JSONL: an absent key is a null, and integers are floats if others in their column are.
- Tasks with labels leave out the blanks around a label; Regression reads strings as numbers.
- A flipped byte in a Parquet file, which has no checksums: here only a traceback is a failure.

LITPOOL_FUZZ sets the number of files in the slow tests.
"""

import csv
import io
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reading import read_rows
from transformers import PreTrainedTokenizerBase

from litpool import InputError
from litpool.data.source import Source, load_splits
from litpool.tasks.classification import Classification
from litpool.tasks.multilabel import MultiLabelClassification, label_set
from litpool.tasks.question_answering import QuestionAnswering
from litpool.tasks.regression import Regression
from litpool.tasks.task import Task

pytestmark = [
    # What litpool warns about is not accepted in silence.
    pytest.mark.filterwarnings("ignore:column '.*labels:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*rows lack a text or label:UserWarning"),
    pytest.mark.parametrize(
        "count",
        [20, pytest.param(int(os.environ.get("LITPOOL_FUZZ", 1000)) // 8, marks=pytest.mark.slow)],
    ),
]

Rows = list[dict[str, Any]]
TASKS: list[Callable[[], Task]] = [
    Classification,
    MultiLabelClassification,
    lambda: Regression(label="label"),
]

ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)  # no half surrogates
ODD = st.sampled_from(["42", "", " ", "\u2028", "\0", "a\tb", '"', "one\ntwo", "\r"])
TEXTS = st.sampled_from(["a good film", "bad"]) | ODD | ANY
NUMBERS = ["1", "1.0", "1e0", "01", "3.1", "3.10", "-0", "1_0", " 1 ", "9" * 30]
NAMES = st.sampled_from(["good", "Good", " good", "a|b", "|", "", "\x1c", "nan", *NUMBERS]) | ANY
PLAIN = NAMES | st.none() | st.booleans() | st.integers() | st.floats()
VALUES = PLAIN | st.lists(PLAIN, max_size=2) | st.dictionaries(NAMES, PLAIN, max_size=2)
KINDS = [
    *[NAMES, st.sampled_from(NUMBERS), st.integers(), st.floats(), st.booleans()],
    *[st.integers(0, 3) | st.floats(0, 3), st.lists(NAMES, max_size=3), VALUES],
]


def tables(texts: Any, kinds: list[Any]) -> Any:
    """Rows of a text and a label; all labels are of one kind, and of a few values."""

    def rows(labels: list[Any]) -> Any:
        return st.lists(st.tuples(texts, st.sampled_from(labels)).map(as_row), max_size=8)

    return st.sampled_from(kinds).flatmap(
        lambda kind: st.lists(kind, min_size=2, max_size=3).flatmap(rows)
    )


def as_row(fields: Any) -> dict[str, Any]:
    return dict(zip(["text", "label"], fields, strict=True))


def now_and_then(usual: Any, odd: Any) -> Any:
    """One odd value among about 20."""
    return st.integers(0, 19).flatmap(lambda number: odd if number == 7 else usual)


def damaged(text: Any, pieces: list[str]) -> Any:
    """A text with up to two pieces inserted anywhere."""
    insertions = st.lists(st.tuples(st.floats(0, 1), st.sampled_from(pieces) | ANY), max_size=2)

    def insert(text: str, insertions: list[tuple[float, str]]) -> str:
        for place, piece in insertions:
            at = round(place * len(text))
            text = text[:at] + piece + text[at:]
        return text

    return st.builds(insert, text, insertions)


def fuzz(count: int, *arguments: Any) -> Callable[[Callable[..., None]], None]:
    """Run a function with `count` generated values of its arguments, the same ones every time."""

    def run(check: Callable[..., None]) -> None:
        limits = settings(
            max_examples=count,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        limits(given(*arguments)(check))()

    return run


def accepted(path: Path, task: Task, tokenizer: PreTrainedTokenizerBase) -> Rows | None:
    """The rows of a file that the task has learned and encoded; None if it is refused."""
    try:
        source = Source({"test": str(path)}, drop_empty=True)
        rows = load_splits(source, task.texts, [task.label], task.extras, task.group, task.numeric)[
            "test"
        ]
        task.learn({"test": rows})
        encoded = task.encode(rows[:], tokenizer, 16)
        read_rows(str(path), source, task.texts, task.extras)
    except InputError as error:
        assert "\n" not in str(error), error  # noqa: PT017 (some are accepted)
        return None
    assert len(encoded["input_ids"]) == len(encoded["labels"]) >= len(rows)
    return rows.to_list()


def check_labels(task: Task, labels: list[Any]) -> None:
    """The task tells labels apart exactly as the file does, except for blanks around them."""
    if isinstance(task, Classification):
        names = [task.labels[target] for target in task.targets(labels)]
        assert names == [str(label).strip() for label in labels]
    elif isinstance(task, MultiLabelClassification):
        for label, target in zip(labels, task.targets(labels), strict=True):
            names = {name for name, flag in zip(task.labels, target, strict=True) if flag}
            assert names == set(label_set(label))
    else:
        for label, target in zip(labels, task.targets(labels), strict=True):
            assert math.isclose(target * task.scale + task.shift, float(label), abs_tol=1e-9)


def is_same(read: Any, written: Any) -> bool:
    """Whether two values are equal, an integer to a float too, but a bool to no number."""
    if isinstance(read, list) and isinstance(written, list):
        return len(read) == len(written) and all(map(is_same, read, written))
    if isinstance(read, bool) or isinstance(written, bool):
        return read is written
    return bool(read == written)


def is_missing(value: Any) -> bool:
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def is_complete(row: dict[str, Any]) -> bool:
    return not any(is_missing(row.get(name)) for name in ("text", "label"))


def check_same(read: Rows, written: Rows) -> None:
    """All complete rows are there, with their values."""
    written = [row for row in written if is_complete(row)]
    assert len(read) == len(written)
    for row, original in zip(read, written, strict=True):
        for name, value in row.items():
            assert is_same(value, original[name]), (name, value, original[name])


# ---- CSV and TSV


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_a_written_csv_comes_back(
    count: int, ending: str, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    path = tmp_path / f"rows.{ending}"

    @fuzz(
        count // 2,
        tables(TEXTS, KINDS[:2]),
        st.sampled_from(TASKS),
        st.sampled_from(["\n", "\r\n"]),
    )
    def check(rows: Rows, new_task: Callable[[], Task], end: str) -> None:
        task = new_task()
        with path.open("w", encoding="utf-8", newline="") as file:
            delimiter = {"csv": ",", "tsv": "\t"}[ending]
            writer = csv.writer(file, delimiter=delimiter, lineterminator=end)
            writer.writerows([["text", "label"], *(row.values() for row in rows)])
        read = accepted(path, task, tokenizer)
        if read is None:
            return
        check_labels(task, [row["label"] for row in read])
        if isinstance(task, Regression):
            rows = [{**row, "label": float(row["label"])} for row in rows if is_complete(row)]
            read = [{**row, "label": float(row["label"])} for row in read]
        check_same(read, rows)


def test_any_text_is_read_as_csv_or_refused(
    count: int, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    path = tmp_path / "rows.csv"
    pieces = [",", "\n", "\r", '"', "a film", "\n ", "\0", "\ufeff", '"a\nb",c\n', "\r\n", ',""']
    lines = st.lists(st.sampled_from(["a good film,good", "bad,bad", '"a ""b""",1', "b,1.0"]))

    @fuzz(count, damaged(lines.map("\n".join), pieces))
    def check(body: str) -> None:
        content = f"text,label\n{body}\n"
        path.write_bytes(content.encode())
        read = accepted(path, Classification(), tokenizer)
        if read is None:
            return
        reader = csv.reader(io.StringIO(content.rstrip("\r\n") + "\n", newline=""), strict=True)
        records = [record for record in list(reader)[1:] if "".join(record).strip()]
        check_same(read, list(map(as_row, records)))


# ---- JSON and JSONL


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_written_json_comes_back(
    count: int, ending: str, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    path = tmp_path / f"rows.{ending}"

    @fuzz(
        count // 2,
        tables(now_and_then(TEXTS, VALUES), KINDS),
        st.sampled_from(TASKS),
        st.booleans(),
    )
    def check(rows: Rows, new_task: Callable[[], Task], is_ascii: bool) -> None:
        task = new_task()
        content: list[Any] = rows if ending == "jsonl" else [rows]
        lines = [json.dumps(value, ensure_ascii=is_ascii) for value in content]
        path.write_text("\n".join(lines), encoding="utf-8")
        read = accepted(path, task, tokenizer)
        if read is not None:
            check_labels(task, [row["label"] for row in read])
            check_same(read, rows)


def test_any_text_is_read_as_json_or_refused(
    count: int, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    path = tmp_path / "rows.jsonl"
    line = st.sampled_from(['{"text": "a", "label": "x"}', '{"text": "b", "label": "y"}', "", " "])
    pieces = [
        "{",
        "}",
        '"',
        ",",
        '"text": "c", ',
        "\n",
        "\\",
        "NaN",
        "1e999",
        "[" * 2000,
        "\\ud800",
    ]

    @fuzz(count, damaged(st.lists(line, max_size=6).map("\n".join), pieces))
    def check(content: str) -> None:
        path.write_bytes(content.encode())
        read = accepted(path, Classification(), tokenizer)
        if read is not None:
            written = [line for line in content.split("\n") if line.strip()]
            check_same(read, [json.loads(line) for line in written])
            for line in written:
                assert len(json.loads(line)) == len(json.loads(line, object_pairs_hook=list))


# ---- Parquet


def test_written_parquet_comes_back(
    count: int, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    path = tmp_path / "rows.parquet"
    typed = [st.binary(max_size=3), st.dates(), st.decimals(0, 9, places=2), st.just(b"a"), *KINDS]
    columns = tables(TEXTS, [kind | st.none() for kind in typed])
    names = now_and_then(st.just(["text", "label"]), st.just(["text", "text"]))

    @fuzz(count, columns, st.sampled_from(TASKS), names)
    def check(rows: Rows, new_task: Callable[[], Task], header: list[str]) -> None:
        task = new_task()
        values = [[row[name] for row in rows] for name in ("text", "label")]
        try:
            table = pa.table([pa.array(column) for column in values], names=header)
            pq.write_table(table, path)
        except (pa.ArrowException, OverflowError):
            return  # a column of several types cannot be written
        read = accepted(path, task, tokenizer)
        if read is None:
            return
        labels = [row["label"] for row in read]
        if isinstance(task, Classification):
            assert not any(isinstance(label, list | dict | bytes) for label in labels)
        check_labels(task, labels)
        check_same(read, table.to_pylist())


def test_a_damaged_parquet_file_is_no_traceback(
    count: int, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    path = tmp_path / "rows.parquet"
    whole = {"text": ["a good film", "a bad film"], "label": ["good", "bad"]}
    pq.write_table(pa.table(whole), path)
    content = path.read_bytes()
    place = st.integers(0, len(content) - 1)

    @fuzz(count, place, st.integers(0, 255), st.booleans())
    def check(at: int, byte: int, is_cut: bool) -> None:
        rest = b"" if is_cut else bytes([byte]) + content[at + 1 :]
        path.write_bytes(content[:at] + rest)
        read = accepted(path, Classification(), tokenizer)
        assert read is None or not is_cut


# ---- SQuAD

CONTEXT = "Ada wrote é."
PLACES = {"Ada": 0, "wrote": 4, "é.": 10}


def squad_documents() -> Any:
    """Published documents, half of them with one of their values replaced by any other."""
    answers = st.sampled_from(["Ada", "wrote", "é."])
    question = st.fixed_dictionaries(
        {
            "id": st.just("q"),
            "question": now_and_then(st.just("Who wrote?"), TEXTS),
            "answers": st.lists(answers, min_size=1, max_size=2).map(
                lambda texts: [{"text": text, "answer_start": PLACES[text]} for text in texts]
            ),
        }
    )
    paragraph = st.fixed_dictionaries(
        {"context": st.just(CONTEXT), "qas": st.lists(question, min_size=1, max_size=2)}
    )
    article = st.fixed_dictionaries(
        {"paragraphs": st.lists(paragraph, min_size=1, max_size=2)}, optional={"title": TEXTS}
    )
    document = st.fixed_dictionaries({"data": st.lists(article, min_size=1, max_size=2)})
    return st.builds(replace_part, document, st.integers(0, 100), VALUES, st.booleans())


def replace_part(document: dict[str, Any], number: int, value: Any, is_meant: bool) -> Any:
    """Replace one of all the values in a document, however deep."""
    places: list[tuple[Any, Any]] = []

    def collect(part: Any) -> None:
        keys = (
            part if isinstance(part, dict) else range(len(part)) if isinstance(part, list) else ()
        )
        for key in keys:
            places.append((part, key))
            collect(part[key])

    collect(document)
    if is_meant:
        part, key = places[number % len(places)]
        part[key] = value
    return document


def test_a_squad_document_comes_back(
    count: int, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    path = tmp_path / "squad.json"

    @fuzz(count, squad_documents(), st.booleans())
    def check(document: dict[str, Any], no_answer: bool) -> None:
        path.write_text(json.dumps(document), encoding="utf-8")
        read = accepted(path, QuestionAnswering(no_answer=no_answer), tokenizer)
        if read is None:
            return
        written = [
            (question["question"], paragraph["context"], question["answers"])
            for article in document["data"]
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
            if question["question"].strip() and paragraph["context"].strip()
        ]
        assert len(read) == len(written)
        for row, (question, context, answers) in zip(read, written, strict=True):
            assert (row["question"], row["context"]) == (question, context)
            assert row["answers"]["text"] == [answer["text"] for answer in answers]
            assert row["answers"]["answer_start"] == [answer["answer_start"] for answer in answers]
