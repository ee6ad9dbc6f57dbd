"""The contract of trackers: services that mirror runs, such as MLflow, and can find them again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path


class Tracker(ABC):
    """Finds the directories of runs by the ids and experiments of a tracking service."""

    @abstractmethod
    def find(self, run_id: str) -> Path | None:
        """The directory of a run, or a copy of what the tracker holds of it.

        Returns:
            None if `run_id` does not have the form of the tracker's ids; no server is asked then.

        Raises:
            RequestError: if it has that form, but there is no such run, or its directory cannot be found or copied.
            RunError: if the tracker cannot be reached.
        """

    @abstractmethod
    def runs_of(self, experiment: str) -> Sequence[Path] | None:
        """The directories of an experiment's runs on this machine, the newest last.

        Returns:
            None if there is no such experiment.

        Raises:
            RunError: if the tracker cannot be reached.
        """

    @abstractmethod
    def experiments(self) -> Sequence[str]:
        """The names of all experiments.

        Raises:
            RunError: if the tracker cannot be reached.
        """
