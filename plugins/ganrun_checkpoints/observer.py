"""The observer that saves and restores checkpoints."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

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

    Written every `every_steps`, after the last step, and when the run is interrupted or fails. A checkpoint with wrong
    checksums is skipped in favour of the one before it. The state with the best score can be kept as well.
    """

    class Settings(ganrun.Settings):
        every_steps: int = Field(1000, ge=1)
        """Steps between two checkpoints."""

        keep: int = Field(2, ge=1)
        """Number of latest checkpoints to keep."""

        best: str | None = None
        """A score, such as `fid`: the state with its best value is kept too, as checkpoints/best. Values with another
        protocol, such as another number of samples, are not compared: the first of them counts as the best, and the
        best state before it is kept as checkpoints/best_<step>. Only scored states can be kept: see [train]
        evaluate_every_steps."""

    settings: Settings
    essential = True
    automatic = True

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._latest: Path | None = None
        """The last checkpoint that was announced."""
        self._best: Score | None = None
        self._has_warned = False

    @observes
    def run_starting(self, run: Run) -> None:
        """Restore the latest undamaged checkpoint of a run that is continued.

        Raises:
            RequestError: if the best state is to be kept, and the recipe has no metric.
        """
        if self.settings.best is not None and not run.metrics:
            raise RequestError(f'[checkpoints] best = "{self.settings.best}" needs a [[metric]] that measures it')
        found = latest_checkpoint(run.directory.path) if run.resumed else None
        if found is not None:
            run.restore(found)
            restored = checkpoint_path(run.directory.path, run.step)
            run.last_files["checkpoint"] = str(restored.relative_to(run.directory.path))  # a killed run did not say so
            for folder in checkpoints_in(run.directory.path):
                if folder > restored:
                    shutil.rmtree(folder)  # damaged; the run will write it again
            self._restore_best(run)

    @observes
    def step_ended(self, run: Run, step: int) -> None:
        """Save at the interval."""
        if step % self.settings.every_steps == 0:
            self._save(run)

    @observes
    def training_ended(self, run: Run) -> None:
        """Save the final weights."""
        self._save(run)

    @observes(trylast=True)
    def evaluated(self, run: Run, step: int, scores: Sequence[Score]) -> None:
        """Keep the state if it has the best score so far."""
        if self.settings.best is None:
            return
        score = next((score for score in scores if score.name == self.settings.best), None)
        if score is None:
            self._warn(scores)
        elif score.improves_on(self._best):
            self._keep_unlike(run, score)
            save_checkpoint(run.state.checkpoint(), checkpoint_path(run.directory.path))
            self._set_best(run, step, score)

    @observes
    def rolled_back(self) -> None:
        """Write every checkpoint again that comes after the one to which the run has gone back."""
        self._latest = None

    @observes
    def run_failed(self, run: Run, error: BaseException) -> None:
        """Save the progress, unless a step is incomplete or the weights are not finite."""
        if run.step > 0 and run.state.whole:
            try:
                self._save(run)
            except NonFiniteError as fault:
                log.warning("no checkpoint was written: %s", fault)

    def _save(self, run: Run) -> None:
        """Save the state and announce it, once per step. A run that was continued here has its checkpoint already."""
        folder = checkpoint_path(run.directory.path, run.step)
        if folder == self._latest:
            return
        if folder not in checkpoints_in(run.directory.path):
            save_checkpoint(run.state.checkpoint(), folder)
            for superseded in checkpoints_in(run.directory.path)[: -self.settings.keep]:
                shutil.rmtree(superseded)
        self._latest = folder
        run.announce(folder, "checkpoint")

    def _restore_best(self, run: Run) -> None:
        """Continue with the best score before the restored step, if checkpoints/best is the state that has it."""
        run.notes.pop("best", None)
        best: tuple[int, Score] | None = None
        for step, score in run.past_scores(self.settings.best or ""):
            if score.improves_on(best and best[1]):
                best = step, score
        if best is not None and best[0] == step_of(checkpoint_path(run.directory.path)):
            self._set_best(run, *best)

    def _keep_unlike(self, run: Run, score: Score) -> None:
        """Keep the best state by another protocol under its step, since nothing says which of the two is better."""
        best = checkpoint_path(run.directory.path)
        step = step_of(best)
        if self._best is None or self._best.protocol == score.protocol or step in (None, run.step):
            return
        kept = best.with_name(f"best_{step:08d}")
        shutil.rmtree(kept, ignore_errors=True)
        best.replace(kept)
        text = "%s is now measured by another protocol, and unlike scores are not compared: the best state so far is %s"
        log.warning(text, score.name, kept)

    def _set_best(self, run: Run, step: int, score: Score) -> None:
        self._best = score
        run.add_to_summary("best", {"metric": score.name, "value": score.value, "step": step})

    def _warn(self, scores: Sequence[Score]) -> None:
        if not self._has_warned:
            measured = ", ".join(score.name for score in scores)
            log.warning("no best checkpoint: %s is not measured; the scores are %s", self.settings.best, measured)
        self._has_warned = True
