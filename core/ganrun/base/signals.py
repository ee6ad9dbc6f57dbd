"""Termination signals: deferred to the end of a step while a run trains, raised elsewhere."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

from ganrun.base.errors import TRY_AGAIN, interruption_of
from ganrun.base.launched import launched

URGENT = (signal.SIGINT, signal.SIGTERM)
"""Signals that end the program at once when they arrive a second time."""

WARNINGS = tuple(getattr(signal, name) for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU") if hasattr(signal, name))
"""Signals that announce the end: a closed terminal, a scheduler's notice (`--signal=USR1@60`), a limit on processor
time. They may arrive repeatedly, and are left alone if they are ignored, as under nohup, or if the program that calls
ganrun handles them."""


class Terminated(SystemExit):
    """A signal other than SIGINT arrived. As a class, it differs from the `SystemExit` of a plugin that calls
    `sys.exit`."""


class DeferredSignals:
    """While entered, defers the first signal until `check`; a second SIGINT raises KeyboardInterrupt at once, and a
    second SIGTERM `Terminated`.

    Python delivers signals to the main thread only, so in any other thread only the deadline counts.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        """The signal that arrived first, if any."""
        self.deadline = math.inf
        """When to stop at the latest, by `time.monotonic`."""
        self.agreed: int | None = None
        """The exit status with which all ranks stop, as they agreed after their last step, or 0; None where one process
        decides for itself."""
        self._urgent = 0
        """Signals that were urgent."""
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if _in_main_thread():
            self._previous = _replace_handlers(self._defer)
        return self

    def __exit__(self, kind: object, error: BaseException | None, *_: object) -> None:
        if error is not None and launched() is not None:
            ignore_signals()
        _restore_handlers(self._previous)

    @property
    def exit_status(self) -> int:
        """The exit status with which this process should stop: 128 + the number of the signal that has arrived, 75
        after the deadline; 0 to continue."""
        if self.signal_number is not None:
            return 128 + self.signal_number
        return TRY_AGAIN if time.monotonic() >= self.deadline else 0

    def check(self) -> None:
        """Stop if it is time to; called between two steps, when the state is consistent.

        Raises:
            Interrupted: if a signal has arrived, or the deadline has passed; with several ranks, only once all have
                been notified.
        """
        status = self.exit_status if self.agreed is None else self.agreed
        if status:
            raise interruption_of(status)

    def _defer(self, number: int, frame: FrameType | None) -> None:
        self._urgent += number in URGENT
        if self._urgent > 1 and number in URGENT:
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated(128 + number)
        if self.signal_number is None:
            self.signal_number = number


@contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """A block in which signals raise, so that `finally` clauses remove partial files.

    Raises:
        KeyboardInterrupt: on SIGINT.
        Terminated: on any other; and at the end of the block if a library has swallowed the exception of a signal, as
            some do while they are imported.
    """
    if not _in_main_thread():
        yield
        return
    received: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        if number in URGENT or len(received) == 1:
            raise Terminated(128 + number)

    previous = _replace_handlers(interrupt)
    try:
        yield
    finally:
        _restore_handlers(previous)
    if received:
        raise Terminated(128 + received[0])


def ignore_signals() -> None:
    """Ignore signals until the process has ended, for one of several processes that has failed: torchrun sends SIGTERM
    to the others as soon as one ends, and each must still report its error and end with its own exit status. torchrun
    kills them after 30 seconds."""
    if _in_main_thread():
        _replace_handlers(signal.SIG_IGN)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _replace_handlers(handler: Any) -> dict[int, Any]:
    """Install one handler for all signals that ganrun handles; returns the previous ones."""
    numbers = (*URGENT, *filter(_is_free, WARNINGS))
    return {number: signal.signal(number, handler) for number in numbers}


def _is_free(number: int) -> bool:
    """Whether a signal is neither ignored nor handled, except by ganrun itself."""
    present = signal.getsignal(number)
    return present == signal.SIG_DFL or getattr(present, "__module__", None) == __name__


def _restore_handlers(previous: dict[int, Any]) -> None:
    for number, handler in previous.items():
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)
