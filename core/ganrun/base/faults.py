"""Faults that a run survives: which those are, a record of them, and a report at its end."""

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
"""Prefix of a metric's name in recorded faults."""

MOST_FAULTS = 50
"""Most distinct faults kept per run; there are more only if texts differ by accident."""


class Kind(Enum):
    """The part of a run that a fault ends."""

    MOMENT = "moment"
    """One piece of work: the disk is full, or a server does not answer. The next piece is tried again."""

    PART = "part"
    """An observer, which from then on receives only the end of the run; or a metric's scores in one evaluation."""

    RUN = "run"
    """The whole run: the user, the system or another process ended it, or the samples are not finite."""


def kind_of(error: BaseException) -> Kind:
    """How far an error of an observer or a metric reaches. Every error of an essential observer, a network, the loss or
    the data ends the run."""
    if passes(error) or (isinstance(error, GanrunError) and error.ends_run):
        return Kind.RUN
    return Kind.MOMENT if _is_of_moment(error) else Kind.PART


def _is_of_moment(error: BaseException) -> bool:
    if isinstance(error, RunError) and error.__cause__ is not None:
        return _is_of_moment(error.__cause__)
    return isinstance(error, OSError)


def described(error: BaseException) -> str:
    """An error as messages describe it: its text if it is ganrun's, else its type, text and the author's line; for an
    out-of-memory error, advice."""
    if isinstance(error, GanrunError):
        return str(error)
    text, place = OUT_OF_MEMORY if is_out_of_memory(error) else in_one_line(error), authors_line(error)
    return f"{text} ({place})" if place else text


@dataclass(frozen=True)
class Fault:
    """Work that a run failed to do."""

    of: str
    """The owner: `observer "samples"`, `metric.0 fid`."""

    at: str
    """The event or method that failed."""

    text: str
    """The error message of the first occurrence."""

    step: int
    """Steps done at the first occurrence."""

    last_step: int
    """Steps done at the last occurrence."""

    times: int = 1

    def __str__(self) -> str:
        when = f"at step {self.step}" if self.step == self.last_step else f"at steps {self.step} to {self.last_step}"
        often = f", {self.times} times" if self.times > 1 else ""
        return f"{self.of} failed at {self.at} {when}{often}: {self.text}"

    def again(self, step: int) -> Fault:
        """This fault with one more occurrence."""
        return replace(self, last_step=step, times=self.times + 1)


class Faults:
    """The faults of one run, in order of occurrence; those of earlier sessions come first."""

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
        """Record a fault, and log it unless one with the same text, apart from numbers, was logged before.

        Args:
            of: The owner.
            at: What failed.
            error: The exception. A bug is reported with its traceback.
            step: Steps done.
            then: The consequence for the owner: `is left out`.
        """
        text = described(error)
        key = (of, at, _without_numbers(text))
        if key not in self._new and len(self._new) >= MOST_FAULTS:
            key = (of, at, "")
        before = self._new.get(key)
        self._new[key] = Fault(of, at, text, step, step) if before is None else before.again(step)
        if before is None:
            trace = error if _is_of_code(error) else None
            log.warning("%s failed at %s and %s: %s", of, at, then, text, exc_info=trace)

    def restore(self, table: object, step: int) -> bool:
        """Take over the readable faults of earlier sessions, up to a step, from summary.json.

        Returns:
            Whether a metric failed at exactly that step. It is measured again, so its fault is not taken over.
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
    """A text without its variable parts: steps, and random names of files."""
    return re.sub(r"\b[0-9a-f]*\d[0-9a-f]*\b|\d+", "#", text)


def _is_of_code(error: BaseException) -> bool:
    """Whether a fault is reported with its traceback."""
    return TRACEBACK_VARIABLE in os.environ or not (isinstance(error, GanrunError | OSError) or is_out_of_memory(error))


def _fault_in(entry: object) -> Fault | None:
    """The fault that an entry of summary.json describes; None if the entry is invalid."""
    values: list[Any] = [entry.get(field.name) for field in fields(Fault)] if isinstance(entry, dict) else []
    return Fault(*values) if [type(value) for value in values] == [str, str, str, int, int, int] else None
