"""A run's directory: its files, its lock, and how both are read and written."""

from __future__ import annotations

import logging
import os
import re
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from filelock import FileLock, Timeout
from packaging.version import Version

from ganrun.base.errors import RecipeError, RequestError, RunError
from ganrun.base.files import write_text
from ganrun.base.jsons import json_text
from ganrun.recipe.source import Source, read_source
from ganrun.rundir.contents import (
    IN_CONFIG,
    IN_ENVIRONMENT,
    IN_SUMMARY,
    fitting,
    metrics_lines,
    read_table,
)
from ganrun.rundir.records import CONFIG, ENVIRONMENT, METRICS, RECIPE, SCORE_PREFIX, SUMMARY, Record
from ganrun.rundir.sessions import sessions_in

if sys.platform != "win32":
    import fcntl

log = logging.getLogger("ganrun")

LOCK = ".lock"
"""Locked by the process that trains; the kernel releases the lock however that process ends."""


class RunDirectory:
    """The folder of one run.

        recipe.toml        the recipe as resolved, every default written out
        environment.json   versions, git commit, device, plugins, data fingerprint: of the first start, and of each
        metrics.jsonl      every scalar and score: the truth that trackers mirror
        summary.json       status, steps, speed, scores, last files: what the other files say, in brief

    Args:
        path: The folder; made by `create`.
    """

    is_elsewhere: ClassVar[bool] = False
    """Whether another process writes it, and this one sees nothing of it."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def recipe_path(self) -> Path:
        """Where recipe.toml is."""
        return self / RECIPE

    @property
    def environment_path(self) -> Path:
        """Where environment.json is."""
        return self / ENVIRONMENT

    @property
    def metrics_path(self) -> Path:
        """Where metrics.jsonl is; there is none before the first measurement."""
        return self / METRICS

    @property
    def summary_path(self) -> Path:
        """Where summary.json is."""
        return self / SUMMARY

    @property
    def holds_run(self) -> bool:
        """Whether a run was started here."""
        try:
            return self.recipe_path.is_file()
        except PermissionError as error:
            raise RequestError(f"cannot read {self.path}: {error.strerror}") from error
        except OSError as error:  # a name too long
            raise self._unwritable(error) from error

    @property
    def status(self) -> str:
        """`running`, `finished`, `failed` or `interrupted`, as summary.json says; `killed` where it says `running` and
        no process holds the lock; `unknown` without a summary. Without permission to try the lock, it stays `running`.
        """
        recorded = str(self.summary().get("status", "unknown"))
        return "killed" if recorded == "running" and not self._is_occupied() else recorded

    @contextmanager
    def occupied(self) -> Iterator[None]:
        """A block in which this process alone trains the run.

        Raises:
            RequestError: if another process does.
        """
        lock = FileLock(self / LOCK)
        try:
            lock.acquire(timeout=1)
        except Timeout:
            raise RequestError(f"{self.path} is in use by another process") from None
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            yield
        finally:
            lock.release()

    def check_free(self) -> None:
        """Check that a new run would overwrite nothing; warn if its files would lie among others.

        Raises:
            RequestError: if the folder holds files of those names, but no run.
        """
        taken = [name for name in (ENVIRONMENT, METRICS, SUMMARY) if (self / name).exists()]
        if taken:
            raise RequestError(
                f"{self.path} holds no {RECIPE}, but {taken[0]}, so it is no run; choose another --output"
            )
        if others := self._visible():
            log.warning("%s holds other files, such as %s; the run's are written among them", self.path, others[0])

    def _visible(self) -> list[str]:
        """The names of files and folders here that are not hidden; none where that cannot be seen."""
        try:
            return sorted(path.name for path in self.path.iterdir() if not path.name.startswith("."))
        except OSError:
            return []

    def create(self) -> None:
        """Make the folder.

        Raises:
            RequestError: if it cannot be made or written to.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self / f".writable-{secrets.token_hex(4)}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise self._unwritable(error) from error

    def write_text(self, name: str, text: str) -> None:
        """Write a file, atomically.

        Raises:
            RunError: if it cannot be written.
        """
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
        except RecipeError as error:
            raise RequestError(f"{self.recipe_path} is damaged: {error}") from error
        except RequestError as error:
            reason = error.message.removeprefix(f"{self.recipe_path}: ").removeprefix("cannot be read: ")
            raise RequestError(f"{self.recipe_path} cannot be read: {reason}") from error

    def environment(self) -> dict[str, Any]:
        """The content of environment.json: the facts of the run's first start, and under `sessions` those of each;
        empty where the file is absent or damaged. Entries of another type than theirs are left out."""
        return fitting(self.read_json(ENVIRONMENT), IN_ENVIRONMENT)

    def sessions(self) -> list[dict[str, Any]]:
        """The starts of the run, in order, each with its `step` and `time` (None where ganrun 0.1.0 recorded neither)
        and facts as in environment.json; `data` is among them where it is not as at the first start."""
        return sessions_in(self.environment())

    def latest_session(self) -> dict[str, Any]:
        """The last of `sessions`, to which recipe.toml belongs; empty if there is none."""
        return [{}, *self.sessions()][-1]

    def summary(self) -> dict[str, Any]:
        """The content of summary.json; empty where the file is absent or damaged. Entries of another type than theirs
        are left out."""
        return fitting(self.read_json(SUMMARY), IN_SUMMARY)

    def config(self) -> dict[str, Any]:
        """The content of config.json, which only an exported folder has; empty where the file is absent or damaged.
        Entries of another type than theirs are left out."""
        return fitting(self.read_json(CONFIG), IN_CONFIG)

    def append_record(self, record: Record) -> None:
        """Add one line to metrics.jsonl.

        Raises:
            RunError: if it cannot be written.
        """
        line = f"{record.text()}\n".encode()
        with self._write_errors(METRICS), self.metrics_path.open("ab+") as file:
            is_cut = file.seek(0, os.SEEK_END) > 0 and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n"
            file.write(b"\n" + line if is_cut else line)

    def records(self) -> list[Record]:
        """The lines of metrics.jsonl, without damaged ones, such as a line that a crash cut short.

        Raises:
            RequestError: if the file cannot be read.
        """
        return self.read_records()[0]

    def read_records(self) -> tuple[list[Record], list[str]]:
        """As `records`, and the damaged lines."""
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

    def _lines(self) -> list[tuple[str, Record | None]]:
        return [(line, Record.parse(line)) for line in self._texts()]

    def _texts(self) -> list[str]:
        path = self.metrics_path
        try:
            return list(metrics_lines(path)) if path.is_file() else []
        except OSError as error:
            raise RequestError(f"{path} cannot be read: {error.strerror}") from error

    def _is_occupied(self) -> bool:
        try:
            return _is_held(self / LOCK)
        except FileNotFoundError:  # never locked, or copied without it
            return False
        except OSError:  # no permission to try it
            return True

    @contextmanager
    def _write_errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(f"cannot write {self / name}: {error.strerror}") from error

    def _unwritable(self, error: OSError) -> RequestError:
        return RequestError(f"cannot write to {self.path}: {error.strerror}; choose another --output")


