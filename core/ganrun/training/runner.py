"""The training loop. It knows phases, slots and events, and no loss, model or tracker by name."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

from ganrun.base.arithmetic import float32_as
from ganrun.base.errors import GanrunError, RequestError, RunError
from ganrun.base.frames import failure, is_out_of_memory, passes
from ganrun.base.ranks import first_says
from ganrun.training.continuing import check_unchanged, has_new_metric, stored_recipe
from ganrun.training.equality import share_state
from ganrun.training.journal import amend_summary, write_facts, write_summary
from ganrun.training.meter import Meter
from ganrun.training.rolling_back import going_back_if_not_finite, roll_back
from ganrun.training.run import Run
from ganrun.training.scorer import Scorer
from ganrun.training.step import build_step

log = logging.getLogger("ganrun")


def execute(run: Run) -> None:
    """Train and score a run. However it ends, its summary is written and its observers receive `run_ended`.

    What observers and metrics fail to do is listed in `run.faults` afterwards, and raises no error.

    Raises:
        Interrupted: on the first signal, or when `[train] limit_seconds` have passed, after the current step.
        RequestError: if another process trains it, or it cannot be continued; nothing has been written.
        RunError: if the run cannot continue.
    """
    with run.directory.occupied(), run.interruption, float32_as(tf32=run.recipe.train.precision == "tf32"):
        check_unchanged(run.directory, run.found)
        run.emit("run_starting")
        share_state(run)
        _check_steps(run)
        run.directory.clear_leftovers()
        try:
            _end(run, _attempt(lambda: _whole(run)))
        finally:
            run.directory.clear_leftovers()  # lines that a full disk has truncated


def _whole(run: Run) -> None:
    """The run, from its first file to its summary."""
    started = time.monotonic() if run.started is None else run.started
    run.interruption.deadline = started + (run.recipe.train.limit_seconds or math.inf)
    stored = stored_recipe(run.directory, run.recipe) if run.resumed else run.recipe.resolved()
    write_facts(run, stored)
    if run.resumed:
        _rewind(run)
    write_summary(run, "running")
    run.emit("run_started")
    _train(run, Scorer(run), measure_again=has_new_metric(run.recipe, stored))
    write_summary(run, "finished")


def _train(run: Run, scorer: Scorer, *, measure_again: bool) -> None:
    """Take the remaining steps, and score the model at its cadence and at the end."""
    meter = Meter(run)
    take_step = build_step(run, meter.measurements)
    if run.unheard:
        _tell(run)
    if first_says(run.resumed):
        scorer.take_up(measure_again=measure_again)
    run.agree()
    while not run.done:
        run.unheard = True
        take_step()
        with going_back_if_not_finite(run):
            if meter.is_scheduled():
                meter.read()
            _tell(run)
        run.agree()
        if scorer.is_scheduled() and not run.done and run.going_back is None:
            scorer.score()
            run.agree()
        run.interruption.check()
        roll_back(run, meter, scorer)
    meter.read()
    run.emit("training_ended")
    scorer.score()
    run.directory.flush_records()


def _tell(run: Run) -> None:
    run.emit("step_ended")
    run.unheard = False


def _check_steps(run: Run) -> None:
    if run.step > run.steps:
        text = f"the run has already done {run.step} steps; to train further, set more: --set train.steps=N"
        raise RequestError(text).located(run.recipe.where(("train", "steps")))


def _rewind(run: Run) -> None:
    """Remove what was recorded after the restored step."""
    if run.step == 0:
        log.warning("%s holds no checkpoint; the run starts again from step 0", run.directory.path)
    run.directory.rewind(run.step)


# ── The end ───────────────────────────────────────────────────────────────────────────────────────────────


def _attempt(work: Callable[[], None]) -> BaseException | None:
    """Call a function; returns what it raised, if anything. Exceptions that would end the process silently, such as
    `SystemExit`, and out-of-memory errors become ganrun's errors."""
    try:
        work()
    except BaseException as error:
        is_plain = isinstance(error, Exception) and not is_out_of_memory(error)
        if isinstance(error, GanrunError) or passes(error) or is_plain:
            return error
        fault = failure("", "the run", error, RunError)
        fault.__cause__ = error
        return fault
    return None


def _end(run: Run, fault: BaseException | None) -> None:
    """Notify observers that the run has ended, and write its summary. Each action is attempted even if others fail, and
    the first error is raised again.

    Args:
        run: The run; its summary is written already if it is finished.
        fault: What has stopped it; None if it is finished.
    """
    status = _status_after(fault)
    later = []
    if fault is not None:
        later.append(_attempt(lambda: run.emit("run_failed", error=fault)))
        later.append(_attempt(lambda: write_summary(run, status, _recorded(fault))))
    summed_up = run.faults.new
    later.append(_attempt(lambda: run.emit("run_ended", status=status)))
    errors = [error for error in (fault, *later) if error is not None]
    for error in (each for each in errors[1:] if not passes(each)):
        run.faults.note("the run", "its end", error, run.step, then="that is not what stopped it")
    first = errors[0] if errors else None
    if run.faults.new != summed_up or _recorded(first) is not _recorded(fault):
        status = "failed" if _recorded(first) else status
        unwritten = _attempt(lambda: amend_summary(run, status, _recorded(first)))
        first = first or unwritten
    if first is not None:
        raise first


def _status_after(fault: BaseException | None) -> str:
    if fault is None:
        return "finished"
    return "failed" if _recorded(fault) else "interrupted"


def _recorded(fault: BaseException | None) -> BaseException | None:
    """The error as summary.json records it; None if the user or the system stopped the run."""
    return None if fault is None or passes(fault) else fault
