"""What data sets share that were published as files and that torchvision can download."""

from __future__ import annotations

import tarfile
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

import ganrun
from ganrun_datasets.cache import cached
from ganrun_datasets.places import download_folder, is_file, looked_in, places
from ganrun_datasets.published import Identity, identify
from ganrun_datasets.resample import resampled

Images = npt.NDArray[np.uint8]


@contextmanager
def _unreadable_told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ganrun.DataError(f"{error.filename} cannot be read: {error.strerror or error}") from error


class PublishedData(ganrun.Data):
    """A data set whose published files lie somewhere on this machine, or can be fetched.

    Subclasses say which files they need, how to get them, and how to read them.
    """

    class Settings(ganrun.Settings):
        root: str | None = None
        """Folder that holds the files, or torchvision's root; unless given, the usual places."""

        size: int = Field(32, ge=8, le=256)
        """Height and width in pixels; other than the originals', resampled by Pillow's bicubic filter."""

        download: bool = False
        """Whether to fetch absent files with torchvision, into root or else into ganrun's cache."""

    settings: Settings

    name: ClassVar[str]
    classes: ClassVar[tuple[str, ...]]
    channels: ClassVar[int]
    system: ClassVar[tuple[Path, ...]] = ()
    """Where packages of operating systems put it."""

    # ── What each data set says of itself ─────────────────────────────────────────────────────────────

    @property
    @abstractmethod
    def digests(self) -> Mapping[str, str]:
        """The files that the settings ask for, each with its published MD5; of a .gz, that of what is packed in it."""

    @abstractmethod
    def read(self, place: Path) -> Mapping[str, ganrun.Split]:
        """The splits, at their original size, from where `find` found the files.

        Raises:
            DataError: if a file is damaged or foreign.
        """

    @abstractmethod
    def ways(self, folder: Path) -> Sequence[str]:
        """Lines that say what to put into a folder, other than by a download."""

    @abstractmethod
    def torchvision(self, root: Path) -> None:
        """Have torchvision put the files below `root`, checked by their sums."""

    def folders(self) -> list[Path]:
        """The folders that may hold the files, the likeliest first."""
        return places(self.name, self.settings.root, system=self.system)

    def file(self, folder: Path, name: str) -> Path | None:
        """A file by its published name; None where it is not."""
        return folder / name if is_file(folder / name) else None

    # ── What follows from it ──────────────────────────────────────────────────────────────────────────

    def spec(self) -> ganrun.DataSpec:
        """The shape, by the settings alone."""
        size = self.settings.size
        return ganrun.DataSpec((self.channels, size, size), classes=len(self.class_names()))

    def class_names(self) -> tuple[str, ...]:
        """What the labels mean."""
        return self.classes

    def locate(self) -> Path:
        """Where the files are."""
        place = self.find()
        if place is None:
            raise ganrun.DataError(self._steps())
        return place

    def find(self) -> Path | None:
        """The first folder that holds all files."""
        return next((folder for folder in self.folders() if not self._missing(folder)), None)

    def fetch(self) -> None:
        """Have torchvision download the files, unless they are there."""
        if self.find() is not None:
            return
        folder = download_folder(self.settings.root)
        try:
            self.torchvision(folder if self.settings.root else folder / self.name)
        except (OSError, RuntimeError, tarfile.TarError) as error:
            reason = " ".join(str(error).split())
            raise ganrun.DataError(f"the download failed: {reason}\n{self._steps()}") from error

    def prepare(self) -> None:
        """Find the files, or download them if the settings say so; check them whole, and resample them."""
        _ = self._splits, self._identity

    def split(self, name: str) -> ganrun.Split:
        """The split `train` or `test`."""
        if name not in self._splits:
            raise ganrun.unknown_split(name, self._splits)
        return self._splits[name]

    def manifest(self) -> Mapping[str, Any]:
        """Counts, the files with their MD5, whether they are the published ones, and the size."""
        return {**super().manifest(), **self._identity._asdict(), "transform": {"size": self.settings.size}}

    def identified(self, place: Path) -> Mapping[Path, str | None]:
        """The files that were read, each with its published MD5, or None where there is none."""
        return {self.present(place, name): digest for name, digest in self.digests.items()}

    def present(self, folder: Path, name: str) -> Path:
        """A file that was there a moment ago.

        Raises:
            DataError: if it no longer is.
        """
        path = self.file(folder, name)
        if path is None:
            raise ganrun.DataError(f"{folder / name} has vanished")
        return path

    @cached_property
    def _splits(self) -> dict[str, ganrun.Split]:
        if self.settings.download:
            self.fetch()
        with _unreadable_told():
            found = self.read(self.locate())
        return {name: ganrun.Split(self._resized(name, split.images), split.labels) for name, split in found.items()}

    def _resized(self, split: str, images: Images) -> Images:
        size = self.settings.size
        if images.shape[2:] == (size, size):
            return images
        return cached(f"{self.name}-{split}-{size}", images, lambda: resampled(images, size))

    @cached_property
    def _identity(self) -> Identity:
        with _unreadable_told():
            return identify(self.name, self.identified(self.locate()))

    def _missing(self, folder: Path) -> list[str]:
        return [name for name in self.digests if self.file(folder, name) is None]

    def _steps(self) -> str:
        """What was looked for, and the ways to mend it."""
        folders = self.folders()
        lines = ["its files were not found", "do one of these:"]
        lines += [f"  ganrun data fetch {self.name}, or download = true in [data]: torchvision fetches them"]
        lines += [f"  {line}" for line in self.ways(folders[0].absolute())]
        return "\n".join([*lines, *looked_in(folders, self._missing, len(self.digests))])
