"""The operators of a Laplacian pyramid: Burt and Adelson's filter of weights 1, 4, 6, 4, 1 along both sides.

Outside of an image, its border is repeated.
"""

from __future__ import annotations

import torch
from torch import Tensor


def downsampled(images: Tensor) -> Tensor:
    """d(I): images `(batch, channels, height, width)` of even sides, blurred, and every second pixel of them."""
    return _halved(_halved(images).mT).mT


def upsampled(images: Tensor) -> Tensor:
    """u(I): images `(batch, channels, height, width)` at twice the size, blurred between their pixels."""
    return _doubled(_doubled(images).mT).mT


def gaussian_pyramid(images: Tensor, levels: int) -> list[Tensor]:
    """[I_0, …, I_K]: the images, and each one `downsampled` from the one before it."""
    found = [images]
    for _ in range(levels - 1):
        found.append(downsampled(found[-1]))
    return found


def _halved(rows: Tensor) -> Tensor:
    first, last, length = rows[..., :1], rows[..., -1:], rows.shape[-1]
    padded = torch.cat([first, first, rows, last, last], dim=-1)
    a, b, c, d, e = (padded[..., tap : tap + length : 2] for tap in range(5))
    return (a + 4 * b + 6 * c + 4 * d + e) / 16


def _doubled(rows: Tensor) -> Tensor:
    before = torch.cat([rows[..., :1], rows[..., :-1]], dim=-1)
    after = torch.cat([rows[..., 1:], rows[..., -1:]], dim=-1)
    return torch.stack([(before + 6 * rows + after) / 8, (rows + after) / 2], dim=-1).flatten(-2)
