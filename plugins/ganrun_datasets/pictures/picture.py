"""One picture of a data set: converted from any size and colours to those in the settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from ganrun import UnreadableError, coloured_picture, is_animated, is_deep, opaque_picture

Pixels = npt.NDArray[np.uint8]
Filter = Literal["bicubic", "bilinear", "lanczos", "box"]
Crop = Literal["centre", "none", "exact"] | tuple[int, int, int, int]


class Picture(NamedTuple):
    """The pixels of a picture, and the changes that its transform made."""

    pixels: Pixels
    """uint8 `(channels, size, size)`"""

    was_grey: bool
    was_enlarged: bool
    peak: int | None
    """The largest value of a picture with 16 bits per channel; None with 8 bits. Pillow decodes only the upper 8 bits
    of 16-bit colour, so the lower ones are assumed to be 1."""

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
    """Pillow's filter; each of them widens when downsampling, so there is no aliasing."""

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
        plain = coloured_picture(self.opaque(image), self.channels)
        cropped = plain.crop(self._box(*plain.size))
        resized = cropped.resize((self.size, self.size), Image.Resampling[self.filter.upper()])
        pixels = np.asarray(resized).reshape(self.size, self.size, self.channels).transpose(2, 0, 1)
        return Picture(pixels, was_grey, min(cropped.size) < self.size, peak, is_animated(image), image.size)

    def opaque(self, image: Image.Image) -> Image.Image:
        """The picture in 8 bits per channel, its transparent parts on white."""
        return opaque_picture(image, self.bits)

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
        return opaque_picture(image, self.bits, self.background)


@dataclass(frozen=True)
class Half(Transform):
    """The same for one half of a picture that consists of two of equal width side by side."""

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


def _peak(image: Image.Image, bits: int) -> int | None:
    """The largest value of a 16-bit picture; None for one of 8 bits."""
    if not is_deep(image):
        return None
    if image.mode.startswith("I"):
        return int(np.asarray(image).max())
    if bits < 16:
        raise UnreadableError(f"it has 16 bits for each colour, and bits = {bits} is for grey; store it with 8 bits")
    return int(np.asarray(image.convert("RGB")).max()) << 8 | 0xFF
