"""Pictures of any size through a network of one size: tiles that overlap, and are blended."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import ceil

import torch
from torch import Tensor
from torch.nn.functional import pad

OVERLAP = 4
"""Neighbours share at least this part of a tile's side: a quarter."""

TILES_AT_ONCE = 16

Side = tuple[int, int]


def tiled(
    make: Callable[[Tensor], Tensor],
    pictures: Tensor,
    side: Side,
    scale: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """Applies `make` to pictures, tile by tile: `(count, channels', height', width')`, on the CPU, with sides that are
    `scale` times those of the pictures.

    Where tiles overlap, their results are averaged, each with a weight that falls linearly towards its edges. Pictures
    smaller than a tile are padded with their edge pixels, and the result is cropped. A picture as large as a tile is a
    single tile.

    Args:
        make: Tiles `(n, channels, *side)` to `(n, channels', scale · height, scale · width)`.
        pictures: `(count, channels, height, width)`.
        side: Height and width of a tile.
        scale: At least 1.
        on_progress: `on_progress(done, total)` is called with numbers of tiles.
    """
    height, width = pictures.shape[2:]
    whole = pad(pictures, (0, max(0, side[1] - width), 0, max(0, side[0] - height)), mode="replicate")
    rows, columns = (starts(length, tile) for length, tile in zip(whole.shape[2:], side, strict=True))
    weight = _ramp(scale * side[0])[:, None] * _ramp(scale * side[1])
    places = list(product(range(len(whole)), rows, columns))
    weights = torch.zeros(len(whole), scale * whole.shape[2], scale * whole.shape[3])
    mean = torch.zeros(())
    for first in range(0, len(places), TILES_AT_ONCE):
        chosen = places[first : first + TILES_AT_ONCE]
        made = make(torch.stack([whole[n, :, y : y + side[0], x : x + side[1]] for n, y, x in chosen])).cpu()
        if not first:
            mean = made.new_zeros(len(whole), made.shape[1], *weights.shape[1:])
        for tile, (n, y, x) in zip(made, chosen, strict=True):
            area = slice(scale * y, scale * (y + side[0])), slice(scale * x, scale * (x + side[1]))
            weights[n, *area] += weight
            mean[n, :, *area].lerp_(tile, weight / weights[n, *area])
        on_progress(first + len(chosen), len(places))
    return mean[:, :, : scale * height, : scale * width]


def starts(length: int, tile: int) -> list[int]:
    """The offsets of evenly spaced tiles that cover a length: the fewest with sufficient overlap."""
    step = max(1, tile - tile // OVERLAP)
    last = ceil((length - tile) / step)
    return [round(number * (length - tile) / max(1, last)) for number in range(last + 1)]


def _ramp(length: int) -> Tensor:
    """Weights along a side: from near 0 at both edges up to 1, a quarter of the side inwards."""
    places = torch.arange(length) + 0.5
    return (torch.minimum(places, length - places) / max(1, length // OVERLAP)).clamp(max=1)
