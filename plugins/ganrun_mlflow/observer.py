"""The observer that mirrors a run into MLflow."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

import ganrun
from ganrun import Run, Score, observes
from ganrun_mlflow import labels, store
from ganrun_mlflow.outbox import Outbox

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

log = logging.getLogger("ganrun")

NOTE = "mlflow.json"
"""In the run directory: which MLflow run mirrors it."""

STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
PICTURES = (".png", ".jpg", ".jpeg")


class Mlflow(ganrun.Observer):
    """Mirrors a run into MLflow: settings, curves, scores, sample pictures and files, for comparison with others.

    A run that is resumed goes on in the same MLflow run; what that one missed is filled in from metrics.jsonl.
    A store that is away for a while is sent everything later; one that cannot be reached at the start is left out.
    The user name and password of a server belong in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.
    """

    class Settings(ganrun.Settings):
        experiment: str = Field("ganrun", min_length=1, max_length=500)
        """The MLflow experiment: a group of runs to be compared. It is made where it is missing."""

        uri: str | None = None
        """Tracking URI. Unless given: $MLFLOW_TRACKING_URI, else sqlite:///mlflow.db in the working directory."""

        run_name: str | None = Field(None, min_length=1, max_length=250)
        """The run's name in MLflow. Unless given, the recipe's name."""

        tags: dict[str, str] = {}
        """More tags for the run, to filter and group by."""

        log_checkpoints: bool = False
        """Whether the last checkpoint is uploaded, at the end."""

    automatic = True

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self._outbox: Outbox | None = None
        self._uri = store.tracking_uri(settings.uri)
        self._experiment_id = ""
        self._checkpoint: Path | None = None

    # ── Events ────────────────────────────────────────────────────────────────────────────────────────

    @observes
    def run_starting(self, run: Run) -> None:
        """Open an MLflow run, or the one that the run directory names, and label it."""
        store.reach(self._uri)
        client = store.connect(self._uri)
        with store.refusals_told(self._uri):
            self._outbox = self._open(run, client)
        self._note(run, self._outbox.run_id)
        self._outbox.flush()

    @observes
    def measured(self, step: int, images_seen: int, values: Mapping[str, float]) -> None:
        """Gather the curves' points, and send them every few seconds."""
        if self._outbox:
            self._outbox.add_metrics(step, {**values, "images_seen": images_seen})
            self._outbox.flush(hurry=False)

    @observes
    def evaluated(self, step: int, scores: Sequence[Score]) -> None:
        """Send the scores at once, each with the protocol by which it was made."""
        if self._outbox:
            _add_scores(self._outbox, step, scores)
            self._outbox.add_tags(labels.score_tags(scores))
            self._outbox.flush()

    @observes
    def rescored(self, run: Run, step: int, scores: Sequence[Score]) -> None:
        """Add the scores to the MLflow run that mirrors the run; its times and status stay as they are."""
        store.reach(self._uri)
        client = store.connect(self._uri)
        with store.refusals_told(self._uri):
            found = self._earlier(run, client)
        if found:
            outbox = Outbox(client, found.info.run_id, lambda: store.reach(self._uri))
            _add_scores(outbox, step, scores)
            # MLflow shows a score as it was at its last step, and tags must tell how that one was made.
            is_last = step == run.directory.read_json("summary.json").get("steps")
            shown = [] if is_last else found.data.metrics
            outbox.add_tags(labels.score_tags([each for each in scores if f"eval/{each.name}" not in shown]))
            outbox.flush()

    @observes
    def file_written(self, run: Run, path: Path, role: str) -> None:
        """Send pictures, by role, and the run's papers; of the checkpoints at most the last, at the end."""
        if role == "checkpoint":
            self._checkpoint = path
        elif self._outbox:
            if path.suffix.lower() in PICTURES:
                self._outbox.add_picture(path, f"eval/{role}", run.step)
            self._outbox.add_file(path, _folder_of(run, path))
            self._outbox.flush(hurry=False)

    @observes
    def run_failed(self, error: BaseException) -> None:
        """Say why, in a tag."""
        if self._outbox:
            self._outbox.add_tags({"error": (str(error) or type(error).__name__)[: labels.TAG_LENGTH]})

    @observes(trylast=True)
    def run_ended(self, run: Run, status: str) -> None:
        """Send what is left, end the MLflow run, and say where it is compared with others."""
        if not self._outbox:
            return
        if self._checkpoint and self.settings.log_checkpoints:
            self._outbox.add_file(self._checkpoint, _folder_of(run, self._checkpoint))
        self._outbox.close(STATUS[status])
        self._invite(run)

    # ── Opening ───────────────────────────────────────────────────────────────────────────────────────

    def _open(self, run: Run, client: MlflowClient) -> Outbox:
        """The MLflow run that mirrors this one, labelled, with an outbox to it."""
        earlier = self._earlier(run, client)
        if earlier:
            self._experiment_id = str(earlier.info.experiment_id)
            opened = self._reopened(client, earlier)
        else:
            self._experiment_id = store.open_experiment(client, self._uri, self.settings.experiment)
            name = self.settings.run_name or run.name
            seeded = f"{name}, seed {run.seed}" if run.group else name
            opened = client.create_run(self._experiment_id, run_name=seeded)
        try:
            self._label(run, client, opened, is_new=earlier is None)
        except Exception:
            # What MLflow shows as running must not stay so for ever.
            with contextlib.suppress(Exception):
                client.set_terminated(opened.info.run_id, "FAILED")
            raise
        outbox = Outbox(client, opened.info.run_id, lambda: store.reach(self._uri))
        if run.resumed:
            _fill_in(outbox, run, opened.data.metrics.get("images_seen", -1))
        return outbox

    def _earlier(self, run: Run, client: MlflowClient) -> MlflowRun | None:
        """The MLflow run that mirrored this run before it was resumed, if the store still has it."""
        note = run.directory.read_json(NOTE) if run.resumed else {}
        if not note:
            return None
        from mlflow.exceptions import MlflowException

        here = store.without_password(self._uri)
        if note.get("uri") == here:
            with contextlib.suppress(MlflowException):
                found = client.get_run(str(note.get("run_id")))
                if found.info.lifecycle_stage == "active":
                    return found
        log.warning(
            "the MLflow run %s, kept at %s, is not at %s; metrics.jsonl holds everything",
            note.get("run_id"), note.get("uri"), here,
        )  # fmt: skip
        return None

    def _reopened(self, client: MlflowClient, earlier: MlflowRun) -> MlflowRun:
        """The MLflow run, going on: no longer ended, and no longer failed."""
        client.update_run(earlier.info.run_id, status="RUNNING")
        if "error" in earlier.data.tags:
            client.delete_tag(earlier.info.run_id, "error")
        return earlier

    def _label(self, run: Run, client: MlflowClient, opened: MlflowRun, *, is_new: bool) -> None:
        """Parameters, tags and data set. A parameter that is there already stays: MLflow refuses another value."""
        from mlflow.entities import Param, RunTag

        tags = {**labels.tags_of(run), **{labels.key_text(key): text for key, text in self.settings.tags.items()}}
        description = labels.description_of(run.recipe.source.text)
        if is_new and description:
            tags["mlflow.note.content"] = description
        params = [Param(key, text) for key, text in labels.params_of(run).items() if key not in opened.data.params]
        client.log_batch(
            opened.info.run_id,
            params=params[: labels.PARAMS_PER_CALL],
            tags=[RunTag(key, text) for key, text in tags.items()],
        )
        client.log_inputs(opened.info.run_id, [labels.dataset_of(run)])

    # ── Telling ───────────────────────────────────────────────────────────────────────────────────────

    def _note(self, run: Run, run_id: str) -> None:
        """Put the MLflow run into the run directory, for resuming, and into summary.json, for the reader."""
        note = {"run_id": run_id, "uri": store.without_password(self._uri), "experiment_id": self._experiment_id}
        run.directory.write_json(NOTE, note)
        command, page = store.how_to_open(self._uri, self._experiment_id)
        run.note("mlflow", {**note, "page": page, **({"command": command} if command else {})})

    def _invite(self, run: Run) -> None:
        command, page = store.how_to_open(self._uri, self._experiment_id)
        if command:
            run.tell(f"compare in MLflow: {command}")
            run.tell(f"  and open {page}")
        else:
            run.tell(f"compare in MLflow: {page}")


def _add_scores(outbox: Outbox, step: int, scores: Sequence[Score]) -> None:
    """The scores; and their errors, by a name that MLflow's charts put behind them."""
    outbox.add_metrics(step, {f"eval/{score.name}": score.value for score in scores})
    outbox.add_metrics(step, {f"eval_error/{score.name}": score.error for score in scores if score.error is not None})


def _folder_of(run: Run, path: Path) -> str | None:
    """The folder of a file within the run directory, which is its folder among the artifacts too."""
    folder = path.parent.relative_to(run.directory.path).as_posix()
    return None if folder == "." else folder


def _fill_in(outbox: Outbox, run: Run, images_seen: float) -> None:
    """Send what metrics.jsonl holds beyond `images_seen`: it was recorded while MLflow did not listen."""
    for record in run.directory.records():
        if record["images_seen"] > images_seen:
            values = {name: value for name, value in record.items() if "/" in name and isinstance(value, int | float)}
            outbox.add_metrics(record["step"], {**values, "images_seen": record["images_seen"]})
