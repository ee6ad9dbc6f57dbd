"""A plugin for the stress tests: a cheap metric, and observers, metrics and trackers that raise what a recipe says."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from typing import Any

import ganrun
from ganrun import GanrunError, Score, hookimpl, observes


class Unheard(BaseException):
    """An exception of no known family."""


KINDS: Mapping[str, Any] = {
    "OSError": lambda: OSError(errno.EIO, "imitated"),
    "ValueError": lambda: ValueError("imitated"),
    "SystemExit": lambda: SystemExit(0),
    "KeyboardInterrupt": KeyboardInterrupt,
    "MemoryError": lambda: MemoryError("imitated"),
    "GanrunError": lambda: GanrunError("imitated"),
    "RecursionError": lambda: RecursionError("imitated"),
    "Unheard": lambda: Unheard("imitated"),
}
"""What can be raised, by name."""


class Fault(ganrun.Settings):
    """When to raise what."""

    kind: str = "ValueError"
    """A name of `KINDS`."""

    at: str = "never"
    """The event or method."""

    times: int = 1
    """How many calls raise, from the first on."""


class Faulty:
    """Raises by its settings."""

    def __init__(self, settings: Fault) -> None:
        self._settings = settings
        self._left = settings.times

    def at(self, place: str) -> None:
        """Raise, if this is the place."""
        if place == self._settings.at and self._left > 0:
            self._left -= 1
            raise KINDS[self._settings.kind]()


class Brightness(ganrun.Metric):
    """Difference of the mean brightness of samples and images; lower is better."""

    Settings = Fault

    def __init__(self, settings: Any, spec: Any) -> None:
        super().__init__(settings, spec)
        self._faulty = Faulty(settings)

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

    name = "brightness"


class OtherBrightness(Brightness):
    """The same by another name: a metric beside one that raises."""

    name = "other-brightness"


class Raising(ganrun.Observer):
    """Raises at one event, and writes the others that it receives into a file."""

    class Settings(Fault):
        """When to raise what, and where to write."""

        heard: str = ""
        """The file; none if empty."""

    settings: Settings

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self._faulty = Faulty(settings)

    def _at(self, event: str) -> None:
        if self.settings.heard:
            with open(self.settings.heard, "a", encoding="utf-8") as file:
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

    essential = True


@hookimpl
def ganrun_metrics() -> Mapping[str, type[ganrun.Metric]]:
    """The metrics."""
    return {"brightness": Brightness, "other-brightness": OtherBrightness}


@hookimpl
def ganrun_observers() -> Mapping[str, type[ganrun.Observer]]:
    """The observers."""
    return {"raising": Raising, "essential": Essential}
