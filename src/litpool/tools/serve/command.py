"""The command `serve`."""

import socket
from collections.abc import Sequence
from importlib.util import find_spec

from litpool import InputError
from litpool.tools.serve.query import Limits


def serve(
    ckpt_path: str | list[str] | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    device: str | None = None,
    max_texts: int = 256,
    max_bytes: int = 1_000_000,
    max_requests: int = 32,
    max_waiting: int = 256,
    trust: Sequence[str] = (),
) -> None:
    """Serve a checkpoint over HTTP: predictions, vectors, OpenAI's embeddings, and a page.

    Ctrl-C or SIGTERM ends it.

    Args:
        ckpt_path: A run folder, whose best checkpoint is used, or a checkpoint. Given several
            times, the answers are the mean of these checkpoints'.
        host: The address to listen on. Others can use the server only if it is not 127.0.0.1; if
            LIT_SERVER_API_KEY is set, they need that key.
        port: The port to listen on.
        device: Where to compute, such as cuda:1; by default the GPU, if there is one.
        max_texts: How many texts a request may hold.
        max_bytes: How many bytes a request may have.
        max_requests: How many waiting requests to answer in one batch.
        max_waiting: How many requests may wait for their answer; any more get status 503.
        trust: A module of your own that the checkpoint may name; may be given several times.
    """
    if find_spec("litserve") is None:
        raise InputError("serve needs LitServe: pip install -c constraints.txt -e '.[serve]'")
    paths = [ckpt_path] if isinstance(ckpt_path, str) else ckpt_path or []
    if not paths:
        raise InputError(
            "serve needs --ckpt_path RUN or RUN/checkpoints/best.ckpt; `fit` writes it"
        )
    counts = {
        "max_texts": max_texts,
        "max_bytes": max_bytes,
        "max_requests": max_requests,
        "max_waiting": max_waiting,
    }
    for name, value in counts.items():
        if value < 1:
            raise InputError(f"{name}={value}: give a whole number over 0")
    with _listen(host, port) as listener:
        from litpool.tools.serve import http

        limits = Limits(max_texts, max_bytes, max_waiting)
        http.run(paths, device, trust, limits, max_requests, listener)


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address of this machine.

    Raises:
        InputError: It cannot.
    """
    if not 0 <= port <= 65535:
        raise InputError(f"port={port}: give 1 to 65535, or 0 for a free one")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
    except (OSError, UnicodeError) as error:
        raise InputError(f"host={host}: not an address of this machine ({error})") from error
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen()  # two sockets can bind to a port, but only one can listen
    except OSError as error:
        listener.close()
        raise InputError(
            f"host={host}, port={port}: cannot listen there ({error.strerror}); "
            "name an address of this machine and a free port"
        ) from error
    return listener
