"""The observer that ends a run early."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

import ganrun
from ganrun import RequestError, Run, Score, observes


class EarlyStopping(ganrun.Observer):
    """Ends training when a score has not improved for several evaluations.

    The run then counts as finished. After a change of protocol, such as another number of samples, counting starts
    again. An evaluation in which the metric fails does not count. To keep the best state rather than the last, set
    `best` in [checkpoints].
    """

    class Settings(ganrun.Settings):
        metric: str
        """The score's name: `fid`, `fid_classifier`. It is measured every [train] evaluate_every_steps."""

        patience: int = Field(ge=1)
        """Consecutive evaluations without an improvement after which training ends."""

    settings: Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._best: Score | None = None
        self._best_step = 0
        self._since_best = 0
        """Evaluations."""

    @observes(trylast=True)
    def run_starting(self, run: Run) -> None:
        """Take the earlier scores of a resumed run into account.

        Raises:
            RequestError: if nothing is measured before the end.
        """
        if not run.metrics or not run.recipe.train.evaluate_every_steps:
            raise RequestError("needs a [[metric]] and [train] evaluate_every_steps, to have scores during training")
        if run.resumed:
            self._take_up(run)

    @observes
    def rolled_back(self, run: Run) -> None:
        """Recount from the scores up to this step."""
        self._take_up(run)

    @observes
    def evaluated(self, run: Run, step: int, scores: Sequence[Score]) -> None:
        """Judge the latest score.

        Raises:
            RequestError: if none has that name, and no metric has failed.
        """
        named = {score.name: score for score in scores}
        if self.settings.metric in named:
            self._judge(run, step, named[self.settings.metric])
        elif not run.lacks_scores:
            raise RequestError(f"{self.settings.metric} is not measured; the scores are {', '.join(named)}")

    @observes
    def run_ended(self, run: Run) -> None:
        """Print why training stopped."""
        if run.stopped is not None and self._since_best >= self.settings.patience:
            run.add_message(f"stopped early: {run.stopped}")

    def _take_up(self, run: Run) -> None:
        self._best, self._best_step, self._since_best = None, 0, 0
        for step, score in run.past_scores(self.settings.metric):
            self._judge(run, step, score)

    def _judge(self, run: Run, step: int, score: Score) -> None:
        if score.improves_on(self._best):
            self._best, self._best_step, self._since_best = score, step, 0
            return
        self._since_best += 1
        if self._best is not None and self._since_best >= self.settings.patience and not run.done:
            best = f"{self._best.value:.4g} at step {self._best_step}"
            reason = f"{score.name} has not improved for {self._since_best} evaluations since {best}"
            run.stop(reason)
