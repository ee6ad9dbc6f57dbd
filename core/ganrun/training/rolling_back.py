"""Rolls a run back to an earlier checkpoint, from which it continues with other random numbers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ganrun.base.errors import NonFiniteError
from ganrun.base.files import remove_folder
from ganrun.base.ranks import first_says, ranks
from ganrun.rundir.checkpoints import (
    Checkpoint,
    DamagedCheckpoint,
    checkpoint_path,
    checkpoints_in,
    load_checkpoint,
    save_checkpoint,
    step_of,
)
from ganrun.training.equality import share_state
from ganrun.training.meter import Meter
from ganrun.training.run import RollBack, Run
from ganrun.training.scorer import Scorer

log = logging.getLogger("ganrun")


@contextmanager
def going_back_if_not_finite(run: Run) -> Iterator[None]:
    """A block in which the run goes back instead of failing, if numbers are no longer finite and it may."""
    try:
        yield
    except NonFiniteError as error:
        if run.state.attempt >= run.roll_backs:
            raise
        run.going_back = run.going_back or RollBack(str(error), run.step)


def roll_back(run: Run, meter: Meter, scorer: Scorer) -> None:
    """Carry out a roll-back requested by `Run.roll_back`, if any: on every rank, between two steps.

    Raises:
        RequestError: if a checkpoint cannot be read.
        RunError: if the state that is restored cannot be written.
    """
    wanted, run.going_back = run.going_back, None
    if wanted is None:
        return
    if not first_says(ranks().number == 0 and _restored(run, wanted)):
        run.stop(f"{wanted.reason}; there is no checkpoint from before it, so the run cannot go back")
        return
    share_state(run)
    meter.restart()
    run.emit("rolled_back", reason=wanted.reason)
    scorer.take_up(measure_again=False)


def _restored(run: Run, wanted: RollBack) -> bool:
    """Whether there is a checkpoint; if so, the run gets its state, and later steps are removed from the directory. The
    checkpoint is written again with the number of the attempt, so that a killed run continues with that.
    """
    found = _latest_until(run.directory.path, wanted.good_until)
    if found is None:
        return False
    weights, progress = found
    before, attempt = run.step, max(run.state.attempt, progress.get("attempt", 0)) + 1
    again = Checkpoint(weights, {**progress, "attempt": attempt})
    run.state.load(again)
    run.begin()
    run.state.whole = True
    for folder in checkpoints_in(run.directory.path):
        if folder > checkpoint_path(run.directory.path, run.step):
            remove_folder(folder)
    save_checkpoint(again, checkpoint_path(run.directory.path, run.step))
    run.directory.rewind(run.step)
    run.scores = {name: latest.score for name, latest in run.latest_scores().items()}
    log.warning("back from step %d to step %d, attempt %d: %s", before, run.step, attempt + 1, wanted.reason)
    run.announce(checkpoint_path(run.directory.path, run.step), "checkpoint")
    return True


def _latest_until(run: Path, step: int) -> Checkpoint | None:
    """The latest undamaged checkpoint at or before a step, the best one included."""
    steps = {folder: step_of(folder) for folder in (checkpoint_path(run), *checkpoints_in(run))}
    known = {folder: at for folder, at in steps.items() if at is not None and at <= step}
    for folder in sorted(known, key=lambda each: known[each], reverse=True):
        try:
            return load_checkpoint(folder)
        except DamagedCheckpoint as error:
            log.warning("%s; using an earlier one", error)
    return None
