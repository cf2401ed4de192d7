"""End the program on SIGTERM, SIGINT, SIGHUP or SIGUSR1: at once or, in a deferred block, when the block can save."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1") if hasattr(signal, name)
)
"""Signals by which terminals, containers and batch systems end a program."""

GRACE_SECONDS = 60
"""Seconds that a worker lives on after SIGTERM."""

Handler = Callable[[int, FrameType | None], None]


class Stopped(KeyboardInterrupt):
    """The program was told to stop; as a KeyboardInterrupt it passes `except Exception`.

    The text says by what, and what was saved.
    """

    def __init__(self, signal_number: int, text: str = "") -> None:
        super().__init__(text or f"stopped by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number

    @property
    def exit_code(self) -> int:
        return 128 + self.signal_number


@dataclass
class PendingStop:
    """The first stop signal of a deferred block, None if there was none."""

    signal_number: int | None = None


_outer: list[PendingStop] = []
"""The signals of the blocks of `stop_at_once` that are running."""

_deferred: list[PendingStop] = []
"""The signals of the blocks of `defer_stop` that are running."""


@contextmanager
def stop_at_once() -> Iterator[None]:
    """Raise Stopped wherever the main thread is when a stop signal arrives.

    Python drops an exception of a callback, such as those around a fork. So the signal is also recorded: it counts
    when the block ends with another error, or at the next `defer_stop`.
    """
    pending = PendingStop()

    def handle(number: int, frame: FrameType | None) -> None:
        pending.signal_number = pending.signal_number or number
        raise Stopped(number)

    _outer.append(pending)
    try:
        with _handlers(handle):
            yield
    except Exception as error:
        if pending.signal_number is None:
            raise
        raise Stopped(pending.signal_number) from error
    finally:
        _outer.remove(pending)


@contextmanager
def defer_stop() -> Iterator[PendingStop]:
    """Record the first stop signal, so that the block can finish a step and save; a second Ctrl-C raises Stopped."""
    pending = PendingStop(next((outer.signal_number for outer in _outer if outer.signal_number), None))

    def handle(number: int, frame: FrameType | None) -> None:
        if pending.signal_number == number == signal.SIGINT:
            raise Stopped(number)
        pending.signal_number = pending.signal_number or number

    _deferred.append(pending)
    try:
        with _handlers(handle):
            yield pending
    finally:
        _deferred.remove(pending)


def is_stop_pending() -> bool:
    """Return whether a stop signal waits for the end of a `defer_stop` block; a long wait in it can be given up."""
    return any(pending.signal_number is not None for pending in _deferred)


def outlive_stop_signals() -> None:
    """Let a worker process ignore all stop signals, which its parent handles; SIGTERM ends it after GRACE_SECONDS.

    A signal to the process group reaches the workers too, while the parent still needs their batches for its step. A
    worker that never ended would keep its parent from ending.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE_SECONDS))


@contextmanager
def _handlers(handle: Handler) -> Iterator[None]:
    """Handle the stop signals in the block; signals that are ignored already stay ignored.

    Only the main thread can handle signals; in another thread nothing changes.
    """
    previous = {}
    if threading.current_thread() is threading.main_thread():
        previous = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        previous = {number: old for number, old in previous.items() if old not in (signal.SIG_IGN, None)}
    for number in previous:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
