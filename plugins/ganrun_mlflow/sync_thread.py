"""A thread that synchronises MLflow during training, so that a slow or absent store delays no step."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable

from ganrun import GanrunError, RunError, without_secrets
from ganrun_mlflow.mirror import Mirror
from ganrun_mlflow.waiting import THREAD, leave_workers_behind

log = logging.getLogger("ganrun")

SECONDS_BETWEEN_SYNCS = 10.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 30.0, 600.0

STUCK_SECONDS = 600.0
"""After this time, a request counts as hanging."""


class SyncThread:
    """Synchronises a mirror every few seconds, with exponential backoff after consecutive errors.

    Args:
        mirror: No other thread may use it until `close` returns.
    """

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror
        self._error: Exception | None = None
        """Start of the last attempt."""
        self._reported = ""
        """The last error that was logged, so that none is logged twice in a row."""
        self._ended: str | None = None
        self._is_sending = False
        self.was_interrupted = False
        """Whether `close` stopped before its deadline."""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name=THREAD, daemon=True)
        self._thread.start()

    def close(self, ended: str, deadline: float, gives_up: Callable[[], bool]) -> Exception | None:
        """Send everything that is left, and wait until the deadline. After that the thread is abandoned, so that the
        process can end.

        Args:
            ended: How the run ended.
            deadline: When to stop waiting, by `time.monotonic`.
            gives_up: Asked several times a second whether to stop waiting earlier.

        Returns:
            The error that prevented it; None if MLflow has everything.
        """
        self.mirror.state.ended = round(time.time(), 3)
        self._ended = ended
        self._closing.set()
        with contextlib.suppress(KeyboardInterrupt, SystemExit):  # a signal, if one came first
            while not gives_up() and time.monotonic() < deadline:
                self._thread.join(0.2)
                if not self._thread.is_alive():
                    return self._error
        self.mirror.run.abandon()
        leave_workers_behind()
        self.was_interrupted = time.monotonic() < deadline
        return RunError("sending was interrupted" if self.was_interrupted else "the store did not take it all in time")

    def report_if_stuck(self) -> None:
        """Warn once that a request hangs: a server that answers byte by byte triggers no timeout of MLflow."""
        if self._is_sending and time.monotonic() - self.mirror.run.last_request > STUCK_SECONDS:
            self._report(RunError("MLflow has not finished answering a request; nothing more is sent until it does"))

    def _work(self) -> None:
        pause = 0.0
        while not self._closing.is_set():
            self._try()
            pause = min(max(2 * pause, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS) if self._error else 0.0
            self._closing.wait(pause or SECONDS_BETWEEN_SYNCS)
        self._try()

    def _try(self) -> None:
        self._is_sending = True
        try:
            self.mirror.sync(self._ended)
            self._error, self._reported = None, ""
        except BaseException as error:  # each artifact store raises the errors of another library, some even SystemExit
            self._error = error if isinstance(error, Exception) else RunError(f"{type(error).__name__}: {error}")
            self._report(self._error)
        finally:
            self._is_sending = False

    def _report(self, error: Exception) -> None:
        text = without_secrets(error.message if isinstance(error, GanrunError) else f"{type(error).__name__}: {error}")
        if text != self._reported and not self._closing.is_set():
            self._reported = text
            log.warning("%s; ganrun tries again later, and the run directory holds everything", text)
