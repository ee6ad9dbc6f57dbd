"""The training images that are nearest to samples: has the model learned some of them by heart?"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ganrun import to_uint8, to_unit_range

NUMBERS_AT_A_TIME = 1 << 20
"""Pixels that are compared at once: 4 MiB as float32. They stay in a processor's cache; more take thrice as long."""


def nearest(samples: Tensor, images: npt.NDArray[Any], count: int, *, mirrored: bool = False) -> Tensor:
    """Places of the `count` images nearest to each sample, the nearest first: int64 `(n, count)`, on the CPU.

    By Euclidean distance between pixels, of samples as they are in pictures. That finds copies, but hardly an image
    that was shifted by a pixel. The images are read once, part by part, and compared where the samples are.

    Args:
        samples: In [-1, 1], `(n, channels, height, width)`.
        images: uint8, or in [-1, 1], `(m, channels, height, width)`; in memory or a memory map.
        count: At most m.
        mirrored: Whether left may be right, as for a model that was trained on mirrored images too.
    """
    own = to_unit_range(to_uint8(samples))
    ways = torch.stack([own, own.flip(-1)] if mirrored else [own]).flatten(2)
    best = own.new_empty(len(own), 0)
    places = torch.empty(len(own), 0, dtype=torch.int64, device=own.device)
    rows = max(1, NUMBERS_AT_A_TIME // ways.shape[2])
    for start in range(0, len(images), rows):
        part = torch.from_numpy(np.ascontiguousarray(images[start : start + rows])).to(own.device)
        squares = _squares(ways, to_unit_range(part).flatten(1)).amin(0)
        numbers = torch.arange(start, start + len(part), device=own.device).expand(len(own), -1)
        best, kept = torch.cat([best, squares], 1).topk(min(count, best.shape[1] + len(part)), largest=False)
        places = torch.cat([places, numbers], 1).gather(1, kept)
    return places.cpu()


def _squares(first: Tensor, second: Tensor) -> Tensor:
    """Squared distances `(ways, n, m)` of `(ways, n, size)` from `(m, size)`, less the squares of the first.

    These change no order: a mirrored image has the same.
    """
    return second.square().sum(1) - 2 * first @ second.T
