"""The observer that mirrors a run into MLflow."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field

import ganrun
from ganrun import GanrunError, RequestError, Run, bare_address, observes, shell_quoted, spinner
from ganrun_mlflow import home, labels, store, waiting
from ganrun_mlflow.comparison import write_comparison
from ganrun_mlflow.machine import Machine
from ganrun_mlflow.mirror import Mirror, sync
from ganrun_mlflow.sync_state import NAME, SyncState
from ganrun_mlflow.sync_thread import SyncThread

log = logging.getLogger("ganrun")


class Mlflow(ganrun.Observer):
    """Mirrors a run into MLflow: settings, curves, scores, sample pictures and files, for comparison with other runs.

    The run directory holds everything. A separate thread synchronises MLflow with it every few seconds, so that a slow
    or absent store delays no step. `ganrun sync` sends what the store has not received by the run's end. A resumed run
    continues its MLflow run. Set the user name and password of a server in MLFLOW_TRACKING_USERNAME and
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
        """More tags for the run, to filter and group by; ganrun's own tags take precedence."""

        log_checkpoints: bool = False
        """Whether the last checkpoint is uploaded at the end."""

        log_model: bool = False
        """Whether the generator is logged as an MLflow model at the end."""

    settings: Settings
    automatic = True

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self._uri = ""
        self._thread: SyncThread | None = None
        self._machine = Machine()

    # ── Events ────────────────────────────────────────────────────────────────────────────────────────

    @observes
    def run_started(self, run: Run) -> None:
        """Start to mirror the run. A resumed run continues the MLflow run that its directory names."""
        earlier = _earlier_state(run)
        self._uri = home.store_of(earlier, run.directory, self.settings.uri)
        mirror = Mirror(run.directory, self._uri, self._initial_state(run, earlier))
        mirror.run.record()
        self._thread = SyncThread(mirror)

    @observes
    def measured(self, run: Run) -> None:
        """Record the machine's load every few seconds, and warn if MLflow hangs."""
        if self._thread:
            self._thread.report_if_stuck()
        values = self._machine.read()
        if values:
            run.record(values)

    @observes(trylast=True)
    def run_ended(self, run: Run, status: str) -> None:
        """Send the rest, and print where to compare the run with others."""
        if self._thread:
            seconds = waiting.INTERRUPTED_SECONDS if status == "interrupted" else waiting.END_SECONDS
            deadline, gives_up = time.monotonic() + seconds, _interrupted_since(run)
            try:
                if status != "failed":
                    write_comparison(run, deadline - seconds / 2, gives_up)
            finally:
                self._send_rest(run, status, self._thread, deadline, gives_up)

    @observes
    def rescored(self, run: Run) -> None:
        """Send the scores to the store that has the run, if the user names that store; the run's times and status stay
        unchanged. Nothing is created there.

        If a process is training the run, that process sends them.
        """
        if (run.directory / NAME).exists() and run.directory.status != "running":
            try:
                sync(run.directory, self.settings.uri, creates=False, seconds=waiting.END_SECONDS)
            except GanrunError as error:
                log.warning("the scores are in %s, but not in MLflow: %s", run.directory.path, error)

    # ── Helpers ───────────────────────────────────────────────────────────────────────────────────────

    def _send_rest(
        self, run: Run, status: str, thread: SyncThread, deadline: float, gives_up: Callable[[], bool]
    ) -> None:
        with spinner("sending the rest to MLflow; Ctrl-C leaves it to: ganrun sync"):
            error = thread.close(status, deadline, gives_up)
        if error and not thread.was_interrupted:
            run.faults.note('observer "mlflow"', "run_ended", error, run.step, then="leaves the rest to ganrun sync")
        experiment_id = thread.mirror.state.progress.experiment_id
        for line in _incomplete(run, error, self._uri) if error else store.where_to_look(self._uri, experiment_id):
            run.add_message(line)

    def _initial_state(self, run: Run, earlier: SyncState | None) -> SyncState:
        """The labels of the run; for a resumed run, with the progress so far, if its store has it."""
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
        if earlier and home.is_in(self._uri, earlier):
            earlier.move_to(state.uri)
            state.resume_from(earlier)
        elif earlier:
            log.warning("the run was in MLflow at %s; it continues as a new one at %s", earlier.uri, state.uri)
        return state

    def _tags(self, run: Run) -> dict[str, str]:
        own, more = labels.tags_of(run), labels.tags_from(self.settings.tags)
        if taken := own.keys() & more.keys():
            place = run.recipe.where(("mlflow", "tags"))
            log.warning("%s: [mlflow] tags: ganrun sets %s itself; choose other names", place, ", ".join(sorted(taken)))
        return more | own


def _earlier_state(run: Run) -> SyncState | None:
    """The state of a resumed run; None if it is absent or unreadable, so that the run becomes a new one in MLflow."""
    if not (run.resumed and (run.directory / NAME).exists()):
        return None
    try:
        return SyncState.read(run.directory)
    except RequestError as error:
        log.warning("%s; the run continues as a new one in MLflow", error)
        return None


def _interrupted_since(run: Run) -> Callable[[], bool]:
    """Whether a signal has arrived since this call."""
    before = run.interruption.signal_number
    return lambda: run.interruption.signal_number != before


def _incomplete(run: Run, error: Exception, uri: str) -> list[str]:
    path = run.directory.path
    return [
        f"MLflow does not have the whole run, but {path} does: {store.first_line(error)}",
        f"  to send the rest: ganrun sync {shell_quoted(path)}{store.uri_option(uri)}",
    ]
