"""Grids with captions: a title above each, names to the left of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ganrun import one_line
from ganrun_samples.grid import MARGIN, enlarged, enlargement, tiled

FONT_SIZE = 15
"""In pixels."""

BAND, GAP, PAD = 28, 24, 8
"""Pixels: height of the titles; space between two grids; space around names."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
INK, PAPER = (50, 50, 50), (255, 255, 255)


@dataclass(frozen=True)
class Grid:
    """Images with a title."""

    title: str
    images: Tensor
    """uint8 `(count, channels, height, width)`."""
    columns: int


def captioned(grids: Sequence[Grid], names: Sequence[str] = ()) -> npt.NDArray[np.uint8]:
    """Grids side by side, enlarged by the same factor: uint8 `(height, width, 3)`.

    Args:
        grids: From left to right; at least one.
        names: Names of the rows of the first grid.
    """
    names, titles = [*map(one_line, names)], [one_line(grid.title) for grid in grids]
    font = ImageFont.load_default(size=FONT_SIZE)
    tiles = [tiled(grid.images, grid.columns) for grid in grids]
    factor = enlargement(max(len(each) for each in tiles), sum(each.shape[1] for each in tiles))
    pictures = [Image.fromarray(enlarged(each, factor).numpy()) for each in tiles]
    widths = [max(picture.width, ceil(font.getlength(title))) for picture, title in zip(pictures, titles, strict=True)]
    left = PAD + ceil(max((font.getlength(name) for name in names), default=0))
    height = BAND + max(picture.height for picture in pictures)
    canvas = Image.new("RGB", (left + sum(widths) + GAP * (len(grids) - 1) + PAD, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    _draw_names(draw, names, (MARGIN + grids[0].images.shape[2]) * factor, left, font)
    for title, picture, width in zip(titles, pictures, widths, strict=True):
        draw.text((left + MARGIN * factor, BAND / 2), title, fill=INK, font=font, anchor="lm")
        canvas.paste(picture, (left, BAND))
        left += width + GAP
    return np.asarray(canvas)


def _draw_names(
    draw: ImageDraw.ImageDraw,
    names: Sequence[str],
    pitch: int,
    right: int,
    font: Font,
) -> None:
    for row, name in enumerate(names):
        draw.text((right, BAND + pitch * (row + 0.5)), name, fill=INK, font=font, anchor="rm")
