"""A thread that keeps MLflow level while training goes on, so that a store that is slow or away costs no step."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable

from ganrun import GanrunError, RunError
from ganrun_mlflow.mirror import Mirror

log = logging.getLogger("ganrun")

SECONDS_BETWEEN_CALLS = 10.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 30.0, 600.0


class SyncThread:
    """Levels a mirror every few seconds; after a fault it lets the store alone for a while that doubles each time.

    Args:
        mirror: Used by this thread alone until `close`.
    """

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror
        self._fault: Exception | None = None
        self._told = ""
        """The fault of which the user knows."""
        self._ended: str | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="ganrun-mlflow", daemon=True)
        self._thread.start()

    def close(self, ended: str, is_left: Callable[[], bool]) -> Exception | None:
        """Have all that is left sent, and wait for it; why it was not, or None if it was.

        Args:
            ended: How the run ended.
            is_left: Whether nobody wants to wait any longer.
        """
        self._ended = ended
        self._closing.set()
        with contextlib.suppress(KeyboardInterrupt):  # which a run that was interrupted already hears at once
            while not is_left():
                self._thread.join(0.2)
                if not self._thread.is_alive():
                    return self._fault
        return RunError("sending was broken off")

    def _work(self) -> None:
        pause = 0.0
        while not self._closing.is_set():
            self._try()
            pause = min(max(2 * pause, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS) if self._fault else 0.0
            self._closing.wait(pause or SECONDS_BETWEEN_CALLS)
        self._try()

    def _try(self) -> None:
        try:
            self.mirror.level(self._ended)
            self._fault, self._told = None, ""
        except Exception as error:  # each kind of artifact store raises errors of a library of its own
            self._fault = error
            text = error.message if isinstance(error, GanrunError) else f"{type(error).__name__}: {error}"
            if text != self._told and not self._closing.is_set():
                self._told = text
                log.warning("%s; it is tried again later, and the run directory holds everything", text)
