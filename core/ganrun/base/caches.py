"""The cache of files that runs share: extractors' weights, statistics, decoded data.

Some files are downloads, and the rest can be recreated. Folders of the second kind are marked by `CACHEDIR.TAG`, which
backup programs also recognise. Their total size is limited: beyond the limit, the least recently used files are
removed.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from ganrun.base.errors import CacheError, RequestError
from ganrun.base.files import atomic_path
from ganrun.base.reading import read_bytes

VARIABLE, LIMIT_VARIABLE = "GANRUN_CACHE", "GANRUN_CACHE_LIMIT"
DEFAULT_LIMIT = "50 GB"
UNITS = {"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12}

TAG_NAME = "CACHEDIR.TAG"
TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# ganrun can make these files again. See https://bford.info/cachedir/\n"
"""Content of the tag in ganrun's own folders. Other programs' folders are left alone."""

LEFTOVER_SECONDS = 24 * 3600.0
"""Age of an unfinished file that no living process can still be writing."""

log = logging.getLogger("ganrun.cache")

# ── Files for plugins ─────────────────────────────────────────────────────────────────────────────────────


def cache_directory(*parts: str) -> Path:
    """A folder of the cache, created if missing. The cache is `$GANRUN_CACHE`, or else the platform's usual place.

    Its files stay until the user removes them. For files that can be recreated, use `cache_path`.

    Args:
        parts: The folder's path within the cache.

    Raises:
        CacheError: if the folder cannot be created.
    """
    folder = cache_root().joinpath(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(f"{folder} cannot be created: {error.strerror}") from error
    return folder


def cache_path(folder: str, name: str) -> Path:
    """The path of a cache file that can be recreated; if it exists, it is marked as just used.

    Its folder has a size limit, so the file may be gone the next time. Write it with `cache_file`.

    Args:
        folder: A folder of the cache for such files alone, such as `statistics` or `data/pictures`.
        name: The file's name, which says everything that its content depends on.

    Raises:
        CacheError: if the folder cannot be created.
    """
    _ = cache_limit()  # a wrong limit is reported before anything is computed
    path = cache_directory(*folder.split("/")) / name
    with suppress(OSError):
        _tag(path.parent)
    with suppress(OSError):
        os.utime(path)
    return path


@contextmanager
def cache_file(path: Path) -> Iterator[Path]:
    """Like `atomic_path`, for a path from `cache_path`; then removes files from the cache until it is within its limit.

    Raises:
        OSError: if the file cannot be written.
    """
    with atomic_path(path) as partial:
        yield partial
    keep_limit(path)


def cache_root() -> Path:
    """The absolute path of the cache, whether it exists or not.

    Raises:
        CacheError: if `$GANRUN_CACHE` starts with the home directory of an unknown user, `~nobody/…`.
    """
    root = os.environ.get(VARIABLE) or platformdirs.user_cache_dir("ganrun")
    try:
        return Path(root).expanduser().absolute()
    except RuntimeError as error:
        raise _unusable(f"{root}: {error}") from error


def _unusable(reason: str) -> CacheError:
    return CacheError(f"the cache cannot be used: {reason}\nset {VARIABLE} to a folder that you can write to")


def _tag(folder: Path) -> None:
    if not _is_tagged(folder):
        with atomic_path(folder / TAG_NAME) as partial:
            partial.write_bytes(TAG.encode())


def _is_tagged(folder: Path) -> bool:
    try:
        found = read_bytes(folder / TAG_NAME, len(TAG) + TAG.count("\n"))
        return found.replace(b"\r\n", b"\n") == TAG.encode()  # as 0.1.0 wrote it on Windows
    except OSError:
        return False


# ── What is there ─────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class CacheEntry:
    """A cache file that can be recreated, or a downloaded file or folder."""

    kind: str
    """Its folder in the cache, such as `data/pictures`."""

    path: Path
    size_bytes: int
    last_used: float
    """Seconds since 1970; for downloads, when it was written."""

    is_fetched: bool

    def remove(self) -> bool:
        """Remove it, and return whether that succeeded. A link is removed, not its target."""
        try:
            if self.path.is_dir() and not self.path.is_symlink():
                shutil.rmtree(self.path)
            else:
                self.path.unlink(missing_ok=True)
        except OSError:
            return False
        return True


def cache_entries() -> list[CacheEntry]:
    """Everything in the cache, by kind; within a kind, the one used last comes last.

    Raises:
        CacheError: if the cache is not a folder.
    """
    try:
        if cache_root().exists() and not cache_root().is_dir():
            raise _unusable(f"{cache_root()} is not a folder")
    except OSError as error:  # no permission to enter the folder
        raise _unusable(f"{cache_root()} cannot be read: {error.strerror}") from error
    entries = [entry for folder in _folders(cache_root()) for entry in _entries_in(folder)]
    return sorted(entries, key=lambda entry: (entry.kind, entry.last_used, entry.path.name))


def _folders(root: Path) -> list[Path]:
    """The folders of the cache that hold entries: all in the cache itself, and tagged ones in these."""
    outer = _children(root)
    inner = [each for folder in outer if not _is_tagged(folder) for each in _children(folder) if _is_tagged(each)]
    return [folder for folder in [*outer, *inner] if folder.is_dir()]


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _entries_in(folder: Path) -> Iterator[CacheEntry]:
    kind, is_fetched = folder.relative_to(cache_root()).as_posix(), not _is_tagged(folder)
    for path in _children(folder):
        is_entry = is_fetched or path.is_file()
        if is_entry and not _is_auxiliary(path) and not _is_tagged(path):
            size_bytes, written = _size_and_time(path)
            yield CacheEntry(kind, path, size_bytes, written, is_fetched)


def _is_auxiliary(path: Path) -> bool:
    return path.name.startswith(".") or path.suffix == ".lock" or path.name == TAG_NAME


def _size_and_time(path: Path) -> tuple[int, float]:
    """The bytes of a file or of all files in a folder, and when the newest was written. Links are not followed."""
    below = (Path(folder, name) for folder, _, names in os.walk(path) for name in names)
    size_bytes, newest = 0, 0.0
    for file in [path] if path.is_symlink() or not path.is_dir() else [path, *below]:
        with suppress(OSError):
            status = file.lstat()
            size_bytes += status.st_size
            newest = max(newest, status.st_mtime)
    return size_bytes, newest


# ── The limit ─────────────────────────────────────────────────────────────────────────────────────────────


def cache_limit() -> int:
    """Maximum total bytes of recreatable files in the cache: `$GANRUN_CACHE_LIMIT`, such as `200 GB`.

    Raises:
        RequestError: if the variable is not a valid size.
    """
    text = os.environ.get(LIMIT_VARIABLE) or DEFAULT_LIMIT
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgt]b)\s*", text, re.IGNORECASE)
    if match is None:
        raise RequestError(f'{LIMIT_VARIABLE} is "{text}"; say a size in kB, MB, GB or TB, such as "{DEFAULT_LIMIT}"')
    return int(float(match[1]) * UNITS[match[2].lower()])


def keep_limit(new: Path) -> None:
    """Remove leftovers, then the least recently used files until the rest is within the limit; never a `new` one."""
    remove_leftovers()
    limit, files = cache_limit(), [entry for entry in cache_entries() if not entry.is_fetched]
    excess = sum(entry.size_bytes for entry in files) - limit
    removed = []
    for entry in sorted(files, key=lambda entry: entry.last_used):
        if excess > 0 and entry.path != new and entry.remove():
            removed.append(entry)
            excess -= entry.size_bytes
    _report(removed, new, limit, excess)


def _report(removed: Iterable[CacheEntry], new: Path, limit: int, excess: int) -> None:
    if names := [entry.path.name for entry in removed]:
        text = "the cache has reached its limit of %s (%s): removed %d files, %s the one used longest ago"
        log.warning(text, size_text(limit), LIMIT_VARIABLE, len(names), names[0])
    if excess > 0:
        text = "%s alone exceeds the cache's limit of %s (%s); it stays until another file is written"
        log.warning(text, new, size_text(limit), LIMIT_VARIABLE)


def remove_leftovers() -> None:
    """Remove unfinished files that killed processes left more than a day ago."""
    for folder in _folders(cache_root()):
        for path in folder.glob(".*.partial"):
            size_bytes, written = _size_and_time(path)
            if time.time() - written > LEFTOVER_SECONDS:
                CacheEntry("", path, size_bytes, written, is_fetched=False).remove()


def size_text(size_bytes: float) -> str:
    """Such as `2.5 GB`."""
    unit = next((unit for unit in ("TB", "GB", "MB") if size_bytes >= UNITS[unit.lower()]), "kB")
    return f"{size_bytes / UNITS[unit.lower()]:,.1f} {unit}"
