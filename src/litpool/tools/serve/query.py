"""What a request asks for, read from its body; everything that is wrong with it, in one line."""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

Body = Mapping[str, Any]
Kind = Literal["answers", "scores", "vectors"]


class BadRequest(Exception):
    """A request that cannot be answered.

    Args:
        message: One line: what is wrong with it, and what is allowed.
        status: The status of HTTP, 400 to 499.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(" ".join(message.split()))
        self.status = status


@dataclass
class Limits:
    """What a request may hold at most, and how many may wait.

    Args:
        texts: Texts, or rows.
        bytes: Bytes of the body.
        waiting: Requests that have no answer yet.
    """

    texts: int
    bytes: int
    waiting: int


@dataclass
class Description:
    """What a client may want to know about the model, as plain values.

    Args:
        task: The name of the task.
        texts: The columns with the texts of a row.
        labels: The labels, if the task has any.
        features: The size of a vector; 0 if there are none.
        model: Where it was loaded from.
    """

    task: str
    texts: list[str]
    labels: list[str]
    features: int
    model: str


@dataclass
class Query:
    """What a request asks the model for.

    Args:
        kind: `answers` as those of `predict`, `scores` before they become answers, or `vectors`.
        rows: Texts, lists of texts, or mappings from column to value.
        top: How many labels, if not all.
        normalize: Whether to scale vectors to length 1.
        column: Whose prefix single texts get.
        count_tokens: Whether to count the tokens.
    """

    kind: Kind
    rows: list[Any]
    top: int | None = None
    normalize: bool = False
    column: str | None = None
    count_tokens: bool = False


@dataclass
class Reply:
    """The model's reply to a query.

    Args:
        values: A value for each row: an answer, a list of scores, or a vector.
        tokens: How many tokens the texts have, if that was asked for.
        error: Why there are no values.
        status: The status of HTTP.
    """

    values: Sequence[Any] = field(default_factory=list)
    tokens: int = 0
    error: str = ""
    status: int = 200


# ---- bodies


def read_body(content: bytes) -> dict[str, Any]:
    """Return the JSON object in a body.

    Raises:
        BadRequest: It is not one, or holds what is not text.
    """
    try:
        body = json.loads(content.decode(), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise BadRequest("the body is not UTF-8; send JSON in UTF-8") from error
    except RecursionError as error:
        raise BadRequest("the body is nested too deeply") from error
    except ValueError as error:
        raise BadRequest(f"the body is not JSON ({error})") from error
    if not isinstance(body, dict):
        raise BadRequest(f'the body is {_kind(body)}; send an object, such as {{"texts": [...]}}')
    return body


def predict_query(body: Body, limits: Limits) -> Query:
    """Return what a body for /predict asks for."""
    _check_keys(body, ("texts", "rows", "top"))
    return Query("answers", _rows(body, limits), _whole_number(body, "top"))


def encode_query(body: Body, limits: Limits) -> Query:
    """Return what a body for /encode asks for."""
    _check_keys(body, ("texts", "rows", "normalize", "column"))
    column = body.get("column")
    if column is not None and not isinstance(column, str):
        raise BadRequest(f"column: is {_kind(column)}, must be the name of a column")
    normalize = _switch(body, "normalize")
    return Query("vectors", _rows(body, limits), normalize=normalize, column=column)


def embeddings_query(body: Body, limits: Limits, features: int) -> Query:
    """Return what a body in OpenAI's format asks for; keys that change nothing are ignored."""
    if body.get("encoding_format", "float") not in ("float", "base64"):
        raise BadRequest(f"encoding_format: is {body['encoding_format']!r}; use float or base64")
    if body.get("dimensions") not in (None, features):
        raise BadRequest(
            f"dimensions: is {body['dimensions']}, these vectors have {features}; leave it out"
        )
    given = body.get("input")
    texts = [given] if isinstance(given, str) else given
    if isinstance(texts, list) and texts and isinstance(texts[0], int | list):
        ids = texts[0] if isinstance(texts[0], list) else texts
        if all(isinstance(number, int) for number in ids):
            raise BadRequest("input: holds token ids; send texts")
    rows = _check_rows("input", texts, limits)
    return Query("vectors", rows, normalize=True, count_tokens=True)


