"""EMNIST: handwritten letters and digits, in six subsets."""

from __future__ import annotations

import string
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

import ganrun
from ganrun_datasets.damage import ZIP_ERRORS, zip_damage
from ganrun_datasets.idx import MOST_BYTES, parse_idx, read_idx
from ganrun_datasets.mnist import SIZE, spelled
from ganrun_datasets.places import candidate_folders, is_file
from ganrun_datasets.published_data import PublishedData

ARCHIVE = "gzip.zip"
ARCHIVE_MD5 = "58c8d27c78d21e728a6bc7b3cc06412e"
PAGE = "https://www.nist.gov/itl/products-and-services/emnist-dataset"

_CHARACTERS = tuple(string.digits + string.ascii_uppercase + string.ascii_lowercase)
_MERGED = tuple(each for each in _CHARACTERS if each not in "cijklmopsuvwxyz")
"""Small letters that look like their capitals are those capitals."""

CLASSES = {
    "byclass": _CHARACTERS,
    "bymerge": _MERGED,
    "balanced": _MERGED,
    "letters": tuple(string.ascii_lowercase),
    "digits": tuple(string.digits),
    "mnist": tuple(string.digits),
}


class Emnist(PublishedData):
    """EMNIST: up to 814,255 handwritten letters and digits, grey, 28×28.

    Cohen, Afshar, Tapson and van Schaik, arXiv:1702.05373. The archive gzip.zip, which need not be unpacked, or the IDX
    files of the subset, gzipped or not, are searched for in $GANRUN_DATA, ./data and ganrun's cache. The pictures are
    turned upright: in the files, rows and columns are exchanged.
    """

    class Settings(PublishedData.Settings):
        subset: Literal["byclass", "bymerge", "balanced", "letters", "digits", "mnist"] = "balanced"
        """byclass: 62 characters, 697,932 + 116,323; bymerge: the same, where 15 small letters are merged with their
        capitals, so 47 classes; balanced: 47 classes, 112,800 + 18,800; letters: 26 letters, small and capital ones
        merged, 124,800 + 20,800; digits: 240,000 + 40,000; mnist: 60,000 + 10,000 digits, another choice than MNIST's.
        """

        size: int = Field(SIZE, ge=8, le=256)
        """Height and width in pixels; other than 28, resampled by Pillow's bicubic filter."""

    settings: Settings

    name, channels = "emnist", 1
    classes = ()

    @property
    def checksums(self) -> Mapping[str, str]:
        """The archive, which is the only file with a published checksum."""
        return {ARCHIVE: ARCHIVE_MD5}

    def class_names(self) -> tuple[str, ...]:
        """The subset's characters."""
        return CLASSES[self.settings.subset]

    def folders(self) -> list[Path]:
        """The usual places, and torchvision's folder in each."""
        found = candidate_folders(self.name, self.settings.root, "EMNIST/raw", self.system)
        return [*found, *(folder / "gzip" for folder in found)]

    def find(self) -> Path | None:
        """The first folder with the subset's four files, or else the first archive."""
        with_files = (folder for folder in self.folders() if all(map(self._finder(folder), self._names.values())))
        archives = (path for folder in self.folders() for path in (folder / ARCHIVE, folder) if _is_archive(path))
        return next(with_files, None) or next(archives, None)

    def instructions(self, folder: Path) -> Sequence[str]:
        """The archive."""
        return [f"put {ARCHIVE}, unpacked or not, from {PAGE}, into {folder}"]

    def download_to(self, root: Path) -> None:
        """Download the archive to `root/EMNIST/raw`, and unpack it there."""
        from torchvision.datasets import EMNIST

        EMNIST(str(root), split=self.settings.subset, download=True)

    def read(self, place: Path) -> Mapping[str, ganrun.Split]:
        """Both splits."""
        return {split: self._read_split(place, split) for split in ("train", "test")}

    def files_read(self, place: Path) -> Mapping[Path, str | None]:
        """The archive, or the four files, of which no checksums are published."""
        if place.is_file():
            return {place: ARCHIVE_MD5}
        found = self._finder(place)
        return {path: None for path in map(found, self._names.values()) if path is not None}

    @property
    def _names(self) -> dict[tuple[str, str], str]:
        """The published name of each file, by split and what it holds."""
        kinds = {"images": "idx3", "labels": "idx1"}
        return {
            (split, kind): f"emnist-{self.settings.subset}-{split}-{kind}-{code}-ubyte"
            for split in ("train", "test")
            for kind, code in kinds.items()
        }

    def _finder(self, folder: Path) -> Callable[[str], Path | None]:
        return lambda name: next(filter(is_file, spelled(folder, name)), None)

    def _read_split(self, place: Path, split: str) -> ganrun.Split:
        images, labels = self._array(place, split, "images", 3), self._array(place, split, "labels", 1)
        first = int(self.settings.subset == "letters")  # its labels count from 1
        classes = len(self.class_names())
        if images.shape[1:] != (SIZE, SIZE) or len(images) != len(labels) or not len(images):
            raise ganrun.DataError(f"{place} is not EMNIST: {split} has images {images.shape} and {len(labels)} labels")
        if labels.min() < first or labels.max() >= first + classes:
            raise ganrun.DataError(
                f"{place} is not EMNIST's subset {self.settings.subset}: {split} has the label {labels.max()}, not "
                f"{first} to {first + classes - 1}"
            )
        upright = np.ascontiguousarray(images.transpose(0, 2, 1)[:, np.newaxis])
        return ganrun.Split(upright, labels.astype(np.int64) - first)

    def _array(self, place: Path, split: str, kind: str, dimensions: int) -> npt.NDArray[np.uint8]:
        name = self._names[split, kind]
        if place.is_file():
            return parse_idx(place / name, _member(place, f"{name}.gz"), dimensions)
        path = self._finder(place)(name)
        if path is None:
            raise ganrun.DataError(f"{place / name} has vanished")
        return read_idx(path, dimensions)


def _is_archive(path: Path) -> bool:
    return path.name == ARCHIVE and is_file(path)


def _member(path: Path, name: str) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive:
            member = next((each for each in archive.infolist() if each.filename.rpartition("/")[2] == name), None)
            if member is None:
                raise ganrun.DataError(f"{path} lacks {name}; replace it with a fresh copy")
            if member.file_size > MOST_BYTES:
                raise zipfile.BadZipFile(f"{name} unpacks to {member.file_size:,} bytes, more than {MOST_BYTES:,}")
            return archive.read(member)
    except ZIP_ERRORS as error:
        raise ganrun.DataError(zip_damage(path, str(error))) from error
