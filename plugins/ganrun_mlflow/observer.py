"""The observer that mirrors a run into MLflow."""

from __future__ import annotations

import logging
import shlex
import time
from typing import Annotated, Any

from pydantic import Field

import ganrun
from ganrun import GanrunError, Run, bare_address, observes, spinner
from ganrun_mlflow import labels, store
from ganrun_mlflow.comparison import write_comparison
from ganrun_mlflow.machine import Machine
from ganrun_mlflow.mirror import Mirror, sync
from ganrun_mlflow.sync_state import NAME, SyncState
from ganrun_mlflow.sync_thread import SyncThread

log = logging.getLogger("ganrun")


class Mlflow(ganrun.Observer):
    """Mirrors a run into MLflow: settings, curves, scores, sample pictures and files, for comparison with other runs.

    The run directory holds everything. A separate thread synchronises MLflow with it every few seconds, so that a slow
    or absent store delays no step. What the store has not received by the run's end can be sent by `ganrun sync`. A
    resumed run continues its MLflow run. Set the user name and password of a server in MLFLOW_TRACKING_USERNAME and
    MLFLOW_TRACKING_PASSWORD.
    """

    class Settings(ganrun.Settings):
        experiment: str | None = Field(None, min_length=1, max_length=500)
        """The MLflow experiment: a group of runs to compare, created if it is missing. Default: the data's name."""

        uri: Annotated[str, ganrun.Address(store.URI_VARIABLE)] | None = None
        """Tracking URI. Default: $MLFLOW_TRACKING_URI, else sqlite:///mlflow.db in the working directory."""

        run_name: str | None = Field(None, min_length=1, max_length=250)
        """The run's name in MLflow. Default: the recipe's name."""

        tags: dict[str, str] = {}
        """More tags for the run, to filter and group by; those that ganrun sets itself stay."""

        log_checkpoints: bool = False
        """Whether the last checkpoint is uploaded at the end."""

        log_model: bool = False
        """Whether the generator is logged as an MLflow model at the end."""

    settings: Settings
    automatic = True

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self._uri = store.tracking_uri(settings.uri)
        self._thread: SyncThread | None = None
        self._machine = Machine()

    # ── Events ────────────────────────────────────────────────────────────────────────────────────────

    @observes
    def run_started(self, run: Run) -> None:
        """Start to mirror the run. A resumed run continues the MLflow run that its directory names."""
        state = self._initial_state(run)
        state.write(run.directory)
        self._thread = SyncThread(Mirror(run.directory, self._uri, state))

    @observes
    def measured(self, run: Run) -> None:
        """Record the load of the machine, every few seconds."""
        values = self._machine.read()
        if values:
            run.record(values)

    @observes(trylast=True)
    def run_ended(self, run: Run, status: str) -> None:
        """Send what is left, and print where to compare the run with others."""
        if self._thread:
            try:
                if status != "failed":
                    write_comparison(run)
            finally:
                self._send_rest(run, status, self._thread)

    @observes
    def rescored(self, run: Run) -> None:
        """Send the scores to the store that has the run, if that is the one that the user names; its times and status
        stay as they are. Nothing is created there.

        If a process is training the run, that process sends them.
        """
        if (run.directory / NAME).exists() and run.directory.status != "running":
            try:
                sync(run.directory, self._uri, creates=False)
            except GanrunError as error:
                log.warning("the scores are in %s, but not in MLflow: %s", run.directory.path, error)

    # ── Helpers ───────────────────────────────────────────────────────────────────────────────────────

    def _send_rest(self, run: Run, status: str, thread: SyncThread) -> None:
        signal_before = run.interruption.signal_number
        with spinner("sending the rest to MLflow; Ctrl-C leaves it to: ganrun sync"):
            error = thread.close(status, lambda: run.interruption.signal_number != signal_before)
        experiment_id = thread.mirror.state.progress.experiment_id
        for line in _incomplete(run, error, self._uri) if error else store.where_to_look(self._uri, experiment_id):
            run.add_message(line)

    def _initial_state(self, run: Run) -> SyncState:
        """The labels of the run; of a resumed run with the progress so far, if it stays in the same store."""
        name = self.settings.run_name or run.name
        state = SyncState(
            uri=bare_address(self._uri),
            experiment=self.settings.experiment or run.recipe.data.use,
            name=f"{name}, seed {run.seed}" if run.group else name,
            started=round(time.time(), 3),
            params=labels.params_of(run),
            tags=self._tags(run),
            dataset=labels.dataset_of(run),
            description=labels.description_of(run.recipe.source.text),
            log_checkpoints=self.settings.log_checkpoints,
            log_model=self.settings.log_model,
        )
        if run.resumed and (run.directory / NAME).exists():
            earlier = SyncState.read(run.directory)
            if earlier.uri == state.uri:
                state.resume_from(earlier)
            else:
                log.warning("the run was in MLflow at %s; it continues as a new one at %s", earlier.uri, state.uri)
        return state

    def _tags(self, run: Run) -> dict[str, str]:
        own, more = labels.tags_of(run), labels.tags_from(self.settings.tags)
        if taken := own.keys() & more.keys():
            place = run.recipe.where(("mlflow", "tags"))
            log.warning("%s: [mlflow] tags: ganrun sets %s itself; choose other names", place, ", ".join(sorted(taken)))
        return more | own


def _incomplete(run: Run, error: Exception, uri: str) -> list[str]:
    path = run.directory.path
    return [
        f"MLflow does not have the whole run, but {path} does: {store.first_line(error)}",
        f"  to send the rest: ganrun sync {shlex.quote(str(path))}{store.uri_option(uri)}",
    ]
