"""The observer that compares a run with a published score."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

import ganrun
from ganrun import Part, Run, Score, observes
from ganrun_target.verdict import Verdict, facts_of

log = logging.getLogger("ganrun")


class Target(ganrun.Observer):
    """Compares a run's score with a published one, and reports at the end whether the run reached it.

    The recipe states the target and how it was measured. There is a verdict only if the run's score was measured in the
    same way, and only if the target states what decides that: data, shape, and whichever of samples, real_samples,
    split and features the score depends on. Otherwise the report says what differs or what is not stated. A comparable
    score that is better than the published one always reaches it. The verdict is printed when the run has finished, and
    is in summary.json under `target`. It concerns the latest score that the run itself measured, not those that `ganrun
    eval` adds; if the metric failed in the last evaluation, the report names the step of that score.
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

        data: Part | None = None
        """The data for training and comparison: the name of a data set, or a table of its published settings: `{ use =
        "celeba", crop = "none" }`."""

        shape: tuple[int, ...] | None = None
        """Shape of a sample: `[3, 32, 32]`, channels, height and width."""

        samples: int | None = Field(None, ge=1)
        """Generated samples."""

        real_samples: int | None = Field(None, ge=1)
        """Real images."""

        split: Literal["train", "test"] | None = None
        """The split of the real images."""

        features: str | None = None
        """The network of the features, as protocols name it under `extractor`. The one of published scores is
        `inception-v3-compat`."""

        averaged: bool | None = None
        """Whether the samples came from averaged weights."""

        checkpoint: Literal["last", "best"] | None = None
        """The checkpoint that was scored: the last, as here, or the best of several."""

        protocol: dict[str, str | int | float | bool] = {}
        """Further entries of the score's protocol that were published, by the names that summary.json has under
        `protocols`: `{ splits = 10 }`."""

        def statements(self) -> dict[str, Any]:
            """The publication's protocol, by setting."""
            plain = self.model_dump(exclude_none=True, exclude={"metric", "value", "tolerance", "source", "protocol"})
            data = plain.pop("data", {})
            table = {"use": data} if isinstance(data, str) else data
            table = {**table, "use": str(table["use"]).rpartition(":")[2]} if "use" in table else table
            settings = {"data" if name == "use" else f"data.{name}": value for name, value in table.items()}
            shape = {"shape": "×".join(map(str, self.shape))} if self.shape else {}
            return {
                **settings,
                **plain,
                **shape,
                **{f"protocol.{name}": value for name, value in self.protocol.items()},
            }

    settings: Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._has_warned = False

    @observes
    def run_started(self, run: Run) -> None:
        """Add the verdict on a resumed run's existing score; a new run has none yet."""
        self._judge(run, run.scores.get(self.settings.metric))

    @observes
    def rolled_back(self, run: Run) -> None:
        """The verdict is on the latest score until the step to which the run has gone back."""
        self._judge(run, run.scores.get(self.settings.metric))

    @observes
    def evaluated(self, run: Run, scores: Sequence[Score]) -> None:
        """Add the verdict on the latest score to the summary; warn if the target's score is not measured."""
        score = next((score for score in scores if score.name == self.settings.metric), None)
        if score is not None:
            self._judge(run, score)
        elif not self._has_warned and not run.lacks_scores:
            measured = ", ".join(score.name for score in scores)
            log.warning("the target cannot be judged: %s is not measured, only %s", self.settings.metric, measured)
            self._has_warned = True

    @observes
    def run_ended(self, run: Run, status: str) -> None:
        """Print the verdict."""
        if status != "finished":
            return
        published, score = self._published(), run.scores.get(self.settings.metric)
        if score is None and run.lacks_scores:
            run.add_message(f"target not judged: {published} could not be measured, as a metric has failed")
        elif score is None:
            measured = ", ".join(sorted(run.scores)) or "none"
            run.add_message(f"target not judged: {published} was not measured; the scores are {measured}")
        else:
            run.add_message(f"{self._verdict(run, score).text(published)}{self._age(run)}")

    def _judge(self, run: Run, score: Score | None) -> None:
        none: dict[str, Any] = {"measured": None, "reached": None, "comparable": None}
        verdict = none if score is None else self._verdict(run, score).to_json()
        run.add_to_summary("target", {**self.settings.model_dump(mode="json", exclude_none=True), **verdict})

    def _verdict(self, run: Run, score: Score) -> Verdict:
        settings, data = self.settings, run.recipe.data
        facts = facts_of(score, {**data.table(), "use": data.use}, run.environment["data"])
        return Verdict(score, settings.value, settings.tolerance, settings.statements(), facts)

    def _age(self, run: Run) -> str:
        """The step of the latest score, if it is not the last one."""
        latest = run.latest_scores().get(self.settings.metric)
        is_old = run.lacks_scores and latest is not None and latest.step < run.step
        return f"; measured at step {latest.step}, since a metric has failed after it" if latest and is_old else ""

    def _published(self) -> str:
        return f"{self.settings.metric} {self.settings.value:g} ({self.settings.source})"
