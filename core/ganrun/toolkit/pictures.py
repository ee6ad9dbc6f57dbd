"""Picture files: from bytes of any format, depth, transparency and colours to an upright 8-bit picture."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from ganrun.base.reading import is_web_page

TRIED_FIRST = ("JPEG", "PNG")
NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"}
"""Formats that Pillow recognises but cannot decode by itself; for EPS it would run a PostScript interpreter."""

SYSTEM_FOLDERS = {
    *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot"),  # Synology's and QNAP's
    *("$recycle.bin", "recycler", "system volume information", "__macosx", "lost+found"),
}
"""Folders in which devices and operating systems keep thumbnails, deleted files and the like, in lower case; others
start with a dot."""

_DEEP, _ANIMATED = "ganrun: 16 bits", "ganrun: frames"
"""Keys of Pillow's `info`, which is kept when a picture is turned."""

WHITE = (255, 255, 255)


class UnreadableError(Exception):
    """A picture that cannot be used, and why."""


# ── Files ─────────────────────────────────────────────────────────────────────────────────────────────────


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


def is_deep(image: Image.Image) -> bool:
    """Whether the file of a picture from `open_picture` has 16 bits for each colour."""
    return _DEEP in image.info


def is_animated(image: Image.Image) -> bool:
    """Whether the file of a picture from `open_picture` has more frames than this one."""
    return _ANIMATED in image.info


def is_picture(name: str) -> bool:
    """Whether a file's name has a picture's extension."""
    return f".{name.rpartition('.')[2].lower()}" in _extensions()


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden: its name starts with a dot, or it is a folder in which a device or an
    operating system keeps thumbnails, deleted files and the like."""
    return name.startswith(".") or name.lower() in SYSTEM_FOLDERS


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


def _facts(image: Image.Image) -> dict[str | tuple[int, int], bool]:
    """Facts about a picture that Pillow knows only before decoding it."""
    is_deep = image.mode.startswith("I") or any(";16" in str(tile) for tile in getattr(image, "tile", ()))
    return {key: True for key, holds in ((_DEEP, is_deep), (_ANIMATED, _has_frames(image))) if holds}


def _has_frames(image: Image.Image) -> bool:
    """Whether there are several frames. The second one of a camera's MPO is a preview or a depth map."""
    try:
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except Exception:  # only the first frame is used, so that damage to others does not matter
        return False


# ── Pixels in 8 bits ──────────────────────────────────────────────────────────────────────────────────────


def opaque_picture(image: Image.Image, bits: int = 16, background: tuple[int, int, int] = WHITE) -> Image.Image:
    """The picture in 8 bits for each colour, its transparent parts laid on a background.

    Args:
        image: As `open_picture` returns it.
        bits: How many of its bits a deep grey picture uses, from the lowest: 2^bits - 1 is white.
        background: Red, green and blue.

    Raises:
        UnreadableError: if its pixels have no fixed range, or need more than `bits`.
    """
    if image.mode.startswith("I"):
        return _in_8_bits(image, bits)
    if image.mode == "F":
        raise UnreadableError("its pixels are floats, which have no fixed range; store it with 8 or 16 bits")
    if not image.has_transparency_data:
        return image
    ground = Image.new("RGBA", image.size, background)
    # Pillow knows a way from grey that is multiplied by its opacity, as some TIFFs hold it, to plain grey alone.
    ground.alpha_composite((image.convert("LA") if image.mode == "La" else image).convert("RGBA"))
    return ground


def coloured_picture(image: Image.Image, channels: int) -> Image.Image:
    """An opaque picture in colour (3 channels) or grey (1): colours become their luma (ITU-R BT.601).

    Raises:
        UnreadableError: if Pillow does not convert its colours.
    """
    mode = "RGB" if channels == 3 else "L"
    try:
        coloured = image.convert("RGB") if image.mode in BY_COLOUR else image
        return coloured.convert(mode)
    except Exception as error:  # a ValueError, or littleCMS is absent or fails
        raise UnreadableError(f"Pillow does not convert its colours, {image.mode}; store it as RGB") from error


BY_COLOUR = ("LAB", "HSV")
"""Modes that Pillow converts only to colour."""


def _in_8_bits(image: Image.Image, bits: int) -> Image.Image:
    """Deep grey as 8-bit grey: 0 stays 0, and 2^bits - 1 becomes 255."""
    values, largest = np.asarray(image).astype(np.int64), 2**bits - 1
    if values.min() < 0 or values.max() > largest:
        raise UnreadableError(f"its pixels range from {values.min():,} to {values.max():,}, beyond {bits} bits")
    return Image.fromarray(((values * 255 + largest // 2) // largest).astype(np.uint8))