def _is_held(lock: Path) -> bool:
    """Whether a process holds the lock. Writes nothing: who reads a folder leaves it as it is.

    Raises:
        OSError: if there is no such file, or it cannot be tried.
    """
    with lock.open("rb") as file:
        if sys.platform == "win32":
            return not _can_lock(lock)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released when the file is closed
        except BlockingIOError:
            return True
        return False


def _can_lock(lock: Path) -> bool:
    try:
        with FileLock(lock, blocking=False):
            return True
    except Timeout:
        return False


def new_run_path(name: str, root: Path = Path("runs")) -> Path:
    """`runs/<name>-<time>-<id>`, not made yet."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "run"
    return root / f"{slug[:80]}-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def open_run(path: Path) -> RunDirectory:
    """An existing run, with a warning if a newer ganrun wrote it.

    Raises:
        RequestError: if there is none at `path`.
    """
    directory = RunDirectory(path)
    if not directory.holds_run:
        missing = "does not exist" if not path.exists() else f"holds no {RECIPE}"
        raise RequestError(f"{path} is no run directory: it {missing}{_run_around(path)}")
    warn_if_newer(directory)
    return directory


def warn_if_newer(directory: RunDirectory, facts: str = ENVIRONMENT) -> None:
    """Warn if a newer ganrun wrote the files: what seems wrong in them may only be new.

    Args:
        directory: A run directory or an exported folder.
        facts: The file in it that states the version.
    """
    stored = directory.read_json(facts)
    here = version("ganrun")
    try:
        starts = [stored, *sessions_in(stored)]
        own = [stored] if "ganrun" in stored else [each["packages"] for each in starts if "packages" in each]
        made = max((str(each["ganrun"]) for each in own), key=Version, default=here)
        is_newer = Version(made) > Version(here)
    except (KeyError, TypeError, ValueError):
        return
    if is_newer:
        log.warning("%s was made by ganrun %s, and this is %s: what seems wrong may be new", directory.path, made, here)


def _run_around(path: Path) -> str:
    """A hint for a folder that is part of a run, such as a checkpoint."""
    return next((f"; {each} is one" for each in path.absolute().parents[:2] if (each / RECIPE).is_file()), "")
