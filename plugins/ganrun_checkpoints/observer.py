"""The observer that saves and restores checkpoints."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

import ganrun
from ganrun import (
    RequestError,
    Run,
    RunError,
    Score,
    checkpoint_path,
    checkpoints_in,
    latest_checkpoint,
    load_checkpoint,
    observes,
    remove_folder,
    save_checkpoint,
    score_of,
    step_of,
)

log = logging.getLogger("ganrun")

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 10.0, 600.0
"""Time until a checkpoint that could not be written is tried again; it doubles with each failure."""


LAST_PAUSE_SECONDS = 1.0
"""Time until saving a state that will not recur is retried: the last, or the best."""


class _Missed(NamedTuple):
    """A best state that was not saved, and why."""

    score: Score
    fault: BaseException


class Checkpoints(ganrun.Observer):
    """Saves the training state, so that a run can be continued bit for bit.

    Written every `every_steps`, after the last step, and when the run is interrupted or fails. It is written last in a
    step: if a checkpoint exists, so do the step's pictures and records. One that cannot be written, as on a full disk,
    is tried again later; only the final weights must be saved. A checkpoint with wrong checksums is skipped in favour
    of the one before it. The state with the best score can be kept as well.
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
        self._restored: Path | None = None
        """The checkpoint from which the run continues; it is not written again."""
        self._latest: Path | None = None
        """The last checkpoint that was announced."""
        self._pause_seconds = FIRST_PAUSE_SECONDS
        self._retry_at: float | None = None
        """When to retry a checkpoint that could not be written, by the monotonic clock."""
        self._best: Score | None = None
        self._missed: _Missed | None = None
        """The best state that could not be saved, unless a better one followed."""
        self._told: set[str] = set()
        """Warnings that are given once."""

    @observes
    def run_starting(self, run: Run) -> None:
        """Restore the latest undamaged checkpoint of a resumed run. Changes nothing on disk.

        Raises:
            RequestError: if the best state is to be kept, and the recipe has no metric.
        """
        if self.settings.best is not None and not run.metrics:
            raise RequestError(f'[checkpoints] best = "{self.settings.best}" needs a [[metric]] that measures it')
        found = latest_checkpoint(run.directory.path) if run.resumed else None
        if found is not None:
            run.restore(found)
            self._restored = checkpoint_path(run.directory.path, run.step)
            run.last_files["checkpoint"] = str(self._restored.relative_to(run.directory.path))  # a killed run did not

    @observes
    def run_started(self, run: Run) -> None:
        """Remove checkpoints after the restored step, which are damaged, and leftovers of a crash; continue with the
        best state so far."""
        if self._restored is not None:
            for folder in checkpoints_in(run.directory.path):
                if folder > self._restored:
                    self._remove(folder)
        if run.resumed:
            self._prune(run)
            self._take_up_best(run)

    @observes(trylast=True)
    def step_ended(self, run: Run, step: int) -> None:
        """Save at the interval, and when a checkpoint is to be retried; the last one follows when training ends."""
        if not run.done and (step % self.settings.every_steps == 0 or self._is_due()):
            try:
                self._save(run)
            except RunError as fault:
                self._retry_later(step, fault)

    @observes(trylast=True)
    def training_ended(self, run: Run) -> None:
        """Save the final weights; a transient failure is retried once."""
        _twice(lambda: self._save(run))

    @observes(trylast=True)
    def evaluated(self, run: Run, step: int, scores: Sequence[Score]) -> None:
        """Keep the state if it has the best score so far."""
        if self.settings.best is None:
            return
        score = next((score for score in scores if score.name == self.settings.best), None)
        if score is None:
            if not run.lacks_scores:
                measured = ", ".join(score.name for score in scores)
                self._warn_once(f"no best checkpoint: {self.settings.best} is not measured; the scores are {measured}")
        elif score.improves_on(self._best):
            self._keep_best(run, step, score)

    @observes
    def rolled_back(self) -> None:
        """Forget the checkpoints after the one to which the run has gone back, so that they are written again."""
        self._latest = self._restored = None

    @observes
    def run_failed(self, run: Run, error: BaseException) -> None:
        """Save the progress, unless a step is incomplete or the weights are not finite."""
        if run.step > 0 and run.state.whole:
            try:
                self._save(run, unheard=run.unheard)
            except RunError as fault:
                log.warning("no checkpoint was written: %s", fault)

    @observes
    def run_ended(self, run: Run) -> None:
        """Report again that checkpoints/best is not of the best score."""
        if self._missed is not None:
            then = "checkpoints/best is not the best state"
            run.faults.note('observer "checkpoints"', "evaluated", self._missed.fault, run.step, then=then)

    # ── The latest ────────────────────────────────────────────────────────────────────────────────────

    def _save(self, run: Run, *, unheard: bool = False) -> None:
        """Save the state and announce it, once per step. A run that was continued here has its checkpoint already."""
        folder = checkpoint_path(run.directory.path, run.step)
        if folder == self._latest:
            return
        if folder != self._restored:
            save_checkpoint(run.checkpoint(unheard=unheard), folder)
            self._prune(run)
        self._retry_at, self._pause_seconds = None, FIRST_PAUSE_SECONDS
        self._latest = folder
        run.announce(folder, "checkpoint")

    def _prune(self, run: Run) -> None:
        for superseded in checkpoints_in(run.directory.path)[: -self.settings.keep]:
            self._remove(superseded)

    def _is_due(self) -> bool:
        return self._retry_at is not None and time.monotonic() >= self._retry_at

    def _retry_later(self, step: int, fault: RunError) -> None:
        """Raise a fault again unless it may be transient, like a full disk."""
        if not _may_pass(fault):
            raise fault
        text = "step %d has no checkpoint: %s; training continues, and the next try is in %d s"
        log.warning(text, step, fault, self._pause_seconds)
        self._retry_at = time.monotonic() + self._pause_seconds
        self._pause_seconds = min(2 * self._pause_seconds, LONGEST_PAUSE_SECONDS)

    def _remove(self, folder: Path) -> None:
        try:
            remove_folder(folder)
        except OSError as error:
            self._warn_once(f"cannot remove {folder}: {error.strerror}; it is left where it is")

    # ── The best ──────────────────────────────────────────────────────────────────────────────────────

    def _take_up_best(self, run: Run) -> None:
        """Continue with the score for which checkpoints/best is kept, if that state is undamaged."""
        run.notes.pop("best", None)
        folder = checkpoint_path(run.directory.path)
        if self.settings.best is None or not folder.exists():
            return
        try:
            load_checkpoint(folder)
        except RequestError as fault:
            log.warning("%s; so there is no best state, and the next score counts as the best", fault)
            return
        found = score_of(folder)
        if found is None or found[1].name != self.settings.best:
            found = self._recorded_best(run, step_of(folder))
        if found is not None:
            self._set_best(run, *found)

    def _recorded_best(self, run: Run, kept: int | None) -> tuple[int, Score] | None:
        """The best recorded score before the restored step, if checkpoints/best holds the state that has it."""
        best: tuple[int, Score] | None = None
        for step, score in run.past_scores(self.settings.best or ""):
            if score.improves_on(best and best[1]):
                best = step, score
        return best if best is not None and best[0] == kept else None

    def _keep_best(self, run: Run, step: int, score: Score) -> None:
        """Save the current state as the best; on a transient failure, the previous one stays."""

        def keep() -> None:
            self._keep_unlike(run, score)
            save_checkpoint(run.checkpoint(), checkpoint_path(run.directory.path), score)

        try:
            _twice(keep)
        except (OSError, RunError) as fault:
            if not _may_pass(fault):
                raise
            log.warning("%s; so the state at step %d, the best so far, is not kept", fault, step)
            self._missed = _Missed(score, fault)
        else:
            self._set_best(run, step, score)

    def _keep_unlike(self, run: Run, score: Score) -> None:
        """Keep the best state by another protocol under its step, since the two cannot be compared."""
        best = checkpoint_path(run.directory.path)
        step = step_of(best)
        if self._best is None or self._best.protocol == score.protocol or step in (None, run.step):
            return
        kept = best.with_name(f"best_{step:08d}")
        if not kept.exists():
            best.rename(kept)
        text = "%s is now measured by another protocol, and unlike scores are not compared: the best state so far is %s"
        log.warning(text, score.name, kept)

    def _set_best(self, run: Run, step: int, score: Score) -> None:
        self._best = score
        missed = self._missed and self._missed.score
        if missed is not None and score.protocol == missed.protocol and score.improves_on(missed):
            self._missed = None
        run.add_to_summary("best", {"metric": score.name, "value": score.value, "step": step})

    def _warn_once(self, text: str) -> None:
        if text not in self._told:
            log.warning("%s", text)
        self._told.add(text)


def _twice(work: Callable[[], None]) -> None:
    """Call a function; on a transient failure, retry once."""
    try:
        work()
    except (OSError, RunError) as fault:
        if not _may_pass(fault):
            raise
        time.sleep(LAST_PAUSE_SECONDS)
        work()


def _may_pass(fault: BaseException) -> bool:
    """Whether it comes from the file system, such as a full disk."""
    return isinstance(fault, OSError) or isinstance(fault.__cause__, OSError)
