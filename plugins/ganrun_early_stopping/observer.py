"""The observer that ends a run."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

import ganrun
from ganrun import RequestError, Run, Score, observes


class EarlyStopping(ganrun.Observer):
    """Ends training when a score has not improved for so many evaluations.

    The run then counts as finished. Which direction is an improvement, the score knows; on other terms than before,
    such as another number of samples, it starts anew. To keep the best state, not the last, say `best` in
    [checkpoints].
    """

    class Settings(ganrun.Settings):
        metric: str
        """The score, as it is named everywhere: `fid`, `fid_classifier`. See [train] evaluate_every_steps."""

        patience: int = Field(ge=1)
        """Evaluations in a row without an improvement after which training ends."""

    settings: Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._best: Score | None = None
        self._best_step = 0
        self._waited = 0

    @observes(trylast=True)
    def run_starting(self, run: Run) -> None:
        """Of a run that is continued, take up what was measured.

        Raises:
            RequestError: if nothing is measured before the end.
        """
        if not run.metrics or not run.recipe.train.evaluate_every_steps:
            raise RequestError("it needs a [[metric]] and [train] evaluate_every_steps, or there is nothing to judge")
        for step, score in run.past_scores(self.settings.metric) if run.resumed else ():
            self._judge(run, step, score)

    @observes
    def evaluated(self, run: Run, step: int, scores: Sequence[Score]) -> None:
        """Judge the newest score.

        Raises:
            RequestError: if there is none of that name.
        """
        named = {score.name: score for score in scores}
        if self.settings.metric not in named:
            raise RequestError(f"{self.settings.metric} was not measured, but {', '.join(named)}")
        self._judge(run, step, named[self.settings.metric])

    @observes
    def run_ended(self, run: Run) -> None:
        """Say why it stopped."""
        if run.stopped is not None and self._waited >= self.settings.patience:
            run.add_message(f"stopped early: {run.stopped}")

    def _judge(self, run: Run, step: int, score: Score) -> None:
        if score.improves_on(self._best):
            self._best, self._best_step, self._waited = score, step, 0
            return
        self._waited += 1
        if self._best is not None and self._waited >= self.settings.patience and not run.done:
            since = f"{self._best.value:.4g} at step {self._best_step}"
            reason = f"{score.name} has not improved for {self._waited} evaluations since {since}"
            run.add_to_summary("stopped", reason)
            run.stop(reason)
