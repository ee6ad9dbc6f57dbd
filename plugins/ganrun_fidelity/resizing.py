"""The resizings behind published scores."""

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


# ── Bicubic, as Pillow ────────────────────────────────────────────────────────────────────────────────────

FIXED_POINT = 2**22
"""Pillow's weights are whole numbers of this part."""


def resize_as_pillow(images: Tensor, side: int) -> Tensor:
    """Bicubic resizing of pictures in 0 … 255, equal to Pillow's: `(batch, channels, side, side)`, whole numbers.

    Where a side shrinks, the kernel widens. Widths are resized before heights, with rounding and clipping after each:
    published scores are from versions of Pillow that did so always. Pillow 13 turns it round where only heights shrink.
    Computed as a product with two matrices, in float64, which holds all sums; in float32 on a device that has no other.
    """
    exact = images.float() if images.device.type == "mps" else images.double()
    height, width = images.shape[-2:]
    wide = _whole(exact @ _bicubic(width, side, exact.dtype, exact.device).T)
    return _whole(_bicubic(height, side, exact.dtype, exact.device) @ wide)


def _whole(levels: Tensor) -> Tensor:
    return levels.add_(0.5).floor_().clamp_(0, 255)


@lru_cache(maxsize=8)
def _bicubic(count: int, side: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The weight of each of `count` input pixels in each of `side` output pixels: `(side, count)`."""
    scale = count / side
    stretch = max(scale, 1.0)
    centres = (torch.arange(side, dtype=torch.float64) + 0.5) * scale
    pixels = torch.arange(count, dtype=torch.float64)
    first, last = ((centres + reach + 0.5).floor()[:, None] for reach in (-2 * stretch, 2 * stretch))
    weights = _keys((pixels + 0.5 - centres[:, None]) / stretch).where((pixels >= first) & (pixels < last), 0)
    shares = weights / weights.sum(1, keepdim=True)
    whole = (shares.abs() * FIXED_POINT + 0.5).floor() * shares.sign()
    return (whole / FIXED_POINT).to(dtype).to(device)


def _keys(x: Tensor) -> Tensor:
    """The cubic convolution kernel for a = −1/2: Keys 1981 (doi:10.1109/TASSP.1981.1163711), equation 15."""
    x = x.abs()
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return near.where(x < 1, far.where(x < 2, 0))
