"""Decoded pictures on disk, and their metadata."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from ganrun import UnreadableError, one_line
from ganrun_datasets import pixel_files
from ganrun_datasets.pictures.job import DIGEST_BYTES, SIDES, Job
from ganrun_datasets.pictures.picture import Pixels


class Tally(BaseModel, frozen=True, strict=True, extra="forbid"):
    """How many pictures have some property, and the first of them."""

    count: int = 0
    first: str = ""

    def __add__(self, names: Sequence[str]) -> Tally:
        return Tally(count=self.count + len(names), first=self.first or (one_line(names[0]) if names else ""))


class Record(pixel_files.Record):
    """Metadata of a job's pictures."""

    unreadable: tuple[tuple[int, str], ...] = ()
    """The job's pictures that are not in the map, by their positions in the job, each with the reason."""

    grey: Tally = Tally()
    """Pictures that are stored as grey."""

    enlarged: Tally = Tally()
    """Pictures that are smaller than their pixels in the map."""

    deep: Tally = Tally()
    """Pictures with 16 bits per channel."""

    peak: int = 0
    """The largest value of all pictures in `deep`."""

    animated: Tally = Tally()
    """Files of several frames, of which the first is used."""

    contents: str = ""
    """A digest of the files' names and contents, in order."""

    row_digests: str = ""
    """A digest of each row's pixels, in hexadecimal, one after the other."""

    sides: str = ""
    """Width and height of each row's picture, as in `SIDES`, in hexadecimal; empty in older files."""


@dataclass(frozen=True)
class Decoded:
    """The pictures that could be read, as pixels."""

    path: Path
    """Their file in the cache."""

    images: Pixels
    """uint8 `(count, channels, size, size)`, a copy-on-write memory map."""

    numbers: npt.NDArray[np.int64]
    """int64 `(count,)`: the position in the job of each row's picture; ascending."""

    record: Record

    def only(self, numbers: npt.NDArray[np.int64]) -> Decoded:
        """The job's pictures in `numbers`, a subset of this record's; copied unless it is all of them."""
        if len(numbers) == len(self.numbers):
            return self
        kept, record = np.searchsorted(self.numbers, numbers), self.record
        shortened = {"row_digests": _rows_of(record.row_digests, DIGEST_BYTES, kept)}
        shortened |= {"sides": _rows_of(record.sides, SIDES.size, kept)} if record.sides else {}
        return replace(self, images=self.images[kept], numbers=numbers, record=record.model_copy(update=shortened))

    @property
    def sides(self) -> npt.NDArray[np.uint32]:
        """Width and height of each row's picture before it was cropped and resized, `(count, 2)`."""
        return np.frombuffer(bytes.fromhex(self.record.sides), "<u4").reshape(-1, 2)

    def rows(self, begin: int, end: int) -> slice:
        """The rows of the job's pictures from `begin` to before `end`."""
        first, last = np.searchsorted(self.numbers, (begin, end))
        return slice(int(first), int(last))

    def fingerprint(self, rows: slice, labels: npt.NDArray[np.int64] | None) -> str:
        """A digest of some rows' pixels and labels, from the record: no pixel is read."""
        hasher = hashlib.blake2b(str(self.images.shape[1:]).encode(), digest_size=DIGEST_BYTES)
        hasher.update(bytes.fromhex(self.record.row_digests)[rows.start * DIGEST_BYTES : rows.stop * DIGEST_BYTES])
        hasher.update(b"" if labels is None else np.ascontiguousarray(labels).data)
        return hasher.hexdigest()


def _rows_of(text: str, size: int, rows: npt.NDArray[np.int64]) -> str:
    """Some rows of a text that holds `size` bytes of each, in hexadecimal."""
    return np.frombuffer(bytes.fromhex(text), np.uint8).reshape(-1, size)[rows].tobytes().hex()


@dataclass(frozen=True)
class PictureMap:
    """A job's entry in the cache, whether it exists or not."""

    path: Path
    job: Job

    def load(self, *, whole: bool = False) -> Decoded | None:
        """The pictures, checked as in `open_pixels`; None if they are absent, or, with a warning, if damaged."""
        return self._decoded(pixel_files.load_pixels(self.path, Record, whole=whole))

    def load_if_sound(self, *, whole: bool = False) -> Decoded | None:
        """The same, without a warning."""
        with suppress(OSError, ValueError):
            return self._decoded(pixel_files.open_pixels(self.path, Record, whole=whole))
        return None

    def _decoded(self, found: tuple[Pixels, Record] | None) -> Decoded | None:
        if found is None or self._is_outdated(found[1]):
            return None
        images, record = found
        numbers = np.delete(np.arange(len(self.job.names)), [number for number, _ in record.unreadable])
        return Decoded(self.path, images, numbers, record)

    def _is_outdated(self, record: Record) -> bool:
        """Whether a picture has become readable: its stamp does not reflect changed permissions."""
        with ExitStack() as handles:
            read = self.job.source.reader(handles)
            for number, _ in record.unreadable:
                with suppress(UnreadableError):
                    self.job.picture(self.job.names[number], read(self.job.names[number]))
                    return True
        return False
