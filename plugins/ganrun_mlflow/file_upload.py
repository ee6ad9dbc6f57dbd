"""Files and step pictures of a run directory, sent as they appear."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ganrun import without_secrets
from ganrun_mlflow.mlflow_run import MlflowRun
from ganrun_mlflow.pictures import COMPARISON, STEP_PICTURE, log_picture, step_pictures
from ganrun_mlflow.sync_state import NAME
from ganrun_mlflow.uploads import Uploads

EXCLUDED = ("checkpoints", "export", COMPARISON, NAME)
"""Files that are sent in another way, or not at all."""

LONGEST_TEXT_BYTES = 1_000_000
"""For files that are searched for secrets; longer ones are metrics and pictures."""


class FileUpload:
    """Sends the files of a run directory: pictures of steps as images, everything else as artifacts.

    Args:
        run: The MLflow run.
        uploads: Decides which files to send.
    """

    def __init__(self, run: MlflowRun, uploads: Uploads) -> None:
        self._run = run
        self._uploads = uploads
        self._growing = (run.directory.metrics_path, run.directory.summary_path)
        """Files that keep changing while the run trains; sent only at its end."""

    def send(self, *, is_ended: bool) -> None:
        """Send new and changed files; those that keep growing, only if the run has ended."""
        for name in sorted(self._names(is_ended)):
            self._uploads.send_once(name, [self._run.directory / name], partial(self._upload, name))

    def _names(self, is_ended: bool) -> Iterator[str]:
        """Names relative to the directory.

        A folder's only picture is held back until there is a second one or the run ends: its section in MLflow depends
        on it.
        """
        for path in self._run.directory.path.iterdir():
            if path.name.startswith(".") or path.name in EXCLUDED:
                continue
            files = [path] if path.is_file() else list(_visible_files(path))
            if not is_ended and (path in self._growing or (path.is_dir() and len(files) == 1)):
                continue
            for file in files:
                yield file.relative_to(self._run.directory.path).as_posix()

    def _upload(self, name: str) -> None:
        path, picture = self._run.directory / name, STEP_PICTURE.fullmatch(name)
        if picture:
            # MLflow shows a series next to the scores, with a slider; single pictures get a section further down.
            section = "eval" if len(step_pictures(path.parent)) > 1 else "pictures"
            log_picture(self._run, path, f"{section}/{picture['series']}", int(picture["step"]))
        else:
            self._log_file(path, name)

    def _log_file(self, path: Path, name: str) -> None:
        """Log a file, with secrets removed: texts written by version 0.1.0 may contain some."""
        text = _short_text(path)
        shown = without_secrets(text)
        if shown == text:
            self._run.client.log_artifact(self._run.id, str(path), name.rpartition("/")[0] or None)
        else:
            self._run.client.log_text(self._run.id, shown, name)


def _short_text(path: Path) -> str:
    """A file's text; empty for other files and long ones."""
    try:
        return path.read_text(encoding="utf-8") if path.stat().st_size <= LONGEST_TEXT_BYTES else ""
    except UnicodeDecodeError:
        return ""


def _visible_files(folder: Path) -> Iterator[Path]:
    """All files below a folder, except unfinished ones: a leading dot in a file's or folder's name marks them."""
    for path in folder.rglob("*"):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path
