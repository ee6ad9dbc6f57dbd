"""Creates a SQLite store under a temporary name and then moves it into place, because a half-created one stays
damaged."""

from __future__ import annotations

import os
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from ganrun import RunError, atomic_path

CREATION_SECONDS = 120
"""How long another process may take to create a SQLite store; on most machines it takes seconds."""


def is_made(database: Path) -> bool:
    """Whether a store exists; an empty file does not count, because SQLite creates it before writing anything."""
    return database.exists() and (not database.is_file() or database.stat().st_size > 0)


@contextmanager
def exclusive(database: Path) -> Iterator[None]:
    """A block that one process at a time enters, because two that create or migrate one SQLite store damage it.

    The lock is SQLite's own, on a file beside the store: it works on every system and ends with its process.
    """
    database.parent.mkdir(parents=True, exist_ok=True)
    lock = sqlite3.connect(database.with_name(f".{database.name}.lock"), timeout=CREATION_SECONDS)
    try:
        lock.execute("BEGIN EXCLUSIVE")
        yield
    finally:
        lock.close()


def create(database: Path) -> None:
    """Create a store, in an `exclusive` block. It appears only when complete; leftovers of killed processes are
    removed."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    place = database.resolve()  # a link to a store stays a link
    for left in place.parent.glob(f".{place.name}.*.partial*"):
        left.unlink(missing_ok=True)
    with atomic_path(place) as partial:
        store = SqlAlchemyStore(  # type: ignore[no-untyped-call]
            f"sqlite:///{partial}", (place.parent / "mlruns").as_uri()
        )
        store.engine.dispose()


def check_complete(database: Path) -> None:
    """Check that a store that MLflow refuses was not left half-created, by a killed process or on a full disk.

    Raises:
        RunError: if it was; it then holds no run.
    """
    if not _runs_in(database):
        command = shlex.join(["mv", str(database), f"{database}.incomplete"])
        raise RunError(
            f"the MLflow store {database} is incomplete: while it was made, a process was killed or the disk was full. "
            f"It holds no runs, so move it away, and ganrun creates a new one: {command}"
        )


def _runs_in(database: Path) -> int:
    """How many runs a store has; 1 if that cannot be determined."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True, timeout=1)) as connection:
            tables = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'runs'").fetchone()[0]
            return int(tables and connection.execute("SELECT count(*) FROM runs").fetchone()[0])
    except sqlite3.Error:
        return 1


@contextmanager
def a_home() -> Iterator[None]:
    """A block in which a home directory is set, if only nominally: MLflow looks it up on import, for environments that
    ganrun does not use."""
    is_without = not _has_home()
    if is_without:
        os.environ["HOME"] = "/nonexistent"
    try:
        yield
    finally:
        if is_without:
            os.environ.pop("HOME", None)


def _has_home() -> bool:
    try:
        return bool(Path.home())
    except RuntimeError:
        return False
