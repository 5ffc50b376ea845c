"""One batch of requests in the process with the model."""

import json
import signal
from pathlib import Path

import pytest

from litpool.tools.serve.query import Query, Reply

pytest.importorskip("litserve", reason="needs the extra `serve`")
from litpool.tools.serve import worker

QUESTIONS = Path(__file__).parents[2] / "fixtures/v0.1.0/question_answering/lightning.ckpt"


class Report:
    """The end of a pipe that nobody reads."""

    def send(self, content):
        assert isinstance(content, worker.Description), content


@pytest.fixture
def load(monkeypatch):
    """A function that loads a checkpoint as the process with the model does."""
    monkeypatch.setattr(worker, "quiet", lambda: None)
    handler = signal.getsignal(signal.SIGINT)

    def load(path):
        model = worker.Model([str(path)], "cpu", (), 32, Report())
        model.setup("cpu")
        return model

    yield load
    signal.signal(signal.SIGINT, handler)


def assert_only_the_bad_one_is_refused(model, kind, good, bad, reason):
    """The bad request gets the reason, and those beside it the answers that they get alone."""
    queries = [Query(kind, [row]) for row in (good[0], bad, good[1])]
    first, refused, last = model.predict(queries)
    assert (refused.status, list(refused.values)) == (400, [])
    assert reason in refused.error
    assert refused.error.endswith("raise data.max_length") or "mark every text" in refused.error
    for reply, query in ((first, queries[0]), (last, queries[2])):
        (alone,) = model.predict([query])
        assert isinstance(reply, Reply)
        assert (reply.status, reply.error) == (200, "")
        assert str(list(reply.values)) == str(list(alone.values))


def test_a_question_that_is_too_long_spoils_no_other_request(load):
    good = [("who?", "it is the film"), ("what was good?", "the play")]
    reason = "its 400 tokens leave no room for the context, must be 28 or fewer; shorten it"
    bad = ("why? " * 200, "it is a film")
    assert_only_the_bad_one_is_refused(load(QUESTIONS), "answers", good, bad, reason)


def test_a_text_without_its_marker_spoils_no_other_request(load, train):
    rows = [{"text": f"a {word} [S] film", "label": word} for word in ("good", "bad")] * 10
    Path("marked.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = ["--data.source", "marked.jsonl", "--data.add_special_tokens", "['[S]']"]
    options += ["--model.pooling", "MarkerPooling", "--model.pooling.markers", "['[S]']"]
    model = load(train("fit_plain", *options)["folder"])
    good = ["a good [S] film", "not so [S] bad"]
    missing = "no '[S]' in the text 'a good film'; mark every text"
    for kind in ("answers", "scores", "vectors"):
        assert_only_the_bad_one_is_refused(model, kind, good, "a good film", missing)
        long = "a " * 40 + "[S] film"
        assert_only_the_bad_one_is_refused(model, kind, good, long, "'[S]' is cut off from")
