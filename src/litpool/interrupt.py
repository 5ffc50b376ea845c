"""SIGINT and SIGTERM: whatever runs then ends within seconds, with exit status 130 or 143.

A signal raises `Interrupted` where the program stands. A training defers it (`deferred`) to the next batch, where its
weights and its progress belong together, and writes a checkpoint first. Where neither happens in time, the process is
ended from a thread. This module must import fast: cli.py needs it before anything else.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

DEADLINE = 8.0  # seconds from the signal to the end, at most
SIGNALS = (signal.SIGINT, signal.SIGTERM)

writing = threading.Lock()
"""Held while a checkpoint is written: the deadline waits for it."""


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM has come. Libraries know it as Ctrl-C."""


class _State:
    """What has happened since `exit_status` was entered."""

    signum: int | None = None  # the first signal that came
    deferrals: int = 0
    advice: str = ""  # what is printed at the end, such as how to resume
    entered: bool = False


_state = _State()


def received() -> bool:
    """Whether SIGINT or SIGTERM has come."""
    return _state.signum is not None


def check() -> None:
    """Raise `Interrupted` if SIGINT or SIGTERM has come."""
    if received():
        raise Interrupted


def stop() -> NoReturn:
    """Raise `Interrupted`; where the signal went to another device's process, as if it were SIGTERM here."""
    _state.signum = _state.signum or signal.SIGTERM
    raise Interrupted


def advise(advice: str) -> None:
    """Choose what is printed when the process ends because of the signal."""
    _state.advice = advice


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Within it a signal does not raise; the code must call `check` often, where it can stop."""
    _state.deferrals += 1
    try:
        yield
    finally:
        _state.deferrals -= 1
    check()


def handle(signum: int, frame: FrameType | None) -> None:
    """Note the first signal, and raise unless it is deferred; later ones change nothing."""
    if _state.signum is None:
        _state.signum = signum
        if not _state.deferrals:
            raise Interrupted


def install() -> None:
    """Make `handle` the handler of both signals."""
    for signum in SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:  # ignored by whoever started us, such as nohup
            signal.signal(signum, handle)


@contextlib.contextmanager
def exit_status() -> Iterator[None]:
    """Handle both signals; if one comes, leave with SystemExit(128 + its number), whatever was raised meanwhile."""
    if _state.entered:
        yield
        return
    _state.entered, _state.signum, _state.deferrals, _state.advice = True, None, 0, ""
    previous = {signum: signal.getsignal(signum) for signum in SIGNALS}
    install()
    watch = _Watch()
    try:
        yield
        check()
    except BaseException as error:
        if not received() and not isinstance(error, KeyboardInterrupt):
            raise
        said = error.code if isinstance(error, SystemExit) and isinstance(error.code, str) else _state.advice
        print(f"\n{said or 'interrupted'}", file=sys.stderr)
        sys.exit(128 + (_state.signum or signal.SIGINT))
    finally:
        watch.close()
        for signum, handler in previous.items():
            signal.signal(signum, handler)
        _state.entered = False


class _Watch:
    """Ends the process when the deadline has passed, also while the main thread is in a library's C code."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        source, self.sink = os.pipe()
        os.set_blocking(self.sink, False)
        self.previous = signal.set_wakeup_fd(self.sink, warn_on_full_buffer=False)  # gets the number of each signal
        os.register_at_fork(after_in_child=_forget_wakeup)
        threading.Thread(target=self._wait, args=(source,), daemon=True).start()

    def _wait(self, source: int) -> None:
        signum = 0
        while signum not in SIGNALS:
            byte = os.read(source, 1)
            if not byte:  # closed: the command has ended
                os.close(source)
                return
            signum = byte[0]
        if not self.ended.wait(DEADLINE):
            with writing:
                os._exit(128 + signum)
        os.close(source)

    def close(self) -> None:
        """The command has ended: no deadline any more."""
        self.ended.set()
        signal.set_wakeup_fd(self.previous)
        os.close(self.sink)


def _forget_wakeup() -> None:
    """In a forked process, such as a data loader's worker: its signals are not this process's."""
    if threading.current_thread() is threading.main_thread():
        signal.set_wakeup_fd(-1)
