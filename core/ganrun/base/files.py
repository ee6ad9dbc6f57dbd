"""Atomic writes: a reader finds a complete file or none, also after a power cut.

A file is written beside its place, flushed to disk and renamed, and then its folder is flushed: a rename is kept by the
folder alone. What a killed process leaves behind has a name that says so; `clear_leftovers` removes it.
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
"""Files of a folder flushed at the same time: one at a time takes nine times as long for many small files."""

UNFINISHED, REPLACED = "partial", "replaced"
"""Endings of names: of what is being written or removed, and of a folder that another one takes the place of."""

LEFTOVER = re.compile(rf"\.(?P<name>.+)\.[0-9a-f]{{32}}\.(?P<ending>{UNFINISHED}|{REPLACED})", re.DOTALL)

UNFLUSHED = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES}
"""What file systems answer on which a folder cannot be flushed."""


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
        with suppress(OSError):  # which would hide the first fault
            partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """The same for a folder of files; replaces `path` if it exists. Missing folders around it are made.

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
    """Make a folder and those around it, where they are missing, so that a power cut does not take them away."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for each in missing:
        _flush(each.parent)


def flush_file(path: Path) -> None:
    """Flush a file, and its entry in its folder, to disk."""
    _flush(path)
    _flush(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder: at every instant it is there as a whole, or what is left of it has an unfinished one's name.

    Raises:
        OSError: if it cannot be renamed. What of it cannot be removed stays under the other name.
    """
    aside = _beside(path)
    path.rename(aside)
    _flush(path.parent)  # after a power cut, the old name could otherwise lead to what is left
    shutil.rmtree(aside, ignore_errors=True)


def clear_leftovers(folder: Path) -> None:
    """Remove what killed processes have left unfinished in a folder, and put back whole folders that they were about to
    replace. Only for a folder in which no other process writes. What cannot be removed stays.
    """
    for path in children(folder):
        match = LEFTOVER.fullmatch(path.name)
        if match and match["ending"] == REPLACED:
            with suppress(OSError):
                _put_back(path.with_name(match["name"]))
        if match:
            _remove(path)


def children(folder: Path) -> list[Path]:
    """What a folder holds, in order; nothing where that cannot be seen."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _beside(path: Path, ending: str = UNFINISHED) -> Path:
    """A name that no other thread, process or machine uses."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.{ending}")


def _exchange(new: Path, path: Path) -> None:
    """Put a folder in the place of another one, or of none."""
    old = _beside(path, REPLACED)
    try:
        if path.exists():
            path.rename(old)
        new.rename(path)
    finally:  # also where a signal comes between the two
        if not path.exists() and old.exists():
            old.rename(path)
    _flush(path.parent)
    if old.exists():
        remove_folder(old)


def _put_back(path: Path) -> None:
    """Put a folder back that was renamed aside, if nothing came in its place."""
    if not path.exists() and (whole := _replaced(path)):
        max(whole, key=lambda each: each.stat().st_mtime).rename(path)
        _flush(path.parent)


def _replaced(path: Path) -> list[Path]:
    """What of a folder's former states is whole: `remove_folder` gives the others another name."""
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
    """On Windows and on some network file systems, that is not to be had, and not needed."""
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
