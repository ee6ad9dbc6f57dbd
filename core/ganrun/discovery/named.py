"""Trackers whose calls are framed: an error names its tracker."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ganrun.base.errors import ContractError
from ganrun.base.frames import called
from ganrun.contracts.trackers import Tracker


class NamedTracker(Tracker):
    """A plugin's tracker. Its results are checked, and its errors name it.

    Args:
        owner: The tracker, as messages name it.
        tracker: The plugin's own.
    """

    def __init__(self, owner: str, tracker: Tracker) -> None:
        self.owner = owner
        self.tracker = tracker

    def find(self, run_id: str) -> Path | None:
        """As `Tracker.find`."""
        with called(self.owner, "find"):
            found = self.tracker.find(run_id)
            if not isinstance(found, Path | None):
                raise ContractError(f"find returns {found!r}, not a path or None")
            return found

    def runs_of(self, experiment: str) -> Sequence[Path] | None:
        """As `Tracker.runs_of`."""
        with called(self.owner, "runs_of"):
            runs = self.tracker.runs_of(experiment)
            if runs is not None and not all(isinstance(run, Path) for run in runs):
                raise ContractError(f"runs_of returns {runs!r}, not paths or None")
            return runs

    def experiments(self) -> Sequence[str]:
        """As `Tracker.experiments`."""
        with called(self.owner, "experiments"):
            names = self.tracker.experiments()
            if not all(isinstance(name, str) for name in names):
                raise ContractError(f"experiments returns {names!r}, not names")
            return names
