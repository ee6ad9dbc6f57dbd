"""Where the tracking store is, whether it answers, and how a person opens it."""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import socket
import sqlite3
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from ssl import SSLError
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit, urlunsplit

from ganrun import GanrunError, RunError

if TYPE_CHECKING:
    from mlflow import MlflowClient

URI_VARIABLE = "MLFLOW_TRACKING_URI"
SQLITE = "sqlite:///"
PATIENCE_SECONDS = 3
"""How long a server may take to answer the first question."""

MAKING_SECONDS = 120
"""How long another process may take to make a SQLite store; seconds, on most machines."""

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # MLflow's own patience is minutes; a server that is away must not hold up training. The outbox tries again later.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
}
"""MLflow's environment, unless the user set it otherwise; read by MLflow when it is imported and at each request."""


def tracking_uri(setting: str | None = None) -> str:
    """The setting, else `$MLFLOW_TRACKING_URI`, else `mlflow.db` in the working directory; SQLite paths absolute."""
    uri = setting or os.environ.get(URI_VARIABLE) or f"{SQLITE}mlflow.db"
    database = sqlite_path(uri)
    return uri if database is None else f"{SQLITE}{database}"


def sqlite_path(uri: str) -> Path | None:
    """The absolute path of a SQLite store's file; None for any other store."""
    return Path(uri.removeprefix(SQLITE)).expanduser().absolute() if uri.startswith(SQLITE) else None


def is_made(uri: str) -> bool:
    """Whether the store is there, as far as a look at this machine's files can tell."""
    database = sqlite_path(uri)
    return database is None or database.exists()


def without_password(uri: str) -> str:
    """The URI as it may be shown and stored."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "@" in parts.netloc else uri


def with_password(uri: str) -> str:
    """A URI as it was stored; as the environment has it where that is the same store."""
    here = tracking_uri()
    return here if without_password(here) == uri else uri


def is_server(uri: str) -> bool:
    """Whether the store is an MLflow server, and no database or folder."""
    return urlsplit(uri).scheme in ("http", "https")


# ── Is it there? ──────────────────────────────────────────────────────────────────────────────────────────


def reach(uri: str) -> None:
    """Find out within seconds whether the store can be used; MLflow itself would try for minutes.

    Raises:
        RunError: if it cannot.
    """
    try:
        _knock(uri)
    except (OSError, sqlite3.Error, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        what = "server" if is_server(uri) else "store"
        raise RunError(f"the MLflow {what} at {without_password(uri)} cannot be reached: {reason}") from error


def _knock(uri: str) -> None:
    parts, database = urlsplit(uri), sqlite_path(uri)
    if database is not None:
        _open_sqlite(database)
    elif is_server(uri):
        _ask(uri)
    elif parts.hostname and parts.port:
        socket.create_connection((parts.hostname, parts.port), PATIENCE_SECONDS).close()


def _open_sqlite(database: Path) -> None:
    if "?" in str(database):
        raise ValueError("its path holds a question mark, behind which a SQLite address has options")
    if not database.exists():
        folder = next(parent for parent in database.parents if parent.exists())
        if not (folder.is_dir() and os.access(folder, os.W_OK)):
            raise OSError(f"{folder} cannot be written to")
        return
    connection = sqlite3.connect(f"file:{quote(str(database))}?mode=rw", uri=True, timeout=PATIENCE_SECONDS)
    try:
        connection.execute("PRAGMA schema_version")
    finally:
        connection.close()


def _ask(uri: str) -> None:
    """Any answer will do, a refusal too: then the server is there, and MLflow itself says what it refuses."""
    health = f"{without_password(uri).rstrip('/')}/health"
    try:
        urllib.request.urlopen(health, timeout=PATIENCE_SECONDS).close()
    except urllib.error.HTTPError as answer:
        answer.close()
    except urllib.error.URLError as error:
        if not isinstance(error.reason, SSLError):
            raise


# ── Using it ──────────────────────────────────────────────────────────────────────────────────────────────


def connect(uri: str) -> MlflowClient:
    """A client of the store. Imports MLflow, and makes a SQLite store where there is none.

    Raises:
        RunError: if MLflow cannot use the store.
    """
    _quieten()
    from mlflow import MlflowClient

    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        with _alone(sqlite_path(uri)):
            return MlflowClient(uri)
    except Exception as error:  # Each database driver raises errors of its own.
        raise refusal(uri, error) from error


@contextmanager
def refusals_told(uri: str) -> Iterator[None]:
    """A block in which the errors of MLflow, and of the libraries of its stores, become one clear one.

    Raises:
        RunError: in their place.
    """
    try:
        yield
    except GanrunError:
        raise
    except Exception as error:  # each kind of artifact store raises errors of a library of its own
        raise refusal(uri, error) from error


def open_experiment(client: MlflowClient, uri: str, name: str) -> str:
    """The experiment's id; it is made where it is missing. A SQLite store's artifacts lie in `mlruns/` beside it.

    Raises:
        RunError: if the experiment was deleted, which reserves its name.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=_artifacts(uri, name))
        except MlflowException:
            # Another run may have made it in between.
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        remedy = f"mlflow experiments restore --experiment-id {found.experiment_id}"
        raise RunError(f'the MLflow experiment "{name}" was deleted; choose another name, or say: {remedy}')
    return str(found.experiment_id)


