"""The training images nearest to samples, which show whether the model memorised them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ganrun import exact_float32, to_uint8, to_unit_range

VALUES_PER_CHUNK = 1 << 20
"""Pixel values compared at once: 4 MiB as float32, which fit into the processor's cache; larger chunks take three times
as long."""


@exact_float32()
def nearest(samples: Tensor, images: npt.NDArray[Any], count: int, *, mirrored: bool = False) -> Tensor:
    """Indices of the `count` images nearest to each sample, nearest first: int64 `(n, count)`, on the CPU.

    By Euclidean distance between pixels, with samples rounded to uint8. This finds copies, but may miss an image
    shifted by one pixel. The images are read once, chunk by chunk, and compared on the device of the samples.

    Args:
        samples: In [-1, 1], `(n, channels, height, width)`.
        images: uint8, or in [-1, 1], `(m, channels, height, width)`; in memory or a memory map.
        count: At most m.
        mirrored: Whether mirror images count too, as for a model that was trained on them.
    """
    own = to_unit_range(to_uint8(samples))
    variants = torch.stack([own, own.flip(-1)] if mirrored else [own]).flatten(2)
    best = own.new_empty(len(own), 0)
    places = torch.empty(len(own), 0, dtype=torch.int64, device=own.device)
    rows = max(1, VALUES_PER_CHUNK // variants.shape[2])
    for start in range(0, len(images), rows):
        part = torch.from_numpy(np.ascontiguousarray(images[start : start + rows])).to(own.device)
        squares = _squares(variants, to_unit_range(part).flatten(1)).amin(0)
        numbers = torch.arange(start, start + len(part), device=own.device).expand(len(own), -1)
        best, kept = torch.cat([best, squares], 1).topk(min(count, best.shape[1] + len(part)), largest=False)
        places = torch.cat([places, numbers], 1).gather(1, kept)
    return places.cpu()


def _squares(first: Tensor, second: Tensor) -> Tensor:
    """Squared distances `(variants, n, m)` of `(variants, n, size)` from `(m, size)`, without the squares of the first.

    The order does not depend on these: an image and its mirror image have the same.
    """
    return second.square().sum(1) - 2 * first @ second.T
