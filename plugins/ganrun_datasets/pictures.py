"""Picture files: where they lie, in a folder or in a zip, and how one of them becomes pixels."""

from __future__ import annotations

import io
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from ganrun import DataError

Pixels = npt.NDArray[np.uint8]
Filter = Literal["bicubic", "bilinear", "lanczos", "box"]
Crop = Literal["centre", "none", "exact"] | tuple[int, int, int, int]

LARGEST_FILE_BYTES = 1 << 29
FREQUENT = ("JPEG", "PNG")
NOT_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"}
"""What Pillow knows but cannot decode by itself; for EPS it would even run a PostScript interpreter on the file."""


class UnreadableError(Exception):
    """A picture that cannot be used, and why."""


# ── One picture ───────────────────────────────────────────────────────────────────────────────────────────


class Picture(NamedTuple):
    """A picture as the networks get it, and what was done to it on the way."""

    pixels: Pixels
    """uint8 `(channels, size, size)`"""

    was_grey: bool
    was_enlarged: bool


@dataclass(frozen=True)
class Transform:
    """From any picture to uint8 `(channels, size, size)`."""

    size: int
    channels: int = 3
    filter: Filter = "bicubic"
    """Pillow's, all of which widen when they shrink, so that nothing aliases."""

    crop: Crop = "centre"
    """centre: the largest centred square; none: all of it, stretched; exact: all of it, which must be of that size; or
    a box (left, top, right, bottom)."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, size, size)"""
        return self.channels, self.size, self.size

    def __call__(self, image: Image.Image) -> Picture:
        """The pixels of a loaded picture.

        Raises:
            UnreadableError: if its pixels are of a kind that has no fixed range, or its size is not the exact one.
        """
        if self.crop == "exact" and image.size != (self.size, self.size):
            width, height = image.size
            raise UnreadableError(f"it is {width}×{height} pixels, not {self.size}×{self.size}")
        was_grey = image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I")
        plain = _on_white(image).convert("RGB" if self.channels == 3 else "L")
        cropped = plain.crop(self._box(*plain.size))
        resized = cropped.resize((self.size, self.size), Image.Resampling[self.filter.upper()])
        pixels = np.asarray(resized).reshape(self.size, self.size, self.channels).transpose(2, 0, 1)
        return Picture(pixels, was_grey, min(cropped.size) < self.size)

    def _box(self, width: int, height: int) -> tuple[int, int, int, int]:
        if not isinstance(self.crop, str):
            return self.crop
        if self.crop == "none":
            return 0, 0, width, height
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        return left, top, left + side, top + side


def opened(content: bytes) -> Image.Image:
    """The picture in a file, decoded and the right way up; the first one of an animation.

    Raises:
        UnreadableError: for whatever reason Pillow cannot decode all of it.
    """
    try:
        image = Image.open(io.BytesIO(content), formats=_formats())
        image.load()
    except Exception as error:  # each format's decoder fails in its own way: struct.error, IndexError, SyntaxError …
        raise UnreadableError(_reason(content, error)) from error
    turn = _TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _reason(content: bytes, error: Exception) -> str:
    if not content:
        return "it is empty"
    if is_web_page(content):
        return "it is a web page"
    if isinstance(error, UnidentifiedImageError):
        return f"it is no picture: it starts with {content[:4].hex(' ')}"
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
"""What rights a picture of each EXIF orientation; 1 is right already."""


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a camera's malformed notes do not make the pixels worse
        return 1


def _on_white(image: Image.Image) -> Image.Image:
    """Without transparency, and with 8 bits per channel."""
    if image.mode.startswith("I"):
        return _in_8_bits(image)
    if image.mode == "F":
        raise UnreadableError("its pixels are floats, which have no fixed range")
    if not image.has_transparency_data:
        return image
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    return white


