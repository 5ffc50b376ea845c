"""SQuAD's JSON becomes rows in the Hub's format; the errors for files in another format."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from litpool import InputError
from litpool.data.source import Source, load_splits

FILE: dict[str, Any] = {
    "version": "v2.0",
    "data": [
        {
            "title": "Rivers",
            "paragraphs": [
                {
                    "context": "The Nile is long.",
                    "qas": [
                        {
                            "id": "a1",
                            "question": "What is long?",
                            "answers": [
                                {"text": "The Nile", "answer_start": 0},
                                {"text": "Nile", "answer_start": 4},
                            ],
                        },
                        {
                            "id": "a2",
                            "question": "What is short?",
                            "answers": [],
                            "is_impossible": True,
                        },
                    ],
                }
            ],
        },
        {
            "title": "강",
            "paragraphs": [
                {"context": "없다.", "qas": []},
                {
                    "context": "한강은 서울에 있다.",
                    "qas": [
                        {
                            "id": "b1",
                            "question": "어디?",
                            "answers": [{"text": "서울", "answer_start": 4}],
                        }
                    ],
                },
            ],
        },
    ],
}


def read(folder: Path, content: Any, labels: list[str] = ["answers"]) -> Dataset:  # noqa: B006 (not changed)
    path = folder / "squad.json"
    path.write_text(json.dumps(content))
    return load_splits(Source({"test": str(path)}), ["id", "title", "question", "context"], labels)[
        "test"
    ]


def test_a_file_of_squad_gives_the_rows_of_the_hub(tmp_path: Path) -> None:
    rows = read(tmp_path, FILE)
    assert rows.to_list() == [
        {
            "id": "a1",
            "title": "Rivers",
            "question": "What is long?",
            "context": "The Nile is long.",
            "answers": {"text": ["The Nile", "Nile"], "answer_start": [0, 4]},
        },
        {
            "id": "a2",
            "title": "Rivers",
            "question": "What is short?",
            "context": "The Nile is long.",
            "answers": {"text": [], "answer_start": []},  # an empty list is no missing label
        },
        {
            "id": "b1",
            "title": "강",
            "question": "어디?",
            "context": "한강은 서울에 있다.",
            "answers": {"text": ["서울"], "answer_start": [4]},
        },
    ]


def test_a_file_without_any_answer_to_its_questions_is_read(tmp_path: Path) -> None:
    impossible = copy.deepcopy(FILE)
    impossible["data"][0]["paragraphs"][0]["qas"].pop(0)
    impossible["data"].pop(1)
    assert read(tmp_path, impossible)["answers"][:] == [{"text": [], "answer_start": []}]


def test_two_files_join_where_one_has_only_impossible_questions(tmp_path: Path) -> None:
    impossible = copy.deepcopy(FILE)
    impossible["data"][0]["paragraphs"][0]["qas"].pop(0)
    impossible["data"].pop(1)
    paths = []
    for number, content in enumerate((impossible, FILE)):
        paths.append(str(tmp_path / f"{number}.json"))
        Path(paths[-1]).write_text(json.dumps(content))
    rows = load_splits(Source({"test": paths}), ["question", "context"], ["answers"])["test"]
    assert [len(answers["text"]) for answers in rows["answers"]] == [0, 2, 0, 1]


def test_questions_without_answers_can_be_read_to_be_answered(tmp_path: Path) -> None:
    asked = copy.deepcopy(FILE)
    for article in asked["data"]:
        for paragraph in article["paragraphs"]:
            for qa in paragraph["qas"]:
                del qa["answers"]
    assert read(tmp_path, asked, labels=[])["id"][:] == ["a1", "a2", "b1"]
    with pytest.raises(InputError, match="no column 'answers'"):
        read(tmp_path, asked)


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (["data"], {"a": 1}, "squad.json: 'data' is \"{'a': 1}\", not a list"),
        (["data", 0], "text", r"article 1: 'paragraphs' is 'None', not a list"),
        (
            ["data", 1, "paragraphs"],
            None,
            r"article 2 \('강'\): 'paragraphs' is 'None', not a list",
        ),
        (
            ["data", 1, "paragraphs", 1, "context"],
            5,
            r"article 2 \('강'\), paragraph 2: 'context' is '5', not text",
        ),
        (
            ["data", 0, "paragraphs", 0, "qas"],
            {},
            r"article 1 \('Rivers'\), paragraph 1: 'qas' is '{}', not a list",
        ),
        (
            ["data", 0, "paragraphs", 0, "qas", 1, "id"],
            7,
            r"paragraph 1, question 2: 'id' is '7', not text",
        ),
        (
            ["data", 0, "paragraphs", 0, "qas", 1, "answers"],
            None,
            r"question 2: 'answers' is 'None', not a list",
        ),
        (
            ["data", 0, "paragraphs", 0, "qas", 0, "answers", 1, "answer_start"],
            "4",
            r"question 1: 'answer_start' is '4', not a whole number",
        ),
        (
            ["data", 0, "paragraphs", 0, "qas", 0, "answers", 1],
            "Nile",
            r"question 1: 'text' is 'None', not text",
        ),
    ],
)
def test_a_broken_file_is_refused_with_the_place(
    tmp_path: Path, path: list[Any], value: Any, told: str
) -> None:
    broken = copy.deepcopy(FILE)
    part = broken
    for step in path[:-1]:
        part = part[step]
    part[path[-1]] = value
    with pytest.raises(InputError, match=told + ".*must be as in SQuAD") as caught:
        read(tmp_path, broken)
    assert "\n" not in str(caught.value)


def test_a_file_without_questions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"squad\.json: has no questions; must be as in SQuAD"):
        read(tmp_path, {"data": [{"title": "Rivers", "paragraphs": []}]})
