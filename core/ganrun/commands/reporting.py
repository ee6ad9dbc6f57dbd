"""Reports errors and faults on standard error."""

from __future__ import annotations

import gc
import os
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from ganrun.base.errors import GanrunError, Interrupted, RecipeError, RunError
from ganrun.base.faults import Faults, described
from ganrun.base.frames import TRACEBACK_VARIABLE, is_out_of_memory
from ganrun.base.launched import launched
from ganrun.base.oserrors import os_fault
from ganrun.base.secrets import without_secrets
from ganrun.base.texts import one_line, printable

if TYPE_CHECKING:
    from ganrun.contracts.scores import Score
    from ganrun.training.run import Run


def say(text: str) -> None:
    """Print a line on the error stream, without secrets and control characters."""
    click.echo(printable(without_secrets(text)), err=True)


def report(error: Exception) -> None:
    """Print an error in one line; with its traceback if the environment requests it, or if it is a bug."""
    if is_bug(error) or os.environ.get(TRACEBACK_VARIABLE):
        say("".join(traceback.format_exception(error)).rstrip())
    is_located = isinstance(error, RecipeError) or (isinstance(error, GanrunError) and error.where)
    text = _machine_fault(error) or described(error)
    say(text if is_located else f"error: {text}")


def is_bug(error: BaseException) -> bool:
    """Whether an error is a bug, rather than one of ganrun's or the machine's, such as a full disk or no memory."""
    return not (isinstance(error, GanrunError) or is_out_of_memory(error) or _machine_fault(error))


def _machine_fault(error: BaseException) -> str | None:
    fault = os_fault(error) if isinstance(error, OSError | UnicodeEncodeError) else None
    return fault and one_line(fault)


def check_done(faults: Faults) -> None:
    """Check that the run did everything it was asked to do.

    Raises:
        RunError: with the faults that the run survived.
    """
    if faults.new:
        raise RunError(undone(faults))


def undone(faults: Faults) -> str:
    """A summary of the faults of this start of a run."""
    return "".join(["not everything that was asked for has been done:", *(f"\n  {fault}" for fault in faults.new)])


def in_turn(jobs: Sequence[tuple[str, Callable[[], Run]]]) -> tuple[list[list[Score]], list[str]]:
    """Run all jobs independently: one that fails is reported, and the others continue. An interruption ends them all.

    Args:
        jobs: Functions that each train a run, by name.

    Returns:
        The scores of each finished run; and the jobs that failed or left work undone, for `check_all`.
    """
    scores: list[list[Score]] = []
    faults: list[str] = []
    for name, job in jobs:
        try:
            run = job()
            scores.append(list(run.scores.values()))
            if run.faults.new:
                faults.append(f"{name} has left work undone")
                say(f"{name}: {undone(run.faults)}")
        except Interrupted:
            raise
        except Exception as error:
            if launched() is not None:  # the other ranks may be elsewhere in the run
                raise
            report(error)
            faults.append(f"{name} has failed")
        gc.collect()  # device memory of a failed run
    return scores, faults


def check_all(faults: Sequence[str], total: int) -> None:
    """Check that all of several jobs are done.

    Raises:
        RunError: naming those that are not.
    """
    if faults:
        raise RunError(f"{len(faults)} of {total} runs failed or left work undone: {', '.join(faults)}")
