"""The server: answers, errors, the page, and how it ends."""

import base64
import contextlib
import functools
import html
import json
import os
import random
import re
import shutil
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

import litpool
from litpool.ensemble import Ensemble
from litpool.predictor import round_probabilities

pytestmark = pytest.mark.slow

CHECKPOINTS = Path(__file__).parents[2] / "fixtures/v0.1.0"
ROWS = [json.loads(line) for line in (CHECKPOINTS / "rows/test.jsonl").read_text().splitlines()]
TEXTS = [row["text"] for row in ROWS]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def load(task):
    return litpool.load(CHECKPOINTS / task / "lightning.ckpt", device="cpu")


def assert_same(answers, expected):
    """Assert that answers are equal; a probability may round differently in another batch."""
    assert len(answers) == len(expected)
    for answer, other in zip(answers, expected, strict=True):
        assert answer.keys() == other.keys()
        for name, value in other.items():
            if isinstance(value, float | dict):
                assert answer[name] == pytest.approx(value, abs=1.1e-4)
            elif name == "top":
                assert [item["label"] for item in answer["top"]] == [i["label"] for i in value]
            elif name == "vector":
                assert answer[name] == pytest.approx(value, abs=1e-5)
            else:
                assert answer[name] == value


# ---- answers


def test_the_answers_are_those_of_predict(classifier):
    model = load("classification")
    status, content = classifier.send("/predict", {"texts": TEXTS[:10]})
    assert status == 200
    assert_same(content["answers"], model.predict(TEXTS[:10]))
    status, content = classifier.send("/predict", {"rows": ROWS[:5], "top": 2})
    assert status == 200
    assert_same(content["answers"], model.predict(ROWS[:5], top=2))
    status, content = classifier.send("/encode", {"texts": TEXTS[:10], "normalize": True})
    assert status == 200
    expected = model.encode(TEXTS[:10], normalize=True)
    assert np.allclose(content["vectors"], expected, atol=1e-5)


def test_embeddings_are_in_the_format_of_openai(classifier):
    model = load("classification")
    expected = model.encode(TEXTS[:3], normalize=True)
    status, content = classifier.send("/v1/embeddings", {"input": TEXTS[:3], "model": "any"})
    assert status == 200
    assert [item["index"] for item in content["data"]] == [0, 1, 2]
    assert np.allclose([item["embedding"] for item in content["data"]], expected, atol=1e-5)
    ids = model.tokenizer(TEXTS[:3])["input_ids"]
    assert content["usage"]["prompt_tokens"] == sum(map(len, ids))
    body = {"input": TEXTS[0], "encoding_format": "base64"}
    _, content = classifier.send("/v1/embeddings", body)
    vector = np.frombuffer(base64.b64decode(content["data"][0]["embedding"]), "<f4")
    assert np.allclose(vector, expected[0], atol=1e-5)


@pytest.mark.parametrize("task", ["cosine", "multilabel", "question_answering", "regression"])
def test_every_task_is_served(serving, task):
    server = serving("--ckpt_path", CHECKPOINTS / task / "lightning.ckpt")
    model = load(task)
    status, content = server.send("/predict", {"rows": ROWS[:6]})
    assert status == 200
    assert_same(content["answers"], model.predict(ROWS[:6]))
    status, content = server.send("/encode", {"texts": TEXTS[:2]})
    if model.task.on_tokens:
        assert status == 400
        assert "has no vectors" in content["error"]["message"]
    else:
        assert status == 200
    server.stop()


def test_several_checkpoints_answer_with_their_mean(serving):
    paths = [CHECKPOINTS / "classification" / f"{loop}.ckpt" for loop in ("lightning", "plain")]
    server = serving("--ckpt_path", paths[0], "--ckpt_path", paths[1])
    members = [litpool.load(path, device="cpu") for path in paths]
    expected = Ensemble(members).answers({"text": TEXTS[:6]})
    _, content = server.send("/predict", {"texts": TEXTS[:6]})
    assert_same(content["answers"], [round_probabilities(answer, None) for answer in expected])
    status, content = server.send("/encode", {"texts": TEXTS[:6]})
    assert status == 400
    assert "several checkpoints have no common vectors" in content["error"]["message"]
    server.stop()


