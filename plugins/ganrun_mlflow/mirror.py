"""Brings an MLflow run level with a run directory: the one way in which anything gets to MLflow.

Whatever was sent is noted in the run directory, so that it can go on after any break: in the run itself, on resume, or
by `ganrun sync`. Each point carries its own time, by which the store knows one that it has already; so it does no harm
where a break came between sending and noting.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganrun import RunDirectory, RunError, checkpoints_in
from ganrun_mlflow import store
from ganrun_mlflow.labels import PARAMS_PER_CALL, TAG_LENGTH, key_text, score_tags
from ganrun_mlflow.note import NAME, Note
from ganrun_mlflow.points import calls

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger("ganrun")

METRICS, SUMMARY = "metrics.jsonl", "summary.json"

STATUS = {"finished": "FINISHED", "failed": "FAILED"}
"""MLflow's words for how a run ended; KILLED for whatever else."""

REFUSALS = 5
"""So many files are left out where the store does not take them; then the fault is the store's, and it is let alone."""

UNTIL_THE_END = (METRICS, SUMMARY)
"""Files that grow or change until the run has ended."""

NOT_SENT = ("checkpoints", "export", NAME)
STEP_PICTURE = re.compile(r"(?P<role>[^/]+)/step_(?P<step>\d+)\.(png|jpe?g)")
"""A picture of a step: shown in MLflow with a slider over the steps."""

COMPARED = "compare"
"""The folder of samples from latents that are the same in every run."""


def sync(directory: RunDirectory, uri: str | None = None) -> Note:
    """Send MLflow what it lacks of a run that no process trains; how far it is then.

    Args:
        directory: Of the run.
        uri: Another store than the one that the run was mirrored in, where it is then written anew.

    Raises:
        RequestError: if another process trains or sends it, or it was not mirrored.
        RunError: if the store does not take it; what it took is noted.
    """
    status = directory.status
    with directory.occupied():
        note = Note.of(directory)
        place = store.tracking_uri(uri) if uri else store.with_password(note.uri)
        if store.without_password(place) != note.uri:
            note = note.anew(store.without_password(place))
        mirror = Mirror(directory, place, note)
        mirror.level(status)
    return mirror.note


