"""A lock file that one process holds and that names its holder.

The kernel's lock decides if the file system supports one: it ends with its process, even if that is killed. Without
kernel locks, as on some network file systems, the lock is a second file that only one process can create. That file
outlives a killed process, so it is taken over if the process has certainly ended, and must otherwise be removed by
hand.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self, TypeGuard

from ganrun.base.errors import RequestError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

PATIENCE_SECONDS = 1.0
"""How long acquiring is retried: a process that only checks a lock holds it for a moment."""

SIGN_SECONDS = 15.0
"""Interval between heartbeats, each of which updates the file's modification time."""

SILENCE_SECONDS = 10 * SIGN_SECONDS
"""Without a heartbeat for this long, a run's status treats a process on another machine as dead."""

DISPLACED_SECONDS = 0.2
"""Longest time for another process between finding a dead process's file and moving it away."""

UNSUPPORTED = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK}
"""Error codes of file systems without locks."""

LATEST = 1e11
"""Upper limit for plausible times, in seconds since 1970: the year 5138."""

LOCKED_BYTE = 1 << 30
"""Windows locks a byte range, which no other process can then read; this byte is beyond the text."""


NO_LINK, NO_WAIT = getattr(os, "O_NOFOLLOW", 0), getattr(os, "O_NONBLOCK", 0)
"""Flags for opening an untrusted folder's lock, which may be a link to any file, or a pipe."""


class LockedError(RequestError):
    """Another process holds the lock."""


class Holder(NamedTuple):
    """The holder of a lock, from its file; None for what the file lacks."""

    host: str | None
    pid: int | None
    since: float | None
    """Seconds since 1970."""

    seen: float
    """Its last heartbeat."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """The holder that a lock's file names.

        Raises:
            OSError: if the file cannot be read.
        """
        with _opened(path) as file:
            seen, content = os.fstat(file.fileno()).st_mtime, file.read(4096)
        with suppress(ValueError, RecursionError, OverflowError):
            found = json.loads(content)
            if isinstance(found, dict):
                host, pid, since = found.get("host"), found.get("pid"), found.get("since")
                if isinstance(host, str) and type(pid) is int and pid > 0 and _is_time(since):
                    return cls(host, pid, float(since), seen)
        return cls(None, None, None, seen)

    def __str__(self) -> str:
        silent = f"last sign of life {_ago(time.time() - self.seen)}"
        if self.pid is None or self.since is None:
            return f"another process ({silent})"
        return f"another process: {self.pid} on {self.host}, since {_when(self.since)} ({silent})"

    @property
    def is_gone(self) -> bool:
        """Whether it was a process on this machine, and its process id no longer exists."""
        if self.pid is None or self.host != platform.node() or sys.platform == "win32":
            return False
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):
            return time.time() - self.seen > 2 * SIGN_SECONDS  # it may be alive in another container
        except PermissionError:
            return False
        return False


def _is_time(value: object) -> TypeGuard[int | float]:
    """Whether it is a plausible time in seconds since 1970."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < LATEST


@contextmanager
def locked(
    path: Path, what: str, *, patience_seconds: float | None = None, on_wait: Callable[[], None] | None = None
) -> Iterator[None]:
    """A block in which this process alone holds the lock `path`. The file stays, empty, and must not be removed.

    Args:
        path: The lock file, created if missing; its folder must exist.
        what: What the lock is for, as messages name it.
        patience_seconds: How long acquiring is retried; one second by default.
        on_wait: If given, it is called once if another process holds the lock, and the block then waits for it.

    Raises:
        LockedError: if another process holds it; the message names the holder and how to take over.
        OSError: if the file cannot be made or opened.
    """
    patience = PATIENCE_SECONDS if patience_seconds is None else patience_seconds
    try:
        handle, named = _acquired(path, what, patience)
    except LockedError:
        if on_wait is None:
            raise
        on_wait()
        handle, named = _awaited(path, what)
    try:
        with _signs_of_life(handle, named):
            yield
    finally:
        _release(handle, None if named == path else named)


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock. Read-only: checking leaves the folder unchanged.

    Raises:
        OSError: if there is no such file, or its lock cannot be tested.
    """
    with _opened(path) as file:
        try:
            _lock(file.fileno(), shared=True)  # until the file is closed
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            return _is_alive(_created_name(path))
        return False


def _awaited(path: Path, what: str) -> tuple[int, Path]:
    while True:
        with suppress(LockedError):
            return _acquired(path, what, PATIENCE_SECONDS)


def _acquired(path: Path, what: str, patience_seconds: float) -> tuple[int, Path]:
    """An open handle of the file that names the lock's holder, and its path.

    Raises:
        LockedError: if another process holds it.
        OSError: if the file cannot be made or opened.
    """
    try:
        return _taken(path, patience_seconds), path
    except BlockingIOError:
        raise LockedError(f"{what} is in use by {_holder(path)}; wait for that process, or end it") from None
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    return _created(path, what, patience_seconds), _created_name(path)


# ── The kernel's lock ─────────────────────────────────────────────────────────────────────────────────────


def _taken(path: Path, patience_seconds: float) -> int:
    """An open handle of the file, with the kernel's lock on it.

    Raises:
        BlockingIOError: if another process has the lock.
        OSError: if the file system has no locks.
    """
    deadline = time.monotonic() + patience_seconds
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | NO_LINK, 0o666)
        try:
            _lock(handle)
            if _is_at(handle, path):  # otherwise it was removed while this process waited
                return handle
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(handle)
                raise
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        time.sleep(0.05)


def _lock(handle: int, *, shared: bool = False) -> None:
    if sys.platform == "win32":
        os.lseek(handle, LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(errno.EWOULDBLOCK, "locked") from error
    else:
        # NFS requires a writable handle for an exclusive lock.
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def _is_at(handle: int, path: Path) -> bool:
    """Whether `path` still refers to the open file."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


