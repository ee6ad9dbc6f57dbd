"""The tracking store: its address, whether it can be reached, and how a user opens it."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import socket
import sqlite3
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from ssl import SSLError
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from ganrun import GanrunError, RequestError, RunDirectory, RunError, bare_address, shell_quoted, without_secrets
from ganrun_mlflow import creation
from ganrun_mlflow.sync_state import NAME

if TYPE_CHECKING:
    from mlflow import MlflowClient

URI_VARIABLE = "MLFLOW_TRACKING_URI"
SQLITE = "sqlite:///"
PATIENCE_SECONDS = 3
"""How long a server may take for its first answer."""

LONGEST_FOLDER = 80

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # MLflow's own timeout is minutes long; here the next synchronisation repeats a failed request.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    # Otherwise it would sleep for as long as a busy server demands.
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
}
"""Defaults for MLflow's environment variables; it reads them on import and at each request."""


# ── Its address ───────────────────────────────────────────────────────────────────────────────────────────


def tracking_uri(setting: str | None = None) -> str:
    """The setting, else `$MLFLOW_TRACKING_URI`, else `mlflow.db` in the working directory; SQLite paths absolute.

    If both name the same store, the variable's address is used, because it may have a password.
    """
    variable = os.environ.get(URI_VARIABLE)
    is_same = setting and variable and bare_address(setting) == bare_address(variable)
    uri = (variable if is_same else setting or variable) or f"{SQLITE}mlflow.db"
    database = sqlite_path(uri)
    return uri if database is None else f"{SQLITE}{database}"


def not_named(directory: RunDirectory, recorded: str, command: str) -> RequestError:
    """The error for a run that was sent to a store that the user does not name now: its directory is untrusted.

    Args:
        directory: The run's.
        recorded: The store's address in its mlflow.json.
        command: The one to repeat, such as `ganrun sync`.
    """
    remedy = f"{command} {shell_quoted(directory.path)} --uri {shell_quoted(recorded)}"
    return RequestError(
        f"{directory / NAME} names the MLflow store {recorded}, but you did not; a run directory may come from "
        f"anybody, so that store was not contacted. If you trust it: {remedy}, or set {URI_VARIABLE} to it"
    )


def sqlite_path(uri: str) -> Path | None:
    """The absolute path of a SQLite store's file; None for any other store.

    Raises:
        RunError: if it depends on a home or a working directory that does not exist.
    """
    if not uri.startswith(SQLITE):
        return None
    try:
        return Path(uri.removeprefix(SQLITE)).expanduser().absolute()
    except (OSError, RuntimeError) as error:  # the working directory was removed, or there is no home
        reason = without_secrets(str(error))
        raise RunError(f"{bare_address(uri)} cannot be used for MLflow here: {reason}; set {URI_VARIABLE}") from error


def is_server(uri: str) -> bool:
    """Whether the store is an MLflow server, not a database or a folder."""
    return uri.lower().startswith(("http://", "https://"))


# ── Whether it can be reached ─────────────────────────────────────────────────────────────────────────────


def exists(uri: str) -> bool:
    """Whether the store was created: False only for a SQLite file that is missing or empty."""
    database = sqlite_path(uri)
    return database is None or creation.is_made(database)


def check_reachable(uri: str) -> None:
    """Check within seconds that the store can be used; MLflow itself would try for minutes.

    A SQLite store that is missing passes if it can be created.

    Raises:
        RunError: if it cannot be used.
    """
    try:
        _probe(uri)
    except (OSError, sqlite3.Error, ValueError, HTTPException) as error:
        reason = without_secrets(str(getattr(error, "reason", None) or error))
        kind = "server" if is_server(uri) else "store"
        raise RunError(f"the MLflow {kind} at {bare_address(uri)} cannot be reached: {reason}") from error


def _probe(uri: str) -> None:
    parts, database = urlsplit(uri), sqlite_path(uri)
    if database is not None:
        _probe_sqlite(database)
    elif is_server(uri):
        _probe_server(uri)
    elif parts.hostname and parts.port:
        socket.create_connection((parts.hostname, parts.port), PATIENCE_SECONDS).close()


def _probe_sqlite(database: Path) -> None:
    if "?" in str(database):
        raise ValueError("its path contains a question mark, which starts the options of a SQLite address")
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


def _probe_server(uri: str) -> None:
    """Any answer will do, even a refusal: the server is up, and MLflow reports what it refuses."""
    health = f"{bare_address(uri)}/health"
    try:
        urllib.request.urlopen(health, timeout=PATIENCE_SECONDS).close()
    except urllib.error.HTTPError as answer:
        answer.close()
    except urllib.error.URLError as error:
        if not isinstance(error.reason, SSLError):
            raise


