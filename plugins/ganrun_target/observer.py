"""The observer that compares a run with a published score."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pydantic import Field

import ganrun
from ganrun import Run, Score, observes

log = logging.getLogger("ganrun")


class Target(ganrun.Observer):
    """Compares a run's score with a published one, and reports at the end whether the run reached it.

    The recipe states the target. The verdict is printed when the run has finished, and is in summary.json under
    `target`. A score that is better than the published one always reaches it.
    """

    class Settings(ganrun.Settings):
        metric: str
        """The score's name: `fid`, `inception_score`, `fid_classifier`."""

        value: float
        """The published value."""

        tolerance: float = Field(0.0, ge=0)
        """How much worse a score may be and still reach the target: the variation between seeds and machines."""

        source: str
        """Where it was published: paper and table, or address."""

    settings: Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._has_warned = False

    @observes
    def evaluated(self, run: Run, scores: Sequence[Score]) -> None:
        """Add the verdict on the latest score to the summary; warn if the target's score is not measured."""
        score = next((score for score in scores if score.name == self.settings.metric), None)
        if score is not None:
            target = self.settings.model_dump()
            run.add_to_summary("target", {**target, "measured": score.value, "reached": self._is_reached(score)})
        elif not self._has_warned:
            measured = ", ".join(score.name for score in scores)
            log.warning("the target cannot be judged: %s is not measured, only %s", self.settings.metric, measured)
            self._has_warned = True

    @observes
    def run_ended(self, run: Run, status: str) -> None:
        """Print the verdict."""
        if status == "finished":
            run.add_message(self._verdict(run.scores.get(self.settings.metric), sorted(run.scores)))

    def _is_reached(self, score: Score) -> bool:
        return self._shortfall(score) <= self.settings.tolerance

    def _shortfall(self, score: Score) -> float:
        """How much worse the score is than the published one; negative if it is better."""
        difference = score.value - self.settings.value
        return -difference if score.higher_is_better else difference

    def _verdict(self, score: Score | None, measured: Sequence[str]) -> str:
        published = f"{self.settings.metric} {self.settings.value:g} ({self.settings.source})"
        if score is None:
            return f"target not judged: {published} was not measured; the scores are {', '.join(measured) or 'none'}"
        if self._is_reached(score):
            return f"target reached: {score.name} is {score.value:.4g}, published {published}"
        return (
            f"target missed: {score.name} is {score.value:.4g}, published {published}; "
            f"{self._shortfall(score):.4g} worse, where {self.settings.tolerance:g} is allowed"
        )
