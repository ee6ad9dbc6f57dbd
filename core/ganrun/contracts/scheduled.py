"""A setting that is a number, or a schedule of one over the steps of a run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self

from pydantic import Field, GetJsonSchemaHandler, SerializerFunctionWrapHandler, model_serializer, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from ganrun.contracts.settings import Settings

EXAMPLE = '{ schedule = "cosine", start = 5.0, end = 0.5 }'


class Scheduled(Settings):
    """A number of a recipe that may change during a run: a plain number, or a table with a schedule.

        class Settings(ganrun.Settings):
            gamma: ganrun.Scheduled = Field(ganrun.Scheduled(start=1.0), ge=0)
            \"""Weight of the penalty.\"""

    A recipe says `gamma = 5.0`, or `gamma = { schedule = "cosine", start = 5.0, end = 0.5, steps = 10_000 }`. The
    field's bounds (`ge`, `gt`, `le`, `lt`) hold for `start` and `end`, and so for every value between them. A value
    depends on the step alone, so a resumed run continues exactly.
    """

    schedule: Literal["constant", "linear", "cosine", "exponential"] = "constant"
    """How the value goes from start to end. linear: by equal differences; cosine: along half a cosine, slow at both
    ends (as in R3GAN, arXiv:2501.05441); exponential: by equal factors, so both ends must be above 0."""

    start: float
    """The value in the first step; for a constant, in every step."""

    end: float | None = None
    """The value from step `steps` on."""

    steps: int | None = Field(None, ge=1)
    """Steps until `end`; by default, all steps of the run."""

    def at(self, step: int, steps: int) -> float:
        """The value at a step, between `start` and `end`.

        Args:
            step: Steps done, ≥ 0.
            steps: Steps of the whole run, ≥ 1.
        """
        if self.end is None:
            return self.start
        done = min(1.0, step / (self.steps or steps))
        if self.schedule == "exponential":
            return float(self.start ** (1 - done) * self.end**done)
        share = (1 - math.cos(math.pi * done)) / 2 if self.schedule == "cosine" else done
        return self.start * (1 - share) + self.end * share

    @property
    def text(self) -> float | str:
        """A constant's value; of a schedule, a text such as `cosine 0.99 → 0.999 in 1000 steps`."""
        if self.end is None:
            return self.start
        return f"{self.schedule} {self.start:g} → {self.end:g}" + (f" in {self.steps} steps" if self.steps else "")

    @property
    def follows_run(self) -> bool:
        """Whether the value at a step depends on the number of the run's steps."""
        return self.end is not None and self.steps is None

    # ── A field's bounds compare every value: the ends, since all others lie between them ─────────────────

    def __ge__(self, bound: float) -> bool:
        return min(self._ends()) >= bound

    def __gt__(self, bound: float) -> bool:
        return min(self._ends()) > bound

    def __le__(self, bound: float) -> bool:
        return max(self._ends()) <= bound

    def __lt__(self, bound: float) -> bool:
        return max(self._ends()) < bound

    def _ends(self) -> tuple[float, float]:
        return self.start, self.start if self.end is None else self.end

    # ── A plain number is a constant ──────────────────────────────────────────────────────────────────────

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: Any) -> Any:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return {"start": value}
        if not isinstance(value, Mapping | cls):
            raise ValueError(f"input should be a number, or a schedule such as {EXAMPLE}")
        return value

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.schedule == "constant":
            if self.end is not None or self.steps is not None:
                raise ValueError('a value that changes needs schedule = "linear", "cosine" or "exponential"')
        elif self.end is None:
            raise ValueError(f"a {self.schedule} schedule needs end, its final value")
        elif self.schedule == "exponential" and min(self._ends()) <= 0:
            raise ValueError("an exponential schedule needs start and end above 0")
        return self

    @model_serializer(mode="wrap")
    def _shortest(self, table: SerializerFunctionWrapHandler) -> Any:
        return self.start if self.schedule == "constant" else table(self)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """A number, or the table."""
        return {"anyOf": [{"type": "number"}, handler(core)]}


def schedules_in(settings: Any) -> Iterator[Scheduled]:
    """Every schedule among some settings, at any depth."""
    if isinstance(settings, Scheduled):
        yield settings
    elif isinstance(settings, Settings):
        yield from (found for name in type(settings).model_fields for found in schedules_in(getattr(settings, name)))
    elif isinstance(settings, Mapping | list | tuple):
        values = settings.values() if isinstance(settings, Mapping) else settings
        yield from (found for each in values for found in schedules_in(each))
