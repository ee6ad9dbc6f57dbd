"""When a run is scored, and how its scores become known."""

from __future__ import annotations

from ganrun.inference.evaluation import measured
from ganrun.training.run import Run


class Scorer:
    """Scores a run, each step at most once.

    Args:
        run: What is scored.
        owes_scores: Whether the step at which the run continues is to be scored before any other: a break may have
            come before, during or after its evaluation.
    """

    def __init__(self, run: Run, *, owes_scores: bool = False) -> None:
        self._run = run
        self._scored_at: int | None = None
        self.owes_scores = owes_scores

    def is_scheduled(self) -> bool:
        """Whether the recipe wants scores at the run's step, besides those of the last one."""
        cadence = self._run.recipe.train.evaluate_every_steps
        return cadence is not None and self._run.step % cadence == 0

    def score(self) -> None:
        """Measure every metric of the recipe on one set of samples, and report the scores."""
        run = self._run
        if not run.metrics or self._scored_at == run.step:
            return
        scores = measured(run.metrics, run.evaluation())
        self._scored_at = run.step
        run.scores.update({score.name: score for score in scores})
        run.record({}, scores)
        run.emit("evaluated", scores=scores)
