"""Numeric arrays in MATLAB files of version 5 to 7: the small subset of the format that SVHN needs. SciPy supports far
more, but a damaged file can crash its compiled code, and with it the process.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ganrun import opened

HEADER_BYTES = 128

ORDERS = {b"IM": "<", b"MI": ">"}
"""The order of bytes, by the last two of the header."""

COMPRESSED, MATRIX = 15, 14
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""The types of elements that hold numbers."""

CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
"""The types of arrays, whose numbers may be stored in a smaller one."""


class Element(NamedTuple):
    """A part of a file: MATLAB's documentation, "MAT-File Level 5 File Format"."""

    type: int
    content: bytes


def read_arrays(path: Path, names: Collection[str], most: int) -> dict[str, npt.NDArray[Any]]:
    """The arrays of these names that a file holds.

    Args:
        path: The file.
        names: Names of the arrays to read; others are skipped.
        most: Bytes that each part of it may unpack to.

    Raises:
        ValueError: if it is damaged, or not such a file.
        OSError: if it cannot be read.
    """
    found: dict[str, npt.NDArray[Any]] = {}
    with opened(path) as file:
        header = file.read(HEADER_BYTES)
        order = ORDERS.get(header[126:])
        if order is None:
            raise ValueError("it has no header of MATLAB's version 5")
        for element in _elements(file, order):
            if element.type == COMPRESSED:
                element = next(_elements(io.BytesIO(_unpacked(element.content, most)), order), Element(0, b""))
            if element.type == MATRIX:
                name, array = _array(element.content, order, names)
                found |= {} if array is None else {name: array}
    return found


def _elements(file: IO[bytes], order: str) -> Iterator[Element]:
    """The elements of a file or of a matrix, one after the other."""
    while tag := file.read(8):
        kind, size = struct.unpack(f"{order}II", tag.ljust(8, b"\0"))
        if kind >> 16:  # a small one: its size is in the first half, and its content in the second
            yield Element(kind & 0xFFFF, tag[4 : 4 + (kind >> 16)])
            continue
        content = file.read(size)
        if len(content) < size:
            raise ValueError(f"a part of it has {len(content):,} bytes, and should have {size:,}")
        yield Element(kind, content)
        if kind != COMPRESSED:
            file.read(-size % 8)


def _unpacked(content: bytes, most: int) -> bytes:
    unpacking = zlib.decompressobj()
    try:
        found = unpacking.decompress(content, most)
    except zlib.error as error:
        raise ValueError(f"a part of it is damaged: {error}") from error
    if unpacking.unconsumed_tail:
        raise ValueError(f"it unpacks to more than {most:,} bytes, the limit for such a file")
    return found


def _array(content: bytes, order: str, names: Collection[str]) -> tuple[str, npt.NDArray[Any] | None]:
    """The name of a matrix, and its numbers; None if it is not requested, or holds no numbers."""
    parts = list(_elements(io.BytesIO(content), order))
    if len(parts) < 4 or len(parts[0].content) < 4:
        return "", None
    flags, dimensions, label, numbers = parts[:4]
    (kinds,) = struct.unpack_from(f"{order}I", flags.content)
    name, kind = label.content.decode("latin-1"), CLASSES.get(kinds & 0xFF)
    if name not in names or kind is None or numbers.type not in NUMBERS:
        return name, None
    shape = np.frombuffer(dimensions.content, f"{order}i4").tolist()
    values = np.frombuffer(numbers.content, order + NUMBERS[numbers.type])
    if any(side < 0 for side in shape) or len(values) != math.prod(shape):
        raise ValueError(f"{name} holds {len(values):,} numbers, and should be {shape}")
    return name, values.reshape(shape, order="F").astype(kind, copy=False)
