"""One picture: from the bytes of a file to pixels."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from ganrun_datasets.damage import is_web_page

Pixels = npt.NDArray[np.uint8]
Filter = Literal["bicubic", "bilinear", "lanczos", "box"]
Crop = Literal["centre", "none", "exact"] | tuple[int, int, int, int]

TRIED_FIRST = ("JPEG", "PNG")
NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"}
"""Formats that Pillow recognises but cannot decode by itself; for EPS it would run a PostScript interpreter."""


class UnreadableError(Exception):
    """A picture that cannot be used, and why."""


class Picture(NamedTuple):
    """The pixels of a picture, and what its transform had to change."""

    pixels: Pixels
    """uint8 `(channels, size, size)`"""

    was_grey: bool
    was_enlarged: bool
    peak: int | None
    """The largest value of a picture with 16 bits per channel; None with 8 bits. Of 16-bit colour, Pillow decodes the
    upper 8 bits alone, so that the lower ones are taken to be 1."""

    is_animated: bool
    """Whether the file has more frames than the one that is used."""

    sides: tuple[int, int]
    """Width and height before it was cropped and resized."""


@dataclass(frozen=True)
class Transform:
    """From any picture to uint8 `(channels, size, size)`. Its fields are part of every cache key."""

    size: int
    channels: int = 3
    filter: Filter = "bicubic"
    """Pillow's filter; each of them widens when it shrinks a picture, so there is no aliasing."""

    crop: Crop = "centre"
    """centre: the largest centred square; none: the whole picture, stretched; exact: the whole picture, which must have
    the size already; or a box (left, top, right, bottom)."""

    bits: int = 16
    """How many of its bits a 16-bit picture uses, from the lowest: 2^bits - 1 is white."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, size, size)"""
        return self.channels, self.size, self.size

    def __call__(self, image: Image.Image) -> Picture:
        """The pixels of a loaded picture.

        Raises:
            UnreadableError: if its pixels have no fixed range, need more than `bits` or are in a colour space that
                Pillow does not convert, or if `crop` is exact and its size is another.
        """
        if self.crop == "exact" and image.size != (self.size, self.size):
            width, height = image.size
            raise UnreadableError(f"it is {width}×{height} pixels, not {self.size}×{self.size}")
        was_grey = image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I")
        peak = _peak(image, self.bits)
        plain = _converted(self.opaque(image), "RGB" if self.channels == 3 else "L")
        cropped = plain.crop(self._box(*plain.size))
        resized = cropped.resize((self.size, self.size), Image.Resampling[self.filter.upper()])
        pixels = np.asarray(resized).reshape(self.size, self.size, self.channels).transpose(2, 0, 1)
        return Picture(pixels, was_grey, min(cropped.size) < self.size, peak, _ANIMATED in image.info, image.size)

    def opaque(self, image: Image.Image) -> Image.Image:
        """The picture in 8 bits per channel, its transparent parts on white."""
        return _opaque(image, self.bits, (255, 255, 255))

    def _box(self, width: int, height: int) -> tuple[int, int, int, int]:
        if not isinstance(self.crop, str):
            return self.crop
        if self.crop == "none":
            return 0, 0, width, height
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        return left, top, left + side, top + side


@dataclass(frozen=True)
class OnColour(Transform):
    """The same, with transparent parts laid on a colour."""

    background: tuple[int, int, int] = (255, 255, 255)

    def opaque(self, image: Image.Image) -> Image.Image:
        """The picture in 8 bits per channel, its transparent parts on the colour."""
        return _opaque(image, self.bits, self.background)


@dataclass(frozen=True)
class Half(Transform):
    """The same of one half of the picture, which holds two of equal width side by side."""

    half: Literal["left", "right"] = "left"

    def __call__(self, image: Image.Image) -> Picture:
        """The pixels of the half.

        Raises:
            UnreadableError: as of a whole picture, or if the width is odd.
        """
        (width, height), middle = image.size, image.size[0] // 2
        if width % 2:
            raise UnreadableError(f"it is {width}×{height} pixels, and an odd width has no two equal halves")
        left = 0 if self.half == "left" else middle
        return super().__call__(image.crop((left, 0, left + middle, height)))


