"""Decides when a run is scored, and records the scores."""

from __future__ import annotations

from collections.abc import Sequence

from ganrun.base.ranks import first_says, ranks
from ganrun.contracts.scores import Score
from ganrun.training.equality import check_equal
from ganrun.training.measuring import measured_each
from ganrun.training.run import Run


class Scorer:
    """Scores a run, each step at most once.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._scored_at: int | None = None

    def is_scheduled(self) -> bool:
        """Whether `evaluate_every_steps` asks for scores at the run's step."""
        cadence = self._run.recipe.train.evaluate_every_steps
        return cadence is not None and self._run.step % cadence == 0

    def take_up(self, *, measure_again: bool) -> None:
        """Emit the recorded scores of the step at which a run is resumed: another machine might measure different ones.
        They are measured if there are none and the step is scheduled, if a metric failed there, or if `measure_again`
        requests it.

        The run may have stopped before, during or after the evaluation of that step.
        """
        recorded = self._recorded()
        is_missing = bool(recorded) or (self._run.step > 0 and self.is_scheduled())
        if first_says(bool(recorded) and not measure_again and not self._run.lacks_scores):
            self._emit(recorded)
        elif first_says(is_missing):
            self.score()

    def score(self) -> None:
        """Measure every metric of the recipe on one set of samples, record the scores and emit `evaluated`.

        Does nothing if this step has been scored already, or the recipe has no metric. A metric that fails has no score
        this time, without affecting the others or training; on several ranks, which measure together, its fault ends
        the run.

        Raises:
            ContractError: if ranks hold different weights.
            NonFiniteError: if samples are not finite.
        """
        run = self._run
        if self._scored_at == run.step:
            return
        check_equal(run.state)
        if not run.metrics:
            return
        scores, errors = measured_each(run.metrics, run.evaluation(ranks()), run.recipe, run.faults)
        run.lacks_scores = bool(errors)
        self._scored_at = run.step
        if scores:
            run.scores.update({score.name: score for score in scores})
            run.record({}, scores)
            self._emit(scores)

    def _recorded(self) -> list[Score]:
        """The scores that the run itself measured at its step, each as last measured."""
        records = self._run.directory.evaluations()
        own = [each for each in records if each.step == self._run.step and not each.rescored]
        return list({score.name: score for record in own for score in record.evaluation}.values())

    def _emit(self, scores: Sequence[Score]) -> None:
        self._scored_at = self._run.step
        self._run.emit("evaluated", scores=scores)
