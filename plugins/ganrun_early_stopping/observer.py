"""The observer that ends a run."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

import ganrun
from ganrun import Run, Score, observes


class EarlyStopping(ganrun.Observer):
    """Ends training when a score has not improved for so many evaluations.

    The run then counts as finished. Which direction is an improvement, the score knows. To keep the best state, not the
    last, say `best` in [checkpoints].
    """

    class Settings(ganrun.Settings):
        metric: str
        """The score, as it is named everywhere: `fid`, `fid_classifier`. See [train] evaluate_every_steps."""

        patience: int = Field(ge=1)
        """Evaluations in a row without an improvement after which training ends."""

    settings: Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._best: tuple[int, float] | None = None
        """Step and value."""
        self._waited = 0

    @observes(trylast=True)
    def run_starting(self, run: Run) -> None:
        """Of a run that is continued, take up what was measured."""
        for step, score in run.past_scores(self.settings.metric) if run.resumed else ():
            self._judge(run, step, score)

    @observes
    def evaluated(self, run: Run, step: int, scores: Sequence[Score]) -> None:
        """Judge the newest score."""
        for score in scores:
            if score.name == self.settings.metric:
                self._judge(run, step, score)

    @observes
    def run_ended(self, run: Run, status: str) -> None:
        """Say why it stopped, or that it never could have."""
        if run.stopped is not None and self._waited >= self.settings.patience:
            run.tell(f"stopped early: {run.stopped}")
        elif status == "finished" and self._best is None:
            measured = ", ".join(sorted(run.scores)) or "no scores"
            run.tell(f"early-stopping had nothing to judge: {self.settings.metric} was not measured, but {measured}")

    def _judge(self, run: Run, step: int, score: Score) -> None:
        if self._best is None or score.is_better_than(self._best[1]):
            self._best, self._waited = (step, score.value), 0
            return
        self._waited += 1
        if self._waited >= self.settings.patience:
            at, value = self._best
            reason = f"{score.name} has not improved for {self._waited} evaluations since {value:.4g} at step {at}"
            run.note("stopped", reason)
            run.stop(reason)
