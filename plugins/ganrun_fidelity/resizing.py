"""The resizing behind published scores."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def resize(images: Tensor, side: int) -> Tensor:
    """Bilinear resizing as in TensorFlow 1, corners not aligned: `(batch, channels, side, side)`.

    Output pixel i lies at i · n / side of the n input pixels, counted from the centre of the first, so the picture is
    shifted: a known fault, kept because published scores include it. Computed as a product with two matrices.
    """
    height, width = images.shape[-2:]
    return _mixing(height, side, images.device) @ images @ _mixing(width, side, images.device).T


@lru_cache(maxsize=8)
def _mixing(count: int, side: int, device: torch.device) -> Tensor:
    """The weight of each of `count` input pixels in each of `side` output pixels: `(side, count)`, two in a row."""
    places = torch.arange(side, dtype=torch.float32) * torch.tensor(count / side, dtype=torch.float32)
    low = places.long()
    share = places - low
    matrix = torch.zeros(side, count)
    matrix[torch.arange(side), low] = 1 - share
    matrix[torch.arange(side), (low + 1).clamp_max(count - 1)] += share
    return matrix.to(device)
