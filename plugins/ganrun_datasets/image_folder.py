"""The user's own pictures: a folder of files, or a zip of one."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from pydantic import Field

import ganrun
from ganrun import is_picture
from ganrun_datasets.pictures.data import PictureData
from ganrun_datasets.pictures.folders import FolderLayout, read_layout
from ganrun_datasets.pictures.job import DIGEST_BYTES, Job, Unreadable
from ganrun_datasets.pictures.maps import Tally
from ganrun_datasets.pictures.notes import check_pixels, warn_about
from ganrun_datasets.pictures.picture import Filter, Transform
from ganrun_datasets.pictures.sources import Source, source_at
from ganrun_datasets.pictures.tree import listed
from ganrun_datasets.places import expanded

USUAL_FILES = ("thumbs.db", "desktop.ini", "readme", "license", "licence")
USUAL_ENDS = (".txt", ".md", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".html", ".pdf", ".npy", ".pt")
"""Files that are often kept beside pictures, and are ignored without a warning."""

Value = TypeVar("Value")

log = logging.getLogger("ganrun.datasets")


class ImageFolder(PictureData):
    """Your own pictures: a folder or a zip of them, with classes by sub-folder.

    The first folders below the root are the classes, and every picture below one belongs to it; pictures in the root
    itself have no labels. A folder that encloses all others is ignored, and a single class counts as none. Classes that
    are all numbers are sorted by value. A list of labels in the root or in a split replaces the folders: StyleGAN's
    `dataset.json`, or `metadata.csv` or `metadata.jsonl` with the columns file_name and label.

    First folders called train (or training) and test (or testing, val, valid, validation, eval, evaluation, holdout,
    dev) are the splits, and the classes are within them. So are `cat/train` and `cat/test` within every class, and
    names such as `cat_train` and `cat_test`. Without a folder for testing there is no test split; if there are several,
    the first in that order is used. A mixture of splits and other folders is refused, unless `splits` says what they
    are.

    Any format that Pillow decodes by itself works. Photographs are turned upright by their EXIF orientation,
    transparency is laid on white, 16-bit grey is scaled to 8 bits, CMYK and LAB are converted, colour profiles are
    ignored, and of an animation the first frame is used. Hidden files, recycle bins and the thumbnails of NAS devices
    are left out. All pictures are decoded once, into a memory map in ganrun's cache.
    """

    class Settings(ganrun.Settings):
        root: ganrun.LocalPath
        """The folder, or a .zip, which need not be unpacked."""

        size: int = Field(32, ge=8, le=1024)
        """Height and width in pixels."""

        channels: Literal[1, 3] = 3
        """3: colour. 1: grey; colours become their luma (ITU-R BT.601)."""

        crop: Literal["centre", "none", "exact"] = "centre"
        """The part of a picture that is used. centre: the largest square at its centre; none: all of it, stretched;
        exact: all of it, and a picture of any other size counts as damaged, for pictures that are scored unchanged.
        """

        filter: Filter = "bicubic"
        """Pillow's filter for resizing."""

        bits: int = Field(16, ge=8, le=16)
        """How many of their bits 16-bit grey pictures use: 12 if white is 4,095, as with many cameras."""

        labelled: bool = True
        """Whether pictures have classes. false: folders, such as FFHQ's 00000, 01000, …, and lists are ignored."""

        splits: bool | None = None
        """Whether the first folders are the splits. true: they are, and other folders beside them are ignored; false:
        there are no splits; by default, the folders' names decide, and a mixture is refused."""

        unreadable: Unreadable = "refuse"
        """Handling of damaged pictures: refuse to start, naming them; or skip them, with a warning."""

    settings: Settings

    def spec(self) -> ganrun.DataSpec:
        """Shape from the settings; classes from the names of files and a list of labels. No picture is opened, and
        without labels no folder."""
        classes = len(self.layout.classes) if self.settings.labelled else 0
        return ganrun.DataSpec(self._transform.shape, classes=classes)

    def class_names(self) -> tuple[str, ...]:
        """The folders' names, or those in the list of labels."""
        return tuple(map(ganrun.one_line, self.layout.classes))

    def locate(self) -> Path:
        """The root, if it exists."""
        return self._source.path

    def prepare(self) -> None:
        """Decode the pictures unless they are in the cache, and warn about likely mistakes."""
        for note in self.layout.notes:
            log.warning("%s: %s", self._source.path, note)
        self._warn_about_ignored_files()
        check_pixels(self.decoded, self._transform)
        self._warn_about_repeated()
        for name in self.layout.splits:
            self.check_split(name)

    def check_split(self, name: str) -> None:
        """Check that skipping unreadable pictures has not emptied a split or one of its classes.

        Raises:
            DataError: if it has.
        """
        super().check_split(name)
        labels, classes = self.split(name).labels, self.class_names()
        absent = set(range(len(classes))) - set([] if labels is None else np.unique(labels).tolist())
        if absent:
            raise ganrun.DataError(f'no picture of class "{classes[min(absent)]}" in the {name} split can be read')

    def manifest(self) -> Mapping[str, Any]:
        """Counts, transform, a digest of all files together, the number of skipped pictures, and the meaning of
        folders.

        `splits` are the folders of each split; `labels` the pictures of each class; `unused` the folders that belong to
        no split, with their number of pictures; `ignored` other files by extension, and system folders.
        """
        record, layout = self.decoded.record, self.layout
        return {
            **super().manifest(),
            "files": {str(self._source.path): record.contents, **_printable_keys(layout.label_files)},
            "published": None,
            "transform": self.settings.model_dump(include={"size", "channels", "crop", "filter", "bits"}),
            "splits": {split: listed([each or "./" for each in folders]) for split, folders in layout.folders.items()},
            "labels": {split: self._class_counts(split) for split in layout.splits if layout.classes},
            "unused": _printable_keys(layout.unused),
            "ignored": self._ignored(),
            "skipped": len(record.unreadable),
        }

    @cached_property
    def layout(self) -> FolderLayout:
        """Splits and classes, by folders and lists of labels."""
        return read_layout(self._source, self.settings.labelled, self.settings.splits)

    def job(self) -> Job:
        """A decoding job for every picture, by the settings."""
        return Job(
            "image-folder", self._source, self.layout.names, self._transform, unreadable=self.settings.unreadable
        )

    @cached_property
    def _source(self) -> Source:
        return source_at(expanded(self.settings.root))

    @property
    def _transform(self) -> Transform:
        settings = self.settings
        return Transform(settings.size, settings.channels, settings.filter, settings.crop, settings.bits)

    def _warn_about_repeated(self) -> None:
        """Warn about test pictures that are also trained on."""
        if "test" not in self.layout.splits:
            return
        seen, test = set(self._digests("train")), self._rows("test")
        names = [self.layout.names[number] for number in self.decoded.numbers[test]]
        both = [name for name, each in zip(names, self._digests("test"), strict=True) if each in seen]
        warn_about(Tally() + both, len(names), "of the test split are equal to some of the train split")

    def _digests(self, split: str) -> list[str]:
        rows, text, length = self._rows(split), self.decoded.record.row_digests, 2 * DIGEST_BYTES
        return [text[row * length : (row + 1) * length] for row in range(rows.start, rows.stop)]

    def _class_counts(self, split: str) -> dict[str, int]:
        labels = self.split(split).labels
        counts = np.bincount([] if labels is None else labels, minlength=len(self.layout.classes))
        return dict(zip(self.class_names(), counts.tolist(), strict=True))

    def _ignored(self) -> dict[str, int]:
        files = [name for name in self._source.stamps if not is_picture(name) and name not in self.layout.label_files]
        ends = Counter(Path(name).suffix.lower() or Path(name).name for name in files)
        return _printable_keys(ends | Counter({f"{each}/": n for each, n in self._source.listing.skipped.items()}))

    def _warn_about_ignored_files(self) -> None:
        """Warn about files without a picture's name, except notes: they may be photographs in an unknown format."""
        ignored = [name for name in self._source.stamps if not is_picture(name) and not _is_usual(name)]
        if ignored:
            text = "%s files of %s are ignored, since they do not have names of pictures; the first is %s"
            log.warning(text, f"{len(ignored):,}", self._source.path, ganrun.one_line(ignored[0]))


def _printable_keys(counts: Mapping[str, Value]) -> dict[str, Value]:
    return {ganrun.one_line(name): value for name, value in counts.items()}


def _is_usual(name: str) -> bool:
    return name.rpartition("/")[2].lower() in USUAL_FILES or name.lower().endswith(USUAL_ENDS)
