"""Test a server against golden.json, by the protocol of OpenAI or of text-embeddings-inference."""

import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from litpool import InputError, JobError
from litpool.tools.export import golden as golden_file
from litpool.tools.export.certificate import summary
from litpool.tools.export.diagnosis import diagnose
from litpool.tools.export.golden import Golden
from litpool.tools.export.graph import BATCH

SECONDS = 60
SERVER_TOLERANCE = 1e-3
"""Servers fuse operations and write few digits, so they get more room than an export."""

OPENAI, EMBED, PREDICT = "/v1/embeddings", "/embed", "/predict"


def verify_server(url: str, folder: Path) -> tuple[list[str], str]:
    """Return what is wrong with a server, and a summary if nothing is.

    The texts are sent without a prefix, which is the server's to add.

    Raises:
        InputError: There is no golden.json, or the output has no protocol.
        JobError: The server does not answer.
    """
    golden = golden_file.read(folder)
    if golden["output"] == "spans":
        raise InputError(
            f"{url}: servers have no common protocol for {golden['task']}; verify the folder"
        )
    golden = {**golden, "tolerance": max(golden["tolerance"], SERVER_TOLERANCE)}
    path = urlsplit(url).path.rstrip("/")
    protocols = [name for name in (OPENAI, EMBED, PREDICT) if path.endswith(name)]
    root = url.rstrip("/").removesuffix(protocols[0] if protocols else "")
    protocol = protocols[0] if protocols else _protocol(root, golden)
    outputs: list[list[float]] = []
    for start in range(0, len(golden["rows"]), BATCH):
        texts = [row["texts"] for row in golden["rows"][start : start + BATCH]]
        outputs += _ask(root, protocol, texts, golden)
    problems = diagnose(golden, outputs)
    if _normalized_by_protocol(golden, outputs, problems):
        return [], f"{len(outputs)} texts by {protocol}, normalized by the server: equal cosines"
    if problems:
        return problems, ""
    return [], f"{summary(golden, outputs).partition(', ')[0]} by {protocol}, equal outputs"


def _protocol(root: str, golden: Golden) -> str:
    """Return the protocol that a server speaks, by asking it for one text."""
    if golden["output"] != "vectors":
        return PREDICT
    try:
        _ask(root, OPENAI, [golden["rows"][0]["texts"]], golden)
    except JobError as error:
        answer = error.__cause__
        if isinstance(answer, urllib.error.HTTPError) and answer.code in (401, 403):
            raise  # it speaks the protocol, but wants a key
        return EMBED
    return OPENAI


def _ask(root: str, protocol: str, texts: list[list[str]], golden: Golden) -> list[list[float]]:
    """Return the outputs for some rows."""
    inputs: list[Any] = [row[0] if len(row) == 1 else row for row in texts]
    if protocol == OPENAI:
        answer = _post(root + protocol, {"input": inputs, "model": _model(root)})
        data = sorted(_checked(answer, "data", root + protocol), key=lambda item: item["index"])
        return [item["embedding"] for item in data]
    body: dict[str, Any] = {"inputs": inputs, "truncate": True}
    if protocol == EMBED:
        return _post(root + protocol, {**body, "normalize": False})
    body["inputs"] = [[text] if isinstance(text, str) else text for text in inputs]
    answers = _post(root + protocol, {**body, "raw_scores": True})
    return [_scores(answer, golden) for answer in answers]


def _scores(answer: list[dict[str, Any]], golden: Golden) -> list[float]:
    """Return scores in the order of the labels; a server sorts them by score."""
    by_label = {str(item["label"]): float(item["score"]) for item in answer}
    names = golden["labels"] or list(by_label)
    if set(names) != set(by_label):
        numbered = [f"LABEL_{number}" for number in range(len(names))]
        if set(numbered) != set(by_label):
            raise JobError(f"the server has the labels {sorted(by_label)}, not {names}")
        names = numbered
    return [by_label[name] for name in names]


def _model(root: str) -> str:
    """Return the name of the server's model, which some servers insist on."""
    try:
        request = urllib.request.Request(root + "/v1/models", headers=_key())
        with urllib.request.urlopen(request, timeout=SECONDS) as response:
            return json.load(response)["data"][0]["id"]
    except (OSError, ValueError, LookupError, TypeError):
        return "default"  # a server with one model does not need the name


def _key() -> dict[str, Any]:
    """Return the headers with the server's key, if the environment has one: LitServe wants its own.

    In UTF-8, as `serve` compares it.
    """
    key = os.environ.get("LIT_SERVER_API_KEY", "").strip().encode()
    return {"Authorization": b"Bearer " + key, "X-API-Key": key} if key else {}


def _post(url: str, body: dict[str, Any]) -> Any:
    """Send JSON and return the answer.

    Raises:
        JobError: The server does not answer, or not with JSON.
    """
    content = json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **_key()}
    request = urllib.request.Request(url, content, headers)
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        detail = error.read(200).decode(errors="replace")
        raise JobError(f"{url}: answers with status {error.code} ({detail})") from error
    except (OSError, ValueError) as error:
        raise JobError(f"{url}: does not answer ({error})") from error


def _checked(answer: Any, key: str, url: str) -> list[dict[str, Any]]:
    if not isinstance(answer, dict) or not isinstance(answer.get(key), list):
        raise JobError(f"{url}: answers {str(answer)[:80]!r}, without {key!r}")
    return answer[key]


def _normalized_by_protocol(
    golden: Golden, outputs: list[list[float]], problems: list[str]
) -> bool:
    """Return whether vectors are right but for their length, which some protocols set to 1."""
    if golden["output"] != "vectors" or not problems:
        return False
    lengths = np.linalg.norm(np.array(outputs), axis=1)
    if not np.allclose(lengths, 1, atol=1e-3):
        return False
    expected = np.array([row["output"] for row in golden["rows"]])
    if np.array(outputs).shape != expected.shape:
        return False
    expected /= np.linalg.norm(expected, axis=1, keepdims=True).clip(1e-12)
    return bool(np.abs(expected - outputs).max() <= golden["tolerance"])
