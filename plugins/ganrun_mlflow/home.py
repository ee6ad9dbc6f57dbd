"""Finds the store that holds a directory's run, if the user does not name one."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, unquote

from ganrun import RunDirectory, bare_address
from ganrun_mlflow.claims import DIRECTORY, is_same_path
from ganrun_mlflow.store import URI_VARIABLE, sqlite_path, tracking_uri
from ganrun_mlflow.sync_state import SyncState

QUERY_SECONDS = 5.0
"""Limit for one query of a SQLite file, which may be hostile."""

LONGEST_ANSWER_BYTES = 1_000_000

FIND_RUN = "SELECT run_uuid FROM runs WHERE run_uuid = ? AND start_time = ? AND lifecycle_stage = 'active'"
FIND_DIRECTORY = f"SELECT value FROM tags WHERE run_uuid = ? AND key = '{DIRECTORY}'"

FIND_ARTIFACTS = """
    SELECT artifact_uri FROM runs WHERE run_uuid = ?1 UNION ALL SELECT artifact_location FROM experiments
    WHERE experiment_id = (SELECT experiment_id FROM runs WHERE run_uuid = ?1)"""
"""The artifact locations of a run and its model."""


def store_of(state: SyncState | None, directory: RunDirectory, setting: str | None = None) -> str:
    """The store that the user names by a setting or the environment; else `mlflow.db` in the working directory.

    Only in the last case, a run that was sent before is looked up: if `mlflow.db` does not have it, but the SQLite file
    named in the run directory does, that file is the store. A run directory is untrusted, so such a file counts only if
    it exists, has this MLflow run, names this directory in return, and keeps its artifacts beside itself.
    """
    uri = tracking_uri(setting)
    if setting or os.environ.get(URI_VARIABLE) or state is None or has_run(uri, state):
        return uri
    return state.uri if _is_home(state, directory) else uri


def is_in(uri: str, state: SyncState) -> bool:
    """Whether a store is the one named in a run directory; or holds its run, if the directory names a SQLite file,
    which may have been moved together with it."""
    return _is_same_store(uri, state.uri) or (sqlite_path(state.uri) is not None and has_run(uri, state))


def _is_same_store(one: str, other: str) -> bool:
    """Whether two addresses refer to the same store."""
    left, right = sqlite_path(one), sqlite_path(other)
    if left is None or right is None:
        return bare_address(one) == bare_address(other)
    return is_same_path(str(left), right)


def has_run(uri: str, state: SyncState) -> bool:
    """Whether a SQLite file has the MLflow run of a state. The file is not changed."""
    database = sqlite_path(uri)
    return database is not None and bool(_ask(database, FIND_RUN, state.progress.run_id, state.start_milliseconds))


def _is_home(state: SyncState, directory: RunDirectory) -> bool:
    database = sqlite_path(state.uri)
    if database is None or not _is_local(database) or not has_run(state.uri, state):
        return False
    named, places = (_ask(database, question, state.progress.run_id) for question in (FIND_DIRECTORY, FIND_ARTIFACTS))
    names_it = any(is_same_path(each, directory.path) for each in named)
    return names_it and len(places) == 2 and all(_is_beside(each, database) for each in places)


def _is_local(database: Path) -> bool:
    """Whether a path is local. Opening a remote file reveals who asks for it, so UNC paths and automounts are
    excluded."""
    return not str(database).startswith(("//", "\\\\", "/net/"))


def _is_beside(artifacts: str, database: Path) -> bool:
    """Whether artifacts are kept in `mlruns/` beside a store, where ganrun puts them; otherwise a malicious store could
    make ganrun write anywhere."""
    root = database.parent / "mlruns"
    place = Path(unquote(artifacts.removeprefix("file://")))
    return artifacts.startswith(f"{root.as_uri()}/") and place.resolve().is_relative_to(database.parent.resolve())


def _has_odd_companion(database: Path) -> bool:
    """Whether SQLite would open a pipe or a device beside the file, and wait for it without end."""
    beside = [database.with_name(f"{database.name}-{kind}") for kind in ("journal", "wal", "shm")]
    return any(os.path.lexists(each) and not each.is_file() for each in beside)


def _ask(database: Path, question: str, *values: object) -> list[str]:
    """The first column of an answer; empty where there is none."""
    end = time.monotonic() + QUERY_SECONDS
    try:
        database = database.resolve()  # SQLite's other files are beside the file, and not beside a link to it
        if not database.is_file() or _has_odd_companion(database):
            return []
        with closing(sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True, timeout=1)) as connection:
            connection.set_progress_handler(lambda: time.monotonic() > end, 100_000)
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_ANSWER_BYTES)
            return [str(row[0]) for row in connection.execute(question, values).fetchmany(3)]
    except (OSError, ValueError, OverflowError, sqlite3.Error):
        return []
