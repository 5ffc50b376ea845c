"""SIGINT and SIGTERM end any command within seconds, with exit status 130 or 143.

Normally a signal raises `Interrupted` at once. Training defers it (`deferred`) to the end of a
step, where weights and progress agree, and saves a checkpoint first. If neither ends the process in
time, a thread does. The command line imports this module first, so it must import fast.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

DEADLINE = 8.0  # at most this many seconds from the signal to the end
SIGNALS = (signal.SIGINT, signal.SIGTERM)
RANKS = ("LOCAL_RANK", "SLURM_PROCID", "RANK")  # set in the processes of a distributed run

writing = threading.RLock()
"""Held while a checkpoint is written, so that the deadline waits for it."""


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM came. Libraries treat it as Ctrl-C."""


class _State:
    """What happened since `exit_status` was entered."""

    entered: bool = False
    signum: int | None = None  # the first signal
    deferrals: int = 0
    advice: str = "interrupted"  # printed at the end; may say how to resume
    watch: "_Watch | None" = None
    ignored: frozenset[signal.Signals] = frozenset()  # nohup, for example, has them ignored


_state = _State()
at_deadline: list[Callable[[], None]] = []
"""Called before the deadline ends this process, for example to end the processes it started."""


def received() -> bool:
    """Return whether SIGINT or SIGTERM came."""
    return _state.signum is not None


def check() -> None:
    """Raise `Interrupted` if SIGINT or SIGTERM came."""
    if received():
        raise Interrupted


def stop() -> NoReturn:
    """Raise `Interrupted`, like after SIGTERM if only another device's process got a signal."""
    _state.signum = _state.signum or signal.SIGTERM
    raise Interrupted


def advise(advice: str) -> None:
    """Set what is printed when a signal ends the process."""
    _state.advice = advice


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Keep signals from raising; the code inside must call `check` often, where it can stop."""
    _state.deferrals += 1
    try:
        yield
    finally:
        _state.deferrals -= 1
    check()


def handle(signum: int, frame: FrameType | None) -> None:
    """Note the first signal, and raise unless it is deferred; ignore later ones."""
    if _state.signum is None:
        _state.signum = signum
        if not _state.deferrals:
            raise Interrupted


def install() -> None:
    """Make `handle` the handler of both signals, unless they were ignored from the start."""
    for signum in set(SIGNALS) - _state.ignored:
        signal.signal(signum, handle)


@contextlib.contextmanager
def exit_status() -> Iterator[None]:
    """Handle both signals; after one, always exit with status 128 + its number.

    The deadline holds until the process ends or `disarm` is called.
    """
    global _state
    if _state.entered:
        yield
        return
    previous = {signum: signal.getsignal(signum) for signum in SIGNALS}
    ignored = (signum for signum, handler in previous.items() if handler is signal.SIG_IGN)
    _state = _State()
    _state.entered = True
    _state.ignored = frozenset(ignored)
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
    """Cancel the deadline, because the process continues after the command."""
    if _state.watch:
        _state.watch.close()
        _state.watch = None


class _Watch:
    """Ends the process at the deadline, even while the main thread is in C code."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        source, self.sink = os.pipe()
        os.set_blocking(self.sink, False)
        # Python writes the number of each signal to it, whatever the main thread does.
        self.previous = signal.set_wakeup_fd(self.sink, warn_on_full_buffer=False)
        threading.Thread(target=self._wait, args=(source,), daemon=True).start()

    def _wait(self, source: int) -> None:
        with open(source, "rb", buffering=0) as pipe:
            while byte := pipe.read(1):  # b"" when `close` has closed the sink
                signum = byte[0]
                overdue = signum in SIGNALS and not self.ended.wait(DEADLINE)
                if overdue and _saves_checkpoints():
                    with writing:
                        for function in at_deadline:
                            function()
                        os.write(2, f"\n{_state.advice}\n".encode())
                        os._exit(128 + signum)

    def close(self) -> None:
        """Cancel the deadline."""
        self.ended.set()
        signal.set_wakeup_fd(self.previous)
        os.close(self.sink)


def _saves_checkpoints() -> bool:
    """Return whether this process saves the checkpoints; the others end with it."""
    return all(os.environ.get(name, "0") == "0" for name in RANKS)


def _leave_signals_to_the_parent() -> None:
    """Let SIGTERM end a forked process, without telling the parent's thread about it."""
    if _state.entered:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_signals_to_the_parent)
