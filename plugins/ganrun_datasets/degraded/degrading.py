"""Degradations of 8-bit images, in integers: the same bytes on every machine."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from ganrun_datasets.pictures.picture import Pixels

Mask = Literal["none", "centre", "random", "blocks"]

LUMA = np.array([19595, 38470, 7471])
"""ITU-R BT.601's weights of red, green and blue, times 2^16, as Pillow has them."""

UNIT = 1 << 16
"""The sum of a kernel's weights."""

REACH = 4
"""Standard deviations after which a Gaussian's kernel ends."""

FILL = 128
"""The grey that missing pixels get: the middle of the range."""

BLOCKS = 4
"""Squares of a quarter of each side, which together hide at most a quarter of the image."""

NOISE, PLACES = 0, 1
"""Purposes of a record's random numbers."""


def grey(images: Pixels) -> Pixels:
    """Colours `(count, 3, height, width)` as their luma `(count, 1, height, width)`, as Pillow converts them."""
    weighted = np.tensordot(LUMA, images.astype(np.int64), axes=(0, 1))
    return ((weighted + UNIT // 2) // UNIT).astype(np.uint8)[:, None]


# ── Blur ──────────────────────────────────────────────────────────────────────────────────────────────────


def blurred(images: Pixels, sigma: float) -> Pixels:
    """Images convolved with a Gaussian of standard deviation `sigma` in pixels; beyond a border, its pixel goes on.

    The weights are rounded to 2^-16 and the result once, at the end. Float64 holds all these sums exactly, in any
    order.
    """
    down, across = (_matrix(side, sigma) for side in images.shape[2:])
    sums = down @ images.astype(np.float64) @ across.T
    return np.floor((sums + UNIT**2 / 2) / UNIT**2).astype(np.uint8)


def _matrix(side: int, sigma: float) -> npt.NDArray[np.float64]:
    """The convolution of one axis, `(side, side)`, times `UNIT`."""
    weights = _kernel(sigma)
    rows, places = np.ogrid[:side, -(len(weights) // 2) : len(weights) // 2 + 1]
    matrix = np.zeros((side, side))
    np.add.at(matrix, (rows, np.clip(rows + places, 0, side - 1)), weights)
    return matrix


def _kernel(sigma: float) -> list[int]:
    """Weights that sum to `UNIT`; what rounding leaves is the middle one's."""
    radius = max(1, math.ceil(REACH * sigma))
    places = [place / sigma for place in range(-radius, radius + 1)]
    exact = [math.exp(-place * place / 2) for place in places]  # a square by ** is no float if it is too large
    weights = [round(UNIT * each / math.fsum(exact)) for each in exact]
    weights[radius] += UNIT - sum(weights)
    return weights


# ── Noise ─────────────────────────────────────────────────────────────────────────────────────────────────


def noisy(images: Pixels, sigma: float, seeds: Iterator[list[int]]) -> Pixels:
    """Images with normal noise of standard deviation `sigma`, in levels of 8 bits, rounded and clipped to 0…255.

    Args:
        images: The images.
        sigma: σ.
        seeds: A seed for each image.
    """
    result, limits = np.empty_like(images), _limits(sigma)
    for image, row, seed in zip(images, result, seeds, strict=False):
        levels = np.searchsorted(limits, _words([*seed, NOISE], image.size), side="right") - len(limits) // 2
        row[:] = np.clip(image + levels.reshape(image.shape), 0, 255)
    return result


@lru_cache(maxsize=4)
def _limits(sigma: float) -> npt.NDArray[np.int64]:
    """Where the normal distribution, times 2^32, goes from one whole level to the next: below limit i, the level is at
    most i minus half their number."""
    most = min(255, math.ceil(7 * sigma))
    steps = [level + 0.5 for level in range(-most, most)]
    return np.array([round(2**32 * (1 + math.erf(step / (sigma * math.sqrt(2)))) / 2) for step in steps], np.int64)


def _words(seed: list[int], count: int) -> npt.NDArray[np.int64]:
    """Random whole numbers below 2^32. Raw bits never change; numpy's use of them may change between releases."""
    raw = np.random.PCG64(seed).random_raw(-(-count // 2))
    return np.concatenate([raw >> np.uint64(32), raw & np.uint64(2**32 - 1)])[:count].astype(np.int64)


# ── Masks ─────────────────────────────────────────────────────────────────────────────────────────────────


def masks(kind: Mask, height: int, width: int, seeds: Iterator[list[int]], count: int) -> Pixels:
    """Masks `(count, 1, height, width)`: 255 where pixels are missing, and 0 elsewhere."""
    found = np.zeros((count, 1, height, width), np.uint8)
    for mask, seed in zip(found[:, 0], seeds, strict=False):
        for top, left, bottom, right in _boxes(kind, height, width, seed):
            mask[top:bottom, left:right] = 255
    return found


def hidden(images: Pixels, masks: Pixels) -> Pixels:
    """Images whose missing pixels are `FILL`."""
    return np.where(masks > 0, np.uint8(FILL), images)


def _boxes(kind: Mask, height: int, width: int, seed: list[int]) -> Iterator[tuple[int, int, int, int]]:
    """Top, left, bottom and right of what is missing."""
    numbers = iter(_words([*seed, PLACES], 2 * BLOCKS).tolist())

    def below(count: int) -> int:
        return int(next(numbers)) % count

    if kind == "centre":
        yield height // 4, width // 4, height // 4 + height // 2, width // 4 + width // 2
    elif kind == "random":
        tall, wide = (side // 4 + below(side // 2 - side // 4 + 1) for side in (height, width))
        top, left = below(height - tall + 1), below(width - wide + 1)
        yield top, left, top + tall, left + wide
    else:
        for _ in range(BLOCKS):
            top, left = below(height - height // 4 + 1), below(width - width // 4 + 1)
            yield top, left, top + height // 4, left + width // 4
