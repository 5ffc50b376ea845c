"""Disks that fail: after so many bytes, each write raises an error."""

import builtins
import contextlib
import errno
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class FaultyDisk:
    """The files below a folder.

    Args:
        folder: Where writes fail; elsewhere they succeed.
        space: How many bytes it takes.
        code: The error of each write after that.
        names: Which files it is about, such as `last.ckpt*`.
    """

    def __init__(
        self, folder: Path, space: int = 0, code: int = errno.ENOSPC, names: str = "*"
    ) -> None:
        self.folder = folder.resolve()
        self.space = space
        self.code = code
        self.names = names
        self.written = 0

    def take(self, count: int) -> int:
        """Return how many of these bytes it takes; like a real one, it takes the first few."""
        count = min(count, self.space - self.written)
        if count <= 0:
            raise OSError(self.code, os.strerror(self.code))
        self.written += count
        return count

    def holds(self, file: Any) -> bool:
        if not isinstance(file, str | bytes | os.PathLike):
            return False
        path = Path(os.fsdecode(file)).resolve()
        return self.folder in path.parents and path.match(self.names)

    @contextlib.contextmanager
    def mounted(self) -> Iterator["FaultyDisk"]:
        """Replace Python's `open` by one that opens files on this disk."""
        original = builtins.open
        disk = self

        class File(io.FileIO):
            def write(self, data: Any) -> int:
                view = memoryview(data).cast("B")
                return super().write(view[: disk.take(len(view))]) if len(view) else 0

        def open_file(
            file: Any, mode: str = "r", buffering: int = -1, *args: Any, **kwargs: Any
        ) -> Any:
            writes = set(mode) & set("wax+")
            if not (writes and disk.holds(file)):
                return original(file, mode, buffering, *args, **kwargs)
            raw = File(file, mode.replace("b", "").replace("t", ""))
            buffered: Any = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)
            return buffered if "b" in mode else io.TextIOWrapper(buffered, *args, **kwargs)

        builtins.open = io.open = open_file  # type: ignore[assignment]
        try:
            yield self
        finally:
            builtins.open = io.open = original


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file may become larger than this, as after `ulimit -f`."""
    import resource  # does not exist on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def check_failed(status: int, err: str, reason: str) -> None:
    """A failed write is one line that names the file, the reason and the fix."""
    assert status == 1, err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert f"cannot be written ({reason}); " in err
