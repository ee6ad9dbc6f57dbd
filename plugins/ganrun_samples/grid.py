"""Many images as one picture."""

from __future__ import annotations

import torch
from torch import Tensor

MARGIN = 2
"""Pixels between images, before enlarging."""

SMALLEST_SIDE = 512
"""Grids with a shorter side than this are enlarged by a whole factor, so that small images can be looked at."""


def image_grid(images: Tensor, columns: int) -> Tensor:
    """uint8 `(count, channels, height, width)` to one uint8 picture `(height', width', 3)`, row by row on white.

    Grey images become colour; pixels are repeated, never blurred.
    """
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    canvas = torch.full(
        (3, rows * (height + MARGIN) + MARGIN, columns * (width + MARGIN) + MARGIN), 255, dtype=torch.uint8
    )
    colour = images.expand(count, 3, height, width) if channels == 1 else images[:, :3]
    for index, image in enumerate(colour):
        top = MARGIN + (index // columns) * (height + MARGIN)
        left = MARGIN + (index % columns) * (width + MARGIN)
        canvas[:, top : top + height, left : left + width] = image
    factor = -(-SMALLEST_SIDE // min(canvas.shape[1:]))
    return canvas.repeat_interleave(factor, 1).repeat_interleave(factor, 2).permute(1, 2, 0)
