"""Finds CelebA's files: the pictures, packed or not, and their two lists."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ganrun import DataError
from ganrun_datasets.celeba.faces import FILE_NAME
from ganrun_datasets.pictures.sources import Source, source_at
from ganrun_datasets.places import candidate_folders, is_file

NAME = "celeba"
FOLDER = "img_align_celeba"
ARCHIVE = "img_align_celeba.zip"
ATTRIBUTES = "list_attr_celeba.txt"
PARTITION = "list_eval_partition.txt"
PUBLISHED = {
    ARCHIVE: "00d2c5bc6d35e252742224ab0c1e8fcb",
    ATTRIBUTES: "75e246fa4810816ffd6ee81facbd244c",
    PARTITION: "d32c9cbf5e040fd4025c592c306e6668",
}
"""The MD5 of each published file, as torchvision lists them."""

PAGE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"

ABOUT_THE_ARCHIVE = (
    f"the published {ARCHIVE} has about 1.44 GB; download it in a browser from {PAGE}; "
    "Google Drive sends a web page instead once too many people have downloaded it in a day"
)


@dataclass(frozen=True)
class CelebaFiles:
    """The files of one copy of CelebA."""

    pictures: Path
    """The zip, or the folder that holds the pictures."""

    place: Path
    """The folder where they were found, which may hold the lists too."""

    @classmethod
    def find(cls, root: str | None) -> Self:
        """The first copy in the recipe's `root` or the usual places.

        Raises:
            DataError: if there is none, with the steps to get one.
        """
        searched = candidate_folders(NAME, root, NAME)
        for place in searched:
            pictures = _pictures_in(place)
            if pictures is not None:
                return cls(pictures, place)
        raise DataError(_instructions(searched))

    def source(self) -> Source:
        """The folder or the zip, opened.

        Raises:
            DataError: if it is a damaged zip.
        """
        try:
            return source_at(self.pictures)
        except DataError as error:
            error.message += f"\n{ABOUT_THE_ARCHIVE}"
            raise

    def list_file(self, name: str) -> Path | None:
        """One of the lists, or a copy of it as .csv: beside the pictures, or in its folder as on the authors' page."""
        folders = [self.place, self.pictures.parent, self.pictures, self.pictures.parent.parent]
        spelled = (name, Path(name).with_suffix(".csv").name)
        files = [folder / part / each for each in spelled for folder in folders for part in ("", "Anno", "Eval")]
        return next(filter(is_file, files), None)

    def with_checksum(self, names: Iterable[str]) -> list[Path]:
        """The zip, if the pictures are in one, and those of the lists `names` that are there."""
        lists = [path for path in map(self.list_file, names) if path]
        return [*([self.pictures] if self.pictures.is_file() else []), *lists]


def _pictures_in(place: Path) -> Path | None:
    """An intact zip first, since it can be verified; then a folder with pictures; then a damaged zip."""
    if is_file(place):
        return place
    archives = [path for path in (place / ARCHIVE, place / "Img" / ARCHIVE) if is_file(path)]
    sound = [path for path in archives if zipfile.is_zipfile(path)]
    usual = (place / FOLDER, place / FOLDER / FOLDER, place / "Img" / FOLDER, place)  # some unpackers nest it
    folders = [path for path in usual if _holds_pictures(path)]
    return next(iter([*sound, *folders, *archives]), None)


def _holds_pictures(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(FILE_NAME.fullmatch(entry.name) for entry in entries)
    except OSError:
        return False


def _instructions(searched: Sequence[Path]) -> str:
    return "\n".join(
        [
            "its files were not found",
            "its owners ask you to agree to their terms, so ganrun does not download it:",
            f"  read the agreement on {PAGE}",
            f"  from there, under Align&Cropped Images, download Img/{ARCHIVE} (1.4 GB); it need not be unpacked",
            f"  for labels, also download Anno/{ATTRIBUTES}; for the published split, Eval/{PARTITION}",
            f"  put them into {searched[0].absolute()}, or set root in [data] to their folder",
            "folders searched:",
            *(f"  {folder.absolute()}" for folder in searched),
        ]
    )
