"""Decoded pictures on disk: a memory map of pixels, and a record that says what the map must be to be trusted.

The map `<data>-<size>-<key>.npy` holds pixels alone. The record beside it (`.json`) is written last; without a record
that fits, the map is rebuilt.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

import ganrun
from ganrun_datasets.pictures.job import DIGEST_BYTES, Job, digest
from ganrun_datasets.pictures.picture import Pixels, UnreadableError
from ganrun_datasets.pictures.sources import printable

log = logging.getLogger("ganrun.datasets")


class Tally(BaseModel, frozen=True, strict=True, extra="forbid"):
    """How many pictures have some property, and the first of them."""

    count: int = 0
    first: str = ""

    def __add__(self, names: Sequence[str]) -> Tally:
        return Tally(count=self.count + len(names), first=self.first or (printable(names[0]) if names else ""))


class Record(BaseModel, frozen=True, strict=True, extra="forbid"):
    """What is known of a map. The fields are those of the file."""

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

    map_bytes: int = 0
    map_mtime_ns: int = 0


@dataclass(frozen=True)
class Decoded:
    """The pictures that could be read, as pixels."""

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
    """A job's map and its record in the cache, whether they exist or not."""

    path: Path
    job: Job

    def load(self) -> Decoded | None:
        """The pictures, if the map is as it was recorded; None if it is absent, damaged or was written to since."""
        try:
            return self._open(verify=False)
        except (OSError, ValueError, EOFError):
            return None

    def verify(self) -> Decoded | None:
        """Like `load`, but read a map that was written to: equal pixels, as in a copy, are accepted."""
        try:
            return self._open(verify=True)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError) as error:
            log.warning("%s is damaged and is rebuilt: %s", self.path, " ".join(str(error).split()))
            return None

    def complete(self, record: Record) -> Decoded:
        """Record a map that has just been written, and open it."""
        status = self.path.stat()
        record = record.model_copy(update={"map_bytes": status.st_size, "map_mtime_ns": status.st_mtime_ns})
        self._write_record(record)
        return self._mapped(record)

    def _open(self, verify: bool) -> Decoded | None:
        record, status = self._read_record(), self.path.stat()
        if status.st_size != record.map_bytes:
            raise ValueError(f"it has {status.st_size:,} bytes, not {record.map_bytes:,}")
        is_touched = status.st_mtime_ns != record.map_mtime_ns
        if (is_touched and not verify) or self._is_outdated(record):
            return None
        found = self._mapped(record)
        if is_touched:
            _check_rows(found.images, record)
            self._write_record(record.model_copy(update={"map_mtime_ns": status.st_mtime_ns}))
        return found

    def _is_outdated(self, record: Record) -> bool:
        """Whether a picture has become readable. Its permissions may have changed, which its stamp does not show."""
        with ExitStack() as handles:
            read = self.job.source.reader(handles)
            for number, _ in record.unreadable:
                with suppress(UnreadableError):
                    self.job.picture(self.job.names[number], read(self.job.names[number]))
                    return True
        return False

    def _mapped(self, record: Record) -> Decoded:
        # Copy-on-write, since PyTorch warns about arrays that it may not write to. The file stays as it is.
        images = np.lib.format.open_memmap(self.path, mode="c")
        numbers = np.delete(np.arange(len(self.job.names)), [number for number, _ in record.unreadable])
        if images.dtype != np.uint8 or images.shape != (len(numbers), *self.job.transform.shape):
            raise ValueError(f"it holds {images.dtype} {images.shape}")
        return Decoded(images, numbers, record)

    def _read_record(self) -> Record:
        checksum, _, text = self.path.with_suffix(".json").read_text(encoding="utf-8").partition("\n")
        if checksum != digest(text.encode()).hex():
            raise ValueError("its record has another checksum")
        return Record.model_validate_json(text)

    def _write_record(self, record: Record) -> None:
        text = record.model_dump_json()
        with ganrun.atomic_path(self.path.with_suffix(".json")) as partial:
            partial.write_text(f"{digest(text.encode()).hex()}\n{text}", encoding="utf-8")


def _check_rows(images: Pixels, record: Record) -> None:
    digests = bytes.fromhex(record.row_digests)
    for row, image in enumerate(images):
        if digest(image.data) != digests[row * DIGEST_BYTES : (row + 1) * DIGEST_BYTES]:
            raise ValueError(f"row {row:,} has changed")
