"""The training loop. It knows phases, slots and events, and no loss, model or tracker by name."""

from __future__ import annotations

import logging

from ganrun.base.arithmetic import float32_as
from ganrun.base.errors import Interrupted, RequestError
from ganrun.base.ranks import first_says
from ganrun.training.continuing import has_new_metric, stored_recipe
from ganrun.training.equality import share_state
from ganrun.training.journal import write_facts, write_summary
from ganrun.training.meter import Meter
from ganrun.training.rolling_back import going_back_if_not_finite, roll_back
from ganrun.training.run import Run
from ganrun.training.scorer import Scorer
from ganrun.training.step import build_step

log = logging.getLogger("ganrun")


def execute(run: Run) -> None:
    """Train and score a run. However it ends, its summary is written and its observers receive `run_ended`.

    Raises:
        Interrupted: on the first Ctrl-C or SIGTERM, after the current step.
        RequestError: if another process trains it, or it cannot be continued; nothing has been written then.
        RunError: if the run cannot go on.
    """
    status, fault = "failed", None
    with run.directory.occupied(), run.interruption, float32_as(tf32=run.recipe.train.precision == "tf32"):
        run.emit("run_starting")
        share_state(run)
        _check_steps(run)
        try:
            stored = stored_recipe(run.directory, run.recipe) if run.resumed else run.recipe.resolved()
            write_facts(run, stored)
            if run.resumed:
                _rewind(run)
            write_summary(run, "running")
            run.emit("run_started")
            _train(run, Scorer(run), measure_again=has_new_metric(run.recipe, stored))
            status = "finished"
        except (Interrupted, KeyboardInterrupt) as interruption:
            status = "interrupted"
            run.emit("run_failed", error=interruption)
            raise
        except Exception as error:
            fault = error
            run.emit("run_failed", error=error)
            raise
        finally:
            try:
                write_summary(run, status, fault)
            finally:  # also where the disk is full
                run.emit("run_ended", status=status)


def _train(run: Run, scorer: Scorer, *, measure_again: bool) -> None:
    """Take the remaining steps, and score the model at its cadence and at the end."""
    meter = Meter(run)
    take_step = build_step(run, meter.measurements)
    if first_says(run.resumed):
        scorer.take_up(measure_again=measure_again)
    run.agree()
    while not run.done:
        take_step()
        with going_back_if_not_finite(run):
            if meter.is_scheduled():
                meter.read()
            run.emit("step_ended")
        run.agree()
        if scorer.is_scheduled() and not run.done and run.going_back is None:
            scorer.score()
            run.agree()
        run.interruption.check()
        roll_back(run, meter, scorer)
    meter.read()
    run.emit("training_ended")
    scorer.score()


def _check_steps(run: Run) -> None:
    if run.step > run.steps:
        text = f"the run has done {run.step} steps already; to train on, ask for more: --set train.steps=N"
        raise RequestError(text).located(run.recipe.where(("train", "steps")))


def _rewind(run: Run) -> None:
    """Remove what was recorded after the restored step."""
    if run.step == 0:
        log.warning("%s holds no checkpoint; the run starts again from step 0", run.directory.path)
    run.directory.rewind(run.step)
