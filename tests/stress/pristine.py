"""What makes a trial of `fuzz_files.py` cheap: a folder is mended where it was changed, and not copied again; and what
reads none of the files is done once."""

from __future__ import annotations

import copy
import io
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cache, lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch


class Stamp(NamedTuple):
    """What differs after a file was changed. Nobody sets a file's time back."""

    inode: int
    size: int
    time: int


class Pristine:
    """A folder that is brought back to what another one held.

    Args:
        folder: The folder; there is none yet.
        example: What it is to hold.
    """

    def __init__(self, folder: Path, example: Path) -> None:
        self.folder = folder
        """As a path."""
        self._root = str(folder)
        shutil.copytree(example, folder)
        self._folders = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_dir()]
        files = [path for path in folder.rglob("*") if path.is_file()]
        self._contents = {str(path.relative_to(folder)): path.read_bytes() for path in files}
        self._stamps = {name: self._aged(name) for name in self._contents}

    def restore(self) -> None:
        """Remove what is new, and write again what has changed."""
        kept = set(self._kept(""))
        for name in self._folders:
            if name not in kept:
                Path(self._root, name).mkdir()
        for name in self._contents.keys() - kept:
            Path(self._root, name).write_bytes(self._contents[name])
            self._stamps[name] = self._aged(name)

    def _kept(self, prefix: str) -> Iterator[str]:
        """What is as it was; anything else is removed."""
        for entry in list(os.scandir(f"{self._root}/{prefix}")):
            name = f"{prefix}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                if name in self._folders:
                    yield name
                    yield from self._kept(f"{name}/")
                else:
                    shutil.rmtree(entry.path)
            elif name in self._stamps and _stamp(entry.path) == self._stamps[name]:
                yield name
            else:
                Path(entry.path).unlink()

    def _aged(self, name: str) -> Stamp:
        """The stamp of a file that gets a time long ago, so that any later change also changes its time."""
        path = f"{self._root}/{name}"
        os.utime(path, (10**9, 10**9))
        return _stamp(path)


def _stamp(path: str) -> Stamp:
    found = os.lstat(path)
    return Stamp(found.st_ino, found.st_size, found.st_mtime_ns)


TRIED = (
    *("ganrun.training.slots.check_network", "ganrun.training.slots.check_state"),
    *(f"ganrun.training.assembly.{name}" for name in ("try_phases", "try_samples", "try_requests")),
)
"""How components are tried before a run. They are those of the run that was made, in which each was tried."""

ONCE = (
    *("ganrun.discovery.registry.discover", "ganrun_report.page._jinja", "ganrun_report.page.version"),
    *("ganrun.rundir.environment._git", "ganrun.rundir.environment.package_versions"),
    *("ganrun.rundir.opening.version", "ganrun_report.reading.version"),
    *("ganrun_mlflow.sync_state.TypeAdapter", "ganrun_datasets.emoji.catalogue.TypeAdapter"),
)
"""What answers alike each time: the installed plugins and versions, git, the template of a page, and what is made of a
class."""

POOLS = ("ganrun_datasets.pictures.chunks.ThreadPoolExecutor", "ganrun_datasets.pixel_files.ThreadPoolExecutor")
"""Threads of which starting takes longer than what they do with a few small pictures."""

VARIABLES = ("HOME", "LANG", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "PATH", "TMPDIR", "VIRTUAL_ENV")
"""The environment; each text that is shown is searched for the secrets in it."""


@contextmanager
def quick() -> Iterator[None]:
    """A block with a small environment that flushes nothing to disk, tries no component, starts no thread for pictures
    and locks, and does once what answers alike each time."""
    kept = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    with ExitStack() as patches:
        patches.enter_context(patch.dict(os.environ, kept, clear=True))
        patches.enter_context(patch("os.fsync", _ignored))
        for name in TRIED:
            patches.enter_context(patch(name, _ignored))
        for name in POOLS:
            patches.enter_context(patch(name, AtOnce))
        patches.enter_context(patch("ganrun.base.locks._signs_of_life", _no_signs))
        patches.enter_context(patch("torch.load", _load))
        for name in ONCE:
            module, _, function = name.rpartition(".")
            patches.enter_context(patch(name, cache(getattr(import_module(module), function))))
        yield


class AtOnce:
    """A pool without threads: what is submitted is done before `submit` returns."""

    def __init__(self, *_: object) -> None: ...

    def __enter__(self) -> AtOnce:
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """What `function` returns or raises, as a future that is done."""
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def map(self, function: Callable[..., Any], *values: Any) -> Iterator[Any]:
        """As the built-in function."""
        return map(function, *values)

    def shutdown(self, **_: object) -> None:
        """There is nothing to end."""


LOAD, LARGEST_BYTES = torch.load, 1_000_000


def _load(file: Any, **options: Any) -> Any:
    """As torch.load; a small file that was read before is copied, which takes a tenth of the time."""
    if isinstance(file, Path) and file.is_file() and file.stat().st_size < LARGEST_BYTES:
        return copy.deepcopy(_content(file.read_bytes(), tuple(options.items())))
    return LOAD(file, **options)


@lru_cache(8)
def _content(file: bytes, options: tuple[tuple[str, Any], ...]) -> Any:
    return LOAD(io.BytesIO(file), **dict(options))


def _no_signs(*_: object) -> AbstractContextManager[None]:
    """A block that a lock's file says nothing of."""
    return nullcontext()


def _ignored(*_: object, **__: object) -> None:
    """Do nothing."""
