"""The process that serves: it checks requests, and passes them to the process with the model."""

import contextlib
import dataclasses
import json
import multiprocessing
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from types import FrameType
from typing import Any

import litserve
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import StarletteHTTPException
from litserve.server import RegularRequestHandler
from litserve.utils import wrap_litserve_start
from starlette.requests import ClientDisconnect

from litpool import InputError, JobError, interrupt
from litpool.tools.serve import query as queries
from litpool.tools.serve.query import BadRequest, Description, Limits, Query, Reply
from litpool.tools.serve.worker import Failure, Model

PAGE = Path(__file__).with_name("page.html")
PATHS = ("/", "/health", "/info", "/predict", "/encode", "/v1/embeddings", "/v1/models")
KEY = "LIT_SERVER_API_KEY"  # LitServe's name; it protects LitServe's own endpoints only
GRACE = 3  # seconds for the answers that are on their way when a signal comes


def run(
    paths: Sequence[str],
    device: str | None,
    trust: Sequence[str],
    limits: Limits,
    requests: int,
    listener: socket.socket,
) -> None:
    """Serve until a signal comes.

    Args:
        paths: Run folders or checkpoints.
        device: Where to compute.
        trust: Modules of the user's that the checkpoints may name.
        limits: What a request may hold, and how many may wait.
        requests: How many requests to answer together at most.
        listener: A bound socket.

    Raises:
        InputError: A checkpoint cannot be used.
        JobError: The process with the model ends.
    """
    interrupt.advise("stopped serving")
    report, sender = multiprocessing.get_context("spawn").Pipe(duplex=False)
    model = Model(paths, device, trust, requests, sender)
    # Without a documentation page, which would load its scripts from elsewhere.
    server = litserve.LitServer(
        model, accelerator="cpu", devices=1, timeout=False, disable_openapi_url=True
    )
    with _started(server) as worker:
        description = _wait_for(worker, report)
        _Endpoints(server, model, description, limits).add()
        config = uvicorn.Config(
            server.app, log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE
        )
        name, port = listener.getsockname()[:2]
        url = f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"
        http = _Http(config, f"serving     {url} ({description.task}, {description.model})")
        threading.Thread(target=_stop_with, args=(worker, http), daemon=True).start()
        http.run(sockets=[listener])
        worker.join()
        raise JobError(
            f"the process with the model ended with status {worker.exitcode}; start serve again"
        )


@contextlib.contextmanager
def _started(server: litserve.LitServer) -> Iterator[Any]:
    """Start LitServe's processes; yield that with the model. In the end, none of them is left."""
    stack = contextlib.ExitStack()
    try:
        with interrupt.deferred():  # a signal now would leave processes behind
            handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # they inherit it
            try:
                stack.enter_context(wrap_litserve_start(server))
            finally:
                signal.signal(signal.SIGINT, handler)
            interrupt.at_deadline.append(_kill_processes)
            stack.callback(interrupt.at_deadline.remove, _kill_processes)
        (worker,) = server.inference_workers
        stack.callback(worker.kill)
        yield worker
    finally:
        # A signal may go to all processes, and then LitServe cannot reach those that it ends.
        with contextlib.suppress(ConnectionError, EOFError):
            stack.close()


def _kill_processes() -> None:
    for process in multiprocessing.active_children():
        process.kill()


class _Http(uvicorn.Server):
    """Uvicorn, with a line when it is ready; it leaves signals alone that nohup has turned off."""

    def __init__(self, config: uvicorn.Config, message: str) -> None:
        super().__init__(config)
        self.message = message
        handlers = {number: signal.getsignal(number) for number in interrupt.SIGNALS}
        self.ignored = [n for n, handler in handlers.items() if handler is signal.SIG_IGN]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say where the server is once it accepts requests."""
        await super().startup(sockets)
        print(self.message)
        sys.stdout.flush()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End after the answers that are on their way; the signal is raised again then."""
        if sig not in self.ignored:
            super().handle_exit(sig, frame)


def _wait_for(worker: Any, report: Any) -> Description:
    """Return what the process with the model says when it has loaded it."""
    wait([report, worker.sentinel])
    if not report.poll():
        worker.join()
        raise JobError(f"the process with the model ended with status {worker.exitcode}")
    result = report.recv()
    if isinstance(result, Failure):
        raise (InputError if result.is_input else JobError)(result.message)
    return result


def _stop_with(worker: Any, http: uvicorn.Server) -> None:
    """End the server when the process with the model ends."""
    wait([worker.sentinel])
    http.should_exit = True


