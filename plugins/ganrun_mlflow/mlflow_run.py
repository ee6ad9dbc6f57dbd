"""The MLflow run: found or created in its store, labelled, and given its status."""

from __future__ import annotations

import contextlib
import logging
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ganrun import RequestError, RunDirectory, without_secrets
from ganrun_mlflow import store
from ganrun_mlflow.labels import PARAMS_PER_CALL, texts_of
from ganrun_mlflow.sync_state import Progress, SyncState

if TYPE_CHECKING:
    from mlflow import MlflowClient

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
        creates: Whether `open` creates the run, and a SQLite store, that is missing.
    """

    client: MlflowClient
    """Set by `open`."""

    def __init__(self, directory: RunDirectory, uri: str, state: SyncState, *, creates: bool = True) -> None:
        self.directory = directory
        self._creates = creates
        self.uri = uri
        self.state = state

    @property
    def id(self) -> str:
        """MLflow's id of the run."""
        return self.state.progress.run_id

    def open(self) -> None:
        """Connect to the store, create the MLflow run if it is missing, and label it.

        Raises:
            RequestError: if the run or the store is missing, and may not be created.
            RunError: if the store cannot be reached or used.
        """
        store.check_reachable(self.uri)
        self._require(bool(self.id) and store.exists(self.uri))
        self.client = store.connect(self.uri)
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
        self.state.write(self.directory)

    def _require(self, is_there: bool) -> None:
        if not is_there and not self._creates:
            remedy = f"ganrun sync {shlex.quote(str(self.directory.path))}"
            raise RequestError(f"the MLflow store at {self.state.uri} does not have this run; to send it: {remedy}")

    # ── Opening ───────────────────────────────────────────────────────────────────────────────────────

    def _exists(self) -> bool:
        """Whether the store has the run and it is not deleted. A run that started at another time is another one, whose
        id the directory only claims."""
        from mlflow.exceptions import MlflowException

        if not self.id:
            return False
        try:
            info = self.client.get_run(self.id).info
            if info.lifecycle_stage == "active" and info.start_time == self.state.start_milliseconds:
                return True
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        log.warning("the MLflow run %s is no longer at %s; a new one is created", self.id, self.state.uri)
        return False

    def _create(self) -> None:
        self.state.reset()
        experiment_id = store.open_experiment(self.client, self.uri, self.state.experiment)
        run_id = self._find_created(experiment_id)
        if run_id is None:
            tags = _shown({**self.state.tags, "mlflow.note.content": self.state.description})
            start = self.state.start_milliseconds
            run_id = str(self.client.create_run(experiment_id, start, tags, self.state.name).info.run_id)
        self.state.progress = Progress(run_id, experiment_id, RUNNING)
        self.state.write(self.directory)

    def _find_created(self, experiment_id: str) -> str | None:
        """The run, if a slow store created it in an earlier attempt that timed out here."""
        same_start = f"attributes.start_time = {self.state.start_milliseconds}"
        for found in self.client.search_runs([experiment_id], same_start):
            if found.data.tags.get("run_directory") == self.state.tags.get("run_directory"):
                return str(found.info.run_id)
        return None

    def _label(self) -> None:
        """Send parameters, tags and data set. Parameters that MLflow has stay: it refuses to change them."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag

        known = self.client.get_run(self.id).data.params
        params = [Param(key, text) for key, text in _shown(self.state.params).items() if key not in known]
        tags = [RunTag(key, text) for key, text in _shown(self.state.tags).items()]
        self.client.log_batch(self.id, params=params[:PARAMS_PER_CALL], tags=tags)
        dataset = DatasetInput(Dataset(**self.state.dataset), [InputTag("mlflow.data.context", "training")])
        self.client.log_inputs(self.id, [dataset])

    # ── Status ────────────────────────────────────────────────────────────────────────────────────────

    def _restart(self) -> None:
        self.client.update_run(self.id, status=RUNNING)
        for name in ("error", "stopped"):
            with contextlib.suppress(Exception):  # fails where the run has no such tag
                self.client.delete_tag(self.id, name)

    def _terminate(self, status: str) -> None:
        for name, text in texts_of(self.directory.summary()).items():
            self.client.set_tag(self.id, name, text)
        self.client.set_terminated(
            self.id, status, end_time=int(1000 * _last_written(self.directory, self.state.started))
        )


def _shown(labels: Mapping[str, str]) -> dict[str, str]:
    """Labels without secrets, which those of version 0.1.0 may have; paths stay as they are."""
    return {key: text if key == "run_directory" else without_secrets(text) for key, text in labels.items()}


def _last_written(directory: RunDirectory, default: float) -> float:
    """When a run last wrote metrics or its summary: its end, which may be sent much later."""
    written = [path for path in (directory.metrics_path, directory.summary_path) if path.exists()]
    return max((path.stat().st_mtime for path in written), default=default)
