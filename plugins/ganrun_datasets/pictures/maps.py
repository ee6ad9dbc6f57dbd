"""Decoded pictures on disk, and what is known of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from ganrun import UnreadableError, one_line
from ganrun_datasets import pixel_files
from ganrun_datasets.pictures.job import DIGEST_BYTES, Job
from ganrun_datasets.pictures.picture import Pixels


class Tally(BaseModel, frozen=True, strict=True, extra="forbid"):
    """How many pictures have some property, and the first of them."""

    count: int = 0
    first: str = ""

    def __add__(self, names: Sequence[str]) -> Tally:
        return Tally(count=self.count + len(names), first=self.first or (one_line(names[0]) if names else ""))


class Record(pixel_files.Record):
    """What is known of a job's pictures."""

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


@dataclass(frozen=True)
class PictureMap:
    """A job's pictures in the cache, whether they are there or not."""

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
        """Whether a picture has become readable. Its permissions may have changed, which its stamp does not show."""
        with ExitStack() as handles:
            read = self.job.source.reader(handles)
            for number, _ in record.unreadable:
                with suppress(UnreadableError):
                    self.job.picture(self.job.names[number], read(self.job.names[number]))
                    return True
        return False
