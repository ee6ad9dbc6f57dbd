"""Arrays of .npz files from anywhere: they are checked before they are read, and nothing in them is executed."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from ganrun.base.errors import RequestError
from ganrun.base.reading import opened

ENDING = ".npy"


class ArrayHeader(NamedTuple):
    """An array's header, checked against the size of its contents."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def size_bytes(self) -> int:
        """Size of its values in memory."""
        return prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        """`uint8 (50000, 32, 32, 3)`"""
        return f"{self.dtype} {self.shape}"


def npz_headers(path: Path) -> dict[str, ArrayHeader]:
    """The headers of a file's arrays, by name; their values are not read.

    Raises:
        RequestError: if it is damaged or not an .npz file, if a header declares more values than the file holds, or if
            a name cannot be printed.
    """
    with _opened(path) as archive:
        members = [info for info in archive.infolist() if info.filename.endswith(ENDING)]
        if not all(info.filename.isprintable() for info in members):
            raise RequestError(f"{path} has an array whose name holds control characters; save it under another name")
        return {info.filename.removesuffix(ENDING): _header(archive, info, path) for info in members}


def read_npz(path: Path, name: str) -> npt.NDArray[Any]:
    """One array of a file, read into memory once and checked against its checksum.

    Raises:
        RequestError: as `npz_headers`; if it holds Python objects, which would have to be unpickled; or if it is larger
            than the memory of this machine.
    """
    with _opened(path) as archive:
        header = _header(archive, archive.getinfo(name + ENDING), path)
        if header.dtype.hasobject:
            raise RequestError(f"{path}: {name} holds Python objects, which could run code; save it as numbers")
        _check_memory(header.size_bytes, f"{path}: {name}")
        with archive.open(name + ENDING) as member:
            array: npt.NDArray[Any] = npy.read_array(member, allow_pickle=False)
    return array


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with opened(path) as file, zipfile.ZipFile(file) as archive:
            yield archive
    except RequestError:
        raise
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # zlib's, NumPy's header parser's, and others
        raise RequestError(f"{path} is damaged or not an .npz file: {error}; get it again") from error


def _header(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> ArrayHeader:
    with archive.open(info) as member:
        header, left = _read_header(member), info.file_size - member.tell()
    if header.size_bytes != left and not header.dtype.hasobject:
        name = info.filename.removesuffix(ENDING)
        raise RequestError(f"{path} is damaged: {name} is said to be {header}, and has {left:,} bytes; get it again")
    return header


def _read_header(member: IO[bytes]) -> ArrayHeader:
    read = npy.read_array_header_1_0 if npy.read_magic(member) == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(member)
    return ArrayHeader(shape, dtype)


def _check_memory(needed: int, what: str) -> None:
    """Refuse arrays larger than this machine's memory, to which a small compressed file may expand."""
    try:
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return
    if needed > there:
        raise RequestError(f"{what} takes {needed / 1e9:,.0f} GB, and this machine has {there / 1e9:,.0f} GB of memory")