def test_verify_accepts_a_served_checkpoint(serving, cli):
    pytest.importorskip("litpool.tools.export.command", reason="without the tool export")
    for task in ("classification", "cosine", "multilabel", "regression"):
        path = CHECKPOINTS / task / "lightning.ckpt"
        server = serving("--ckpt_path", path)
        options = ["--format", "huggingface", "--output", task, "--scores", "false"]
        status, _, err = cli("export", "--ckpt_path", path, *options)
        assert status == 0, err
        status, out, err = cli("verify", server.url, "--golden", task)
        assert (status, err) == (0, "")
        assert out.startswith("verified    32 texts by /")
        server.stop()


# ---- errors


BAD = [
    ("/predict", b"{", 400, "not JSON"),
    ("/predict", b"\xff", 400, "not UTF-8"),
    ("/predict", [], 400, "a list; send an object"),
    ("/predict", {}, 400, 'either "texts" or "rows"'),
    ("/predict", {"texts": []}, 400, "is empty"),
    ("/predict", {"texts": ["a"] * 21}, 400, "at most 20"),
    ("/predict", {"texts": "a"}, 400, "must be a list"),
    ("/predict", {"texts": [1]}, 400, "must be text"),
    ("/predict", {"texts": ["fine", " "]}, 400, "row 2: 'text' is empty"),
    ("/predict", {"texts": ["a\0"]}, 400, "NUL"),
    ("/predict", {"texts": ["\ud800"]}, 400, "unpaired surrogate"),
    ("/predict", {"rows": [{"body": "a"}]}, 400, "there is ['body']; each row needs the keys text"),
    ("/predict", {"rows": [["a", "b"]]}, 400, "2 texts, must be 1"),
    ("/predict", {"rows": [{"text": 3}]}, 400, "must be text"),
    ("/predict", {"texts": ["a"], "top": 0}, 400, "top=0"),
    ("/predict", {"texts": ["a"], "top": 99}, 400, "top=99"),
    ("/predict", {"texts": ["a" * 30_000]}, 413, "larger than 20000 bytes"),
    ("/predict", {"inputs": [["a"]], "raw_scores": 1}, 400, "raw_scores"),
    ("/encode", {"texts": ["a"], "column": "other"}, 400, "column=other"),
    ("/encode", {"texts": ["a"], "normalize": "no"}, 400, "normalize"),
    ("/v1/embeddings", {"input": [[1, 2]]}, 400, "token ids"),
    ("/v1/embeddings", {"input": [""]}, 400, "empty"),
    ("/v1/embeddings", {"input": "a", "dimensions": 3}, 400, "dimensions"),
    ("/nowhere", {"texts": ["a"]}, 404, "no such path"),
    ("/health", {"texts": ["a"]}, 405, "use GET"),
    ("/predict", None, 405, "use POST"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "status", "reason"), BAD, ids=lambda v: str(v)[:30])
def test_a_bad_request_gets_the_reason(classifier, path, body, status, reason):
    found, content = classifier.send(path, body)
    assert found == status
    assert reason in content["error"]["message"]
    assert "\n" not in content["error"]["message"]


def test_1000_good_and_bad_requests_from_8_clients(classifier):
    model = load("classification")
    draw = random.Random(0)
    jobs = []
    for number in range(1000):
        texts = draw.choices(TEXTS, k=draw.randint(1, 8))
        if number % 3 == 0:
            jobs.append(draw.choice(BAD))
        elif number % 3 == 1:
            jobs.append(("/predict", {"texts": texts}, 200, ""))
        else:
            jobs.append(("/encode", {"texts": texts}, 200, ""))
    answers = dict(zip(TEXTS, model.predict(TEXTS), strict=True))
    vectors = dict(zip(TEXTS, model.encode(TEXTS), strict=True))
    with ThreadPoolExecutor(8) as clients:
        found = list(clients.map(lambda job: classifier.send(*job[:2]), jobs))
    for (path, body, status, reason), (got, content) in zip(jobs, found, strict=True):
        assert got == status
        if status != 200:
            assert reason in content["error"]["message"]
        elif path == "/predict":
            assert_same(content["answers"], [answers[text] for text in body["texts"]])
        else:
            expected = [vectors[text] for text in body["texts"]]
            assert np.allclose(content["vectors"], expected, atol=1e-5)


