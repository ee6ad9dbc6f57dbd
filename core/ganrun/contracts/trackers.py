"""What ganrun asks of a plugin that mirrors runs elsewhere: where are they?"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path


class Tracker(ABC):
    """A place where runs are known by other names than their directories."""

    @abstractmethod
    def find(self, run_id: str) -> Path | None:
        """The directory of the run that the tracker knows as `run_id`, or a copy of what it holds of it.

        None where `run_id` does not look like one of its names: then nothing was asked of a server.

        Raises:
            RequestError: if it looks like one, and there is no such run, or it cannot be had.
        """

    @abstractmethod
    def runs_of(self, experiment: str) -> Sequence[Path] | None:
        """The directories of an experiment's runs, the newest last; None where there is no such experiment.

        Raises:
            RequestError: if they cannot be had.
        """

    @abstractmethod
    def experiments(self) -> Sequence[str]:
        """The names of the experiments that it knows.

        Raises:
            RequestError: if they cannot be had.
        """
