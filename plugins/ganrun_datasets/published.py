"""Whether files are the published ones, byte for byte."""

from __future__ import annotations

import gzip
import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

log = logging.getLogger("ganrun.datasets")


class Identity(NamedTuple):
    """The files of a data set, for its manifest."""

    files: dict[str, str]
    """MD5 by name; data sets are published with MD5 sums."""

    published: bool | None
    """Whether all files are the published ones; None if that cannot be known."""


def identify(data: str, files: Mapping[Path, str | None]) -> Identity:
    """Compare files with their published checksums, and warn about those that differ.

    Args:
        data: The data set's name, for the warning.
        files: The published MD5 by file, None for a file that has none; of a .gz, the MD5 of its unpacked content.
    """
    found = {path: md5_of(path) for path in files}
    foreign = [path for path, expected in files.items() if expected is not None and found[path] != expected]
    if foreign:
        log.warning(
            "%s: %d of %d files are not the published ones; the first is %s; scores cannot be compared with others'",
            *(data, len(foreign), len(files), foreign[0]),
        )
    is_known = all(expected is not None for expected in files.values())
    return Identity({path.name: md5 for path, md5 in found.items()}, False if foreign else is_known or None)


def md5_of(path: Path) -> str:
    """The MD5 of a file in hexadecimal; for a gzip file that is not a .tar, the MD5 of its unpacked content."""
    # Two gzip files of the same content differ in date and name, and browsers unpack files but keep the name.
    with path.open("rb") as file:
        is_packed = file.read(2) == b"\x1f\x8b" and ".tar" not in path.suffixes
    with gzip.open(path) if is_packed else path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
