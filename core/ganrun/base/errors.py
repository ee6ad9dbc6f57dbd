"""The family of errors that ganrun raises on purpose.

Each message says what is wrong, where, and what to do. The command line prints them without a traceback;
anything outside this family is a bug, in ganrun or in a plugin, and keeps its traceback.
"""

from __future__ import annotations

import signal
from typing import Self

TRY_AGAIN = 75
"""The exit status of a run that has reached its time limit, EX_TEMPFAIL of sysexits.h: the same command continues
it."""


class GanrunError(Exception):
    """Base of the family.

    Args:
        message: What is wrong and what to do about it; may have several lines.
        where: The place to look at, such as `recipes/wgan.toml:14`.
    """

    exit_status = 1
    ends_run = False
    """Whether it ends the run even if an optional part of the run raised it."""
    message = ""
    where: str | None = None
    _owners: frozenset[str] = frozenset()

    def __init__(self, message: str, *, where: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message

    def located(self, where: str) -> Self:
        """This error, located at `where` unless it has a location already."""
        self.where = self.where or where
        return self

    def owned(self, owner: str) -> Self:
        """This error with the name of its owner before the message, unless it already has one."""
        if owner and owner not in self._owners:
            self._owners |= {owner}
            self.message = f"{owner}: {self.message}"
        return self


class RequestError(GanrunError):
    """The request cannot be met; nothing has been written. Exit status 2."""

    exit_status = 2


class CacheError(RequestError):
    """The cache's folder cannot be created or found. Callers that do not depend on the cache continue."""


class RecipeError(RequestError):
    """A recipe has one or more faults; the message lists them all.

    Args:
        faults: One message for each place; it begins with the place.
    """

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


class PluginError(RequestError):
    """A plugin is broken or missing, or two plugins offer the same name."""


class IncompatibleError(RequestError):
    """A component cannot be built for these data or this model: a size, channel count or label that it does not
    support."""


class DataError(RequestError):
    """Data is missing, incomplete or damaged. The message gives the exact steps that fix it."""


class PreflightError(RequestError):
    """Something that the run needs later, such as an extractor's weights, is missing."""


class RunError(GanrunError):
    """A run that has started cannot go on. Exit status 1."""


class NonFiniteError(RunError):
    """A loss, gradient or weight became NaN or infinite."""


class ContractError(RunError):
    """A component broke its contract, such as a network that returns the wrong shape."""


class RankError(RunError):
    """Another process of a run on several GPUs has failed, or ended without reporting an error. The fault is not in
    this process, so the error names no component and no location.

    Args:
        message: What has happened.
        cause: The error of the other process; the same text in every process that receives it.
        exit_status: That of the other process.
    """

    ends_run = True

    def __init__(self, message: str, *, cause: str, exit_status: int = 1) -> None:
        super().__init__(message)
        self.cause = cause
        self.exit_status = exit_status

    def located(self, where: str) -> Self:
        """This error, unchanged."""
        return self

    def owned(self, owner: str) -> Self:
        """This error, unchanged."""
        return self


class Interrupted(GanrunError):  # noqa: N818 - the user's decision, not an error
    """The user or the system stopped the run, by SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2 or SIGXCPU. Exit status 128
    + signal number."""

    ends_run = True

    def __init__(self, signal_number: int) -> None:
        named = "" if signal_number == signal.SIGINT else f" by {signal.Signals(signal_number).name}"
        super().__init__(f"interrupted{named}")
        self.exit_status = 128 + signal_number


class OutOfTime(Interrupted):
    """A run has reached its `[train] limit_seconds`. Exit status 75, "try again later"."""

    def __init__(self) -> None:
        GanrunError.__init__(self, "interrupted by its time limit")
        self.exit_status = TRY_AGAIN


def interruption_of(exit_status: int) -> Interrupted:
    """The interruption that has this exit status."""
    return OutOfTime() if exit_status == TRY_AGAIN else Interrupted(exit_status - 128)