def _in_8_bits(image: Image.Image) -> Image.Image:
    """16-bit grey to 8 bits: 65,535 / 257 = 255."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65_535:
        raise UnreadableError(f"its pixels go from {values.min():,} to {values.max():,}, beyond 16 bits")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


@cache
def _formats() -> tuple[str, ...]:
    """Those that Pillow is to try, in this order: some can only be told by trying to read all of the header."""
    Image.init()
    return tuple(sorted(Image.OPEN.keys() - NOT_PICTURES, key=lambda name: (name not in FREQUENT, name)))


@cache
def _extensions() -> frozenset[str]:
    formats = set(_formats())
    return frozenset(end for end, name in Image.registered_extensions().items() if name in formats)


def is_picture(name: str) -> bool:
    """Whether a file is to be taken for a picture, by the end of its name."""
    return f".{name.rpartition('.')[2].lower()}" in _extensions()


# ── Where pictures lie ────────────────────────────────────────────────────────────────────────────────────


class Reader(Protocol):
    """Reads files of one source; threads may share it."""

    def __call__(self, name: str) -> bytes: ...


class Source(Protocol):
    """Files under relative names with forward slashes, hidden ones left out."""

    path: Path

    @property
    def stamps(self) -> Mapping[str, str]:
        """For each name, in order, what changes when the file does."""

    def reader(self, closing: ExitStack) -> Reader:
        """A reader whose handle `closing` closes. It raises `UnreadableError`."""


def source_at(path: Path) -> Source:
    """The files of a folder or of a zip; only looks whether it is one.

    Raises:
        DataError: if there is neither, with what there is instead.
    """
    if path.is_dir():
        return Folder(path)
    if not path.exists():
        raise DataError(f"there is no {path.absolute()}; root in [data] names a folder, or a .zip")
    if not zipfile.is_zipfile(path):
        raise DataError(no_zip(path))
    return Archive(path)


class Folder:
    """The files of a folder and of all below it; links are followed, except to a folder that they lie in."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def stamps(self) -> Mapping[str, str]:
        """Size and times of change by name; the second time is the system's own, which nobody can set back."""
        try:
            return dict(_walk(self.path, "", frozenset()))
        except OSError as error:
            raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error

    def reader(self, closing: ExitStack) -> Reader:
        """Reads whole files."""
        return self._read

    def _read(self, name: str) -> bytes:
        try:
            with (self.path / name).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size > LARGEST_FILE_BYTES:
                    raise UnreadableError(_too_large(size))
                return file.read()
        except OSError as error:
            raise UnreadableError(f"it cannot be read: {error.strerror}") from error


def _walk(folder: Path, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[tuple[str, str]]:
    place = folder.stat()
    above |= {(place.st_dev, place.st_ino)}
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        if _is_hidden(entry.name):
            continue
        facts = _facts(entry.path)
        if facts is None:
            yield prefix + entry.name, "absent"
        elif stat.S_ISREG(facts.st_mode):
            yield prefix + entry.name, f"{facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns}"
        elif stat.S_ISDIR(facts.st_mode) and (facts.st_dev, facts.st_ino) not in above:
            yield from _walk(folder / entry.name, f"{prefix}{entry.name}/", above)


def _facts(path: str) -> os.stat_result | None:
    """Of what a path leads to; None if that is nothing, as with a link to a file that is gone."""
    try:
        return os.stat(path)  # noqa: PTH116 - for 200,000 files, making Paths takes several times as long
    except OSError:
        return None


def _is_hidden(part: str) -> bool:
    return part.startswith(".") or part == "__MACOSX"


class Archive:
    """The members of a zip, read where they are. All raise DataError if its table of contents is damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def stamps(self) -> Mapping[str, str]:
        """Size and checksum by name."""
        return {name: f"{member.file_size} {member.CRC:08x}" for name, member in self._members.items()}

    @cached_property
    def _members(self) -> dict[str, zipfile.ZipInfo]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                members = archive.infolist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError, struct.error) as error:
            raise DataError(no_zip(self.path, f"({error})")) from error
        named = {each.filename.replace("\\", "/"): each for each in members if not each.is_dir()}  # some write C:\'s
        return {name: named[name] for name in sorted(named) if not any(map(_is_hidden, name.split("/")))}

    def reader(self, closing: ExitStack) -> Reader:
        """Reads members, inflated and checked by their CRC-32."""
        try:
            archive = closing.enter_context(zipfile.ZipFile(self.path))
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(no_zip(self.path, f"({error})")) from error
        return lambda name: _content(archive, self._members[name])


def _content(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    if member.file_size > LARGEST_FILE_BYTES:
        raise UnreadableError(_too_large(member.file_size))
    if member.flag_bits & 1:
        raise UnreadableError("the zip is encrypted; unpack it, and name the folder")
    try:
        return archive.read(member)
    except RuntimeError as error:  # it is compressed in a way that zipfile does not know
        raise UnreadableError(f"the zip does not give it: {error}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
        raise UnreadableError(f"the zip is damaged here: {error}") from error


def _too_large(size: int) -> str:
    return f"it has {size:,} bytes, more than any picture"


def is_web_page(content: bytes) -> bool:
    """Whether a file starts as an HTML page, such as a server sends in place of a file that it will not give."""
    start = content[:256].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return start.startswith((b"<!doctype html", b"<html"))


def no_zip(path: Path, reason: str = "") -> str:
    """What a file is that cannot be opened as a zip, and what to do about it."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(256)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    if not size:
        what = "is empty"
    elif is_web_page(start):
        what = "is a web page, saved in place of the file, as when a download is refused"
    elif start.startswith(b"PK"):
        what = (
            f"was cut short or damaged: it has {size:,} bytes, and no table of contents at their end {reason}".rstrip()
        )
    else:
        what = f"is no zip: it starts with {start[:4].hex(' ')}"
    return f"{path} {what}; replace it with a fresh copy"