def scores_query(body: Body, limits: Limits) -> Query:
    """Return what a body in the format of text-embeddings-inference's /predict asks for."""
    given = body["inputs"]
    rows = [given] if isinstance(given, str) else given
    if isinstance(rows, list) and rows and all(isinstance(text, str) for text in rows):
        rows = [rows]  # one text, or the two of a pair
    rows = _check_rows("inputs", rows, limits)
    rows = [row[0] if isinstance(row, list) and len(row) == 1 else row for row in rows]
    return Query("scores" if _switch(body, "raw_scores") else "answers", rows)


def _rows(body: Body, limits: Limits) -> list[Any]:
    names = [name for name in ("texts", "rows") if name in body]
    if len(names) != 1:
        raise BadRequest('give either "texts" or "rows", a list')
    return _check_rows(names[0], body[names[0]], limits)


def _check_rows(name: str, rows: Any, limits: Limits) -> list[Any]:
    """Refuse rows that cannot be texts; whether they fit the task is for the model to say."""
    if not isinstance(rows, list):
        raise BadRequest(f"{name}: is {_kind(rows)}, must be a list of texts")
    if not rows:
        raise BadRequest(f"{name}: is empty; give at least one text")
    if len(rows) > limits.texts:
        raise BadRequest(
            f"{name}: holds {len(rows)} texts, this server takes at most {limits.texts} at once"
        )
    for number, row in enumerate(rows, 1):
        if not isinstance(row, str | list | dict):
            raise BadRequest(f"{name}, row {number}: is {_kind(row)}, must be text")
        for text in _strings(row):
            _check_text(f"{name}, row {number}", text)
    return rows


def _check_text(where: str, text: str) -> None:
    """Refuse what is no text although JSON can write it."""
    if "\0" in text:
        raise BadRequest(f"{where}: holds a NUL character; remove it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        character = f"U+{ord(text[error.start]):04X}"
        raise BadRequest(f"{where}: has an unpaired surrogate ({character}); remove it") from error


def _strings(value: Any) -> Iterator[str]:
    """Yield the texts in a row, which may be nested as deeply as JSON allows."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, list):
            stack += item
        elif isinstance(item, dict):
            stack += [*item, *item.values()]


def _check_keys(body: Body, known: Sequence[str]) -> None:
    for name in body:
        if name not in known:
            raise BadRequest(f"unknown key {name[:40]!r}; use {', '.join(known)}")


def _whole_number(body: Body, name: str) -> int | None:
    value = body.get(name)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise BadRequest(f"{name}: is {_kind(value)}, must be a whole number")
    return value


def _switch(body: Body, name: str) -> bool:
    value = body.get(name, False)
    if not isinstance(value, bool):
        raise BadRequest(f"{name}: is {_kind(value)}, must be true or false")
    return value


def _kind(value: Any) -> str:
    """Return what a value is, in JSON's words."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    names: dict[type, str] = {str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), "a number")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not valid JSON")


# ---- answers


def embeddings_answer(reply: Reply, model: str, as_base64: bool) -> dict[str, Any]:
    """Return vectors in OpenAI's format."""
    data = [
        {
            "object": "embedding",
            "index": number,
            "embedding": _base64(vector) if as_base64 else vector.tolist(),
        }
        for number, vector in enumerate(reply.values)
    ]
    usage = {"prompt_tokens": reply.tokens, "total_tokens": reply.tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}


def _base64(vector: NDArray[np.float32]) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def scores_answer(reply: Reply, labels: Sequence[str]) -> list[list[dict[str, Any]]]:
    """Return the labels of each row with their scores, as text-embeddings-inference does.

    Raises:
        BadRequest: The task answers with neither labels nor a score.
    """
    answers = []
    for value in reply.values:
        if isinstance(value, list):
            scores = dict(zip(labels or ["score"], value, strict=True))
        elif "probabilities" in value:
            scores = value["probabilities"]
        elif "score" in value:
            scores = {"score": value["score"]}
        else:
            raise BadRequest('inputs: this task has no scores; send "texts" or "rows" instead')
        scored = [{"label": label, "score": score} for label, score in scores.items()]
        answers.append(sorted(scored, key=lambda item: -item["score"]))
    return answers