def test_a_bad_row_spoils_no_other_request(classifier):
    """Requests that wait are answered together."""
    bodies = [{"texts": [text]} for text in TEXTS[:20]]
    bodies[3::4] = [{"rows": [{"wrong": "a"}]}] * 5
    with ThreadPoolExecutor(20) as clients:
        found = list(clients.map(lambda body: classifier.send("/predict", body)[0], bodies))
    assert found == [400 if "rows" in body else 200 for body in bodies]


# ---- the key


def test_every_path_but_health_needs_the_key(serving):
    path = CHECKPOINTS / "classification/lightning.ckpt"
    server = serving("--ckpt_path", path, LIT_SERVER_API_KEY="sésame\n")
    key = "sésame".encode().decode("latin-1")  # as http.client sends it
    body = {"texts": TEXTS[:1]}
    requests = [("/", None), ("/info", None), ("/v1/models", None)]
    requests += [("/predict", body), ("/encode", body), ("/v1/embeddings", {"input": "a"})]
    wrong = [{}, {"X-API-Key": "no"}, {"Authorization": f"Basic {key}"}, {"Authorization": key}]
    right = [{"X-API-Key": key}, {"X-API-Key": "", "Authorization": f"Bearer  {key}"}]
    for place, content in requests:
        for headers in wrong:
            status, answer = server.send(place, content, headers=headers)
            assert status == 401
            assert "send the header X-API-Key: KEY" in answer["error"]["message"]
        assert [server.send(place, content, headers=h)[0] for h in right] == [200, 200]
    assert server.send("/health") == (200, "ok")
    server.stop()


def test_verify_sends_the_key(serving, cli, monkeypatch):
    pytest.importorskip("litpool.tools.export.command", reason="without the tool export")
    path = CHECKPOINTS / "cosine/lightning.ckpt"
    server = serving("--ckpt_path", path, LIT_SERVER_API_KEY="sésame")
    cli("export", "--ckpt_path", path, "--format", "huggingface", "--scores", "false")
    status, _, err = cli("verify", server.url, "--golden", "export")
    assert status == 1
    assert "status 401" in err
    monkeypatch.setenv("LIT_SERVER_API_KEY", "sésame\n")
    assert cli("verify", server.url, "--golden", "export")[0] == 0
    server.stop()


# ---- overload


def model_processes(server):
    """Return the ids of the process with the model, and of none of LitServe's others."""
    file = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    if not file.exists():
        pytest.skip("needs /proc")
    numbers = file.read_text().split()
    return [int(n) for n in numbers if "spawn_main" in Path(f"/proc/{n}/cmdline").read_text()]


def test_more_requests_than_may_wait_get_503_and_the_others_an_answer(serving):
    path = CHECKPOINTS / "classification/lightning.ckpt"
    server = serving("--ckpt_path", path, "--max_waiting", 3)
    body = {"texts": TEXTS[:1]}
    for process in model_processes(server):
        os.kill(process, signal.SIGSTOP)
    with ThreadPoolExecutor(6) as clients:
        sent = [clients.submit(server.send, "/predict", body) for _ in range(6)]
        answers = as_completed(sent)
        for _ in range(3):  # the others wait
            status, content = next(answers).result()
            assert status == 503
            assert "3 requests are waiting, the limit of this server" in content["error"]["message"]
            assert content["error"]["type"] == "server_error"
        assert server.send("/predict", {"texts": []})[0] == 400
        assert server.send("/health") == (200, "ok")
        for process in model_processes(server):
            os.kill(process, signal.SIGCONT)
        assert [answer.result()[0] for answer in answers] == [200] * 3
    assert server.send("/predict", body)[0] == 200
    server.stop()


# ---- signals


