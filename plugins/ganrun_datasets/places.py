"""The folders that are searched for data sets, and their list for an error message."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import ganrun

DATA_VARIABLE = "GANRUN_DATA"


def candidate_folders(name: str, root: str | None, torchvision: str = "", system: Iterable[Path] = ()) -> list[Path]:
    """The folders that may hold a data set, in the order in which they are searched.

    Args:
        name: The data set's name, which is also that of its folder.
        root: The recipe's `root`; if it is given, nothing else is searched.
        torchvision: The folder that torchvision creates for the data set below its root.
        system: Where packages of operating systems install it.
    """
    if root is not None:
        return _unique([expanded(root), expanded(root) / torchvision])
    shared = os.environ.get(DATA_VARIABLE)
    bases = [expanded(shared)] if shared else []
    bases += [Path("data"), *_cache()]
    return _unique([*(base / each for base in bases for each in (name, torchvision)), *system])


def expanded(path: str) -> Path:
    """A path with `~` replaced by the user's home."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - pathlib's raises for an unknown user


def is_file(path: Path) -> bool:
    """Whether a path is a file; pathlib's method raises below a folder that may not be entered."""
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: Path) -> bool:
    """Whether a path is a folder, as `is_file`."""
    return os.path.isdir(path)  # noqa: PTH112


def searched(folders: Sequence[Path], missing: Callable[[Path], Sequence[str]], count: int) -> Iterator[str]:
    """Lines that list the folders searched.

    Args:
        folders: The folders.
        missing: Returns the names of the files that a folder lacks.
        count: The number of files needed: a folder that has some of them is listed with the missing ones.
    """
    yield "folders searched:"
    for folder in folders:
        absent = missing(folder)
        partly = f" (only {', '.join(absent)} missing)" if 0 < len(absent) < count else ""
        yield f"  {folder.absolute()}{partly}{_closed(folder)}"


def _closed(folder: Path) -> str:
    """A remark on a folder that cannot be listed, so that its files cannot be found."""
    try:
        os.scandir(folder).close()
    except PermissionError as error:
        return f" (cannot be read: {error.strerror})"
    except OSError:
        pass
    return ""


def download_folder(root: str | None) -> Path:
    """The folder to download to."""
    return expanded(root) if root else ganrun.cache_directory("data")


def _unique(folders: Sequence[Path]) -> list[Path]:
    return list(dict.fromkeys(folders))


def _cache() -> list[Path]:
    try:
        return [ganrun.cache_directory("data")]
    except ganrun.CacheError:
        return []