class _Endpoints:
    """What the server answers to each path."""

    def __init__(
        self, server: litserve.LitServer, model: Model, description: Description, limits: Limits
    ) -> None:
        self.app: FastAPI = server.app
        self.handler = RegularRequestHandler(model, server)
        self.description = description
        self.limits = limits
        self.key = os.environ.get(KEY, "").strip()  # a file with a key often ends with a newline
        self.waiting = 0

    def add(self) -> None:
        """Put these endpoints in place of LitServe's, but for /health."""
        app = self.app
        app.router.routes[:] = [
            route for route in app.router.routes if getattr(route, "path", "") == "/health"
        ]
        app.add_exception_handler(StarletteHTTPException, _error)
        app.add_exception_handler(BadRequest, _error)
        for path, method, endpoint in (
            ("/", "GET", self.page),
            ("/info", "GET", self.info),
            ("/v1/models", "GET", self.models),
            ("/predict", "POST", self.predict),
            ("/encode", "POST", self.encode),
            ("/v1/embeddings", "POST", self.embeddings),
        ):
            app.add_api_route(
                path,
                endpoint,
                methods=[method],
                response_model=None,
                dependencies=[Depends(self.check_key)],
            )

    async def check_key(self, request: Request) -> None:
        """Refuse a request without the key, if there is one."""
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        bearer = token.strip() if kind.lower() == "bearer" else ""
        key = request.headers.get("X-API-Key") or bearer
        if self.key and not secrets.compare_digest(key.encode("latin-1"), self.key.encode()):
            raise HTTPException(
                401,
                "this server needs its key; send the header X-API-Key: KEY, or "
                "Authorization: Bearer KEY",
                {"WWW-Authenticate": "Bearer"},
            )

    async def page(self) -> Response:
        return Response(PAGE.read_text(encoding="utf-8"), media_type="text/html")

    async def info(self) -> Response:
        return _json(dataclasses.asdict(self.description) | {"limits": vars(self.limits)})

    async def models(self) -> Response:
        entry = {"id": self.description.model, "object": "model", "owned_by": "litpool"}
        return _json({"object": "list", "data": [entry]})

    async def predict(self, request: Request) -> Response:
        body = await self._body(request)
        if "inputs" in body:
            reply = await self._ask(queries.scores_query(body, self.limits))
            scores = queries.scores_answer(reply, self.description.labels)
            return _json(scores[0] if isinstance(body["inputs"], str) else scores)
        reply = await self._ask(queries.predict_query(body, self.limits))
        return _json({"answers": reply.values})

    async def encode(self, request: Request) -> Response:
        reply = await self._ask(queries.encode_query(await self._body(request), self.limits))
        return _json({"vectors": [vector.tolist() for vector in reply.values]})

    async def embeddings(self, request: Request) -> Response:
        body = await self._body(request)
        query = queries.embeddings_query(body, self.limits, self.description.features)
        reply = await self._ask(query)
        as_base64 = body.get("encoding_format") == "base64"
        return _json(queries.embeddings_answer(reply, self.description.model, as_base64))

    async def _body(self, request: Request) -> dict[str, Any]:
        """Return the object in the body, of which no more is read than is allowed."""
        parts = []
        size = 0
        try:
            async for part in request.stream():
                size += len(part)
                if size > self.limits.bytes:
                    raise BadRequest(
                        f"the body is larger than {self.limits.bytes} bytes, the limit of this "
                        "server; send fewer texts at once",
                        413,
                    )
                parts.append(part)
        except ClientDisconnect as error:
            raise BadRequest("the body is incomplete") from error
        return queries.read_body(b"".join(parts))

    async def _ask(self, query: Query) -> Reply:
        """Return the reply of the process with the model.

        LitServe has no limit on the requests that wait for it, so they are counted here.
        """
        if self.waiting >= self.limits.waiting:
            raise HTTPException(
                503,
                f"{self.waiting} requests are waiting, the limit of this server; try again later",
                {"Retry-After": "1"},
            )
        self.waiting += 1
        try:
            reply: Reply = await self.handler.handle_request(query, Query)
        finally:
            self.waiting -= 1
        if reply.error and reply.status < 500:
            raise BadRequest(reply.error, reply.status)
        if reply.error:
            raise HTTPException(reply.status, reply.error)
        return reply


def _json(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(json.dumps(content), status, headers, media_type="application/json")


async def _error(request: Request, error: Exception) -> Response:
    """Answer with the reason, in the form of OpenAI's errors."""
    headers: Mapping[str, str] = {}
    if isinstance(error, BadRequest):
        status, message = error.status, str(error)
    else:
        assert isinstance(error, StarletteHTTPException)
        status, message = error.status_code, str(error.detail)
        headers = error.headers or {}
    path = request.url.path
    if status == 404:
        message = f"no such path: {path[:80]}; there are {', '.join(PATHS)}"
    elif status == 405:
        allowed = headers.get("Allow", "POST")
        message = f"{path[:80]} does not take {request.method}; use {allowed}"
    kind = "invalid_request_error" if status < 500 else "server_error"
    return _json({"error": {"message": message, "type": kind}}, status, headers)
