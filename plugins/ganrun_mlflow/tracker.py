"""Runs as MLflow knows them: by id and by experiment; and those that nobody told it have ended."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ganrun import GanrunError, HealthCheck, RequestError, RunDirectory, Tracker, atomic_folder, cache_directory
from ganrun_mlflow import store
from ganrun_mlflow.mirror import sync
from ganrun_mlflow.note import NAME

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

RUN_ID = re.compile(r"[0-9a-f]{32}")
NEEDED = ("recipe.toml", "environment.json", "metrics.jsonl", "summary.json", "checkpoints")
"""What is fetched of a run whose directory is on another machine."""


class MlflowTracker(Tracker):
    """The store of recipes that name none: `$MLFLOW_TRACKING_URI`, else mlflow.db in the working directory."""

    def find(self, run_id: str) -> Path | None:
        """The run's directory; where that is on another machine, a copy of what was uploaded of it."""
        if not RUN_ID.fullmatch(run_id):
            return None
        uri = store.tracking_uri()
        client = _existing(uri)
        from mlflow.exceptions import MlflowException

        try:
            found = client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise store.refusal(uri, error) from error
            raise RequestError(f"MLflow at {store.without_password(uri)} knows no run {run_id}") from error
        return _directory(found) or _fetched(client, uri, run_id)

    def runs_of(self, experiment: str) -> Sequence[Path] | None:
        """The directories that are on this machine, the newest last."""
        uri = store.tracking_uri()
        if not store.is_made(uri):
            return None
        client = _existing(uri)
        with store.refusals_told(uri):
            found = client.get_experiment_by_name(experiment)
            if found is None:
                return None
            runs = list(_all_runs(client, [found.experiment_id], order="attributes.start_time"))
        return [place for place in map(_directory, runs) if place]

    def experiments(self) -> Sequence[str]:
        """Those of the store; none where there is no store yet."""
        uri = store.tracking_uri()
        if not store.is_made(uri):
            return []
        client = _existing(uri)
        with store.refusals_told(uri):
            return [each.name for each in client.search_experiments()]


def check_store() -> HealthCheck:
    """For `ganrun doctor`: whether the store of a recipe that names none can be used; runs that were killed are ended
    there, for nobody else will."""
    uri = store.tracking_uri()
    try:
        store.reach(uri)
        if not store.is_made(uri):
            return HealthCheck(True, f"{uri} (made by the first run)")
        ended = [run.info.run_name for run in _left_running(store.connect(uri)) if _end(run)]
    except GanrunError as error:
        remedy = "start it" if store.is_server(uri) else "repair it"
        return HealthCheck(False, f"{error.message}; {remedy}, or set {store.URI_VARIABLE}")
    killed = f"; ended there, for they were killed: {', '.join(ended)}" if ended else ""
    return HealthCheck(True, store.without_password(uri) + killed)


# ── Runs left running ─────────────────────────────────────────────────────────────────────────────────────


def _left_running(client: MlflowClient) -> Iterator[Run]:
    """The runs of this machine that MLflow takes for running."""
    experiments = [each.experiment_id for each in client.search_experiments()]
    for run in _all_runs(client, experiments, "attributes.status = 'RUNNING'"):
        if run.data.tags.get("host") == platform.node() and "run_directory" in run.data.tags:
            yield run


def _end(run: Run) -> bool:
    """Whether a run had ended without a word, as one that is killed does; then MLflow has been told."""
    directory = RunDirectory(Path(run.data.tags["run_directory"]))
    if not directory.holds_run or directory.status == "running":
        return False
    if directory.read_json(NAME).get("run_id") != run.info.run_id:
        return False
    sync(directory)
    return True


# ── Helpers ───────────────────────────────────────────────────────────────────────────────────────────────


def _existing(uri: str) -> MlflowClient:
    """A client of a store that is there; none is made for a question."""
    store.reach(uri)
    if not store.is_made(uri):
        place = store.sqlite_path(uri)
        raise RequestError(f"there is no MLflow store at {place}; say where it is by {store.URI_VARIABLE}")
    return store.connect(uri)


def _all_runs(client: MlflowClient, experiments: list[str], which: str = "", order: str = "") -> Iterator[Run]:
    token = None
    while True:
        page = client.search_runs(experiments, which, order_by=[order] if order else None, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _directory(run: Run) -> Path | None:
    """Where a run's directory is, if it is on this machine."""
    directory = RunDirectory(Path(run.data.tags.get("run_directory", "")))
    return directory.path if directory.holds_run and _started(directory) == run.info.start_time else None


def _started(directory: RunDirectory) -> int | None:
    """When the run of a directory began, in milliseconds. By this it is known, wherever it is mirrored: the directory
    may have been used again for another."""
    started = directory.read_json(NAME).get("started")
    return int(1000 * started) if isinstance(started, int | float) else None


def _fetched(client: MlflowClient, uri: str, run_id: str) -> Path:
    """A copy of what MLflow holds of a run."""
    folder = cache_directory() / "mlflow" / run_id
    with store.refusals_told(uri):
        held = {each.path for each in client.list_artifacts(run_id)}
        if "checkpoints" not in held:
            raise RequestError(
                f"the directory of run {run_id} is not on this machine, and its checkpoint was not uploaded; "
                "train with [mlflow] log_checkpoints = true, or copy the directory here"
            )
        with atomic_folder(folder) as partial:
            for name in held & set(NEEDED):
                client.download_artifacts(run_id, name, str(partial))
    return folder
