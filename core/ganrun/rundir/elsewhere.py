"""The directory of a run that another process writes."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ganrun.rundir.directory import RunDirectory
from ganrun.rundir.records import Record


class WrittenElsewhere(RunDirectory):
    """The directory of a run in all processes but the first: it appears empty and stores nothing.

    Only the first process knows the directory, which may exist on its machine only.
    """

    is_elsewhere = True

    @property
    def holds_run(self) -> bool:
        """False."""
        return False

    @contextmanager
    def occupied(self) -> Iterator[None]:
        """The first process holds the lock."""
        yield

    def state(self) -> Hashable:
        """Nothing is found here."""
        return None

    def check_free(self) -> None:
        """Nothing is written here."""

    def create(self) -> None:
        """Nothing is written here."""

    def clear_leftovers(self) -> None:
        """Nothing is written here."""

    def write_text(self, name: str, text: str) -> None:
        """Nothing is written here."""

    def rename(self, name: str, new: str) -> None:
        """Nothing is written here."""

    def append_record(self, record: Record) -> None:
        """Nothing is written here."""

    def flush_records(self) -> int:
        """Nothing is written here."""
        return 0

    def missing_records(self, count: int, step: int) -> int:
        """Only the first process can tell."""
        return 0

    def rewind(self, step: int) -> None:
        """Nothing is written here."""

    def read_json(self, name: str) -> dict[str, Any]:
        """Nothing."""
        return {}

    def records(self) -> list[Record]:
        """None."""
        return []

    def evaluations(self) -> list[Record]:
        """None."""
        return []


def directory_of(path: Path, *, is_first: bool) -> RunDirectory:
    """The directory of a run as this process accesses it."""
    return RunDirectory(path) if is_first else WrittenElsewhere(path)