# ── Using it ──────────────────────────────────────────────────────────────────────────────────────────────


def connect(uri: str) -> MlflowClient:
    """A client of the store. Imports MLflow, and creates a SQLite store that is missing.

    Raises:
        RunError: if MLflow cannot use the store.
    """
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    with errors_as_run_errors(uri):
        with creation.a_home():
            from mlflow import MlflowClient

        logging.getLogger("alembic").setLevel(logging.WARNING)
        # It logs a traceback of what it then raises, which ganrun reports in one line.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        database = sqlite_path(uri)
        return MlflowClient(uri) if database is None else _connect_sqlite(uri, database)


def _connect_sqlite(uri: str, database: Path) -> MlflowClient:
    from mlflow import MlflowClient

    with creation.exclusive(database):
        if not creation.is_made(database):
            creation.create(database)
        try:
            return MlflowClient(uri)
        except Exception:  # MLflow's own, or SQLAlchemy's
            creation.check_complete(database)
            raise


def open_experiment(client: MlflowClient, uri: str, name: str) -> str:
    """The id of an experiment, created if it is missing. A SQLite store keeps its artifacts in `mlruns/` beside it.

    Raises:
        RunError: if the experiment was deleted, because its name stays reserved.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=_artifact_location(uri, name))
        except MlflowException:  # another run may have created it in the meantime
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        remedy = f"mlflow experiments restore --experiment-id {found.experiment_id}"
        raise RunError(f'the MLflow experiment "{name}" was deleted; choose another name, or run: {remedy}')
    return str(found.experiment_id)


@contextmanager
def errors_as_run_errors(uri: str) -> Iterator[None]:
    """A block in which errors of MLflow, and of the libraries of its stores, become `RunError`s with a short message.

    Raises:
        RunError: in place of any error that is not ganrun's own.
    """
    try:
        yield
    except GanrunError:
        raise
    except Exception as error:  # each database driver and kind of artifact store raises errors of its own library
        raise run_error(uri, error) from error


def run_error(uri: str, error: Exception) -> RunError:
    """A `RunError` with the message of another error, and the store that it comes from."""
    return RunError(f"MLflow at {bare_address(uri)} says: {first_line(error)}")


def first_line(error: BaseException) -> str:
    """An error's message without secrets, the chain of causes that MLflow appends, and the remarks that SQLAlchemy
    prepends."""
    lines = [
        without_secrets(line)
        for line in str(error).strip().splitlines()
        if not line.startswith("(raised as a result of")
    ]
    return lines[0] if lines else type(error).__name__


def _artifact_location(uri: str, experiment: str) -> str | None:
    """A folder for each experiment, recognisable by its name."""
    database = sqlite_path(uri)
    if database is None:
        return None
    folder = re.sub(r"[^A-Za-z0-9._-]+", "-", experiment).strip("-.") or "experiment"
    if folder != experiment or len(folder) > LONGEST_FOLDER:
        digest = hashlib.blake2b(experiment.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
        folder = f"{folder[:LONGEST_FOLDER]}-{digest}"
    return (database.parent / "mlruns" / folder).as_uri()


# ── Opening it in a browser ───────────────────────────────────────────────────────────────────────────────


def page_of(uri: str, experiment_id: str) -> str:
    """The address of an experiment's charts on a server at `uri`; MLflow's own default is another view."""
    return f"{bare_address(uri)}/#/experiments/{experiment_id}/runs?workflowType=machine_learning&compareRunsMode=CHART"


def where_to_look(uri: str, experiment_id: str) -> list[str]:
    """Instructions to compare the runs of an experiment: the address and, for a file, the command that serves it; for a
    database, which may have a password, the command that takes it from the environment."""
    if is_server(uri):
        return [f"compare in MLflow: {page_of(uri, experiment_id)}"]
    if sqlite_path(uri) is None:
        return [f"compare in MLflow: ganrun ui{uri_option(uri)}"]
    command = f"{_mlflow_command()} ui --backend-store-uri {shell_quoted(uri)}"
    return [f"compare in MLflow: {command}", f"  and open {page_of('http://127.0.0.1:5000', experiment_id)}"]


def uri_option(uri: str) -> str:
    """The option that selects this store, with a leading space; empty for the default store."""
    with suppress(RunError):
        if bare_address(uri) == bare_address(tracking_uri()):
            return ""
    return f" --uri {shell_quoted(bare_address(uri))}"


def _mlflow_command() -> str:
    """`mlflow` as the user can type it: with its path if ganrun's environment is not activated."""
    own = Path(sys.executable).with_name("mlflow")
    found = shutil.which("mlflow")
    is_own = found is not None and own.exists() and Path(found).samefile(own)
    return "mlflow" if is_own or not own.exists() else shell_quoted(own)
