"""Bounds how long ganrun waits for a store: a hanging server delays neither a caller nor the end of the process."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import thread as pools
from typing import TypeVar

from ganrun import RunError

T = TypeVar("T")

END_SECONDS = 60.0
"""For everything that is sent at the end of a run; the rest is left to `ganrun sync`."""

INTERRUPTED_SECONDS = 20.0
"""The same after a signal: schedulers kill a process 30 s after theirs."""

QUESTION_SECONDS = 60.0
"""For a command's query to a store."""

REQUEST_SECONDS = 3600.0
"""For one request of `ganrun sync`, which may be the upload of a checkpoint."""

THREAD = "ganrun-mlflow"


class Abandoned(BaseException):
    """Sending was abandoned. It is not an `Exception`, so that it passes through retry loops."""


def within(deadline: float | Callable[[], float], work: Callable[[], T], what: str) -> T:
    """Do some work in a separate thread, and wait for it until a deadline, or Ctrl-C. After that the thread is
    abandoned.

    A socket timeout cannot replace this: it restarts with each byte, and name lookups have none.

    Args:
        deadline: By `time.monotonic`; a function may extend it while the work makes progress.
        work: What to do.
        what: Its description, for the error.

    Raises:
        RunError: if it takes longer.
        Exception: that of `work`.
    """
    done: futures.Future[T] = futures.Future()
    threading.Thread(target=_fulfil, args=(done, work), name=THREAD, daemon=True).start()
    try:
        while (seconds := (deadline() if callable(deadline) else deadline) - time.monotonic()) > 0:
            if futures.wait([done], min(seconds, threading.TIMEOUT_MAX)).done:
                return done.result()
        raise RunError(f"{what} takes too long")
    finally:
        if not done.done():
            leave_workers_behind()


def _fulfil(done: futures.Future[T], work: Callable[[], T]) -> None:
    try:
        done.set_result(work())
    except BaseException as error:  # including SystemExit, which would only end this thread
        done.set_exception(error)


def leave_workers_behind() -> None:
    """Let the process end without the threads of pools that were started from a daemon thread.

    Libraries upload files in thread pools, some without any timeout. At exit, Python waits for all pool threads, even
    daemons. There is no public way to prevent that; if the private one changes, Python waits again.
    """
    register = getattr(threading, "_register_atexit", None)
    if register is not None:
        with contextlib.suppress(RuntimeError):  # the process is already ending
            register(_forget_workers)


def _forget_workers() -> None:
    """Called before Python waits for pools, because functions that were registered last are called first."""
    waited_for = getattr(pools, "_threads_queues", {})
    for thread in list(waited_for):
        if thread.daemon:
            waited_for.pop(thread, None)
