"""A server in a process of its own, and a checkpoint for it."""

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
CHECKPOINTS = ROOT / "tests/fixtures/v0.1.0"


class Server:
    """A running `serve`."""

    def __init__(self, *options: Any, **environment: str) -> None:
        words = ["serve", *map(str, options), "--port", "0", "--device", "cpu"]
        self.process = subprocess.Popen(
            [sys.executable, ROOT / "cli.py", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src"), **environment},
            # a shell turns SIGINT off for what it runs in the background
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("serving     http://127.0.0.1:"), self.process.communicate()
        self.url = line.split()[1]
        self.port = int(self.url.rpartition(":")[2])

    def send(
        self, path: str, body: Any = None, method: str = "", headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Send JSON, or bytes as they are; return the status and the content."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        method = method or ("GET" if body is None else "POST")
        connection.request(method, path, content, headers or {})
        response = connection.getresponse()
        text = response.read()
        connection.close()
        is_json = response.headers.get("Content-Type") == "application/json"
        return response.status, json.loads(text) if is_json else text.decode()

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal; return the exit status and what is on standard error."""
        self.process.send_signal(number)
        _, err = self.process.communicate(timeout=60)
        return self.process.returncode, err


@pytest.fixture(scope="module")
def serving() -> Iterator[Callable[..., Server]]:
    """A function that starts a server; all end with the module's tests."""
    pytest.importorskip("litserve", reason="needs the extra `serve`")
    servers: list[Server] = []

    def start(*options: Any, **environment: str) -> Server:
        servers.append(Server(*options, **environment))
        return servers[-1]

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.stop()


@pytest.fixture(scope="module")
def classifier(serving: Callable[..., Server]) -> Server:
    return serving(
        "--ckpt_path", CHECKPOINTS / "classification/lightning.ckpt",
        "--max_texts", 20, "--max_bytes", 20_000,
    )  # fmt: skip
