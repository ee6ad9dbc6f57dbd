"""IDX, the file format of MNIST and of the data sets modelled on it.

Two zero bytes, one byte for the type, one for the number of dimensions, each dimension as a big-endian uint32,
then the values (http://yann.lecun.com/exdb/mnist/). The files are often gzipped.
"""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ganrun import DataError, read_bytes
from ganrun_datasets.packed import GZIP_MAGIC, unpacked

UINT8 = 0x08
OTHER_TYPES = {0x09: "int8", 0x0B: "int16", 0x0C: "int32", 0x0D: "float32", 0x0E: "float64"}

MOST_BYTES = 1 << 30
"""Limit for an unpacked file; the largest published one, EMNIST byclass, has half as many bytes."""


def read_idx(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """The array in an IDX file of uint8, gzipped or plain; it is writable and owns its memory.

    Args:
        path: The file; its first bytes, not its name, decide whether it is gzipped.
        dimensions: The number that the array must have: 3 for grey images, 1 for labels.

    Raises:
        DataError: naming the file and the fault, if it is not a complete file of this kind.
    """
    try:
        packed = read_bytes(path, MOST_BYTES)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    return parse_idx(path, packed, dimensions)


def parse_idx(path: Path, packed: bytes, dimensions: int) -> npt.NDArray[np.uint8]:
    """As `read_idx`, for the content of a file that is in an archive; `path` is its name in messages."""
    content = _unpacked(path, packed)
    shape = _shape(path, content, dimensions)
    start = 4 + 4 * dimensions
    announced, held = math.prod(shape), len(content) - start
    if held != announced:
        raise _damaged(path, f"its header says {_shape_text(shape)} = {announced:,} values, but it holds {held:,}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def _unpacked(path: Path, content: bytes) -> bytes:
    if not content.startswith(GZIP_MAGIC):
        return content
    try:
        array = unpacked(content, MOST_BYTES)
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    except (EOFError, zlib.error, OSError) as error:
        raise _damaged(path, f"it is not a complete gzip file: {error}") from error
    if array.startswith(GZIP_MAGIC):
        raise DataError(f"{path} is packed twice: unpack it once, with gunzip, and put the result in its place")
    return array


def _shape(path: Path, content: bytes, dimensions: int) -> tuple[int, ...]:
    if len(content) < 4 or content[:2] != b"\0\0":
        raise _damaged(path, f"it is not an IDX file: it starts with {content[:4].hex(' ') or 'nothing'}")
    kind, found = content[2], content[3]
    if kind != UINT8:
        raise _damaged(path, f"it holds {OTHER_TYPES.get(kind, f'the unknown type 0x{kind:02x}')}, not uint8")
    if found != dimensions:
        raise _damaged(path, f"it has {found} dimensions, not {dimensions}")
    if len(content) < 4 + 4 * dimensions:
        raise _damaged(path, "it ends within its header")
    return struct.unpack_from(f">{dimensions}I", content, 4)


def _shape_text(shape: tuple[int, ...]) -> str:
    return " × ".join(f"{size:,}" for size in shape)


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(f"{path} is damaged: {reason}; replace it with a fresh copy")
