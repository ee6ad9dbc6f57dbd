"""Drawn shapes: pictures of any size, in classes, the same on every machine, without files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

import ganrun

Array = npt.NDArray[np.float64]
Shape = Callable[[Array, Array], Array]
"""From coordinates, in which the shape fills [-1, 1]², to the distance from its edge, negative inside."""

SEEDS = {"train": 0, "test": 1}
BATCH = 128
"""Pictures drawn at a time, which bounds the memory that drawing takes."""

LARGEST_TURN = 0.1
"""Tangent of half the largest rotation, 11°: less than makes an upright cross look like a diagonal one."""


class Synthetic(ganrun.Data):
    """Drawn shapes of any size in up to twelve classes, grey or in colour: for trying a recipe without its data.

    A class is a shape; its position, size, slight rotation and two colours are random. Edges are smooth, as in a
    photograph. The same settings give the same pixels on every machine.
    """

    class Settings(ganrun.Settings):
        size: int = Field(32, ge=8, le=512)
        """Height and width in pixels."""

        channels: Literal[1, 3] = 3
        """1 for grey, 3 for colour."""

        classes: int = Field(10, ge=1, le=12)
        """The number of different shapes."""

        count: int = Field(2_000, ge=12)
        """Pictures to train on."""

        test_count: int = Field(500, ge=12)
        """Pictures of the test split."""

    settings: Settings

    def spec(self) -> ganrun.DataSpec:
        """Shape and classes, from the settings."""
        size = self.settings.size
        return ganrun.DataSpec((self.settings.channels, size, size), classes=self.settings.classes)

    def class_names(self) -> tuple[str, ...]:
        """The shapes."""
        return tuple(SHAPES)[: self.settings.classes]

    def prepare(self) -> None:
        """Draw the pictures, which takes a second or two."""
        _ = self._splits

    def split(self, name: str) -> ganrun.Split:
        """`train` or `test`, drawn independently."""
        if name not in self._splits:
            raise ganrun.unknown_split(name, self._splits)
        return self._splits[name]

    @cached_property
    def _splits(self) -> dict[str, ganrun.Split]:
        counts = {"train": self.settings.count, "test": self.settings.test_count}
        return {name: self._drawn(count, SEEDS[name]) for name, count in counts.items()}

    def _drawn(self, count: int, seed: int) -> ganrun.Split:
        # RandomState never changes; the numbers of numpy's newer generators may change between releases.
        random = np.random.RandomState(seed)
        labels = random.permutation(np.arange(count, dtype=np.int64) % self.settings.classes)
        images = np.empty((count, *self.spec().sample_shape), np.uint8)
        for rows in _batches(labels):
            shape = list(SHAPES.values())[labels[rows[0]]]
            images[rows] = _pictures(shape, len(rows), images.shape[1:], random)
        return ganrun.Split(images, labels)


def _batches(labels: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    """Rows of pictures to draw together, each batch of one class."""
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        yield from np.split(rows, range(BATCH, len(rows), BATCH))


def _pictures(
    shape: Shape, count: int, sample_shape: tuple[int, ...], random: np.random.RandomState
) -> npt.NDArray[np.uint8]:
    """uint8 `(count, channels, size, size)`, each with one shape in a lighter colour than its background."""
    channels, size, _ = sample_shape
    radius, centre_x, centre_y, turn = (random.uniform(-1, 1, (count, 1, 1)) for _ in range(4))
    radius = 0.55 + 0.15 * radius
    x, y = _local_coordinates(size, centre_x * (0.9 - radius), centre_y * (0.9 - radius), LARGEST_TURN * turn)
    inside = np.clip(0.5 - shape(x / radius, y / radius) * radius * size / 2, 0, 1)[:, np.newaxis]
    background = random.uniform(0.0, 0.4, (count, channels, 1, 1))
    colour = random.uniform(0.6, 1.0, (count, channels, 1, 1))
    return np.rint(255 * (background + (colour - background) * inside)).astype(np.uint8)


def _local_coordinates(size: int, centre_x: Array, centre_y: Array, half_tangent: Array) -> tuple[Array, Array]:
    """Each pixel's coordinates from the shape's centre, along its axes.

    Computed without sine and cosine, whose last digits differ between machines: with t = tan(φ/2),
    cos φ = (1 − t²) / (1 + t²) and sin φ = 2t / (1 + t²).
    """
    pixels = (np.arange(size) + 0.5) * 2 / size - 1
    x, y = pixels - centre_x, pixels[:, np.newaxis] - centre_y
    square = half_tangent * half_tangent
    cosine, sine = (1 - square) / (1 + square), 2 * half_tangent / (1 + square)
    return cosine * x + sine * y, cosine * y - sine * x


# ── The shapes; y grows downwards, as rows do ─────────────────────────────────────────────────────────────


def _length(x: Array, y: Array) -> Array:
    # The last digit of np.hypot differs between machines; that of a square root does not.
    return np.sqrt(x * x + y * y)


def _box(x: Array, y: Array, width: float, height: float) -> Array:
    return np.maximum(np.abs(x) - width, np.abs(y) - height)


def _disc(x: Array, y: Array) -> Array:
    return _length(x, y) - 1


def _ring(x: Array, y: Array) -> Array:
    return np.abs(_length(x, y) - 0.8) - 0.2


def _square(x: Array, y: Array) -> Array:
    return _box(x, y, 0.85, 0.85)


def _frame(x: Array, y: Array) -> Array:
    return np.abs(_box(x, y, 0.7, 0.7)) - 0.17


def _triangle(x: Array, y: Array) -> Array:
    """Equilateral, pointing up; its edges are half the circumradius from the centre."""
    return np.maximum(y, math.sqrt(0.75) * np.abs(x) - 0.5 * y) - 0.5


def _plus(x: Array, y: Array) -> Array:
    return np.minimum(_box(x, y, 1, 0.28), _box(x, y, 0.28, 1))


def _saltire(x: Array, y: Array) -> Array:
    half = math.sqrt(0.5)
    return _plus(half * (x + y), half * (y - x))


def _bar(x: Array, y: Array) -> Array:
    return _box(x, y, 1, 0.3)


def _pillar(x: Array, y: Array) -> Array:
    return _box(x, y, 0.3, 1)


def _diamond(x: Array, y: Array) -> Array:
    return (np.abs(x) + np.abs(y) - 1) * math.sqrt(0.5)


def _half_disc(x: Array, y: Array) -> Array:
    return np.maximum(_length(x, y + 0.4) - 1, -(y + 0.4))


def _crescent(x: Array, y: Array) -> Array:
    return np.maximum(_length(x, y) - 1, 0.8 - _length(x - 0.5, y))


SHAPES: dict[str, Shape] = {
    "disc": _disc,
    "ring": _ring,
    "square": _square,
    "frame": _frame,
    "triangle": _triangle,
    "plus": _plus,
    "saltire": _saltire,
    "bar": _bar,
    "pillar": _pillar,
    "diamond": _diamond,
    "half disc": _half_disc,
    "crescent": _crescent,
}
