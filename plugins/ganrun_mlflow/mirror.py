"""Synchronises an MLflow run with a run directory. Everything that reaches MLflow is sent from here.

What was sent is recorded in the run directory, so that sending continues after any interruption: while the run trains,
when it is resumed, or by `ganrun sync`. An interruption between sending and recording is harmless: each point carries
its own time, by which the store recognises duplicates.
"""

from __future__ import annotations

import time

from ganrun import RunDirectory, bare_address
from ganrun_mlflow import home, store
from ganrun_mlflow.file_upload import FileUpload
from ganrun_mlflow.final_artifacts import FinalArtifacts
from ganrun_mlflow.metrics_upload import MetricsUpload
from ganrun_mlflow.mlflow_run import MlflowRun
from ganrun_mlflow.sync_state import SyncState
from ganrun_mlflow.uploads import Uploads
from ganrun_mlflow.waiting import REQUEST_SECONDS, within


def sync(
    directory: RunDirectory, uri: str | None = None, *, creates: bool = True, seconds: float | None = None
) -> SyncState:
    """Send to MLflow what it is missing of a run that no process is training.

    Args:
        directory: The run's.
        uri: The store that the user names, which may differ from the previous one; else the one from the environment or
            the working directory, which must then have the run, or the SQLite file that has it.
        creates: Whether the run may be sent to another store, or created where the store lacks it.
        seconds: Time limit for everything; by default none, but `REQUEST_SECONDS` for each request.

    Returns:
        The state after it.

    Raises:
        RequestError: if another process is training or sending the run, it was trained without MLflow, or the user does
            not name the store recorded in its directory; that store is then not contacted.
        RunError: if the store refuses something, or times out; what it accepted is recorded.
    """
    status, end = directory.status, None if seconds is None else time.monotonic() + seconds
    with directory.occupied():
        state = SyncState.read(directory)
        target = home.store_of(state, directory, uri)
        if not home.is_in(target, state):
            if uri is None or not creates:
                raise store.not_named(directory, state.uri, "ganrun sync")
            state.reset()
        state.move_to(bare_address(target))
        mirror = Mirror(directory, target, state, creates=creates)
        try:
            within(
                lambda: mirror.run.last_request + REQUEST_SECONDS if end is None else end,
                lambda: mirror.sync(status),
                f"MLflow at {bare_address(target)}",
            )
        finally:
            mirror.run.abandon()
    return state


class Mirror:
    """An MLflow run that is kept in sync with a run directory.

    Args:
        directory: The run's.
        uri: The store, with a password if it needs one.
        state: The labels and the progress so far; updated by `sync`.
        creates: Whether the run is created where the store lacks it.
    """

    def __init__(self, directory: RunDirectory, uri: str, state: SyncState, *, creates: bool = True) -> None:
        self.state = state
        self._uri = uri
        self.run = MlflowRun(directory, uri, state, creates=creates)
        """May be abandoned from another thread."""
        self._uploads = Uploads(self.run)
        self._metrics = MetricsUpload(self.run)
        self._files = FileUpload(self.run, self._uploads)
        self._final = FinalArtifacts(self.run, self._uploads)
        self._is_open = False

    def sync(self, ended: str | None) -> None:
        """Send everything that MLflow does not have yet.

        Args:
            ended: How the run ended; None while it is training.

        Raises:
            RunError: if the store refuses something; what it accepted is recorded.
        """
        with store.errors_as_run_errors(self._uri):
            try:
                self._open()
                if ended is None:
                    self._sync_training()
                else:
                    self._sync_ended(ended)
            except Exception:
                self._is_open = False  # the next call checks first that the store is up and still has the run
                raise

    def _open(self) -> None:
        if not self._is_open:
            self.run.open()
            self._metrics.resume()
            self._is_open = True

    def _sync_training(self) -> None:
        self.run.set_status(None)
        self._metrics.send()
        self._files.send(is_ended=False)

    def _sync_ended(self, ended: str) -> None:
        """The status is sent before large files, for which there may not be enough time."""
        try:
            self._uploads.retry_refused()
            self._metrics.send()
            self._files.send(is_ended=True)
            self._final.send_pictures()
        finally:
            self.run.set_status(ended)
        try:
            self._final.send_weights()
        finally:
            self.run.set_status(ended)
        self._uploads.raise_refused()
        self.run.check_recorded()
