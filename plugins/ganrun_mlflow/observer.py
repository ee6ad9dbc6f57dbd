"""The observer that has a run mirrored into MLflow."""

from __future__ import annotations

import shlex
import time
from typing import Any

from pydantic import Field

import ganrun
from ganrun import Run, observes, spinner
from ganrun_mlflow import labels, store
from ganrun_mlflow.compared import write_compared
from ganrun_mlflow.courier import SyncThread
from ganrun_mlflow.machine import Machine
from ganrun_mlflow.mirror import Mirror, sync
from ganrun_mlflow.note import NAME, Note


class Mlflow(ganrun.Observer):
    """Mirrors a run into MLflow: settings, curves, scores, sample pictures and files, for comparison with others.

    The run directory holds everything; a thread of its own brings MLflow level with it every few seconds, so that a
    store which is slow or away costs no step. What it did not take until the run's end is sent by `ganrun sync`. A run
    that is resumed goes on in the same MLflow run. The user name and password of a server belong in
    MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.
    """

    class Settings(ganrun.Settings):
        experiment: str | None = Field(None, min_length=1, max_length=500)
        """The MLflow experiment: a group of runs to be compared, made where it is missing. Unless given, the data's
        name."""

        uri: str | None = None
        """Tracking URI. Unless given: $MLFLOW_TRACKING_URI, else sqlite:///mlflow.db in the working directory."""

        run_name: str | None = Field(None, min_length=1, max_length=250)
        """The run's name in MLflow. Unless given, the recipe's name."""

        tags: dict[str, str] = {}
        """More tags for the run, to filter and group by."""

        log_checkpoints: bool = False
        """Whether the last checkpoint is uploaded, at the end."""

        log_model: bool = False
        """Whether the generator is logged as an MLflow model, at the end."""

    settings: Settings
    automatic = True

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self._uri = store.tracking_uri(settings.uri)
        self._courier: SyncThread | None = None
        self._machine = Machine()

    # ── Events ────────────────────────────────────────────────────────────────────────────────────────

    @observes
    def run_started(self, run: Run) -> None:
        """Begin to mirror it, in the MLflow run that the directory names if it does."""
        note = self._note(run)
        note.write(run.directory)
        self._courier = SyncThread(Mirror(run.directory, self._uri, note))

    @observes
    def measured(self, run: Run) -> None:
        """Note every few seconds how busy the machine is."""
        values = self._machine.read()
        if values:
            run.record(values)

    @observes(trylast=True)
    def run_ended(self, run: Run, status: str) -> None:
        """Have what is left sent, and say where the run is compared with others."""
        if self._courier:
            try:
                if status != "failed":
                    write_compared(run)
            finally:
                self._send_rest(run, status, self._courier)

    @observes
    def rescored(self, run: Run) -> None:
        """Add the scores to the MLflow run that mirrors the run, in whichever store it is; its times and status stay as
        they are. Where a process trains the run, that one sends them."""
        if (run.directory / NAME).exists() and run.directory.status != "running":
            sync(run.directory)

    def _send_rest(self, run: Run, status: str, courier: SyncThread) -> None:
        signals = run.interruption.signal_number
        with spinner("sending what is left to MLflow; Ctrl-C leaves it to: ganrun sync"):
            fault = courier.close(status, lambda: run.interruption.signal_number != signals)
        experiment = courier.mirror.note.experiment_id
        for line in _not_level(run, fault) if fault else store.invitation(self._uri, experiment):
            run.add_message(line)

    # ── Labels ────────────────────────────────────────────────────────────────────────────────────────

    def _note(self, run: Run) -> Note:
        """What the run is labelled with; how far MLflow is, where it mirrored the run before it was resumed."""
        name = self.settings.run_name or run.name
        note = Note(
            uri=store.without_password(self._uri),
            experiment=self.settings.experiment or run.recipe.data.use,
            name=f"{name}, seed {run.seed}" if run.group else name,
            started=round(time.time(), 3),
            params=labels.params_of(run),
            tags=labels.tags_of(run) | labels.tags_from(self.settings.tags),
            dataset=labels.dataset_of(run),
            description=labels.description_of(run.recipe.source.text),
            log_checkpoints=self.settings.log_checkpoints,
            log_model=self.settings.log_model,
        )
        if run.resumed and (run.directory / NAME).exists():
            earlier = Note.of(run.directory)
            if earlier.uri == note.uri:
                return note.continues(earlier)
        return note


def _not_level(run: Run, fault: Exception) -> list[str]:
    place = run.directory.path
    return [
        f"MLflow lacks a part of the run, which {place} holds whole: {store.first_line(fault)}",
        f"  to send the rest: ganrun sync {shlex.quote(str(place))}",
    ]
