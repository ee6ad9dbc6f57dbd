"""The pictures of a run's progress as one that moves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

MOST_FRAMES = 60
LONGEST_SIDE = 640
"""Pixels, without the line of text."""

MILLISECONDS, LAST_MILLISECONDS = 250, 2500
"""How long each frame is seen; the last one longer, before it begins anew."""

BAND = 24
INK, PAPER = 50, 255


def frames(pictures: Sequence[Path]) -> list[Image.Image]:
    """Pictures `…/step_00000500.png`, in order, as frames of one size, each under its step, in at most 256 colours.

    Of more than 60, so many are taken evenly, with the first and the last. Those of another size than the last, from
    before a setting was changed, are left out.
    """
    if not pictures:
        return []
    with Image.open(pictures[-1]) as last:
        size = last.size
    found = []
    for path in _spread(pictures):
        with Image.open(path) as picture:
            if picture.size == size:
                found.append(_frame(picture.convert("RGB"), int(path.stem.removeprefix("step_"))))
    return found


def save_time_lapse(found: Sequence[Image.Image], path: Path) -> None:
    """An animated GIF, which browsers, MLflow and mail programs show alike."""
    durations = [MILLISECONDS] * (len(found) - 1) + [LAST_MILLISECONDS]
    first, *others = found
    first.save(path, "GIF", save_all=True, append_images=others, duration=durations, loop=0)


def _spread(pictures: Sequence[Path]) -> list[Path]:
    if len(pictures) <= MOST_FRAMES:
        return list(pictures)
    last = len(pictures) - 1
    return [pictures[round(number * last / (MOST_FRAMES - 1))] for number in range(MOST_FRAMES)]


def _frame(picture: Image.Image, step: int) -> Image.Image:
    if max(picture.size) > LONGEST_SIDE:
        picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BOX)
    frame = Image.new("RGB", (picture.width, picture.height + BAND), (PAPER,) * 3)
    frame.paste(picture, (0, BAND))
    font = ImageFont.load_default(size=15)
    ImageDraw.Draw(frame).text((4, BAND / 2), f"step {step:,}", fill=(INK,) * 3, font=font, anchor="lm")
    return _with_palette(frame)


def _with_palette(frame: Image.Image) -> Image.Image:
    """As GIF wants it: greys as they are, colours reduced without a pattern of dots, which would flicker."""
    red, green, blue = frame.split()
    if red.tobytes() == green.tobytes() == blue.tobytes():
        return red
    return frame.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
