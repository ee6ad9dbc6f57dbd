"""Sends files once per content, and sets aside those that cannot be sent."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ganrun import RunError, opened
from ganrun_mlflow import store
from ganrun_mlflow.mlflow_run import MlflowRun

log = logging.getLogger("ganrun")

MOST_REFUSED = 5
"""Files that may be refused before the store itself counts as faulty."""


class Uploads:
    """Sends files that have changed since they were last sent. A refused file does not hold up the others.

    Args:
        run: The MLflow run; its state records the digests of what was sent.
    """

    def __init__(self, run: MlflowRun) -> None:
        self._run = run
        self._stamps: dict[str, tuple[int, int]] = {}
        """Size and time of the files that were checked, so that unchanged ones are not read again."""
        self._refused: dict[str, str] = {}
        """Reasons, by name."""

    def send_once(self, name: str, files: Sequence[Path], upload: Callable[[], object]) -> None:
        """Call `upload` unless the content of `files` was sent under this name, or was refused.

        Raises:
            RunError: if the store cannot be reached.
            Exception: that of `upload`, if the store has refused `MOST_REFUSED` others.
        """
        if name in self._refused:
            return
        try:
            self._send_changed(name, files, upload)
        except Exception as error:  # each kind of artifact store raises the errors of another library
            self._refuse(name, error)

    def retry_refused(self) -> None:
        """Try refused files again the next time."""
        self._refused.clear()

    def raise_refused(self) -> None:
        """Report the refused files.

        Raises:
            RunError: if there are any.
        """
        if self._refused:
            raise RunError("; ".join(f"{name} could not be sent: {why}" for name, why in self._refused.items()))

    def _send_changed(self, name: str, files: Sequence[Path], upload: Callable[[], object]) -> None:
        check_inside(self._run.directory.path, files)
        sent = self._run.state.progress.files
        stats = [file.stat() for file in files]
        stamp = (sum(each.st_size for each in stats), max(each.st_mtime_ns for each in stats))
        if name in sent and self._stamps.get(name) == stamp:
            return
        digest = _digest_of(files)
        if sent.get(name) != digest:
            upload()
            sent[name] = digest
            self._run.record()
        self._stamps[name] = stamp

    def _refuse(self, name: str, error: Exception) -> None:
        """Set a file aside, provided that the store can be reached."""
        store.check_reachable(self._run.uri)
        if len(self._refused) == MOST_REFUSED:
            raise error
        self._refused[name] = store.first_line(error)
        log.warning("%s is not sent to MLflow: %s", self._run.directory / name, self._refused[name])


def _digest_of(files: Iterable[Path]) -> str:
    """A digest of files, one after another, which need not fit into memory."""
    found = hashlib.blake2b(digest_size=16)
    for file in files:
        with opened(file) as content:
            while piece := content.read(1 << 20):
                found.update(piece)
    return found.hexdigest()


def check_inside(directory: Path, files: Iterable[Path]) -> None:
    """Check that files are in a run directory, which may come from anybody and link to private files of this machine.

    Raises:
        RunError: if one is a link to outside it.
    """
    for file in files:
        if not file.resolve().is_relative_to(directory.resolve()):
            raise RunError(f"{file.name} is a link to outside the run directory")
