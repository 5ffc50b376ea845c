"""Files are written completely or not at all, and a write that fails is one line.

This file must import fast.
"""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from litpool import JobError

UNFINISHED = ".part"
"""The ending of a file's name while it is being written."""

ADVICE = {
    errno.ENOSPC: "free some space on this disk",
    errno.EDQUOT: "free some space, since your quota is used up",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EROFS: "use a folder on a disk that is not read-only",
    errno.EACCES: "use a folder that you may write to",
    errno.EPERM: "use a folder that you may write to",
    errno.EIO: "check this disk",
    errno.EPIPE: "its reader has closed it",
}


def failure(name: str | Path, error: OSError) -> JobError:
    """Return the error for a file that cannot be written, with the reason and the fix."""
    reason = os.strerror(error.errno) if error.errno else " ".join(str(error).split())
    advice = ADVICE.get(error.errno or 0, "check the disk and its folder")
    return JobError(f"{name}: cannot be written ({reason}); {advice}")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the name of a temporary file in the same folder, which replaces `path` at the end.

    Raises:
        JobError: The disk is full, for example. `path` is as before.
    """
    part = path.with_name(path.name + UNFINISHED)
    try:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())  # the disk may report only now that it is full
        os.replace(part, path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the first error is the one to report
            part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise failure(path, error) from error
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file, and its folder if there is none.

    Raises:
        JobError: The disk is full, for example. An existing file is as before.
    """
    make_folder(path.parent)
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def make_folder(path: Path) -> None:
    """Create a folder, unless it exists.

    Raises:
        JobError: It cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise failure(path, error) from error


@contextlib.contextmanager
def complete_output() -> Iterator[None]:
    """At the end, print what is still in the buffer of standard output.

    Otherwise Python would do so after the exit status is decided, and report an error in several
    lines. A reader that has closed the pipe, such as `head`, causes one.
    """
    status: Any = 0
    try:
        try:
            yield
        except SystemExit as stop:
            status = stop.code
            raise
        finally:
            if sys.stdout is not None:  # the shell may have closed it
                sys.stdout.flush()
    except OSError as error:
        if error.filename is not None or error.errno not in ADVICE:  # of something else
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes again
        if not status:  # else there is a line on standard error already
            print(f"error: {failure('standard output', error)}", file=sys.stderr)
        sys.exit(status or 1)