# ── Without the kernel's lock ─────────────────────────────────────────────────────────────────────────────


def _created_name(path: Path) -> Path:
    return path.with_name(f"{path.name}.held")


def _created(path: Path, what: str, patience_seconds: float) -> int:
    """An open handle of the file that only one process can create."""
    created = _created_name(path)
    try:
        return _create(created)
    except FileExistsError:
        time.sleep(patience_seconds)
    with suppress(FileExistsError):
        return _create(created)
    holder = _holder(created)
    if holder.is_gone:
        with suppress(OSError):
            _move_away(created)
            return _create(created)
    advice = f"if that process no longer exists, remove {created} and start again"
    raise LockedError(f"{what} is in use by {holder}; {advice} (this file system has no locks that end with a process)")


def _create(path: Path) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    _describe(handle)
    time.sleep(DISPLACED_SECONDS)
    if not _is_at(handle, path):
        os.close(handle)
        raise FileExistsError(errno.EEXIST, "another process was faster", str(path))
    return handle


def _move_away(path: Path) -> None:
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    path.rename(aside)
    aside.unlink()


def _is_alive(created: Path) -> bool:
    try:
        holder = Holder.read(created)
    except FileNotFoundError:
        return False
    return not holder.is_gone and time.time() - holder.seen < SILENCE_SECONDS


# ── Both ──────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _signs_of_life(handle: int, path: Path) -> Iterator[None]:
    """A block in which the file names the lock's holder, and its modification time is the heartbeat."""
    _describe(handle)
    ended = threading.Event()
    target = handle if os.utime in os.supports_fd else path

    def give() -> None:
        while not ended.wait(SIGN_SECONDS):
            with suppress(OSError):
                os.utime(target, (time.time(), time.time()))

    thread = threading.Thread(target=give, name="ganrun-lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _opened(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_RDONLY | NO_LINK | NO_WAIT), "rb")


def _describe(handle: int) -> None:
    """Write the lock's holder. On a full disk, the text is lost, but not the lock."""
    text = json.dumps({"host": platform.node(), "pid": os.getpid(), "since": round(time.time(), 3)})
    with suppress(OSError):
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, f"{text}\n".encode())


def _release(handle: int, created: Path | None) -> None:
    with suppress(OSError):
        os.ftruncate(handle, 0)
        if sys.platform != "win32" and created is None:
            fcntl.flock(handle, fcntl.LOCK_UN)  # a forked process inherits the handle
    is_there = created is not None and _is_at(handle, created)
    os.close(handle)
    if created is not None and is_there:
        with suppress(OSError):
            created.unlink()


def _holder(path: Path) -> Holder:
    """The lock's holder, or what can be read of it."""
    try:
        return Holder.read(path)
    except OSError:
        return Holder(None, None, None, time.time())


def _when(seconds: float) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M:%S}"
    except (OverflowError, OSError, ValueError):
        return "an unknown time"


def _ago(seconds: float) -> str:
    whole = max(0, int(min(seconds, 1e12)))
    return f"{whole} s ago" if whole < 120 else f"{whole // 60:,} min ago"
