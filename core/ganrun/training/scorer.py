"""Scores a run: when, and what happens to the scores."""

from __future__ import annotations

from ganrun.inference.evaluation import measured
from ganrun.training.components import metric_frames
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

    def score(self) -> None:
        """Measure every metric of the recipe on one set of samples, record the scores and emit `evaluated`.

        Does nothing if this step has been scored already, or the recipe has no metric.
        """
        run = self._run
        if not run.metrics or self._scored_at == run.step:
            return
        scores = measured(run.metrics, run.evaluation(), metric_frames(run.recipe))
        self._scored_at = run.step
        run.scores.update({score.name: score for score in scores})
        run.record({}, scores)
        run.emit("evaluated", scores=scores)
