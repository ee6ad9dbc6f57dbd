"""The observer that gives the verdict."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pydantic import Field

import ganrun
from ganrun import Run, Score, observes

log = logging.getLogger("ganrun")


class Target(ganrun.Observer):
    """Holds a run's score against a published one, and says at the end whether it was reached.

    A recipe states the target; the verdict is printed when the run has finished, and stands under `target` in
    summary.json. A score that is better than the published one reaches it, however far it is off.
    """

    class Settings(ganrun.Settings):
        metric: str
        """The score, as it is named everywhere: `fid`, `inception_score`, `fid_classifier`."""

        value: float
        """What was published."""

        tolerance: float = Field(0.0, ge=0)
        """How much worse a score may be and still count: what seeds and machines make of one and the same recipe."""

        source: str
        """Where it was published: paper and table, or address."""

    settings: Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._missed: str | None = None
        """What was looked for in vain, and told."""

    @observes
    def evaluated(self, run: Run, scores: Sequence[Score]) -> None:
        """Judge the newest score; say so at once if it is not there."""
        names = [score.name for score in scores]
        if self.settings.metric not in {*names, self._missed}:
            log.warning("no verdict on the target: %s is not measured, but %s", self.settings.metric, ", ".join(names))
            self._missed = self.settings.metric
        for score in scores:
            if score.name == self.settings.metric:
                stated = self.settings.model_dump()
                run.add_to_summary("target", {**stated, "measured": score.value, "reached": self._is_reached(score)})

    @observes
    def run_ended(self, run: Run, status: str) -> None:
        """Have the verdict printed."""
        if status == "finished":
            run.add_message(self._verdict(run.scores.get(self.settings.metric), sorted(run.scores)))

    def _is_reached(self, score: Score) -> bool:
        return self._shortfall(score) <= self.settings.tolerance

    def _shortfall(self, score: Score) -> float:
        """How much worse the score is than what was published; negative where it is better."""
        difference = score.value - self.settings.value
        return -difference if score.higher_is_better else difference

    def _verdict(self, score: Score | None, measured: Sequence[str]) -> str:
        wanted = f"{self.settings.metric} {self.settings.value:g} ({self.settings.source})"
        if score is None:
            return f"target not judged: {wanted} was not measured; this run has {', '.join(measured) or 'no scores'}"
        if self._is_reached(score):
            return f"target reached: {score.name} is {score.value:.4g}, published {wanted}"
        return (
            f"target missed: {score.name} is {score.value:.4g}, published {wanted}; "
            f"{self._shortfall(score):.4g} worse, where {self.settings.tolerance:g} is allowed"
        )
