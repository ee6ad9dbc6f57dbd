"""Pixels in ganrun's cache, in files whose every byte is covered by a checksum, compared whenever a file is opened.

A file holds the pixels, row by row; a record, as JSON, that describes them; and the record's length and CRC-32.
"""

from __future__ import annotations

import logging
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from math import prod
from pathlib import Path
from random import SystemRandom
from threading import Lock
from typing import IO, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

import ganrun

Pixels = npt.NDArray[np.uint8]

SUFFIX = ".pixels"

BLOCK_BYTES = 4 << 20
"""Pixels under one checksum. CRC-32 finds every change of up to 32 successive bits, and misses one in 2³² others. It
takes a quarter of the time of a cryptographic digest, which would not protect against anybody who can write here."""

CHECKED_BYTES = 8 << 30
"""Bytes that are checked at each opening: of a larger file, random blocks, others each time."""

END = struct.Struct("<QI")
"""The length and the CRC-32 of the record."""

log = logging.getLogger("ganrun.datasets")


class Record(BaseModel, frozen=True, strict=True, extra="forbid"):
    """The description of a file of pixels. Subclasses add further metadata."""

    name: str = ""
    """The name of the file."""

    shape: tuple[int, ...] = ()

    checksums: tuple[int, ...] = ()
    """The CRC-32 of each block of pixels."""


R = TypeVar("R", bound=Record)

# ── Reading ───────────────────────────────────────────────────────────────────────────────────────────────


def open_pixels(path: Path, kind: type[R], *, whole: bool = False) -> tuple[Pixels, R] | None:
    """The pixels of a file, as a copy-on-write memory map, and its record; None if there is no such file.

    Args:
        path: The file.
        kind: The type of its record.
        whole: Whether to check all of a file that is larger than `CHECKED_BYTES`.

    Raises:
        ValueError: if the file is damaged.
        OSError: if it cannot be read.
    """
    try:
        with ganrun.opened(path) as file:
            return _opened(file, path, kind, whole)
    except FileNotFoundError:
        return None


def _opened(file: IO[bytes], path: Path, kind: type[R], whole: bool) -> tuple[Pixels, R]:
    record, pixel_bytes = _read_record(file, kind)
    blocks = -(-pixel_bytes // BLOCK_BYTES)
    if (record.name, prod(record.shape), len(record.checksums)) != (path.name, pixel_bytes, blocks):
        raise ValueError(f"it holds {pixel_bytes:,} bytes, and its record says {record.name} {record.shape}")
    _check(file, path.name, record.checksums, pixel_bytes, whole)
    # Copy-on-write, since PyTorch warns about arrays that it may not write to. The file is unchanged.
    pixels = np.memmap(file, np.uint8, "c", shape=record.shape)
    pixels.filename = str(path)  # NumPy does not get it from an open file
    return pixels, record


def load_pixels(path: Path, kind: type[R], *, whole: bool = False) -> tuple[Pixels, R] | None:
    """Like `open_pixels`; for a damaged file, None with a warning."""
    try:
        return open_pixels(path, kind, whole=whole)
    except (OSError, ValueError) as error:
        log.warning("%s is damaged and is rebuilt: %s", path, " ".join(str(error).split()))
        return None


def _read_record(file: IO[bytes], kind: type[R]) -> tuple[R, int]:
    """The record, and the number of bytes before it."""
    size = file.seek(0, os.SEEK_END)
    if size < END.size:
        raise ValueError(f"it has {size} bytes")
    file.seek(size - END.size)
    length, checksum = END.unpack(file.read(END.size))
    pixel_bytes = size - END.size - length
    if pixel_bytes < 0:
        raise ValueError(f"it has {size:,} bytes, and its end is damaged")
    file.seek(pixel_bytes)
    text = file.read(length)
    if zlib.crc32(text) != checksum:
        raise ValueError("its record has another checksum")
    return kind.model_validate_json(text), pixel_bytes


def _check(file: IO[bytes], name: str, checksums: Sequence[int], pixel_bytes: int, whole: bool) -> None:
    blocks: Sequence[int] = range(len(checksums))
    if pixel_bytes > CHECKED_BYTES and not whole:
        text = "%s: %.1f of its %.1f GB are checked; ganrun data check --full checks all"
        log.warning(text, name, CHECKED_BYTES / 1e9, pixel_bytes / 1e9)
        blocks = sorted(SystemRandom().sample(blocks, CHECKED_BYTES // BLOCK_BYTES))
    pool = ThreadPoolExecutor(available_processors(), "checking")
    try:
        found = pool.map(_BlockChecksum(file, pixel_bytes), blocks)
        with ganrun.ProgressReporter() as report:
            for done, (block, checksum) in enumerate(zip(blocks, found, strict=True), start=1):
                if checksum != checksums[block]:
                    raise ValueError(f"its pixels have changed after byte {block * BLOCK_BYTES:,}")
                report(f"{name}: checking blocks", done, len(blocks))
    finally:
        pool.shutdown(cancel_futures=True)


class _BlockChecksum:
    """Computes the CRC-32 of a file's blocks; threads share the open file, and so the one that is mapped afterwards."""

    def __init__(self, file: IO[bytes], pixel_bytes: int) -> None:
        self._file = file
        self._pixel_bytes = pixel_bytes
        self._lock = Lock()

    def __call__(self, block: int) -> int:
        begin = block * BLOCK_BYTES
        # Read, not mapped: a failing disk raises an error here, but would kill a process that maps the file.
        with self._lock:
            self._file.seek(begin)
            content = self._file.read(min(BLOCK_BYTES, self._pixel_bytes - begin))
        return zlib.crc32(content)


def available_processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ── Writing ───────────────────────────────────────────────────────────────────────────────────────────────


class PixelWriter:
    """Writes a file of pixels, rows after rows, and then its record."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file = file
        self._name = name
        self._checksums: list[int] = []
        self._filled = BLOCK_BYTES
        self._rows = 0

    def write(self, rows: Pixels) -> None:
        """Write rows `(count, …)`."""
        pixels = np.ascontiguousarray(rows).reshape(-1)
        self._file.write(pixels.data)
        self._rows += len(rows)
        while len(pixels):
            if self._filled == BLOCK_BYTES:
                self._checksums.append(0)
                self._filled = 0
            part, pixels = np.split(pixels, [BLOCK_BYTES - self._filled])
            self._checksums[-1] = zlib.crc32(part.data, self._checksums[-1])
            self._filled += len(part)

    def finish(self, record: Record, row_shape: tuple[int, ...]) -> None:
        """Write the record, completed with the writer's own results."""
        facts = {"name": self._name, "shape": (self._rows, *row_shape), "checksums": tuple(self._checksums)}
        text = record.model_copy(update=facts).model_dump_json().encode()
        self._file.write(text + END.pack(len(text), zlib.crc32(text)))


@contextmanager
def new_pixels(path: Path) -> Iterator[PixelWriter]:
    """A writer of the file `path` of the cache, which appears when the block ends without an error."""
    with ganrun.cache_file(path) as partial, partial.open("wb") as file:
        yield PixelWriter(file, path.name)
