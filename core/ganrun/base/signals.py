"""Ctrl-C and SIGTERM: deferred to the end of a step while a run trains, raised as exceptions elsewhere."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

from ganrun.base.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Terminated(SystemExit):
    """SIGTERM arrived. As a class, it differs from the `SystemExit` of a plugin that calls `sys.exit`."""


class DeferredSignals:
    """While entered, defers the first signal until `check`; a second one raises KeyboardInterrupt at once.

    Python delivers signals to the main thread only, so in any other thread this does nothing.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        """The signal that arrived, if any."""
        self.agreed: bool | None = None
        """Whether all ranks stop, as they agreed after their last step; None where one process decides for itself."""
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if _in_main_thread():
            self._previous = _replace_handlers(self._defer)
        return self

    def __exit__(self, *_: object) -> None:
        _restore_handlers(self._previous)

    def check(self) -> None:
        """Handle a deferred signal; called between two steps, where the state is consistent.

        Raises:
            Interrupted: if a signal has arrived; of several ranks, only after all have heard of it.
        """
        stops = self.signal_number is not None if self.agreed is None else self.agreed
        if stops:
            raise Interrupted(self.signal_number or signal.SIGTERM)

    def _defer(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None:
            raise KeyboardInterrupt
        self.signal_number = number


@contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """A block in which signals raise, so that `finally` clauses remove partial files.

    Raises:
        KeyboardInterrupt: on SIGINT.
        Terminated: on SIGTERM; and at the end of the block if a library has swallowed the exception of a signal, as
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
        raise Terminated(128 + number)

    previous = _replace_handlers(interrupt)
    try:
        yield
    finally:
        _restore_handlers(previous)
    if received:
        raise Terminated(128 + received[0])


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _replace_handlers(handler: Any) -> dict[int, Any]:
    """Install one handler for all signals; the previous ones."""
    return {number: signal.signal(number, handler) for number in SIGNALS}


def _restore_handlers(previous: dict[int, Any]) -> None:
    for number, handler in previous.items():
        signal.signal(number, handler)