def has_processes(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_all_processes(serving, number, status):
    server = serving("--ckpt_path", CHECKPOINTS / "classification/lightning.ckpt")
    assert server.stop(number) == (status, "\nstopped serving\n")
    deadline = time.monotonic() + 20
    while has_processes(server.process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_the_server_ends_with_the_process_of_the_model(serving):
    server = serving("--ckpt_path", CHECKPOINTS / "classification/lightning.ckpt")
    for worker in model_processes(server):
        os.kill(worker, signal.SIGKILL)
    _, err = server.process.communicate(timeout=60)
    assert server.process.returncode == 1
    assert err == "error: the process with the model ended with status -9; start serve again\n"


@pytest.mark.parametrize("content", [b"not a checkpoint", None])
def test_a_checkpoint_that_cannot_be_used_is_one_line(cli, tmp_path, content):
    pytest.importorskip("litserve", reason="needs the extra `serve`")
    path = tmp_path / "best.ckpt"
    if content:
        path.write_bytes(content)
    status, _, err = cli("serve", "--ckpt_path", path, "--port", "0")
    assert status == 2
    assert err.startswith(f"error: ckpt_path={path}")
    assert err.count("\n") == 1


# ---- the page


@functools.cache
def browser():
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    pytest.skip(f"no browser here: none of {', '.join(BROWSERS)}")


VIEW = """
<!doctype html><meta charset="utf-8"><pre id="result"></pre>
<iframe style="width: {width}px; height: 800px; border: 0" src="/{query}"></iframe>
<script>
addEventListener("load", async () => {{
  const page = document.querySelector("iframe").contentDocument;
  for (let n = 0; n < 100 && !page.querySelector("article, #error:not(:empty)"); n++)
    await new Promise((done) => setTimeout(done, 100));
  const wide = [...page.querySelectorAll("body *")].filter(
    (node) => node.getBoundingClientRect().right > {width} + 0.5);
  document.querySelector("#result").textContent = JSON.stringify({{
    model: page.querySelector("#model").textContent,
    label: page.querySelector("label").textContent,
    answers: [...page.querySelectorAll("article")].map((node) => node.innerText),
    bars: page.querySelectorAll(".bar").length,
    error: page.querySelector("#error").textContent,
    scripts: page.querySelectorAll("article script, article img").length,
    wide: wide.map((node) => node.outerHTML.slice(0, 80)),
  }});
}});
</script>
"""


@contextlib.contextmanager
def beside(server, view):
    """Serve a page next to those of a server, so that it may look into them; yield its URL."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            length = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(length) if length else None
            if self.path == "/view":
                status, content = 200, view
            else:
                status, content = server.send(self.path, body, self.command)
            is_json = not isinstance(content, str)
            self.send_response(status)
            self.send_header("Content-Type", "application/json" if is_json else "text/html")
            self.end_headers()
            self.wfile.write((json.dumps(content) if is_json else content).encode())

        do_GET = do_POST = answer

        def log_message(self, *arguments):
            pass

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=proxy.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{proxy.server_port}/view"
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()


def look(server, query, width, folder):
    """Return what a browser shows of the page, and what it complains of."""
    with beside(server, VIEW.format(width=width, query=query)) as url:
        command = [browser(), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        command += [f"--window-size={max(width, 500)},900", "--enable-logging=stderr"]
        command += ["--virtual-time-budget=20000", f"--user-data-dir={folder}", url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    (text,) = re.findall(r'<pre id="result">(.*?)</pre>', done.stdout, re.DOTALL)
    return json.loads(html.unescape(text)), re.findall(r".*CONSOLE.*", done.stderr)


@pytest.mark.parametrize("width", [1440, 390])
def test_the_page_answers_texts_and_fits_its_window(classifier, tmp_path, width):
    query = "?text=a%20good%20film%0A%3Cscript%3Ealert(1)%3C/script%3E" + "x" * 200
    page, console = look(classifier, query, width, tmp_path)
    assert console == []
    assert page["error"] == ""
    assert page["model"].startswith("Classification")
    assert [answer.splitlines()[0] for answer in page["answers"]] == [
        "a good film",
        f"<script>alert(1)</script>{'x' * 200}",
    ]
    label = load("classification").predict(["a good film"])[0]["label"]
    assert f"label: {label}" in page["answers"][0]
    assert page["bars"] == 2 * len(load("classification").task.labels)
    assert page["scripts"] == 0
    assert page["wide"] == []


def test_the_page_shows_the_reason_of_an_error(classifier, tmp_path):
    page, _ = look(classifier, "?text=" + "%0A".join("a" * 21), 390, tmp_path)
    assert page["answers"] == []
    assert "at most 20 at once" in page["error"]


def test_the_page_loads_nothing_from_elsewhere(classifier):
    status, content = classifier.send("/")
    assert status == 200
    assert not re.findall(r"https?://|src=|@import|url\(", content)
