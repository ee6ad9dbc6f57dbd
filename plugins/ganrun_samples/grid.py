"""Many images as one picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ganrun import to_uint8

MARGIN = 2
"""Pixels between images, before enlarging."""

SMALLEST_SIDE, LARGEST_SIDE = 512, 2048
"""Pixels. Pictures whose shorter side is below the first are enlarged by a whole factor, but not so far that the longer
side exceeds the second."""


def are_images(sample_shape: Sequence[int]) -> bool:
    """Whether samples of this shape are grey or colour images."""
    return len(sample_shape) == 3 and sample_shape[0] in (1, 3)


def image_grid(images: Tensor, columns: int) -> Tensor:
    """uint8 `(count, 1 or 3, height, width)` to one uint8 picture `(height', width', 3)`, row by row on white.

    Grey images become RGB; pixels are repeated, not interpolated. There are at most as many columns as images.
    """
    tiles = tiled(images, columns)
    return enlarged(tiles, enlargement(*tiles.shape[:2]))


def tiled(images: Tensor, columns: int) -> Tensor:
    """The same, not enlarged."""
    count, _, height, width = images.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    canvas = torch.full(
        (3, rows * (height + MARGIN) + MARGIN, columns * (width + MARGIN) + MARGIN), 255, dtype=torch.uint8
    )
    for index, image in enumerate(images.expand(count, 3, height, width)):
        top = MARGIN + (index // columns) * (height + MARGIN)
        left = MARGIN + (index % columns) * (width + MARGIN)
        canvas[:, top : top + height, left : left + width] = image
    return canvas.permute(1, 2, 0)


def enlargement(height: int, width: int) -> int:
    """The factor for a picture of this size."""
    shorter, longer = sorted((height, width))
    return max(1, min(-(-SMALLEST_SIDE // shorter), LARGEST_SIDE // longer))


def enlarged(picture: Tensor, factor: int) -> Tensor:
    """A picture `(height, width, 3)`, with each pixel repeated `factor` times in both directions."""
    return picture.repeat_interleave(factor, 0).repeat_interleave(factor, 1)


def shown(images: Tensor) -> Tensor:
    """Images in [-1, 1] or uint8, as uint8 on the CPU."""
    return (images if images.dtype == torch.uint8 else to_uint8(images)).cpu()
