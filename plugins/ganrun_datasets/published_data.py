"""The base of data sets that are published as files and that torchvision can download."""

from __future__ import annotations

import socket
import tarfile
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

import ganrun
from ganrun_datasets.cache import cached
from ganrun_datasets.places import candidate_folders, download_folder, is_file, searched
from ganrun_datasets.published import Identity, identify, verdict_on
from ganrun_datasets.resample import resampled

Images = npt.NDArray[np.uint8]

SILENCE_SECONDS = 60.0
"""Longest time without a byte from a server during a download."""


class PublishedData(ganrun.Data):
    """A data set whose published files are somewhere on this machine, or can be downloaded.

    Subclasses say which files they need, how to get them, and how to read them.
    """

    class Settings(ganrun.Settings):
        root: ganrun.LocalPath | None = None
        """Folder that holds the files, or torchvision's root; unless given, the usual places."""

        size: int = Field(32, ge=8, le=256)
        """Height and width in pixels; other than the originals', resampled by Pillow's bicubic filter."""

        download: bool = False
        """Whether to download absent files with torchvision, to root if given and else to ganrun's cache."""

    settings: Settings

    name: ClassVar[str]
    classes: ClassVar[tuple[str, ...]]
    channels: ClassVar[int]
    system: ClassVar[tuple[Path, ...]] = ()
    """Where packages of operating systems install it."""
    md5s_as_packed: ClassVar[bool] = False
    """Whether the published MD5 of a .gz belongs to the file itself, not to its unpacked content."""

    # ── What each data set defines ────────────────────────────────────────────────────────────────────

    @property
    @abstractmethod
    def checksums(self) -> Mapping[str, str]:
        """The files that the settings require, each with its published MD5; of a .gz, that of its unpacked content,
        unless `md5s_as_packed`."""

    @abstractmethod
    def read(self, place: Path) -> Mapping[str, ganrun.Split]:
        """The splits, at their original size, from the place that `find` returned.

        Raises:
            DataError: if a file is damaged, or is not one of this data set.
        """

    @abstractmethod
    def instructions(self, folder: Path) -> Sequence[str]:
        """Lines that say which files to put into a folder."""

    @abstractmethod
    def download_to(self, root: Path) -> None:
        """Download the files with torchvision to below `root`, and compare their checksums."""

    def folders(self) -> list[Path]:
        """The folders that may hold the files, in the order in which they are searched."""
        return candidate_folders(self.name, self.settings.root, system=self.system)

    def file(self, folder: Path, name: str) -> Path | None:
        """The path of a file by its published name; None if it is absent."""
        return folder / name if is_file(folder / name) else None

    def files_read(self, place: Path) -> Mapping[Path, str | None]:
        """The files that `read` uses, each with its published MD5, or None if none is published."""
        return {self.existing_file(place, name): md5 for name, md5 in self.checksums.items()}

    def finished(self, split: str, images: Images) -> Images:
        """The images of a split, at their final size, as the data set gives them: unchanged, unless overridden."""
        return images

    # ── What all have in common ───────────────────────────────────────────────────────────────────────

    def spec(self) -> ganrun.DataSpec:
        """The shape, from the settings alone."""
        size = self.settings.size
        return ganrun.DataSpec((self.channels, size, size), classes=len(self.class_names()))

    def class_names(self) -> tuple[str, ...]:
        """The meaning of the labels."""
        return self.classes

    def locate(self) -> Path:
        """The folder or archive that holds the files."""
        place = self.find()
        if place is None:
            raise ganrun.DataError(self._not_found())
        return place

    def find(self) -> Path | None:
        """The first folder that holds all files; None if there is none."""
        return next((folder for folder in self.folders() if not self._missing(folder)), None)

    def fetch(self) -> None:
        """Download the files with torchvision, unless they are there. A download that was not completed is continued:
        torchvision compares the files that it has left.

        Raises:
            DataError: if they cannot be downloaded or written, with the other ways to get them.
        """
        folder = download_folder(self.settings.root)
        target = folder if self.settings.root else folder / self.name
        mark = target / f".{self.name}.incomplete"
        if self.find() is not None and not mark.exists():
            return
        try:
            target.mkdir(parents=True, exist_ok=True)
            mark.touch()
            with _silence_limited():
                self.download_to(target)
            mark.unlink(missing_ok=True)  # another process may have finished, too
        except (OSError, RuntimeError, tarfile.TarError) as error:
            reason = " ".join(str(error).split())
            raise ganrun.DataError(f"the download failed: {reason}\n{self._not_found()}") from error

    def prepare(self) -> None:
        """Find the files, or download them if the settings say so; read, check and resample them."""
        _ = self._splits, self._identity

    def check_files(self) -> Mapping[str, str]:
        """Compare the files with the published MD5 sums, and every byte of resampled images with their checksums."""
        published = self.files_read(self.locate())
        found = {path: verdict_on(path, published[path], as_packed=self.md5s_as_packed) for path in published}
        for name, split in self.read(self.locate()).items():
            images = self._resized(name, split.images, whole=True)
            if isinstance(images, np.memmap) and images is not split.images:
                found[Path(str(images.filename))] = f"{len(images):,} resampled images, every byte by its checksum"
        return {str(path): verdict for path, verdict in found.items()}

    def split(self, name: str) -> ganrun.Split:
        """The split `train` or `test`."""
        if name not in self._splits:
            raise ganrun.unknown_split(name, self._splits)
        return self._splits[name]

    def fingerprint(self, name: str = "train") -> str:
        """A digest of a split's pixels and labels, computed once."""
        return self._fingerprint_of(name)

    def manifest(self) -> Mapping[str, Any]:
        """Counts, the files with their MD5, whether they are the published ones, and the size."""
        return {**super().manifest(), **self._identity._asdict(), "transform": {"size": self.settings.size}}

    def existing_file(self, folder: Path, name: str) -> Path:
        """The path of a file that `find` has found.

        Raises:
            DataError: if it has been removed since.
        """
        path = self.file(folder, name)
        if path is None:
            raise ganrun.DataError(f"{folder / name} has vanished")
        return path

    @cached_property
    def _splits(self) -> dict[str, ganrun.Split]:
        if self.settings.download:
            self.fetch()
        with _os_errors_as_data_errors():
            found = self.read(self.locate())
        resized = {name: self._resized(name, split.images) for name, split in found.items()}
        return {name: ganrun.Split(self.finished(name, resized[name]), found[name].labels) for name in found}

    def _resized(self, split: str, images: Images, *, whole: bool = False) -> Images:
        size = self.settings.size
        if images.shape[2:] == (size, size):
            return images
        return cached(f"{self.name}-{split}-{size}", images, lambda: resampled(images, size), whole=whole)

    @cached_property
    def _identity(self) -> Identity:
        with _os_errors_as_data_errors():
            return identify(self.name, self.files_read(self.locate()), as_packed=self.md5s_as_packed)

    @cached_property
    def _fingerprint_of(self) -> Callable[[str], str]:
        return cache(super().fingerprint)

    def _missing(self, folder: Path) -> list[str]:
        return [name for name in self.checksums if self.file(folder, name) is None]

    def _not_found(self) -> str:
        """The message, with all ways to get the files."""
        folders = self.folders()
        lines = ["its files were not found", "do one of these:"]
        lines += [f"  ganrun data fetch {self.name}, or download = true in [data]: torchvision fetches them"]
        lines += [f"  {line}" for line in self.instructions(folders[0].absolute())]
        return "\n".join([*lines, *searched(folders, self._missing, len(self.checksums))])


@contextmanager
def _silence_limited() -> Iterator[None]:
    """A block in which a server that is silent for `SILENCE_SECONDS` is given up: torchvision would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def _os_errors_as_data_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ganrun.DataError(f"{error.filename} cannot be read: {error.strerror or error}") from error