class Mirror:
    """One MLflow run, and the run directory that it mirrors.

    Args:
        directory: Of the run.
        uri: The store's, with a password if it needs one.
        note: How far it is.
    """

    def __init__(self, directory: RunDirectory, uri: str, note: Note) -> None:
        self.directory = directory
        self.uri = uri
        self.note = note
        self._client: MlflowClient | None = None
        self._sent = hashlib.blake2b(digest_size=16)
        """Of the bytes of metrics.jsonl that were sent."""
        self._seen: dict[str, tuple[int, int]] = {}
        """Size and time of the files that were looked at, so that none is read again for nothing."""
        self._refused: dict[str, str] = {}
        """Why files could not be sent, by their names."""

    def level(self, ended: str | None) -> None:
        """Send whatever MLflow does not have yet.

        Args:
            ended: How the run ended; None while it goes on.

        Raises:
            RunError: if the store does not take it; what it took is noted.
        """
        with store.refusals_told(self.uri):
            try:
                self._level(self._opened(), ended)
            except Exception:
                self._client = None  # and ask first whether the store is there, and still has the run
                raise

    def _level(self, client: MlflowClient, ended: str | None) -> None:
        if ended is None:
            self._show_status(client, "RUNNING")
            self._send_records(client)
            self._send_files(client, is_ended=False)
            return
        try:
            self._send_all(client)
        finally:
            self._show_status(client, STATUS.get(ended, "KILLED"))

    def _send_all(self, client: MlflowClient) -> None:
        """What is there when the run has ended; files that were refused before are tried once more."""
        self._refused.clear()
        self._send_records(client)
        self._send_files(client, is_ended=True)
        self._send_last_pictures(client)
        self._send_compared(client)
        self._send_checkpoint(client)
        if self._refused:
            raise RunError("; ".join(f"{name} could not be sent: {why}" for name, why in self._refused.items()))

    # ── Opening ───────────────────────────────────────────────────────────────────────────────────────

    def _opened(self) -> MlflowClient:
        """The client, once the MLflow run is there and labelled."""
        if self._client is None:
            store.reach(self.uri)
            client = store.connect(self.uri)
            if not self._is_kept(client):
                self._create(client)
            self._label(client)
            self._take_up()
            self._client = client
        return self._client

    def _is_kept(self, client: MlflowClient) -> bool:
        """Whether the store still has the MLflow run of the note."""
        from mlflow.exceptions import MlflowException

        if not self.note.run_id:
            return False
        try:
            if client.get_run(self.note.run_id).info.lifecycle_stage == "active":
                return True
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        log.warning("the MLflow run %s is no longer at %s; it is written anew", self.note.run_id, self.note.uri)
        return False

    def _create(self, client: MlflowClient) -> None:
        self.note = self.note.anew()
        experiment_id = store.open_experiment(client, self.uri, self.note.experiment)
        self.note.run_id = self._made_before(client, experiment_id) or self._made(client, experiment_id)
        self.note.experiment_id, self.note.status = experiment_id, "RUNNING"
        self.note.write(self.directory)

    def _made(self, client: MlflowClient, experiment_id: str) -> str:
        tags = {**self.note.tags, "mlflow.note.content": self.note.description}
        created = client.create_run(experiment_id, self._start_time(), tags, self.note.name)
        return str(created.info.run_id)

    def _made_before(self, client: MlflowClient, experiment_id: str) -> str | None:
        """The run, if a slow store made it after all when it was asked to, and its answer was not awaited."""
        for found in client.search_runs([experiment_id], f"attributes.start_time = {self._start_time()}"):
            if found.data.tags.get("run_directory") == self.note.tags["run_directory"]:
                return str(found.info.run_id)
        return None

    def _start_time(self) -> int:
        return int(1000 * self.note.started)

    def _label(self, client: MlflowClient) -> None:
        """Parameters, tags and data set. A parameter that is there already stays: MLflow refuses another value."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag

        known = client.get_run(self.note.run_id).data.params
        params = [Param(key, text) for key, text in self.note.params.items() if key not in known]
        tags = [RunTag(key, text) for key, text in self.note.tags.items()]
        client.log_batch(self.note.run_id, params=params[:PARAMS_PER_CALL], tags=tags)
        dataset = DatasetInput(Dataset(**self.note.dataset), [InputTag("mlflow.data.context", "training")])
        client.log_inputs(self.note.run_id, [dataset])

    def _take_up(self) -> None:
        """Go on in metrics.jsonl behind what was sent; from its beginning if that is no longer what it holds."""
        self._sent = hashlib.blake2b(digest_size=16)
        with contextlib.suppress(FileNotFoundError), (self.directory / METRICS).open("rb") as file:
            self._sent.update(file.read(self.note.bytes_sent))
        if self._sent.hexdigest() != self.note.digest:
            self._sent = hashlib.blake2b(digest_size=16)
            self.note.bytes_sent = 0

    # ── Status ────────────────────────────────────────────────────────────────────────────────────────

    def _show_status(self, client: MlflowClient, status: str) -> None:
        """Tell MLflow how the run stands, if it was told otherwise."""
        if status == self.note.status:
            return
        if status == "RUNNING":
            client.update_run(self.note.run_id, status=status)
            with contextlib.suppress(Exception):  # what is not there needs no deleting
                client.delete_tag(self.note.run_id, "error")
        else:
            error = self.directory.read_json(SUMMARY).get("error")
            if error:
                client.set_tag(self.note.run_id, "error", str(error)[:TAG_LENGTH])
            client.set_terminated(self.note.run_id, status, end_time=self._end_time())
        self.note.status = status
        self.note.write(self.directory)

    def _end_time(self) -> int:
        """When the run last wrote something, in milliseconds: it may be told much later."""
        written = [self.directory / name for name in UNTIL_THE_END if (self.directory / name).exists()]
        return int(1000 * max((path.stat().st_mtime for path in written), default=self.note.started))

    # ── Curves and scores ─────────────────────────────────────────────────────────────────────────────

    def _send_records(self, client: MlflowClient) -> None:
        for call in calls(list(self._new_lines())):
            client.log_batch(self.note.run_id, metrics=call.points, tags=self._tags(call.records))
            self._sent.update(call.text)
            self.note.bytes_sent += len(call.text)
            self.note.digest = self._sent.hexdigest()
            self.note.write(self.directory)

    def _new_lines(self) -> Iterator[bytes]:
        """The lines that are complete and were not sent."""
        with contextlib.suppress(FileNotFoundError), (self.directory / METRICS).open("rb") as file:
            file.seek(self.note.bytes_sent)
            for line in file:
                if line.endswith(b"\n"):
                    yield line

    def _tags(self, records: Iterable[Mapping[str, Any]]) -> list[Any]:
        """Protocols and floors. MLflow shows a score as it was at its last step, so they must be of that one."""
        from mlflow.entities import RunTag

        tags: dict[str, str] = {}
        for record in records:
            for name, texts in score_tags(record).items():
                if record["step"] >= self.note.told.get(name, 0):
                    self.note.told[name] = record["step"]
                    tags |= texts
        return [RunTag(key, text) for key, text in tags.items()]

    # ── Files ─────────────────────────────────────────────────────────────────────────────────────────

    def _send_files(self, client: MlflowClient, is_ended: bool) -> None:
        for name in sorted(self._files(is_ended)):
            self._send_once(name, [self.directory / name], partial(self._send_file, client, name))

    def _files(self, is_ended: bool) -> Iterator[str]:
        """Names of the files that are to be sent, relative to the directory.

        A folder's only picture waits for the next: those of several steps stand beside the scores, with a slider.
        """
        for path in self.directory.path.iterdir():
            if path.name.startswith(".") or path.name in (*NOT_SENT, COMPARED):
                continue
            files = [path] if path.is_file() else list(_visible_files(path))
            if not is_ended and (path.name in UNTIL_THE_END or (path.is_dir() and len(files) == 1)):
                continue
            for file in files:
                yield file.relative_to(self.directory.path).as_posix()

    def _send_file(self, client: MlflowClient, name: str) -> None:
        picture = STEP_PICTURE.fullmatch(name)
        if picture:
            section = "eval" if len(self._pictures(picture["role"])) > 1 else "pictures"
            self._send_picture(client, self.directory / name, f"{section}/{picture['role']}", int(picture["step"]))
        else:
            client.log_artifact(self.note.run_id, str(self.directory / name), name.rpartition("/")[0] or None)

    def _send_last_pictures(self, client: MlflowClient) -> None:
        """Once more what came last of each series: MLflow's sliders begin at step 0, where a series shows nothing."""
        for folder in self.directory.path.iterdir():
            pictures = self._pictures(folder.name)
            if len(pictures) > 1:
                key = f"eval/last_{folder.name}"
                self._send_once(key, pictures[-1:], partial(self._send_picture, client, pictures[-1], key, 0))

    def _pictures(self, role: str) -> list[Path]:
        """Those of a role, by step."""
        return sorted(
            path for path in (self.directory / role).glob("step_*") if STEP_PICTURE.fullmatch(f"{role}/{path.name}")
        )

    def _send_picture(self, client: MlflowClient, path: Path, key: str, step: int) -> None:
        from PIL import Image

        with Image.open(path) as image:
            client.log_image(self.note.run_id, image.convert("RGB"), key=key_text(key), step=step, synchronous=True)

    def _send_once(self, name: str, files: list[Path], send: Callable[[], object]) -> None:
        """Send what is in these files, unless it was sent as it is now. A file at fault keeps back no other."""
        if name in self._refused:
            return
        try:
            self._send_changed(name, files, send)
        except Exception as error:  # of the file, of the picture in it, or of any kind of artifact store
            self._refuse(name, error)

    def _send_changed(self, name: str, files: list[Path], send: Callable[[], object]) -> None:
        stamps = [file.stat() for file in files]
        seen = (sum(each.st_size for each in stamps), max(each.st_mtime_ns for each in stamps))
        if self._seen.get(name) == seen:
            return
        digest = hashlib.blake2b(b"".join(file.read_bytes() for file in files), digest_size=16).hexdigest()
        if self.note.files.get(name) != digest:
            send()
            self.note.files[name] = digest
            self.note.write(self.directory)
        self._seen[name] = seen

    def _refuse(self, name: str, error: Exception) -> None:
        """Leave a file out until the run has ended, where the store is there all the same."""
        store.reach(self.uri)
        if len(self._refused) == REFUSALS:
            raise error
        self._refused[name] = store.first_line(error)
        log.warning("%s is not sent to MLflow: %s", self.directory / name, self._refused[name])

    def _send_checkpoint(self, client: MlflowClient) -> None:
        """The last one, and its generator as a model, where that was wished."""
        for checkpoint in checkpoints_in(self.directory.path)[-1:]:
            place, manifest = f"checkpoints/{checkpoint.name}", [checkpoint / "manifest.json"]
            if self.note.log_checkpoints:
                send = partial(client.log_artifacts, self.note.run_id, str(checkpoint), place)
                self._send_once(place, manifest, send)
            if self.note.log_model:
                self._send_once("model", manifest, self._send_model)

    def _send_model(self) -> None:
        from ganrun_mlflow.models import log_generator

        self.note.status = ""  # MLflow's own way to log a model ends the run, as of now
        log_generator(self.uri, self.note.run_id, self.directory.path)

    def _send_compared(self, client: MlflowClient) -> None:
        """Samples as a table of two columns, of which MLflow makes a grid of samples and runs."""
        files = sorted((self.directory / COMPARED).glob("*.png"))
        if files:
            self._send_once(COMPARED, files, partial(self._send_table, client, files))

    def _send_table(self, client: MlflowClient, files: list[Path]) -> None:
        # MLflow's own log_table would add the rows of a run that is continued to those that are there.
        table, folder = f"{COMPARED}/samples.json", f"table_images/{COMPARED}"
        rows = []
        for file in files:
            client.log_artifact(self.note.run_id, str(file), folder)
            place = f"{folder}/{file.name}"
            rows.append([file.stem, {"type": "image", "filepath": place, "compressed_filepath": place}])
        client.log_dict(self.note.run_id, {"columns": ["sample", "image"], "data": rows}, table)
        client.set_tag(self.note.run_id, "mlflow.loggedArtifacts", json.dumps([{"path": table, "type": "table"}]))


def _visible_files(folder: Path) -> Iterator[Path]:
    """All files below a folder, without those that are still being written, whose folder or name begins with a dot."""
    for path in folder.rglob("*"):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path
