"""The observer that saves and restores."""

from __future__ import annotations

import logging
import shutil

from pydantic import Field

import ganrun
from ganrun import NonFiniteError, Run, RunError, observes
from ganrun_checkpoints.store import Damaged, checkpoints_in, load, save

log = logging.getLogger("ganrun")


class Checkpoints(ganrun.Observer):
    """Saves the training state, so that a run can be continued bit for bit.

    Written every `every_steps`, after the last step, and when the run is interrupted or fails. A checkpoint whose
    checksums do not hold is passed over for the one before it.
    """

    class Settings(ganrun.Settings):
        every_steps: int = Field(1000, ge=1)
        """Steps between two checkpoints."""

        keep: int = Field(2, ge=1)
        """How many of the latest to keep."""

    essential = True
    automatic = True

    @observes
    def run_starting(self, run: Run) -> None:
        """Take up the latest sound checkpoint of a run that is continued."""
        if not run.resumed:
            return
        folders = checkpoints_in(run.directory / "checkpoints")
        for folder in reversed(folders):
            try:
                checkpoint = load(folder)
            except Damaged as error:
                log.warning("%s; it is removed, and the one before it taken", error)
                shutil.rmtree(folder)
                continue
            run.restore(checkpoint.weights, checkpoint.progress)
            return

    @observes
    def step_ended(self, run: Run, step: int) -> None:
        """Save at the cadence and after the last step."""
        if step % self.settings.every_steps == 0 or step == run.steps:
            self._save(run)

    @observes
    def run_failed(self, run: Run, error: BaseException) -> None:
        """Keep what was done, unless a step was broken off half-way or the weights are spoilt."""
        if run.step > 0 and run.state.whole and not isinstance(error, NonFiniteError):
            try:
                self._save(run)
            except NonFiniteError as fault:
                log.warning("no checkpoint was written: %s", fault)

    def _save(self, run: Run) -> None:
        folder = run.directory / "checkpoints" / f"step_{run.step:08d}"
        if folder not in checkpoints_in(folder.parent):
            try:
                save(run.state, folder)
            except OSError as error:
                raise RunError(f"cannot write the checkpoint {folder}: {error.strerror}") from error
            self._prune(run)
        run.announce(folder, "checkpoint")

    def _prune(self, run: Run) -> None:
        """Remove all but the latest."""
        for folder in checkpoints_in(run.directory / "checkpoints")[: -self.settings.keep]:
            shutil.rmtree(folder)
