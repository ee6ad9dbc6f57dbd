"""A plugin for the stress tests: a cheap metric, and observers and metrics that raise what the environment says."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ganrun
import ganrun_mlflow.machine
import ganrun_mlflow.points
from ganrun import GanrunError, Score, hookimpl, observes

if __name__ == "ganrun_stress":  # as an installed plugin, and not where a test reads the names below
    # What MLflow gets does not depend on the clock.
    ganrun_mlflow.points.SECONDS_BETWEEN_POINTS = 0.0
    ganrun_mlflow.machine.Machine.read = lambda self: {}


class Unheard(BaseException):
    """An exception of no known family."""


KINDS: Mapping[str, Any] = {
    "OSError": lambda: OSError(errno.EIO, "imitated"),
    "ValueError": lambda: ValueError("imitated"),
    "SystemExit": lambda: SystemExit(0),
    "KeyboardInterrupt": KeyboardInterrupt,
    "MemoryError": lambda: MemoryError("imitated"),
    "GanrunError": lambda: GanrunError("imitated"),
    "RunError": lambda: ganrun.RunError("imitated"),
    "RuntimeError": lambda: RuntimeError("imitated"),
    "RecursionError": lambda: RecursionError("imitated"),
    "Unheard": lambda: Unheard("imitated"),
}
"""What can be raised, by name."""


FAULT, HEARD = "STRESS_FAULT", "STRESS_HEARD"
"""Environment variables: what to raise, as "observer step_ended OSError 1", with the number of calls that raise; and
the file in which the observer `raising` writes the events that it has heard. Both stay out of the recipe, so that a
resumed run has the same one."""


class Faulty:
    """Raises what the environment says.

    Args:
        owner: Who this is: the first word of `STRESS_FAULT`.
    """

    def __init__(self, owner: str) -> None:
        wanted, self._at, self._kind, times = os.environ.get(FAULT, "nobody never ValueError 0").split()
        self._left = int(times) if wanted == owner else 0

    def at(self, place: str) -> None:
        """Raise, if this is the place."""
        if place == self._at and self._left > 0:
            self._left -= 1
            raise KINDS[self._kind]()


class Brightness(ganrun.Metric):
    """Difference of the mean brightness of samples and images; lower is better."""

    name = "brightness"

    def __init__(self, settings: Any, spec: Any) -> None:
        super().__init__(settings, spec)
        self._faulty = Faulty(self.name)

    def prepare(self, data: Any, device: Any) -> None:
        """Raise, if asked."""
        self._faulty.at("prepare")

    def watch(self, evaluation: Any) -> None:
        """Raise, if asked; but not before training."""
        if evaluation.step > 0:
            self._faulty.at("watch")

    def measure(self, evaluation: Any) -> Sequence[Score]:
        """One score."""
        self._faulty.at("measure")
        samples, real = evaluation.generated(16).float(), evaluation.real(16).float()
        difference = abs(float(samples.mean() - real.mean()))
        return [Score(self.name, difference, False, {"count": 16})]


class OtherBrightness(Brightness):
    """The same by another name: a metric beside one that raises."""

    name = "other-brightness"


class Raising(ganrun.Observer):
    """Raises at one event, and writes into a file which ones it has heard."""

    name = "observer"

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self._faulty = Faulty(self.name)

    def _at(self, event: str) -> None:
        if HEARD in os.environ and self.name == "observer":
            with Path(os.environ[HEARD]).open("a", encoding="utf-8") as file:
                file.write(f"{event}\n")
        self._faulty.at(event)

    @observes
    def run_starting(self) -> None:
        """Nothing is done."""
        self._at("run_starting")

    @observes
    def run_started(self) -> None:
        """Training begins."""
        self._at("run_started")

    @observes
    def step_ended(self) -> None:
        """A step is done."""
        self._at("step_ended")

    @observes
    def measured(self) -> None:
        """There are means."""
        self._at("measured")

    @observes
    def evaluating(self) -> None:
        """Scores are being measured."""
        self._at("evaluating")

    @observes
    def evaluated(self) -> None:
        """There are scores."""
        self._at("evaluated")

    @observes
    def file_written(self) -> None:
        """There is a file."""
        self._at("file_written")

    @observes
    def training_ended(self) -> None:
        """No step follows."""
        self._at("training_ended")

    @observes
    def run_failed(self) -> None:
        """The run ends early."""
        self._at("run_failed")

    @observes
    def run_ended(self) -> None:
        """The run ends."""
        self._at("run_ended")


class Essential(Raising):
    """The same, as an essential part of a run."""

    name = "essential"
    essential = True


class Tracking(ganrun.Tracker):
    """Knows no run."""

    def __init__(self) -> None:
        self._faulty = Faulty("tracker")

    def find(self, run_id: str) -> None:
        """Raise, if asked."""
        self._faulty.at("find")

    def runs_of(self, experiment: str) -> None:
        """Raise, if asked."""
        self._faulty.at("runs_of")

    def experiments(self) -> Sequence[str]:
        """Raise, if asked."""
        self._faulty.at("experiments")
        return ()


@hookimpl
def ganrun_trackers() -> Mapping[str, ganrun.Tracker]:
    """The tracker; raises, if asked."""
    Faulty("tracker").at("offer")
    return {"stress": Tracking()}


@hookimpl
def ganrun_metrics() -> Mapping[str, type[ganrun.Metric]]:
    """The metrics."""
    return {"brightness": Brightness, "other-brightness": OtherBrightness}


@hookimpl
def ganrun_observers() -> Mapping[str, type[ganrun.Observer]]:
    """The observers."""
    return {"raising": Raising, "essential": Essential}
