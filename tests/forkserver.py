"""A process that imports litpool once and forks a child for each command.

Tests kill these children; each one starts within a second.
"""

import json
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any


class Child:
    """A running command.

    Args:
        server: The process that forked it.
        folder: Where it runs; `out.txt` there contains what it prints.
    """

    def __init__(self, server: "subprocess.Popen[str]", folder: Path) -> None:
        assert server.stdout
        self.server, self.folder = server, folder
        self.pid = int(server.stdout.readline())

    def kill(self, signum: int) -> None:
        os.kill(self.pid, signum)

    def wait(self) -> int:
        """Return the exit status; for a child killed by a signal, minus the signal's number."""
        assert self.server.stdout
        return int(self.server.stdout.readline())

    @property
    def printed(self) -> str:
        return (self.folder / "out.txt").read_text()


class ForkServer:
    """Starts commands, one at a time."""

    def __init__(self) -> None:
        command = [sys.executable, __file__]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # a forked child has no other threads
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def start(self, folder: Path, *arguments: Any, **environment: str) -> Child:
        assert self.process.stdin
        request = {
            "folder": str(folder),
            "arguments": [*map(str, arguments)],
            "environment": environment,
        }
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return Child(self.process, folder)

    def close(self) -> None:
        self.process.communicate()


def serve() -> None:
    import torch

    from litpool import app

    torch.set_num_threads(1)
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            _run(json.loads(line), app.main)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _run(request: dict[str, Any], main: Any) -> None:
    os.chdir(request["folder"])
    os.environ.update(request["environment"])
    out = os.open("out.txt", os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    for number, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, out), (2, out)):
        os.dup2(source, number)
    sys.argv = ["cli.py", *request["arguments"]]
    status: Any = 0
    try:
        main()
    except SystemExit as stop:
        status = stop.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    if isinstance(status, str):
        print(status, file=sys.stderr)
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    serve()
