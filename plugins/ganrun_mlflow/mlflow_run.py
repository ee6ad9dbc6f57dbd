"""The MLflow run: found or created in its store, labelled, and given its status."""

from __future__ import annotations

import contextlib
import logging
import platform
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ganrun import GanrunError, RequestError, RunDirectory, shell_quoted, without_secrets
from ganrun_mlflow import claims, store
from ganrun_mlflow.labels import PARAMS_PER_CALL, tags_from, texts_of
from ganrun_mlflow.sync_state import Progress, SyncState
from ganrun_mlflow.waiting import Abandoned

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowEntity

log = logging.getLogger("ganrun")

RUNNING = "RUNNING"

STATUS = {"finished": "FINISHED", "failed": "FAILED"}
"""MLflow's status for how a run ended; KILLED for every other end."""


class MlflowRun:
    """The MLflow run that mirrors a run directory.

    Args:
        directory: The run directory; the state is written to it whenever it changes.
        uri: The store, with a password if it needs one.
        state: The labels and the progress so far.
        creates: Whether `open` creates a missing run or SQLite store.
    """

    last_request: float
    """Time of the last request to the store, by `time.monotonic`."""

    def __init__(self, directory: RunDirectory, uri: str, state: SyncState, *, creates: bool = True) -> None:
        self.directory = directory
        self._creates = creates
        self.uri = uri
        self.state = state
        self.last_request = time.monotonic()
        self._client: MlflowClient | None = None
        self._is_abandoned = False
        self._unrecorded: GanrunError | None = None
        """The error of the last failed write of the state."""

    @property
    def id(self) -> str:
        """MLflow's id of the run."""
        return self.state.progress.run_id

    @property
    def client(self) -> MlflowClient:
        """The store's client, after `open`. Read it for each request: after `abandon` it is gone."""
        assert self._client is not None
        self._check_wanted()
        return self._client

    def abandon(self) -> None:
        """Make no further request after the current one, and write nothing: the result is no longer needed."""
        self._is_abandoned = True

    def record(self) -> None:
        """Write the state to the run directory. If that fails, it is written the next time: only `check_recorded`
        raises, because a full disk must not prevent sending."""
        self._check_wanted()
        try:
            self.state.write(self.directory)
            self._unrecorded = None
        except GanrunError as error:
            if self._unrecorded is None:
                log.warning("%s, so ganrun sync would send again what MLflow already has; sending continues", error)
            self._unrecorded = error

    def check_recorded(self) -> None:
        """Check that the directory has the latest state.

        Raises:
            RunError: if it could not be written.
        """
        if self._unrecorded is not None:
            self.record()
        if self._unrecorded is not None:
            raise self._unrecorded

    def open(self) -> None:
        """Connect to the store, create the MLflow run if it is missing, and label it.

        Raises:
            RequestError: if the run or the store is missing, and may not be created.
            RunError: if the store cannot be reached or used.
        """
        self._check_wanted()
        store.check_reachable(self.uri)
        self._require(bool(self.id) and store.exists(self.uri))
        self._client = store.connect(self.uri)
        if not self._exists():
            self._require(False)
            self._create()
        self._label()

    def set_status(self, ended: str | None) -> None:
        """Send the status unless MLflow has it.

        Args:
            ended: How the run ended; None while it is training.
        """
        status = RUNNING if ended is None else STATUS.get(ended, "KILLED")
        if status == self.state.progress.status:
            return
        if status == RUNNING:
            self._restart()
        else:
            self._terminate(status)
        self.state.progress.status = status
        self.record()

    def _check_wanted(self) -> None:
        if self._is_abandoned:
            raise Abandoned
        self.last_request = time.monotonic()

    def _require(self, is_there: bool) -> None:
        if not is_there and not self._creates:
            remedy = f"ganrun sync {shell_quoted(self.directory.path)}"
            raise RequestError(f"the MLflow store at {self.state.uri} does not have this run; to send it: {remedy}")

    # ── Opening ───────────────────────────────────────────────────────────────────────────────────────

    def _exists(self) -> bool:
        """Whether the store has the run, not deleted, and it belongs to this directory. A run with another start time
        is a different one, whose id the directory falsely claims."""
        from mlflow.exceptions import MlflowException

        if not self.id:
            return False
        try:
            found = self.client.get_run(self.id)
            if (found.info.lifecycle_stage, found.info.start_time) == ("active", self.state.start_milliseconds):
                if found.info.status != self.state.progress.status:  # the store has lost it, or someone has changed it
                    self.state.progress.status = ""
                return self._is_ours(found)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        log.warning("the MLflow run %s is no longer at %s; a new one is created", self.id, self.state.uri)
        return False

    def _is_ours(self, found: MlflowEntity) -> bool:
        reason = claims.why_not_ours(found.data.tags, found.info.status, self.directory, self.state)
        if reason is not None:
            log.warning("%s; %s gets a separate one", reason, self.directory.path)
        return reason is None

    def _create(self) -> None:
        self.state.reset()
        self._claim()
        experiment_id = store.open_experiment(self.client, self.uri, self.state.experiment)
        run_id = self._find_created(experiment_id)
        if run_id is None:
            tags = _shown({**self.state.tags, "mlflow.note.content": self.state.description})
            start = self.state.start_milliseconds
            run_id = str(self.client.create_run(experiment_id, start, tags, self.state.name).info.run_id)
        self.state.progress = Progress(run_id, experiment_id, RUNNING)
        self.record()

    def _find_created(self, experiment_id: str) -> str | None:
        """The run, if a slow store created it in an earlier attempt that timed out here."""
        same_start = f"attributes.start_time = {self.state.start_milliseconds}"
        for found in self.client.search_runs([experiment_id], same_start):
            if found.data.tags.get(claims.DIRECTORY) == self.state.tags.get(claims.DIRECTORY):
                return str(found.info.run_id)
        return None

    def _label(self) -> None:
        """Send parameters, tags and data set. Parameters that MLflow has stay: it refuses to change them."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag

        self._claim()
        known = self.client.get_run(self.id).data.params
        params = [Param(key, text) for key, text in _shown(self.state.params).items() if key not in known]
        tags = [RunTag(key, text) for key, text in _shown(self.state.tags).items()]
        self.client.log_batch(self.id, params=params[:PARAMS_PER_CALL], tags=tags)
        dataset = DatasetInput(Dataset(**self.state.dataset), [InputTag("mlflow.data.context", "training")])
        self.client.log_inputs(self.id, [dataset])
        self.record()

    def _claim(self) -> None:
        """Record this directory as the MLflow run's, even if it was elsewhere before."""
        if self.state.tags.get(claims.DIRECTORY) != str(self.directory.path):
            self.state.tags |= tags_from({claims.DIRECTORY: str(self.directory.path), claims.HOST: platform.node()})

    # ── Status ────────────────────────────────────────────────────────────────────────────────────────

    def _restart(self) -> None:
        self.client.update_run(self.id, status=RUNNING)
        for name in ("error", "stopped"):
            with contextlib.suppress(Exception):  # fails if the run has no such tag
                self.client.delete_tag(self.id, name)

    def _terminate(self, status: str) -> None:
        for name, text in texts_of(self.directory.summary()).items():
            if name not in self.state.tags:  # they record the owner of the MLflow run
                self.client.set_tag(self.id, name, text)
        end = self.state.ended or _last_written(self.directory, self.state.started)
        self.client.set_terminated(self.id, status, end_time=int(1000 * end))


def _shown(labels: Mapping[str, str]) -> dict[str, str]:
    """Labels without secrets, which labels of version 0.1.0 may contain; paths stay unchanged."""
    return {key: text if key == claims.DIRECTORY else without_secrets(text) for key, text in labels.items()}


def _last_written(directory: RunDirectory, default: float) -> float:
    """The last time that a killed run wrote metrics or its summary."""
    written = [path for path in (directory.metrics_path, directory.summary_path) if path.exists()]
    return max((path.stat().st_mtime for path in written), default=default)
