"""Writing files so that a reader finds them whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

FLUSHED_TOGETHER = 16
"""Files of a folder: a disk that flushes one at a time takes nine times as long for many small ones."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; on success it is flushed to disk and takes `path`'s place, else it vanishes.

    Raises:
        OSError: if something is there that is no file, as a device or a pipe, whose place must not be taken.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EEXIST, "it is there already and is no file", str(path))
    partial = _beside(path)
    try:
        yield partial
        _flush(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """The same for a folder of files. `path` must not hold anything yet, or is replaced."""
    partial = _beside(path)
    partial.mkdir(parents=True)
    try:
        yield partial
        with ThreadPoolExecutor(FLUSHED_TOGETHER) as pool:
            _ = list(pool.map(_flush, (file for file in partial.rglob("*") if file.is_file())))
        if path.exists():
            shutil.rmtree(path)
        partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, atomically."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _beside(path: Path) -> Path:
    """A name that no other thread, process or machine writes to."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")


def _flush(file: Path) -> None:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())
