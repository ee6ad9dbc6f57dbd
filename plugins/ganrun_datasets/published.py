"""Checks whether files are the published ones, byte for byte."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import os
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import ganrun
from ganrun_datasets.damage import archive_damage
from ganrun_datasets.idx import MOST_BYTES
from ganrun_datasets.packed import Bounded

log = logging.getLogger("ganrun.datasets")

SETTLED_SECONDS = 2
"""A file that was written to more recently may be written to again within the resolution of its times."""


LONGEST_MEMORY = 1_000
"""Limit for a file of the cache with one MD5."""


class Identity(NamedTuple):
    """The files of a data set, for its manifest."""

    files: dict[str, str]
    """MD5 by name; data sets are published with MD5 sums."""

    published: bool | None
    """Whether all files are the published ones; None if unknown."""


def identify(data: str, files: Mapping[Path, str | None], *, as_packed: bool = False) -> Identity:
    """Compare files with their published checksums, and warn about those that differ.

    Args:
        data: The data set's name, for the warning.
        files: The published MD5 by file, None for a file that has none; of a .gz, the MD5 of its unpacked content.
        as_packed: Whether the published MD5 of a .gz is that of the file itself. Then it is unknown whether a file that
            was unpacked or repacked is the published one.
    """
    found = {path: md5_of(path, unpacked=not as_packed) for path in files}
    differing = [path for path, expected in files.items() if expected is not None and found[path] != expected]
    is_known = all(files.values()) and not differing
    foreign = [] if as_packed else differing
    if foreign:
        log.warning(
            "%s: %d of %d files are not the published ones; the first is %s; scores cannot be compared with others'",
            *(data, len(foreign), len(files), foreign[0]),
        )
    return Identity({path.name: md5 for path, md5 in found.items()}, False if foreign else is_known or None)


def verdict_on(path: Path, published: str | None, *, as_packed: bool = False) -> str:
    """A description of a file, after rereading every byte.

    Args:
        path: The file.
        published: Its published MD5, or None.
        as_packed: As in `identify`.
    """
    md5 = md5_of(path, unpacked=not as_packed, again=True)
    if published is None:
        return f"MD5 {md5}; none is published"
    if md5 == published:
        return f"MD5 {md5}, as published"
    return f"MD5 {md5}, not the published {published}{' of the file as it was packed' if as_packed else ''}"


def md5_of(path: Path, *, unpacked: bool = True, again: bool = False) -> str:
    """The MD5 of a file in hexadecimal; for a gzip file that is not a .tar, the MD5 of its unpacked content.

    It is computed once, and stored in ganrun's cache while the file's size, times and inode stay the same.

    Args:
        path: The file.
        unpacked: Whether a gzip file is unpacked.
        again: Whether to compute it even if it is cached.
    """
    stamp, memory = _stamp(path), _memory(path, unpacked)
    if not again and (known := _remembered(memory, stamp)) is not None:
        return known
    md5 = _computed(path, unpacked)
    if stamp == _stamp(path) and time.time() - path.stat().st_mtime > SETTLED_SECONDS:
        with suppress(OSError), ganrun.cache_file(memory) as partial:
            partial.write_text(json.dumps({"stamp": stamp, "md5": md5}), encoding="utf-8")
    return md5


def _remembered(memory: Path, stamp: list[int]) -> str | None:
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        known = json.loads(ganrun.read_bytes(memory, LONGEST_MEMORY))
        if known["stamp"] == stamp:
            return str(known["md5"])
    return None


def _computed(path: Path, unpacked: bool) -> str:
    # Two gzip files of the same content differ in date and name, and browsers unpack files but keep the name.
    with path.open("rb") as file:
        is_packed = unpacked and file.read(2) == b"\x1f\x8b" and ".tar" not in path.suffixes
    try:
        with Bounded(path, MOST_BYTES) if is_packed else path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ganrun.DataError(archive_damage(path, error)) from error


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev]


def _memory(path: Path, unpacked: bool) -> Path:
    """The cache file for a file's MD5; without a cache, a path that cannot exist."""
    name = hashlib.blake2b(
        f"{unpacked} {path.absolute()}".encode("utf-8", "surrogateescape"), digest_size=16
    ).hexdigest()
    try:
        return ganrun.cache_path("checksums", f"{name}.json")
    except ganrun.CacheError:
        return Path(os.devnull) / name