def page_of(uri: str, experiment_id: str) -> str:
    """Where an experiment's runs are compared, on a server at `uri`: its charts, and not what MLflow opens with."""
    server = without_password(uri).rstrip("/")
    return f"{server}/#/experiments/{experiment_id}/runs?workflowType=machine_learning&compareRunsMode=CHART"


def invitation(uri: str, experiment_id: str) -> list[str]:
    """What tells a person how an experiment's runs are compared."""
    if is_server(uri):
        return [f"compare in MLflow: {page_of(uri, experiment_id)}"]
    command = f"{_program()} ui --backend-store-uri {shlex.quote(without_password(uri))}"
    return [f"compare in MLflow: {command}", f"  and open {page_of('http://127.0.0.1:5000', experiment_id)}"]


def _program() -> str:
    """`mlflow` as the user can type it: by its path where the environment that runs ganrun is not activated."""
    own = Path(sys.executable).with_name("mlflow")
    found = shutil.which("mlflow")
    is_own = found is not None and own.exists() and Path(found).samefile(own)
    return "mlflow" if is_own or not own.exists() else shlex.quote(str(own))


def first_line(error: BaseException) -> str:
    """An error's message without the chain of causes that MLflow adds, and the remarks of SQLAlchemy before it."""
    lines = [line for line in str(error).strip().splitlines() if not line.startswith("(raised as a result of")]
    return lines[0] if lines else type(error).__name__


@contextmanager
def _alone(database: Path | None) -> Iterator[None]:
    """A block that one process at a time enters: two that make the tables of one SQLite store spoil it for both.

    The lock is SQLite's own, on a file beside the store, so that it works on every system and ends with its process.
    """
    if database is None:
        yield
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    lock = sqlite3.connect(database.with_name(f".{database.name}.lock"), timeout=MAKING_SECONDS)
    try:
        lock.execute("BEGIN EXCLUSIVE")
        yield
    finally:
        lock.close()


def _quieten() -> None:
    for variable, value in QUIET.items():
        os.environ.setdefault(variable, value)


def refusal(uri: str, error: Exception) -> RunError:
    """The error for whatever MLflow says of a store."""
    return RunError(f"MLflow at {without_password(uri)} says: {first_line(error)}")


def _artifacts(uri: str, experiment: str) -> str | None:
    database = sqlite_path(uri)
    if database is None:
        return None
    folder = re.sub(r"[^A-Za-z0-9._-]+", "-", experiment).strip("-.") or "experiment"
    return (database.parent / "mlruns" / folder).as_uri()
