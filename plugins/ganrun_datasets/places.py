"""Where data sets are looked for, and what is said when they are not there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import ganrun

DATA_VARIABLE = "GANRUN_DATA"


def places(name: str, root: str | None, torchvision: str = "", system: Iterable[Path] = ()) -> list[Path]:
    """The folders that may hold a data set, the likeliest first.

    Args:
        name: The data set's, which is also that of its own folder.
        root: The recipe's; where it is given, nothing else is looked at.
        torchvision: The folder that torchvision makes for it below its own root.
        system: Where packages of operating systems put it.
    """
    if root is not None:
        return _unique([expanded(root), expanded(root) / torchvision])
    shared = os.environ.get(DATA_VARIABLE)
    bases = [expanded(shared)] if shared else []
    bases += [Path("data"), *_cache()]
    return _unique([*(base / each for base in bases for each in (name, torchvision)), *system])


def expanded(path: str) -> Path:
    """A path with `~` spelt out."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - pathlib's raises where there is no such user


def is_file(path: Path) -> bool:
    """Whether there is such a file; pathlib's own raises where a folder may not be entered."""
    return os.path.isfile(path)  # noqa: PTH113


def looked_in(folders: Sequence[Path], lacking: Callable[[Path], Sequence[str]], count: int) -> Iterator[str]:
    """Lines that name the folders, and what a folder lacks that has some of the `count` files."""
    yield "the places looked in:"
    for folder in folders:
        missing = lacking(folder)
        partly = f" (which lacks only {', '.join(missing)})" if 0 < len(missing) < count else ""
        yield f"  {folder.absolute()}{partly}"


def download_folder(root: str | None) -> Path:
    """Where torchvision is to put what it downloads."""
    return expanded(root) if root else ganrun.cache_directory("data")


def _unique(folders: Sequence[Path]) -> list[Path]:
    return list(dict.fromkeys(folders))


def _cache() -> list[Path]:
    try:
        return [ganrun.cache_directory("data")]
    except OSError:
        return []
