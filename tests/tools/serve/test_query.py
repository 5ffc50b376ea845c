"""What is wrong with a request is said in one line, before the model sees it."""

import json

import numpy as np
import pytest

from litpool.tools.serve.query import (
    BadRequest,
    Limits,
    Reply,
    embeddings_answer,
    embeddings_query,
    encode_query,
    predict_query,
    read_body,
    scores_answer,
    scores_query,
)

LIMITS = Limits(texts=3, bytes=1000, waiting=1)
BODIES = {
    b"": "not JSON",
    b"{": "not JSON",
    b"\xff\xfe": "not UTF-8",
    b'{"a": "\xff"}': "not UTF-8",
    b"[]": "a list; send an object",
    b'"text"': "text; send an object",
    b"null": "null; send an object",
    b"3": "a number; send an object",
    b'{"top": NaN}': "NaN is not valid JSON",
    b'{"top": -Infinity}': "-Infinity is not valid JSON",
    b'{"texts": ["' + b"\0" + b'"]}': "not JSON",
    b"[" * 100_000: "nested too deeply",
    b'{"a": ' + b"9" * 5000 + b"}": "not JSON",
}
PREDICT = [
    ({}, 'either "texts" or "rows"'),
    ({"texts": ["a"], "rows": ["a"]}, 'either "texts" or "rows"'),
    ({"text": ["a"]}, "unknown key 'text'"),
    ({"texts": "a"}, "is text, must be a list"),
    ({"texts": {"a": 1}}, "is an object, must be a list"),
    ({"texts": None}, "is null, must be a list"),
    ({"texts": []}, "is empty"),
    ({"texts": ["a"] * 4}, "holds 4 texts, this server takes at most 3"),
    ({"texts": ["a", 1]}, "row 2: is a number, must be text"),
    ({"texts": [None]}, "row 1: is null"),
    ({"texts": [True]}, "row 1: is true"),
    ({"texts": ["a\0b"]}, "row 1: holds a NUL character"),
    ({"rows": [{"text": "a\0b"}]}, "row 1: holds a NUL character"),
    ({"rows": [["a", "b\0"]]}, "row 1: holds a NUL character"),
    ({"rows": [{"id": {"x": ["\0"]}}]}, "row 1: holds a NUL character"),
    ({"texts": ["\ud83d"]}, "has an unpaired surrogate (U+D83D)"),
    ({"texts": ["a"], "top": "2"}, "top: is text, must be a whole number"),
    ({"texts": ["a"], "top": 1.5}, "top: is a number, must be a whole number"),
    ({"texts": ["a"], "top": True}, "top: is true, must be a whole number"),
]
ENCODE = [
    ({"texts": ["a"], "normalize": 1}, "normalize: is a number, must be true or false"),
    ({"texts": ["a"], "column": 1}, "column: is a number"),
    ({"texts": ["a"], "top": 1}, "unknown key 'top'"),
]
EMBEDDINGS = [
    ({}, "input: is null"),
    ({"input": ""}, None),  # the model refuses it
    ({"input": []}, "input: is empty"),
    ({"input": [1, 2]}, "holds token ids"),
    ({"input": [[1, 2]]}, "holds token ids"),
    ({"input": ["a"], "encoding_format": "hex"}, "use float or base64"),
    ({"input": ["a"], "encoding_format": {}}, "use float or base64"),
    ({"input": ["a"], "dimensions": 7}, "these vectors have 8"),
    ({"input": ["a"], "dimensions": 8, "user": "me", "model": "any"}, None),
]
SCORES = [
    ({"inputs": []}, "inputs: is empty"),
    ({"inputs": 3}, "inputs: is a number"),
    ({"inputs": [["a"]], "raw_scores": "yes"}, "raw_scores: is text"),
]


@pytest.mark.parametrize(("content", "expected"), BODIES.items(), ids=range(len(BODIES)))
def test_a_body_that_is_no_object_is_refused(content, expected):
    with pytest.raises(BadRequest, match=expected.replace("[", r"\[")) as error:
        read_body(content)
    assert error.value.status == 400


@pytest.mark.parametrize(
    ("read", "body", "expected"),
    [
        *[(predict_query, *case) for case in PREDICT],
        *[(encode_query, *case) for case in ENCODE],
        *[(lambda body, limits: embeddings_query(body, limits, 8), *c) for c in EMBEDDINGS],
        *[(scores_query, *case) for case in SCORES],
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_a_request_that_makes_no_sense_is_refused(read, body, expected):
    if expected is None:
        read(body, LIMITS)
        return
    with pytest.raises(BadRequest) as error:
        read(body, LIMITS)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_rows_are_passed_on_as_they_are():
    rows = ["naïve 😀", ["q", "c"], {"text": "a", "id": 3}]
    query = predict_query(read_body(json.dumps({"rows": rows, "top": 2}).encode()), LIMITS)
    assert (query.kind, query.rows, query.top) == ("answers", rows, 2)


def test_inputs_are_one_text_one_pair_or_a_batch():
    assert scores_query({"inputs": "a"}, LIMITS).rows == ["a"]
    assert scores_query({"inputs": ["q", "c"]}, LIMITS).rows == [["q", "c"]]
    batch = scores_query({"inputs": [["a"], ["b"]], "raw_scores": True}, LIMITS)
    assert (batch.rows, batch.kind) == (["a", "b"], "scores")


def test_base64_holds_the_numbers_of_a_vector():
    import base64

    vector = np.array([0.5, -2.0], dtype=np.float32)
    answer = embeddings_answer(Reply([vector], tokens=4), "m", as_base64=True)
    assert np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), "<f4").tolist() == [
        0.5,
        -2.0,
    ]
    assert answer["usage"] == {"prompt_tokens": 4, "total_tokens": 4}


def test_scores_are_sorted_and_an_answer_without_scores_is_refused():
    scores = scores_answer(Reply([[0.1, 0.9]]), ["bad", "good"])
    assert [item["label"] for item in scores[0]] == ["good", "bad"]
    assert scores_answer(Reply([{"score": 2.5}]), []) == [[{"label": "score", "score": 2.5}]]
    with pytest.raises(BadRequest, match="has no scores"):
        scores_answer(Reply([{"vector": [1.0]}]), [])
