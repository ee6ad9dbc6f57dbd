"""Pixels taken from elsewhere in the same image, and rectangles cut out."""

from __future__ import annotations

import torch
from torch import Tensor


def gathered(images: Tensor, index: Tensor) -> Tensor:
    """The pixels of each image at its own places.

    Args:
        images: `(batch, channels, height, width)`.
        index: int64 `(batch, …, …)`: row · width + column.

    Returns:
        `(batch, channels, …, …)`. Its gradients, of any order, are those of torch's `gather`.
    """
    count, channels = images.shape[:2]
    flat = index.flatten(1)[:, None].expand(-1, channels, -1)
    return images.flatten(2).gather(2, flat).view(count, channels, *index.shape[1:])


def mirrored(index: Tensor, side: int) -> Tensor:
    """Indices into an image that is mirrored at the centres of its outermost pixels, without end: … 2 1 0 1 2 …"""
    period = max(2 * (side - 1), 1)
    inside = index % period
    return torch.minimum(inside, period - inside)


def cut_out(images: Tensor, top: Tensor, left: Tensor, height: int, width: int) -> Tensor:
    """Images in which a rectangle is 0: mid-grey.

    Args:
        images: `(batch, channels, height, width)`.
        top: First row of each image's rectangle, int64 `(batch,)`; it may lie outside.
        left: First column.
        height: Rows of the rectangles.
        width: Columns.
    """
    rows = _between(top, height, images.shape[2])[:, :, None]
    columns = _between(left, width, images.shape[3])[:, None, :]
    return torch.where((rows & columns)[:, None], 0.0, images)


def _between(first: Tensor, length: int, side: int) -> Tensor:
    """Which of the indices 0…side − 1 are in [first, first + length): bool `(batch, side)`."""
    index = torch.arange(side, device=first.device)
    return (index >= first[:, None]) & (index < first[:, None] + length)
