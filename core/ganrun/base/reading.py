"""Reads whole files of untrusted origin: only regular files, and only up to a size limit."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path


@contextmanager
def opened(path: Path, most: int | None = None) -> Iterator[BufferedReader]:
    """A file, open for reading.

    Args:
        path: The file.
        most: Its maximum size in bytes.

    Raises:
        OSError: if it cannot be opened, is larger, or is not a regular file: a pipe may never get a writer, and a
            device has no end.
    """
    # Without O_NONBLOCK, opening a pipe blocks until there is a writer.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(handle, "rb") as file:  # noqa: PTH123 - a descriptor
        status = os.fstat(handle)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is a pipe, a socket or a device, not a file", str(path))
        if most is not None and status.st_size > most:
            raise _too_large(path, status.st_size, most)
        yield file


def read_bytes(path: Path, most: int) -> bytes:
    """The content of a file.

    Args:
        path: The file.
        most: Its maximum size in bytes.

    Raises:
        OSError: as `opened`.
    """
    with opened(path, most) as file:
        content = file.read(most + 1)
    if len(content) > most:  # it is growing, or its size is unknown
        raise _too_large(path, len(content), most)
    return content


def _too_large(path: Path, size: int, most: int) -> OSError:
    return OSError(errno.EFBIG, f"it has {size:,} bytes, and at most {most:,} are read", str(path))


def is_web_page(content: bytes) -> bool:
    """Whether a file starts as an HTML page: servers send one in place of a file that they refuse."""
    start = content[:256].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return start.startswith((b"<!doctype html", b"<html"))
