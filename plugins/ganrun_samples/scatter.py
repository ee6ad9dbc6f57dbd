"""Points in the plane as one picture: real ones in grey, generated ones over them in colour."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

SIDE = 640
"""Height and width of the picture, in pixels."""

OVERSAMPLING = 3
"""The picture is drawn larger by this factor and then reduced, which smooths the dots."""

MARGIN = 44
LIMIT = 1.1
"""The axes go from -1.1 to 1.1; samples are in [-1, 1]."""

TICKS = (-1.0, -0.5, 0.0, 0.5, 1.0)
REAL, GENERATED = (150, 150, 150), (196, 46, 34)
OPACITY = 0.7
INK, PAPER, GUIDE = (70, 70, 70), (255, 255, 255), (232, 232, 232)


def scatter(real: Tensor, generated: Tensor) -> npt.NDArray[np.uint8]:
    """Two sets of points `(count, 2)` as one picture, uint8 `(height, width, 3)`."""
    canvas = Image.new("RGB", (SIDE * OVERSAMPLING, SIDE * OVERSAMPLING), PAPER)
    _draw_guides(ImageDraw.Draw(canvas))
    for points, colour, radius in ((real, REAL, 1.6), (generated, GENERATED, 2.2)):
        canvas = _with_dots(canvas, points, colour, radius)
    picture = canvas.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    _draw_frame(ImageDraw.Draw(picture))
    return np.asarray(picture)


def _with_dots(canvas: Image.Image, points: Tensor, colour: tuple[int, int, int], radius: float) -> Image.Image:
    """Draws dots that are transparent as a layer, so that one set does not hide the other."""
    dots = Image.new("L", canvas.size, 0)
    draw = ImageDraw.Draw(dots)
    size = radius * OVERSAMPLING
    for x, y in points.tolist():
        left, top = _place(x) * OVERSAMPLING, _place(-y) * OVERSAMPLING
        draw.ellipse((left - size, top - size, left + size, top + size), fill=round(255 * OPACITY))
    return Image.composite(Image.new("RGB", canvas.size, colour), canvas, dots)


def _place(value: float) -> float:
    """A coordinate in pixels; outside the axes, that of the frame."""
    share = (min(max(value, -LIMIT), LIMIT) + LIMIT) / (2 * LIMIT)
    return MARGIN + share * (SIDE - 2 * MARGIN)


def _draw_guides(draw: ImageDraw.ImageDraw) -> None:
    low, high = MARGIN * OVERSAMPLING, (SIDE - MARGIN) * OVERSAMPLING
    for tick in TICKS:
        at = _place(tick) * OVERSAMPLING
        draw.line((at, low, at, high), fill=GUIDE, width=OVERSAMPLING)
        draw.line((low, at, high, at), fill=GUIDE, width=OVERSAMPLING)


def _draw_frame(draw: ImageDraw.ImageDraw) -> None:
    font = ImageFont.load_default(size=14)
    draw.rectangle((MARGIN, MARGIN, SIDE - MARGIN, SIDE - MARGIN), outline=INK)
    for tick in TICKS:
        text = f"{tick:g}"
        draw.text((_place(tick), SIDE - MARGIN + 6), text, fill=INK, font=font, anchor="mt")
        draw.text((MARGIN - 8, _place(-tick)), text, fill=INK, font=font, anchor="rm")
    for index, (name, colour) in enumerate((("real", REAL), ("generated", GENERATED))):
        left = MARGIN + 12 + 80 * index
        draw.ellipse((left - 4, MARGIN / 2 - 4, left + 4, MARGIN / 2 + 4), fill=colour)
        draw.text((left + 10, MARGIN / 2), name, fill=INK, font=font, anchor="lm")
