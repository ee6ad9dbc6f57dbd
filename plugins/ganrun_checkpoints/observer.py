"""The observer that saves and restores."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

import ganrun
from ganrun import (
    DamagedCheckpoint,
    NonFiniteError,
    Run,
    RunError,
    Score,
    checkpoint_path,
    checkpoints_in,
    load_checkpoint,
    observes,
    save_checkpoint,
)

log = logging.getLogger("ganrun")


class Checkpoints(ganrun.Observer):
    """Saves the training state, so that a run can be continued bit for bit.

    Written every `every_steps`, after the last step, and when the run is interrupted or fails. A checkpoint whose
    checksums do not hold is passed over for the one before it. The state that scored best can be kept beside them.
    """

    class Settings(ganrun.Settings):
        every_steps: int = Field(1000, ge=1)
        """Steps between two checkpoints."""

        keep: int = Field(2, ge=1)
        """How many of the latest to keep."""

        best: str | None = None
        """A score, such as `fid`: the state with its best value is kept too, as checkpoints/best. Which direction is
        better, the score knows. Only states that were scored can be: see [train] evaluate_every_steps."""

    settings: Settings
    essential = True
    automatic = True

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._best: float | None = None

    @observes
    def run_starting(self, run: Run) -> None:
        """Take up the latest sound checkpoint of a run that is continued."""
        if not run.resumed:
            return
        for folder in reversed(checkpoints_in(run.directory.path)):
            try:
                checkpoint = load_checkpoint(folder)
            except DamagedCheckpoint as error:
                log.warning("%s; it is removed, and the one before it taken", error)
                shutil.rmtree(folder)
                continue
            run.restore(checkpoint.weights, checkpoint.progress)
            self._take_up_best(run)
            return

    @observes
    def step_ended(self, run: Run, step: int) -> None:
        """Save at the cadence and after the last step."""
        if step % self.settings.every_steps == 0 or step == run.steps:
            self._save(run)

    @observes(trylast=True)
    def evaluated(self, run: Run, step: int, scores: Sequence[Score]) -> None:
        """Keep the state if none before it scored better; and save it if somebody has ended training by now."""
        for score in scores:
            if score.name == self.settings.best and (self._best is None or score.is_better_than(self._best)):
                self._best = score.value
                self._write(run, checkpoint_path(run.directory.path))
                run.note("best", {"metric": score.name, "value": score.value, "step": step})
        if run.stopped:
            self._save(run)

    @observes
    def run_failed(self, run: Run, error: BaseException) -> None:
        """Keep what was done, unless a step was broken off half-way or the weights are spoilt."""
        if run.step > 0 and run.state.whole and not isinstance(error, NonFiniteError):
            try:
                self._save(run)
            except NonFiniteError as fault:
                log.warning("no checkpoint was written: %s", fault)

    @observes
    def run_ended(self, run: Run, status: str) -> None:
        """Say so where there is no best state."""
        if status == "finished" and self.settings.best is not None and self._best is None:
            measured = ", ".join(sorted(run.scores)) or "no scores"
            run.tell(f"no best checkpoint: {self.settings.best} was not measured; this run has {measured}")

    def _take_up_best(self, run: Run) -> None:
        """Go on from the best value until the step that was restored; a later one is reached again."""
        for step, score in run.past_scores(self.settings.best or ""):
            if self._best is None or score.is_better_than(self._best):
                self._best = score.value
                run.note("best", {"metric": score.name, "value": score.value, "step": step})

    def _save(self, run: Run) -> None:
        folder = checkpoint_path(run.directory.path, run.step)
        if folder not in checkpoints_in(run.directory.path):
            self._write(run, folder)
            self._prune(run)
        run.announce(folder, "checkpoint")

    def _write(self, run: Run, folder: Path) -> None:
        try:
            save_checkpoint(run.state, folder)
        except OSError as error:
            raise RunError(f"cannot write the checkpoint {folder}: {error.strerror}") from error

    def _prune(self, run: Run) -> None:
        """Remove all but the latest."""
        for folder in checkpoints_in(run.directory.path)[: -self.settings.keep]:
            shutil.rmtree(folder)
