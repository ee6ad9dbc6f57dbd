"""The pictures of a run's progress as an animation."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ganrun import UnreadableError, one_line, open_picture, read_bytes

log = logging.getLogger("ganrun")

MAX_FRAMES = 60
LARGEST_BYTES = 64 << 20
"""Limit for a picture; a larger one is left out."""

LONGEST_SIDE = 640
"""In pixels, without the line of text."""

MILLISECONDS, LAST_MILLISECONDS = 250, 2500
"""Duration of each frame, and of the last one, before the animation repeats."""

BAND = 24
INK, PAPER = 50, 255


def time_lapse(folder: Path, last_step: int) -> bytes | None:
    """The pictures in a folder until `last_step` as the content of a GIF file; None if there are fewer than two."""
    written = sorted(folder.glob(f"step_{8 * '[0-9]'}.png"))
    found = frames([path for path in written if path.is_file() and _step(path) <= last_step])
    return gif(found) if len(found) > 1 else None


def frames(pictures: Sequence[Path]) -> list[Image.Image]:
    """Pictures `…/step_00000500.png`, in order, as frames of one size, each below its step, in at most 256 colours.

    At most 60, evenly spaced, including the first and the last. Pictures that differ from the last in size, drawn
    before a setting was changed, are skipped; so are damaged ones, with a warning.
    """
    found = [(picture.size, _frame(picture.convert("RGB"), step)) for step, picture in _opened(_spread(pictures))]
    return [frame for size, frame in found if size == found[-1][0]]


def gif(found: Sequence[Image.Image]) -> bytes:
    """Frames as an animated GIF, which browsers, MLflow and mail programs can show."""
    durations = [MILLISECONDS] * (len(found) - 1) + [LAST_MILLISECONDS]
    first, *others = found
    file = BytesIO()
    first.save(file, "GIF", save_all=True, append_images=others, duration=durations, loop=0)
    return file.getvalue()


def _opened(pictures: Iterable[Path]) -> Iterator[tuple[int, Image.Image]]:
    """Step and picture of each that can be read."""
    for path in pictures:
        try:
            yield _step(path), open_picture(read_bytes(path, LARGEST_BYTES))
        except (OSError, UnreadableError) as error:
            log.warning("%s is left out of the time-lapse: %s", one_line(str(path)), error)


def _step(picture: Path) -> int:
    return int(picture.stem.removeprefix("step_"))


def _spread(pictures: Sequence[Path]) -> list[Path]:
    if len(pictures) <= MAX_FRAMES:
        return list(pictures)
    last = len(pictures) - 1
    return [pictures[round(number * last / (MAX_FRAMES - 1))] for number in range(MAX_FRAMES)]


def _frame(picture: Image.Image, step: int) -> Image.Image:
    if max(picture.size) > LONGEST_SIDE:
        picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BOX)
    frame = Image.new("RGB", (picture.width, picture.height + BAND), (PAPER,) * 3)
    frame.paste(picture, (0, BAND))
    font = ImageFont.load_default(size=15)
    ImageDraw.Draw(frame).text((4, BAND / 2), f"step {step:,}", fill=(INK,) * 3, font=font, anchor="lm")
    return _with_palette(frame)


def _with_palette(frame: Image.Image) -> Image.Image:
    """Grey frames unchanged; colours reduced to a palette for GIF, without dithering, which would flicker."""
    red, green, blue = frame.split()
    if red.tobytes() == green.tobytes() == blue.tobytes():
        return red
    return frame.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
