"""A run's directory: its files, its lock, and how both are read and written."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

from ganrun.base.errors import RequestError, RunError
from ganrun.base.files import children, clear_leftovers, make_folder, write_text
from ganrun.base.jsons import json_text
from ganrun.base.locks import is_locked, locked
from ganrun.recipe.source import Source, read_source
from ganrun.rundir.contents import (
    IN_CONFIG,
    IN_ENVIRONMENT,
    IN_SUMMARY,
    fitting,
    metrics_lines,
    read_table,
)
from ganrun.rundir.lines import Lines
from ganrun.rundir.records import CONFIG, ENVIRONMENT, METRICS, RECIPE, SCORE_PREFIX, SUMMARY, Record
from ganrun.rundir.sessions import sessions_in

log = logging.getLogger("ganrun")

LOCK = ".lock"
"""Locked by the training process and names it; released, if the file system supports it, however that process ends."""

CHECKPOINTS = "checkpoints"
"""The folder of a run's checkpoints."""


class RunDirectory:
    """The folder of one run.

        recipe.toml        the recipe as resolved, every default written out
        environment.json   versions, git commit, device, plugins, data fingerprint: of the first start, and of each
        metrics.jsonl      every scalar and score: the source that trackers mirror
        summary.json       status, steps, speed, scores, last files: a digest of the other files

    Args:
        path: The folder; made by `create`.
    """

    is_elsewhere: ClassVar[bool] = False
    """Whether only another process can access it."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._metrics = Lines(self.metrics_path)
        self._inode: int | None = None
        """Identifies the folder while this process occupies it."""
        self._is_new = False
        """Whether this process has made the folder."""

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def recipe_path(self) -> Path:
        """Path of recipe.toml."""
        return self / RECIPE

    @property
    def environment_path(self) -> Path:
        """Path of environment.json."""
        return self / ENVIRONMENT

    @property
    def metrics_path(self) -> Path:
        """Path of metrics.jsonl, which does not exist before the first measurement."""
        return self / METRICS

    @property
    def summary_path(self) -> Path:
        """Path of summary.json."""
        return self / SUMMARY

    @property
    def holds_run(self) -> bool:
        """Whether it holds a run that was started."""
        try:
            return self.recipe_path.is_file()
        except PermissionError as error:
            raise RequestError(f"cannot read {self.path}: {error.strerror}") from error
        except OSError as error:  # a name too long
            raise self._unwritable(error) from error

    @property
    def status(self) -> str:
        """`running`, `finished`, `failed` or `interrupted`, as summary.json says; `killed` where it says `running` and
        no process holds the lock; `unknown` without a summary. Without permission to test the lock, it stays `running`.
        """
        recorded = str(self.summary().get("status", "unknown"))
        return "killed" if recorded == "running" and not self._is_occupied() else recorded

    @contextmanager
    def occupied(self) -> Iterator[None]:
        """A block in which this process alone trains the run.

        Raises:
            RequestError: if another process does.
        """
        with ExitStack() as held:
            try:
                held.enter_context(locked(self / LOCK, str(self.path)))
                self._inode = self.path.stat().st_ino
            except OSError as error:
                raise self._unwritable(error) from error
            try:
                yield
            finally:
                self._metrics.close()
                self._remove_if_empty()
                self._inode = None

    def check_there(self) -> None:
        """Check that the folder that this process occupies is still there.

        Raises:
            RunError: if it was removed, moved or replaced.
        """
        if not self._is_there():
            text = f"{self.path} is gone: it was removed, moved or replaced while its run was training"
            raise RunError(f"{text}, so nothing more can be saved; if it was moved, continue it with ganrun resume")

    def state(self) -> Hashable:
        """The state on which a start bases its decision. While it is unchanged, no other process has started a run
        here."""
        signs = [_sign(self / name) for name in (RECIPE, ENVIRONMENT)]
        return (*signs, *((self / name).exists() for name in (METRICS, SUMMARY)), *self._checkpoints())

    def check_free(self) -> None:
        """Check that a new run would overwrite nothing; warn if the folder holds unrelated files.

        Raises:
            RequestError: if the folder holds files of a run, but no run.
        """
        taken = [name for name in (ENVIRONMENT, METRICS, SUMMARY) if (self / name).exists()]
        taken += [f"{CHECKPOINTS}/{name}" for name in self._checkpoints()]
        if taken:
            raise RequestError(
                f"{self.path} holds no {RECIPE}, but {taken[0]}, so it is not a run; choose another --output"
            )
        if others := [each.name for each in children(self.path) if not each.name.startswith(".")]:
            log.warning("%s holds other files, such as %s; the run's are written beside them", self.path, others[0])

    def _checkpoints(self) -> list[str]:
        """The names beside the checkpoints, except hidden ones, which the system may add and remove."""
        return [each.name for each in children(self / CHECKPOINTS) if not each.name.startswith(".")]

    def _is_there(self) -> bool:
        """Whether the folder that this process occupies is still at its path."""
        try:
            return self._inode in (None, self.path.stat().st_ino)
        except (FileNotFoundError, NotADirectoryError):
            return self._inode is None
        except OSError:  # transient
            return True

    def _remove_if_empty(self) -> None:
        """Remove the folder if this process has made it, and nothing was written into it."""
        with suppress(OSError):
            if self._is_new and self._is_there() and children(self.path) == [self / LOCK]:
                (self / LOCK).unlink()
                self.path.rmdir()

    def create(self) -> None:
        """Make the folder.

        Raises:
            RequestError: if it cannot be made or written to.
        """
        try:
            self._is_new = not self.path.exists()
            make_folder(self.path)
            probe = self / f".writable.{secrets.token_hex(16)}.partial"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise self._unwritable(error) from error

    def clear_leftovers(self) -> None:
        """Remove unfinished files of killed processes here, and in subfolders that are not other runs; only for the
        process that occupies this folder."""
        own = [each for each in children(self.path) if each.is_dir() and not each.is_symlink()]
        for folder in (self.path, *own):
            if folder == self.path or not any((folder / name).exists() for name in (RECIPE, LOCK)):
                clear_leftovers(folder)

    def write_text(self, name: str, text: str) -> None:
        """Write a file, atomically.

        Raises:
            RunError: if it cannot be written.
        """
        self.check_there()
        with self._write_errors(name):
            write_text(self / name, text)

    def write_json(self, name: str, content: Mapping[str, Any]) -> Path:
        """Write a JSON file, atomically; returns its path.

        Raises:
            RunError: if it cannot be written.
        """
        self.write_text(name, json_text(content, indent=2) + "\n")
        return self / name

    def rename(self, name: str, new: str) -> None:
        """Give a file another name; replaces what has that name.

        Raises:
            RunError: if it cannot be renamed.
        """
        with self._write_errors(name):
            (self / name).replace(self / new)

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON file's content; empty where the file is absent or damaged."""
        try:
            return read_table(self / name)
        except (OSError, ValueError):
            return {}

    def recipe_source(self) -> Source:
        """The text and the tables of recipe.toml.

        Raises:
            RequestError: if it cannot be read, or is damaged.
        """
        try:
            return read_source(self.recipe_path)
        except RequestError as error:
            if isinstance(error.__cause__, OSError):
                raise RequestError(f"{self.recipe_path} cannot be read: {error.__cause__.strerror}") from error
            raise RequestError(f"{self.recipe_path} is damaged: {error}") from error

    def environment(self) -> dict[str, Any]:
        """The content of environment.json: the facts of the run's first start, and under `sessions` those of every
        start; empty if the file is absent or damaged. Entries of an unexpected type are left out."""
        return fitting(self.read_json(ENVIRONMENT), IN_ENVIRONMENT)

    def sessions(self) -> list[dict[str, Any]]:
        """The starts of the run, in order, each with its `step` and `time` (None where ganrun 0.1.0 recorded neither)
        and facts as in environment.json; they include `data` if it differs from the first start's."""
        return sessions_in(self.environment())

    def latest_session(self) -> dict[str, Any]:
        """The last of `sessions`, to which recipe.toml belongs; empty without any."""
        return [{}, *self.sessions()][-1]

    def summary(self) -> dict[str, Any]:
        """The content of summary.json; empty if the file is absent or damaged. Entries of an unexpected type are left
        out."""
        return fitting(self.read_json(SUMMARY), IN_SUMMARY)

    def config(self) -> dict[str, Any]:
        """The content of config.json, which only an exported folder has; empty if the file is absent or damaged.
        Entries of an unexpected type are left out."""
        return fitting(self.read_json(CONFIG), IN_CONFIG)

    def append_record(self, record: Record) -> None:
        """Append one line to metrics.jsonl. A line that cannot be written, as on a full disk, is buffered until the
        next successful write, or until `flush_records`.

        Raises:
            RunError: if the folder is gone.
        """
        self.check_there()
        self._metrics.add(record.text())

    def flush_records(self) -> int:
        """Flush metrics.jsonl to disk, with the buffered lines; returns the number of its lines.

        Raises:
            RunError: if it cannot be written.
        """
        self.check_there()
        with self._write_errors(METRICS):
            return self._metrics.flush()

    def missing_records(self, count: int, step: int) -> int:
        """How many of the first `count` lines of metrics.jsonl are missing, damaged, or recorded after `step`.

        Raises:
            RequestError: if the file cannot be read.
        """
        found = [record for _, record in self._lines()[:count] if record is not None and record.step <= step]
        return max(0, count - len(found))

    def records(self) -> list[Record]:
        """The lines of metrics.jsonl, without damaged ones, such as a line that a crash cut short.

        Raises:
            RequestError: if the file cannot be read.
        """
        return self.read_records()[0]

    def read_records(self) -> tuple[list[Record], list[str]]:
        """As `records`, but also the damaged lines."""
        lines = self._lines()
        records = [record for _, record in lines if record is not None]
        return records, [line for line, record in lines if record is None]

    def evaluations(self) -> list[Record]:
        """The lines of metrics.jsonl that hold scores, without damaged ones; faster than `records`.

        Raises:
            RequestError: if the file cannot be read.
        """
        parsed = (Record.parse(line) for line in self._texts() if f'"{SCORE_PREFIX}' in line)
        return [record for record in parsed if record is not None and record.evaluation]

    def rewind(self, step: int) -> None:
        """Remove what was recorded after `step`.

        Raises:
            RequestError: if the file cannot be read.
            RunError: if it cannot be written.
        """
        kept = [line for line, record in self._lines() if record is not None and record.step <= step]
        self.write_text(METRICS, "".join(f"{line}\n" for line in kept))
        self._metrics.waiting.clear()

    def _lines(self) -> list[tuple[str, Record | None]]:
        return [(line, Record.parse(line)) for line in self._texts()]

    def _texts(self) -> list[str]:
        path = self.metrics_path
        try:
            return [*(metrics_lines(path) if path.is_file() else ()), *self._metrics.waiting]
        except OSError as error:
            raise RequestError(f"{path} cannot be read: {error.strerror}") from error

    def _is_occupied(self) -> bool:
        try:
            return is_locked(self / LOCK)
        except FileNotFoundError:  # never locked, or copied without it
            return False
        except OSError:  # no permission to test it
            return True

    @contextmanager
    def _write_errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(f"cannot write {self / name}: {error.strerror}") from error

    def _unwritable(self, error: OSError) -> RequestError:
        return RequestError(f"cannot write to {self.path}: {error.strerror}; choose another --output")


def _sign(path: Path) -> Hashable:
    """A stamp that changes whenever the file is written; None without the file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