def open_picture(content: bytes) -> Image.Image:
    """Decode a picture file and turn it upright; of an animation, the first frame.

    Raises:
        UnreadableError: if Pillow cannot decode all of it.
    """
    try:
        image = Image.open(io.BytesIO(content), formats=_formats())
        facts = _facts(image)
        image.load()
        image.info |= facts
    except Exception as error:  # each format's decoder fails in its own way: struct.error, IndexError, SyntaxError …
        raise UnreadableError(_reason(content, error)) from error
    turn = _TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def is_picture(name: str) -> bool:
    """Whether a file's name ends like that of a picture."""
    return f".{name.rpartition('.')[2].lower()}" in _extensions()


@cache
def _formats() -> tuple[str, ...]:
    """The formats that Pillow may try. The order matters: some are recognised only by reading the whole header."""
    Image.init()
    return tuple(sorted(Image.OPEN.keys() - NOT_DECODED, key=lambda name: (name not in TRIED_FIRST, name)))


@cache
def _extensions() -> frozenset[str]:
    formats = set(_formats())
    return frozenset(end for end, name in Image.registered_extensions().items() if name in formats)


def _reason(content: bytes, error: Exception) -> str:
    if not content:
        return "it is empty"
    if is_web_page(content):
        return "it is a web page"
    if isinstance(error, UnidentifiedImageError):
        return f"it is not a picture: it starts with {content[:4].hex(' ')}"
    return " ".join(str(error).split()) or type(error).__name__


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The turn that makes a picture of each EXIF orientation upright; 1 is upright already."""


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # malformed EXIF data leave the pixels intact
        return 1


# ── What a file says of its pixels ────────────────────────────────────────────────────────────────────────

_DEEP, _ANIMATED = "ganrun: 16 bits", "ganrun: frames"
"""Keys of Pillow's `info`, which is kept when a picture is turned."""


def _facts(image: Image.Image) -> dict[str | tuple[int, int], bool]:
    """What Pillow knows of a picture only before it is decoded."""
    is_deep = image.mode.startswith("I") or any(";16" in str(tile) for tile in getattr(image, "tile", ()))
    return {key: True for key, holds in ((_DEEP, is_deep), (_ANIMATED, _has_frames(image))) if holds}


def _has_frames(image: Image.Image) -> bool:
    """Whether there are several frames. The second one of a camera's MPO is a preview or a depth map."""
    try:
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except Exception:  # only the first frame is used, so that damage to others does not matter
        return False


def _peak(image: Image.Image, bits: int) -> int | None:
    """The largest value of a 16-bit picture; None for one of 8 bits."""
    if _DEEP not in image.info:
        return None
    if image.mode.startswith("I"):
        return int(np.asarray(image).max())
    if bits < 16:
        raise UnreadableError(f"it has 16 bits for each colour, and bits = {bits} is for grey; store it with 8 bits")
    return int(np.asarray(image.convert("RGB")).max()) << 8 | 0xFF


# ── Pixels in 8 bits ──────────────────────────────────────────────────────────────────────────────────────


def _opaque(image: Image.Image, bits: int, background: tuple[int, int, int]) -> Image.Image:
    if image.mode.startswith("I"):
        return _in_8_bits(image, bits)
    if image.mode == "F":
        raise UnreadableError("its pixels are floats, which have no fixed range; store it with 8 or 16 bits")
    if not image.has_transparency_data:
        return image
    ground = Image.new("RGBA", image.size, background)
    ground.alpha_composite(image.convert("RGBA"))
    return ground


def _converted(image: Image.Image, mode: str) -> Image.Image:
    """The picture in colour or grey."""
    try:
        coloured = image.convert("RGB") if image.mode in BY_COLOUR else image
        return coloured.convert(mode)
    except Exception as error:  # a ValueError, or littleCMS is absent or fails
        raise UnreadableError(f"Pillow does not convert its colours, {image.mode}; store it as RGB") from error


BY_COLOUR = ("LAB", "HSV")
"""Modes from which Pillow knows a way to colour alone."""


def _in_8_bits(image: Image.Image, bits: int) -> Image.Image:
    """Deep grey as 8-bit grey: 0 stays 0, and 2^bits - 1 becomes 255."""
    values, largest = np.asarray(image).astype(np.int64), 2**bits - 1
    if values.min() < 0 or values.max() > largest:
        raise UnreadableError(f"its pixels range from {values.min():,} to {values.max():,}, beyond {bits} bits")
    return Image.fromarray(((values * 255 + largest // 2) // largest).astype(np.uint8))
