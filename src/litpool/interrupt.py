"""SIGINT and SIGTERM end any command within seconds, with exit status 130 or 143.

Normally a signal raises `Interrupted` at once. A training defers it (`deferred`) to the end of a
step, where weights and progress agree, and saves a checkpoint first. If neither ends the process in
time, a thread does. cli.py imports this module before anything else, so it must import fast.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

DEADLINE = 8.0  # seconds from the signal to the end, at most
SIGNALS = (signal.SIGINT, signal.SIGTERM)
RANKS = ("LOCAL_RANK", "SLURM_PROCID", "RANK")  # set in the processes of a distributed run

writing = threading.RLock()
"""Held while a checkpoint is written: the deadline waits for it."""


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM has come. Libraries know it as Ctrl-C."""


class _State:
    """What has happened since `exit_status` was entered."""

    entered: bool = False
    signum: int | None = None  # the first signal that came
    deferrals: int = 0
    advice: str = "interrupted"  # what is printed at the end, such as how to resume
    watch: "_Watch | None" = None
    ignored: tuple[int, ...] = ()  # by whoever started us, such as nohup


_state = _State()
at_deadline: list[Callable[[], None]] = []
"""Called before the deadline ends this process, such as to end the processes that it started."""


def received() -> bool:
    """Whether SIGINT or SIGTERM has come."""
    return _state.signum is not None


def check() -> None:
    """Raise `Interrupted` if SIGINT or SIGTERM has come."""
    if received():
        raise Interrupted


def stop() -> NoReturn:
    """Raise `Interrupted`. If another device's process got the signal, act as after SIGTERM."""
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
    """Make `handle` the handler of both signals, except where they were ignored from the start."""
    for signum in set(SIGNALS).difference(_state.ignored):
        signal.signal(signum, handle)


@contextlib.contextmanager
def exit_status() -> Iterator[None]:
    """Handle both signals; if one comes, leave with SystemExit(128 + its number) in any case.

    The deadline stays in force until the process has ended, or until `disarm`.
    """
    if _state.entered:
        yield
        return
    previous = {signum: signal.getsignal(signum) for signum in SIGNALS}
    _state.ignored = tuple(s for s, handler in previous.items() if handler is signal.SIG_IGN)
    _state.entered, _state.signum, _state.deferrals = True, None, 0
    _state.advice = "interrupted"
    install()
    _state.watch = _Watch()
    try:
        yield
        check()
    except BaseException as error:
        if not received() and not isinstance(error, KeyboardInterrupt):
            raise
        if isinstance(error, SystemExit) and isinstance(error.code, str):
            advise(error.code)
        elif not isinstance(error, SystemExit | KeyboardInterrupt):
            advise(f"interrupted, and then: {type(error).__name__}: {error}")
        print(f"\n{_state.advice}", file=sys.stderr)
        sys.exit(128 + (_state.signum or signal.SIGINT))
    finally:
        if not received():
            disarm()
        for signum, handler in previous.items():
            signal.signal(signum, handler)
        _state.entered = False


def disarm() -> None:
    """Call off the deadline, where the process goes on after a command."""
    if _state.watch:
        _state.watch.close()
        _state.watch = None


class _Watch:
    """Ends the process when the deadline has passed, also while the main thread is in C code."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        source, self.sink = os.pipe()
        os.set_blocking(self.sink, False)
        # The system writes the number of each signal there, whatever the main thread does.
        self.previous = signal.set_wakeup_fd(self.sink, warn_on_full_buffer=False)
        threading.Thread(target=self._wait, args=(source,), daemon=True).start()

    def _wait(self, source: int) -> None:
        signum = 0
        while signum not in SIGNALS:
            byte = os.read(source, 1)
            if not byte:  # closed: the command has ended
                os.close(source)
                return
            signum = byte[0]
        if not self.ended.wait(DEADLINE) and _is_first_process():
            with writing:
                for function in at_deadline:
                    function()
                os.write(2, f"\n{_state.advice}\n".encode())
                os._exit(128 + signum)
        os.close(source)

    def close(self) -> None:
        """The command has ended: no deadline any more."""
        self.ended.set()
        signal.set_wakeup_fd(self.previous)
        os.close(self.sink)


def _is_first_process() -> bool:
    """Whether this process saves the checkpoints; the others end with it."""
    return all(os.environ.get(name, "0") == "0" for name in RANKS)


def _leave_signals_to_the_parent() -> None:
    """In a forked process: SIGTERM ends it, and what comes here is not the parent's."""
    if _state.entered:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_signals_to_the_parent)
