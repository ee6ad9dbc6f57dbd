"""The observer that saves and restores."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence

from pydantic import Field

import ganrun
from ganrun import (
    NonFiniteError,
    RequestError,
    Run,
    Score,
    checkpoint_path,
    checkpoints_in,
    latest_checkpoint,
    observes,
    save_checkpoint,
    step_of,
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
        better, the score knows; one on other terms than before, such as another number of samples, starts anew. Only
        states that were scored can be kept: see [train] evaluate_every_steps."""

    settings: Settings
    essential = True
    automatic = True

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._best: Score | None = None
        self._missed: str | None = None
        """What was looked for among the scores in vain, and told."""

    @observes
    def run_starting(self, run: Run) -> None:
        """Take up the latest sound checkpoint of a run that is continued.

        Raises:
            RequestError: if the best state is wanted, and nothing tells which that is.
        """
        if self.settings.best is not None and not run.metrics:
            raise RequestError(f'[checkpoints] best = "{self.settings.best}" needs a [[metric]] that measures it')
        found = latest_checkpoint(run.directory.path) if run.resumed else None
        if found is not None:
            run.restore(found.weights, found.progress)
            for folder in checkpoints_in(run.directory.path):
                if folder > checkpoint_path(run.directory.path, run.step):
                    shutil.rmtree(folder)  # damaged, or it had been taken; it will be written anew
            self._take_up_best(run)

    @observes
    def step_ended(self, run: Run, step: int) -> None:
        """Save at the cadence."""
        if step % self.settings.every_steps == 0:
            self._save(run)

    @observes
    def training_ended(self, run: Run) -> None:
        """Save the weights that the run leaves."""
        self._save(run)

    @observes(trylast=True)
    def evaluated(self, run: Run, step: int, scores: Sequence[Score]) -> None:
        """Keep the state if none before it scored better."""
        named = {score.name: score for score in scores}
        if self.settings.best not in {None, self._missed, *named}:
            log.warning("no best checkpoint: %s was not measured, but %s", self.settings.best, ", ".join(named))
            self._missed = self.settings.best
        for score in scores:
            if score.name == self.settings.best and score.improves_on(self._best):
                save_checkpoint(run.state.checkpoint(), checkpoint_path(run.directory.path))
                self._note_best(run, step, score)

    @observes
    def run_failed(self, run: Run, error: BaseException) -> None:
        """Keep what was done, unless a step was broken off half-way or the weights are spoilt."""
        if run.step > 0 and run.state.whole and not isinstance(error, NonFiniteError):
            try:
                self._save(run)
            except NonFiniteError as fault:
                log.warning("no checkpoint was written: %s", fault)

    def _take_up_best(self, run: Run) -> None:
        """Go on from the best value before the step that was restored, if the state that had it is the one kept."""
        best: tuple[int, Score] | None = None
        for step, score in run.past_scores(self.settings.best or ""):
            if score.improves_on(best and best[1]):
                best = step, score
        if best is not None and best[0] == step_of(checkpoint_path(run.directory.path)):
            self._note_best(run, *best)

    def _note_best(self, run: Run, step: int, score: Score) -> None:
        self._best = score
        run.add_to_summary("best", {"metric": score.name, "value": score.value, "step": step})

    def _save(self, run: Run) -> None:
        folder = checkpoint_path(run.directory.path, run.step)
        if folder not in checkpoints_in(run.directory.path):
            save_checkpoint(run.state.checkpoint(), folder)
            for superseded in checkpoints_in(run.directory.path)[: -self.settings.keep]:
                shutil.rmtree(superseded)
        run.announce(folder, "checkpoint")
