"""Faults that a run outlives: which they are, what they were, and that they are said again at its end."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from enum import Enum
from typing import Any

from ganrun.base.errors import GanrunError, RunError
from ganrun.base.frames import OUT_OF_MEMORY, TRACEBACK_VARIABLE, authors_line, in_one_line, is_out_of_memory, passes

log = logging.getLogger("ganrun")

METRIC = "metric."
"""Begins the names of metrics among those whose faults are kept."""

MOST_FAULTS = 50
"""Unlike faults of one run that are kept; there are more only where texts differ by accident."""


class Kind(Enum):
    """What a fault ends."""

    MOMENT = "moment"
    """One piece of work: a disk that is full, a server that does not answer. Whose it is tries again with the next."""

    PART = "part"
    """An observer, which hears nothing more but the end; or the scores of a metric in one evaluation."""

    RUN = "run"
    """Everything: the user, the system or another process has decided so, or the samples are not finite."""


def kind_of(error: BaseException) -> Kind:
    """What is at fault where an observer or a metric raises `error`. Of an essential observer, a network, the loss and
    the data, every fault is one of the run."""
    if passes(error) or (isinstance(error, GanrunError) and error.ends_run):
        return Kind.RUN
    return Kind.MOMENT if _is_of_moment(error) else Kind.PART


def _is_of_moment(error: BaseException) -> bool:
    if isinstance(error, RunError) and error.__cause__ is not None:
        return _is_of_moment(error.__cause__)
    return isinstance(error, OSError)


def told(error: BaseException) -> str:
    """What a message says of an error: its text if it is ganrun's, else its type, its text and the author's line. Where
    there is no memory left, it is advice."""
    if isinstance(error, GanrunError):
        return str(error)
    text, place = OUT_OF_MEMORY if is_out_of_memory(error) else in_one_line(error), authors_line(error)
    return f"{text} ({place})" if place else text


@dataclass(frozen=True)
class Fault:
    """Work of a run that was not done."""

    of: str
    """Whose: `observer "samples"`, `metric.0 fid`."""

    at: str
    """At what: the event, or the method."""

    text: str
    """What was wrong, when it happened first."""

    step: int
    """Steps done when it happened first."""

    last_step: int
    """Steps done when it happened last."""

    times: int = 1

    def __str__(self) -> str:
        when = f"at step {self.step}" if self.step == self.last_step else f"at steps {self.step} to {self.last_step}"
        often = f", {self.times} times" if self.times > 1 else ""
        return f"{self.of} failed at {self.at} {when}{often}: {self.text}"

    def again(self, step: int) -> Fault:
        """The same, once more."""
        return replace(self, last_step=step, times=self.times + 1)


class Faults:
    """The faults of one run, in the order in which they came; those before it was resumed come first."""

    def __init__(self) -> None:
        self.earlier: tuple[Fault, ...] = ()
        """Those of earlier starts, from summary.json."""
        self._new: dict[tuple[str, str, str], Fault] = {}

    def __iter__(self) -> Iterator[Fault]:
        yield from self.earlier
        yield from self.new

    @property
    def new(self) -> tuple[Fault, ...]:
        """Those of this start of the run."""
        return tuple(self._new.values())

    def note(self, of: str, at: str, error: BaseException, step: int, *, then: str) -> None:
        """Keep a fault, and tell of it unless one with the same text, but for numbers, has been told of before.

        Args:
            of: Whose it is.
            at: What failed.
            error: What was raised. A fault of code is reported with its traceback.
            step: Steps done.
            then: What becomes of it: `is left out`.
        """
        text = told(error)
        key = (of, at, _without_numbers(text))
        if key not in self._new and len(self._new) >= MOST_FAULTS:
            key = (of, at, "")
        before = self._new.get(key)
        self._new[key] = Fault(of, at, text, step, step) if before is None else before.again(step)
        if before is None:
            trace = error if _is_of_code(error) else None
            log.warning("%s failed at %s and %s: %s", of, at, then, text, exc_info=trace)

    def restore(self, table: object, step: int) -> bool:
        """Take over what summary.json has of earlier starts until a step, as far as it can be read.

        Returns:
            Whether a metric has failed at that very step. That is measured again, and not taken over.
        """
        found = [_fault_in(entry) for entry in table] if isinstance(table, list) else []
        faults = [each for each in found if each is not None and each.step <= step]
        again = [each for each in faults if each.of.startswith(METRIC) and each.last_step == step]
        self.earlier = tuple(each for each in faults if each not in again or each.step < step)
        return bool(again)

    def to_json(self) -> list[dict[str, Any]]:
        """All of them, for summary.json."""
        return [asdict(fault) for fault in self]


def _without_numbers(text: str) -> str:
    """A text without what changes from time to time: steps, and random names of files."""
    return re.sub(r"\b[0-9a-f]*\d[0-9a-f]*\b|\d+", "#", text)


def _is_of_code(error: BaseException) -> bool:
    """Whether a fault is reported with its traceback."""
    return TRACEBACK_VARIABLE in os.environ or not (isinstance(error, GanrunError | OSError) or is_out_of_memory(error))


def _fault_in(entry: object) -> Fault | None:
    """The fault that an entry of summary.json describes, if it is one."""
    values: list[Any] = [entry.get(field.name) for field in fields(Fault)] if isinstance(entry, dict) else []
    return Fault(*values) if [type(value) for value in values] == [str, str, str, int, int, int] else None
