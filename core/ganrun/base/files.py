"""Atomic writes: a reader finds a complete file or none, also after a power cut.

A file is written under a temporary name in its folder, flushed to disk and renamed; then the folder is flushed, because
only that makes the rename durable. What a killed process leaves behind is recognised by its name; `clear_leftovers`
removes it.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

FLUSH_THREADS = 16
"""Files of a folder that are flushed in parallel: one at a time takes nine times as long for many small files."""

UNFINISHED, REPLACED = "partial", "replaced"
"""File name suffixes: of what is being written or removed, and of a folder that is being replaced."""

LEFTOVER = re.compile(rf"\.(?P<name>.+)\.[0-9a-f]{{32}}\.(?P<ending>{UNFINISHED}|{REPLACED})", re.DOTALL)

UNFLUSHED = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES}
"""Error codes of file systems that cannot flush a folder."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; on success it is flushed to disk and replaces `path`, else it is removed.

    Raises:
        OSError: if `path` exists and is not a regular file, but for example a device or a pipe.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EEXIST, "it exists and is not a regular file", str(path))
    partial = _beside(path)
    try:
        yield partial
        _flush(partial)
        partial.replace(path)
        _flush(path.parent)
    finally:
        with suppress(OSError):  # it would hide the first error
            partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """The same for a folder of files; replaces `path` if it exists. Missing parent folders are created.

    A folder cannot be renamed onto another one, so the old one is first renamed aside. A process that dies in
    between leaves both, whole: the next writer, or `clear_leftovers`, puts the old one back.
    """
    _put_back(path)
    make_folder(path.parent)
    partial = _beside(path)
    partial.mkdir()
    try:
        yield partial
        with ThreadPoolExecutor(FLUSH_THREADS) as pool:
            _ = list(pool.map(_flush, (partial, *partial.rglob("*"))))
        _exchange(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, atomically."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def make_folder(path: Path) -> None:
    """Create a folder and its missing parents, so that they survive a power cut."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for each in missing:
        _flush(each.parent)


def flush_file(path: Path) -> None:
    """Flush a file, and its entry in its folder, to disk."""
    _flush(path)
    _flush(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder: at every instant it is complete, or what remains of it has the name of an unfinished one.

    Raises:
        OSError: if it cannot be renamed. Files that cannot be removed stay under the temporary name.
    """
    aside = _beside(path)
    path.rename(aside)
    _flush(path.parent)  # otherwise, after a power cut, the old name could refer to an incomplete folder
    shutil.rmtree(aside, ignore_errors=True)


def clear_leftovers(folder: Path) -> None:
    """Remove unfinished files of killed processes from a folder, and restore complete folders that they were replacing.
    No other process may be writing in the folder. What cannot be removed stays.
    """
    for path in children(folder):
        match = LEFTOVER.fullmatch(path.name)
        if match and match["ending"] == REPLACED:
            with suppress(OSError):
                _put_back(path.with_name(match["name"]))
        if match:
            _remove(path)


def children(folder: Path) -> list[Path]:
    """The entries of a folder, in order; empty if it cannot be read."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _beside(path: Path, ending: str = UNFINISHED) -> Path:
    """A name that no other thread, process or machine uses."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.{ending}")


def _exchange(new: Path, path: Path) -> None:
    """Move a folder to a path, replacing a folder that is already there."""
    old = _beside(path, REPLACED)
    try:
        if path.exists():
            path.rename(old)
        new.rename(path)
    finally:  # even if a signal arrives between the two
        if not path.exists() and old.exists():
            old.rename(path)
    _flush(path.parent)
    if old.exists():
        remove_folder(old)


def _put_back(path: Path) -> None:
    """Restore a folder that was renamed aside, if nothing has replaced it."""
    if not path.exists() and (whole := _replaced(path)):
        max(whole, key=lambda each: each.stat().st_mtime).rename(path)
        _flush(path.parent)


def _replaced(path: Path) -> list[Path]:
    """The complete former states of a folder: `remove_folder` renames the others."""
    matches = [(each, LEFTOVER.fullmatch(each.name)) for each in children(path.parent)]
    return [each for each, match in matches if match and match.groups() == (path.name, REPLACED)]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Flush a file's content, or a folder's entries, to disk."""
    if path.is_dir():
        _flush_folder(path)
        return
    with path.open("rb+" if sys.platform == "win32" else "rb") as handle:
        os.fsync(handle.fileno())


def _flush_folder(path: Path) -> None:
    """Windows and some network file systems do not support it, and do not need it."""
    if sys.platform == "win32":
        return
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in UNFLUSHED:
            raise
