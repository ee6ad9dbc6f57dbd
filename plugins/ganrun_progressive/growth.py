"""When networks grow: the level that each step trains, and how far it is faded in."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from types import EllipsisType
from typing import Annotated, NamedTuple

from pydantic import Field

import ganrun
from ganrun import IncompatibleError, image_shape

SMALLEST = 4
"""Side in pixels of the first level's images."""

Counts = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=2)]


class GrowingSettings(ganrun.Settings):
    """Settings of both networks of a run, each in its own table."""

    widths: Counts | None = None
    """Channels of each level's maps, from 4×4 on. Unless given, 16,384 / size, and at most 512: for 128×128 that is
    [512, 512, 512, 512, 256, 128]."""

    level_steps: Counts | None = None
    """Steps of each level, from 4×4 on, the fade-in included. The last level lasts until the end of the run, and its
    number only sets its fade-in. Unless given, the run's first half is divided into equal parts: one for 4×4, two for
    each further level, and one for the fade-in of the last."""

    fade: float = Field(0.5, ge=0, le=1)
    """Share of a level's steps during which it is faded in. The first level is not."""


class Point(NamedTuple):
    """Where a network is in its growth."""

    level: int
    """0 for 4×4, and 1 more for each doubling."""

    fade: float
    """α in [0, 1]: the weight of this level relative to the previous one."""


@dataclass(frozen=True)
class Growth:
    """The levels of a network and when they begin; a function of the step alone.

    Both networks of a run have equal ones, or they grow differently.
    """

    size: int
    """Side of the whole images in pixels."""

    level_steps: tuple[int, ...] | None
    fade: float

    @property
    def levels(self) -> int:
        """Number of levels: 4×4, 8×8, … up to the whole size."""
        return (self.size // SMALLEST).bit_length()

    def size_of(self, level: int) -> int:
        """Side of a level's images in its own pixels."""
        return SMALLEST << level

    def size_text(self, level: int) -> str:
        """A level's size as text: `16×16`."""
        return f"{self.size_of(level)}×{self.size_of(level)}"

    def at(self, step: int, steps: int) -> Point:
        """The level and its α after `step` of `steps` steps."""
        lengths = self.level_steps or self._equal_parts(steps)
        starts = [0, *accumulate(lengths[:-1])]
        level = bisect_right(starts, step) - 1
        fading = self.fade * lengths[level] if level else 0
        done = step - starts[level]
        return Point(level, done / fading if done < fading else 1.0)

    def _equal_parts(self, steps: int) -> tuple[float, ...]:
        part = steps / (4 * (self.levels - 1))
        return part, *[2 * part] * (self.levels - 1)


def growth_of(settings: GrowingSettings, shape: tuple[int | EllipsisType, ...]) -> Growth:
    """The growth up to images of a shape.

    Raises:
        IncompatibleError: if they are not squares whose side is a power of two of at least 8, or a setting does not
            have one number for each level.
    """
    _, height, width = image_shape(shape)
    if height != width or height < 2 * SMALLEST or height & (height - 1):
        raise IncompatibleError(
            f"grows to 8×8, 16×16, 32×32 and further powers of two, not to {height}×{width}; change the size in [data]"
        )
    growth = Growth(height, settings.level_steps, settings.fade)
    for name in ("widths", "level_steps"):
        numbers = getattr(settings, name)
        if numbers is not None and len(numbers) != growth.levels:
            sizes = ", ".join(map(growth.size_text, range(growth.levels)))
            raise IncompatibleError(f"{name} has {len(numbers)} numbers, and there are {growth.levels} levels: {sizes}")
    return growth


def widths_of(settings: GrowingSettings, growth: Growth) -> tuple[int, ...]:
    """Channels of each level's maps."""
    return settings.widths or tuple(min(512, 16_384 // growth.size_of(level)) for level in range(growth.levels))
