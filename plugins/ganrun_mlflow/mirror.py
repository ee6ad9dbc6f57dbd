"""Synchronises an MLflow run with a run directory. Everything that reaches MLflow is sent from here.

What was sent is recorded in the run directory, so that sending continues after any interruption: while the run trains,
when it is resumed, or by `ganrun sync`. An interruption between sending and recording does no harm: each point carries
its own time, by which the store recognises a point that it has.
"""

from __future__ import annotations

from ganrun import RunDirectory, bare_address
from ganrun_mlflow import store
from ganrun_mlflow.file_upload import FileUpload
from ganrun_mlflow.final_artifacts import FinalArtifacts
from ganrun_mlflow.metrics_upload import MetricsUpload
from ganrun_mlflow.mlflow_run import MlflowRun
from ganrun_mlflow.sync_state import SyncState
from ganrun_mlflow.uploads import Uploads


def sync(directory: RunDirectory, uri: str | None = None, *, creates: bool = True) -> SyncState:
    """Send to MLflow what it lacks of a run that no process is training.

    Args:
        directory: The run's.
        uri: The store that the user names, perhaps another one than before; else that of the environment, which must
            then be the one that the run was sent to.
        creates: Whether the run may be sent to another store, or created where the store lacks it.

    Returns:
        The state after it.

    Raises:
        RequestError: if another process trains or sends the run, it was trained without MLflow, or the user does not
            name the store that its directory names; that store is not contacted then.
        RunError: if the store refuses something; what it accepted is recorded.
    """
    status, target = directory.status, store.tracking_uri(uri)
    with directory.occupied():
        state = SyncState.read(directory)
        if state.uri != bare_address(target):
            if uri is None or not creates:
                raise store.not_named(directory, state.uri, "ganrun sync")
            state.reset(bare_address(target))
        Mirror(directory, target, state, creates=creates).sync(status)
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
        self._run = MlflowRun(directory, uri, state, creates=creates)
        self._uploads = Uploads(self._run)
        self._metrics = MetricsUpload(self._run)
        self._files = FileUpload(self._run, self._uploads)
        self._final = FinalArtifacts(self._run, self._uploads)
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
            self._run.open()
            self._metrics.resume()
            self._is_open = True

    def _sync_training(self) -> None:
        self._run.set_status(None)
        self._metrics.send()
        self._files.send(is_ended=False)

    def _sync_ended(self, ended: str) -> None:
        try:
            self._uploads.retry_refused()
            self._metrics.send()
            self._files.send(is_ended=True)
            self._final.send()
            self._uploads.raise_refused()
        finally:
            self._run.set_status(ended)
