"""Compares a score with a published one: first how each was measured, then their values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isnan
from typing import Any

from ganrun import Score

NOT_STATED = "not stated"
"""The value of a protocol's entry that is unknown."""

ENTRIES = {
    "shape": "sample_shape",
    "samples": "generated",
    "real_samples": "real",
    "split": "split",
    "features": "extractor",
}
"""Settings of a target with a separate name, each with the entry of the protocol that it states."""

STATISTICS = "protocol.real_statistics"

UNFINISHED = "protocol.structure."
"""Prefix of entries of a score of networks that have not grown to their full structure: publications do not score
those."""

OF_THE_MACHINE = (
    *("precision", "torch", "torch-fidelity", "ganrun_fidelity", "ganrun_likelihood", "seed", "ema_decay"),
    *("channels", "weights", "classifier_accuracy", "real_digest", "real_features", "floor_split", "floor_digest"),
)
"""Entries of the protocol that no publication states, or that differently named settings represent."""


def facts_of(score: Score, data: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a score that a target may state, by setting: `samples`, `data.size`, `protocol.resize`, …

    Args:
        score: Measured by the run.
        data: The run's table `[data]`, with the data set's plain name under `use`.
        manifest: The data's.
    """
    known = {entry: value for entry, value in score.protocol.items() if value != NOT_STATED}
    rest = {name: value for name, value in known.items() if name not in (*ENTRIES.values(), *OF_THE_MACHINE)}
    is_published, decay = manifest.get("published"), known.get("ema_decay")
    return {
        "data": data["use"],
        **{f"data.{name}": value for name, value in data.items() if name != "use"},
        **({} if is_published is None else {"data files": "the published ones" if is_published else "other ones"}),
        **{name: known[entry] for name, entry in ENTRIES.items() if entry in known},
        **({} if decay is None else {"averaged": str(decay) not in ("0", "0.0")}),
        "checkpoint": "last",
        **{f"protocol.{name}": value for name, value in rest.items()},
    }


@dataclass(frozen=True)
class Verdict:
    """Whether a score reaches a published one. For scores that were measured differently, it only says what differs."""

    score: Score
    value: float
    """The published one."""

    tolerance: float
    stated: Mapping[str, Any]
    """The publication's statements, by setting as in `facts`."""

    facts: Mapping[str, Any]
    """The same of the run's score."""

    @property
    def differences(self) -> dict[str, dict[str, Any]]:
        """Statements of the publication that do not hold for the run's score."""
        stated = {**self.stated, **({"data files": "the published ones"} if "data files" in self.facts else {})}
        unfinished = {name: "the full one" for name in self.facts if name.startswith(UNFINISHED)}
        return {
            name: {"published": value, "measured": self.facts.get(name)}
            for name, value in {**stated, **unfinished}.items()
            if self.facts.get(name) != value
        }

    @property
    def missing(self) -> list[str]:
        """Missing statements that a verdict requires."""
        return [name for name in ("data", *ENTRIES, STATISTICS) if name in self.facts and name not in self.stated]

    @property
    def unstated(self) -> list[str]:
        """Other missing statements."""
        passed = (*self.stated, *self.missing, "data files")
        return [name for name in self.facts if name not in passed and not name.startswith("data.")]

    @property
    def comparable(self) -> bool | None:
        """Whether both were measured in the same way; None if the publication does not say."""
        if self.differences:
            return False
        return None if self.missing else True

    @property
    def reached(self) -> bool | None:
        """Whether the score is at most `tolerance` worse; None for NaN, and unless both are comparable."""
        if not self.comparable or isnan(self.score.value):
            return None
        return self.shortfall <= self.tolerance

    @property
    def shortfall(self) -> float:
        """How much worse the score is than the published one; negative if it is better."""
        difference = self.score.value - self.value
        return -difference if self.score.higher_is_better else difference

    def to_json(self) -> dict[str, Any]:
        """For summary.json."""
        return {
            "measured": None if isnan(self.score.value) else self.score.value,
            "reached": self.reached,
            "comparable": self.comparable,
            "differences": self.differences,
            "not_stated": [*self.missing, *self.unstated],
        }

    def text(self, published: str) -> str:
        """One line: the verdict and its basis, or why there is none.

        Args:
            published: The published score with its source.
        """
        about = f"{self.score.name} is {self.score.value:.4g}, published {published}"
        return "; ".join([f"target {self._result()}: {about}", *self._reasons()])

    def _result(self) -> str:
        if self.reached is None:
            return "not comparable" if self.differences else "not judged"
        return "reached" if self.reached else "missed"

    def _reasons(self) -> Iterator[str]:
        for name, values in self.differences.items():
            yield f"{name}: {_text(values['published'])} published, {_text(values['measured'])} here"
        if self.missing:
            here = ", ".join(f"{name} ({_text(self.facts[name])} here)" for name in self.missing)
            yield f"[target] does not state {here}: add what was published"
        if self.reached is False:
            yield f"{self.shortfall:.4g} worse, where {self.tolerance:g} is allowed"
        if self.reached is not None and self.unstated:
            yield f"not stated: {', '.join(self.unstated)}"


def _text(value: object) -> str:
    return "nothing" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
