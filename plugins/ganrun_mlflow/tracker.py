"""Finds runs by their MLflow id and experiment, and ends the MLflow runs of processes that were killed."""

from __future__ import annotations

import math
import platform
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ganrun import (
    RUN_FILES,
    GanrunError,
    HealthCheck,
    RequestError,
    RunDirectory,
    Tracker,
    atomic_folder,
    bare_address,
    cache_directory,
)
from ganrun_mlflow import store
from ganrun_mlflow.claims import DIRECTORY, HOST
from ganrun_mlflow.mirror import sync
from ganrun_mlflow.sync_state import NAME, SyncState
from ganrun_mlflow.waiting import QUESTION_SECONDS, within

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

T = TypeVar("T")

RUN_ID = re.compile(r"[0-9a-f]{32}")
DOWNLOADED = {*RUN_FILES, "checkpoints"}
"""The artifacts that are downloaded of a run whose directory is on another machine."""


class MlflowTracker(Tracker):
    """The default store: `$MLFLOW_TRACKING_URI`, else mlflow.db in the working directory."""

    def find(self, run_id: str) -> Path | None:
        """The run's directory; if that is on another machine, a copy of what was uploaded."""
        if not RUN_ID.fullmatch(run_id):
            return None
        uri = store.tracking_uri()
        client, found = _ask(uri, lambda: _get_run(uri, run_id))
        return _directory(found) or within(math.inf, lambda: _download(client, uri, run_id), "downloading it")

    def runs_of(self, experiment: str) -> Sequence[Path] | None:
        """The directories that are on this machine, the newest last."""
        uri = store.tracking_uri()
        if not store.exists(uri):
            return None
        runs = _ask(uri, lambda: _runs_of(uri, experiment))
        return None if runs is None else [path for path in map(_directory, runs) if path]

    def experiments(self) -> Sequence[str]:
        """The names of the store's experiments; empty if there is no store yet."""
        uri = store.tracking_uri()
        if not store.exists(uri):
            return []
        return [each.name for each in _ask(uri, lambda: _connect_existing(uri).search_experiments())]


def check_store() -> HealthCheck:
    """Check for `ganrun doctor` that the default store can be used, and end the MLflow runs of killed processes."""
    uri = store.tracking_uri()
    try:
        _ask(uri, lambda: store.check_reachable(uri))
        if not store.exists(uri):
            return HealthCheck(True, f"{bare_address(uri)} (the first run creates it)")
        ended = [run.info.run_name for run in _ask(uri, lambda: _running_here(uri)) if _end_if_killed(run, uri)]
    except GanrunError as error:
        remedy = "start it" if store.is_server(uri) else "repair it"
        return HealthCheck(False, f"{error.message}; {remedy}, or set {store.URI_VARIABLE}")
    killed = f"; marked as killed: {', '.join(ended)}" if ended else ""
    return HealthCheck(True, bare_address(uri) + killed)


# ── Killed runs ───────────────────────────────────────────────────────────────────────────────────────────


def _running_here(uri: str) -> list[Run]:
    """The runs of this machine that have the status RUNNING."""
    client = store.connect(uri)
    experiments = [each.experiment_id for each in client.search_experiments()]
    running = _all_runs(client, experiments, "attributes.status = 'RUNNING'")
    return [run for run in running if run.data.tags.get(HOST) == platform.node()]


def _end_if_killed(run: Run, uri: str) -> bool:
    """Whether no process trains the run any more; if so, it is synchronised, which ends it in MLflow.

    A directory that names another run or another store is left alone: anybody who may write to the store can set tags.
    """
    directory = _named_directory(run)
    if directory is None or directory.read_json(NAME).get("run_id") != run.info.run_id:
        return False
    if directory.status == "running" or SyncState.read(directory).uri != bare_address(uri):
        return False
    sync(directory, seconds=QUESTION_SECONDS)
    return True


# ── Finding runs ──────────────────────────────────────────────────────────────────────────────────────────


def _ask(uri: str, question: Callable[[], T]) -> T:
    """The result of a query to a store, with a time limit."""

    def asked() -> T:
        with store.errors_as_run_errors(uri):
            return question()

    return within(time.monotonic() + QUESTION_SECONDS, asked, f"MLflow at {bare_address(uri)}")


def _connect_existing(uri: str) -> MlflowClient:
    """A client of a store that exists; a query creates none."""
    store.check_reachable(uri)
    if not store.exists(uri):
        raise RequestError(f"there is no MLflow store at {store.sqlite_path(uri)}; set {store.URI_VARIABLE} to yours")
    return store.connect(uri)


def _get_run(uri: str, run_id: str) -> tuple[MlflowClient, Run]:
    client = _connect_existing(uri)
    from mlflow.exceptions import MlflowException

    try:
        return client, client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise store.run_error(uri, error) from error
        raise RequestError(f"there is no run {run_id} in MLflow at {bare_address(uri)}") from error


def _runs_of(uri: str, experiment: str) -> list[Run] | None:
    client = _connect_existing(uri)
    found = client.get_experiment_by_name(experiment)
    return None if found is None else list(_all_runs(client, [found.experiment_id], order="attributes.start_time"))


def _all_runs(client: MlflowClient, experiments: list[str], which: str = "", order: str = "") -> Iterator[Run]:
    token = None
    while True:
        page = client.search_runs(experiments, which, order_by=[order] if order else None, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _directory(run: Run) -> Path | None:
    """A run's directory, if it is on this machine and was not reused for another run."""
    directory = _named_directory(run)
    return directory.path if directory and _started(directory) == run.info.start_time else None


def _named_directory(run: Run) -> RunDirectory | None:
    """The directory that a run's tag names, if it holds a run; tags are untrusted."""
    name = run.data.tags.get(DIRECTORY)
    try:
        directory = RunDirectory(Path(name)) if name else None
        return directory if directory and directory.holds_run else None
    except RequestError:
        return None


def _started(directory: RunDirectory) -> int | None:
    """The start time of a directory's run, in milliseconds: it identifies the run in every store."""
    try:
        return SyncState.read(directory).start_milliseconds
    except RequestError:
        return None


def _download(client: MlflowClient, uri: str, run_id: str) -> Path:
    """A copy of what MLflow holds of a run, in the cache."""
    folder = cache_directory() / "mlflow" / run_id
    with store.errors_as_run_errors(uri):
        uploaded = {each.path for each in client.list_artifacts(run_id)}
        if "checkpoints" not in uploaded:
            raise RequestError(
                f"the directory of run {run_id} is not on this machine, and its checkpoint was not uploaded; "
                "train with [mlflow] log_checkpoints = true, or copy the directory here"
            )
        with atomic_folder(folder) as partial:
            for name in uploaded & DOWNLOADED:
                client.download_artifacts(run_id, name, str(partial))
    return folder
