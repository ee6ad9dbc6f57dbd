"""Anybody's own pictures: a folder of files, or a zip of one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

import ganrun
from ganrun_datasets.decoding import Decoded, Job, Tally, Unreadable, decoded, shown
from ganrun_datasets.pictures import Archive, Filter, Source, Transform, is_picture, source_at
from ganrun_datasets.places import expanded

TEST_FOLDERS = ("test", "val", "valid", "validation")
"""Folders that may hold the test split; the first of these that there is does."""

USUAL_FILES = ("thumbs.db", "desktop.ini", "readme", "license", "licence")
USUAL_ENDS = (".txt", ".md", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".html", ".pdf", ".npy", ".pt")
"""Of files that may lie beside pictures without a word."""

SPLIT_FOLDERS = {"train", *TEST_FOLDERS}

log = logging.getLogger("ganrun.datasets")


class ImageFolder(ganrun.Data):
    """Pictures of one's own: a folder or a zip of them, with classes by sub-folder.

    The first folders below the root are the classes, and whatever lies below one belongs to it; pictures that lie in
    the root itself have no labels. If the first folders are all called train, test, val, valid or validation, they are
    the splits, and the classes lie within them; without a folder for testing there is no test split. In a zip, one
    outer folder around all others is looked through.

    Any format that Pillow decodes by itself: a photograph is turned as its camera noted, transparency is laid on
    white, 16-bit grey is scaled to 8 bits, and of an animation the first picture is taken. All are decoded once, into
    a memory map in ganrun's cache.
    """

    class Settings(ganrun.Settings):
        root: str = Field(min_length=1)
        """The folder, or a .zip, which is read where it is."""

        size: int = Field(32, ge=8, le=1024)
        """Height and width in pixels."""

        channels: Literal[1, 3] = 3
        """3: colour. 1: grey; colours become their luma (ITU-R BT.601)."""

        crop: Literal["centre", "none", "exact"] = "centre"
        """What is taken of a picture that is no square: the largest square at its centre; or all of it, stretched.
        exact: pictures of any other size count as damaged, for those that are to be scored as they are."""

        filter: Filter = "bicubic"
        """Pillow's filter for resizing."""

        labelled: bool = True
        """Whether folders are classes. false: they only hold pictures, as FFHQ's 00000, 01000, …"""

        unreadable: Unreadable = "refuse"
        """What to do about damaged pictures: refuse to start, naming them; or skip them, with a warning."""

    settings: Settings

    def spec(self) -> ganrun.DataSpec:
        """Shape from the settings; classes from the names of the files, none of which is opened."""
        return ganrun.DataSpec(self._transform.shape, classes=len(self._layout.classes))

    def class_names(self) -> tuple[str, ...]:
        """The folders' names, sorted."""
        return tuple(map(shown, self._layout.classes))

    def locate(self) -> Path:
        """The root, if it is there."""
        return self._source.path

    def prepare(self) -> None:
        """Decode the pictures, unless that has been done, and warn of what is odd about them."""
        record, count = self._decoded.record, len(self._decoded.images)
        if self.settings.channels == 3 and record.grey.count == count:
            raise ganrun.DataError(f"all {count:,} pictures are grey; set channels = 1 in [data]")
        if self.settings.channels == 3:
            _warn(record.grey, count, "are grey, and become colour")
        _warn(record.enlarged, count, f"are smaller than {self.settings.size} pixels, and are enlarged")
        self._tell_left_out()
        for name in self._layout.splits:
            self._check_classes(name)

    def split(self, name: str) -> ganrun.Split:
        """`train`, and `test` if there is a folder for it."""
        rows = self._rows(name)
        return ganrun.Split(self._decoded.images[rows], self._labels(rows))

    def fingerprint(self, name: str = "train") -> str:
        """A digest of a split's pictures, as the decoder noted it."""
        rows = self._rows(name)
        return self._decoded.fingerprint(rows, self._labels(rows))

    def manifest(self) -> Mapping[str, Any]:
        """Counts, transform, a digest of all files together, and how many were skipped."""
        record = self._decoded.record
        return {
            **super().manifest(),
            "files": {str(self._source.path): record.contents},
            "published": None,
            "transform": self.settings.model_dump(include={"size", "channels", "crop", "filter"}),
            "skipped": len(record.unreadable),
        }

    @cached_property
    def _transform(self) -> Transform:
        chosen = self.settings
        return Transform(chosen.size, chosen.channels, chosen.filter, chosen.crop)

    @cached_property
    def _source(self) -> Source:
        return source_at(expanded(self.settings.root))

    @cached_property
    def _layout(self) -> Layout:
        return read_layout(self._source, self.settings.labelled)

    @cached_property
    def _decoded(self) -> Decoded:
        job = Job("image-folder", self._source, self._layout.names, self._transform)
        return decoded(job, self.settings.unreadable)

    def _rows(self, name: str) -> slice:
        if name not in self._layout.splits:
            raise ganrun.unknown_split(name, self._layout.splits)
        return self._decoded.rows(*self._layout.splits[name])

    def _labels(self, rows: slice) -> npt.NDArray[np.int64] | None:
        labels = self._layout.labels
        return None if labels is None else labels[self._decoded.numbers[rows]]

    def _tell_left_out(self) -> None:
        """Files that are no pictures by their names: notes are usual, photographs of a format unknown here are not."""
        left_out = [name for name in self._source.stamps if not is_picture(name) and not _is_usual(name)]
        if left_out:
            text = "%s files of %s are left out, since their names are no pictures'; the first is %s"
            log.warning(text, f"{len(left_out):,}", self._source.path, shown(left_out[0]))

    def _check_classes(self, name: str) -> None:
        """Skipping must not empty a split or a class."""
        rows = self._rows(name)
        if rows.start == rows.stop:
            raise ganrun.DataError(f"no picture of the {name} split can be read")
        classes, labels = self.class_names(), self._labels(rows)
        absent = set(range(len(classes))) - set([] if labels is None else np.unique(labels).tolist())
        if absent:
            raise ganrun.DataError(f'no picture of class "{classes[min(absent)]}" in the {name} split can be read')


def _is_usual(name: str) -> bool:
    """Whether a file is one that lies beside pictures: a note, a table, a system's own."""
    return name.rpartition("/")[2].lower() in USUAL_FILES or name.lower().endswith(USUAL_ENDS)


def _warn(tally: Tally, total: int, fact: str) -> None:
    if tally.count:
        log.warning("%s of %s pictures %s; the first is %s", f"{tally.count:,}", f"{total:,}", fact, tally.first)


# ── What the folders mean ─────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Layout:
    """What the names of the files say."""

    names: list[str]
    """All pictures that are used, split by split."""

    splits: Mapping[str, tuple[int, int]]
    """For each split, where in `names` it begins and ends."""

    classes: tuple[str, ...] = ()
    labels: npt.NDArray[np.int64] | None = None
    """int64, one for each of `names`; None without classes."""


def read_layout(source: Source, labelled: bool) -> Layout:
    """Splits, classes and labels, from the files' names alone.

    Raises:
        DataError: if there is no picture, or the folders contradict each other.
    """
    names = sorted(filter(is_picture, source.stamps))
    if not names:
        raise ganrun.DataError(_no_pictures(source))
    parts = _parts(names, _outer_folder(source, names))
    classes = _common_classes(parts) if labelled else ()
    ends = [0, *accumulate(len(part.names) for part in parts.values())]
    label_of = {folder: label for label, folder in enumerate(classes)}
    labels = [label_of[part.folder(name)] for part in parts.values() for name in part.names if classes]
    return Layout(
        [name for part in parts.values() for name in part.names],
        dict(zip(parts, pairwise(ends), strict=True)),
        classes,
        np.array(labels, np.int64) if classes else None,
    )


@dataclass(frozen=True)
class _Part:
    """Some pictures, all below one folder."""

    names: list[str]
    prefix: str = ""
    """That folder, with a slash at the end."""

    def folder(self, name: str) -> str:
        """The folder just below the prefix that holds a picture; empty for one that lies there itself."""
        first, slash, _ = name[len(self.prefix) :].partition("/")
        return first if slash else ""

    def within(self, folder: str) -> _Part:
        return _Part([name for name in self.names if self.folder(name) == folder], f"{self.prefix}{folder}/")

    def folders(self) -> list[str]:
        return sorted({self.folder(name) for name in self.names})


def _outer_folder(source: Source, names: list[str]) -> str:
    """The one folder around all pictures of a zip: whoever zips a folder gets it too."""
    folders = _Part(names).folders()
    is_outer = isinstance(source, Archive) and len(folders) == 1 and folders[0].lower() not in {"", *SPLIT_FOLDERS}
    return f"{folders[0]}/" if is_outer else ""


def _parts(names: list[str], prefix: str) -> dict[str, _Part]:
    """The pictures of each split."""
    whole = _Part(names, prefix)
    found = whole.folders()
    folders = {folder.lower(): folder for folder in found}
    others = [folder for folder in found if folder.lower() not in SPLIT_FOLDERS]
    listed = ", ".join(shown(each) or "the root itself" for each in found)
    if len(folders) < len(found) or (others and "train" in folders and not folders.keys().isdisjoint(TEST_FOLDERS)):
        raise ganrun.DataError(f"{listed} lie side by side, so which are splits is not clear; move some of them away")
    if others and "train" in folders:
        log.warning("%s are taken for classes; if train is a split, move what lies beside it away", listed)
    if others:
        return {"train": whole}
    if "train" not in folders:
        raise ganrun.DataError(f"there is a folder {next(iter(folders.values()))}, but none that is called train")
    tests = [whole.within(folders[each]) for each in TEST_FOLDERS if each in folders]
    return {"train": whole.within(folders["train"]), **({"test": tests[0]} if tests else {})}


def _common_classes(parts: Mapping[str, _Part]) -> tuple[str, ...]:
    """The classes, which all splits must have."""
    classes = {split: _classes(part) for split, part in parts.items()}
    train, test = set(classes["train"]), set(classes.get("test", classes["train"]))
    if train != test:
        odd = min(train ^ test)
        raise ganrun.DataError(f'only the {"train" if odd in train else "test"} split has a class "{shown(odd)}"')
    return classes["train"]


def _classes(part: _Part) -> tuple[str, ...]:
    folders = part.folders()
    if folders == [""]:
        return ()
    if "" in folders:
        beside, inside = (next(n for n in part.names if bool(part.folder(n)) == is_in) for is_in in (False, True))
        raise ganrun.DataError(
            f"some pictures lie in a class's folder ({shown(inside)}) and some in none ({shown(beside)}); "
            "move them, or set labelled = false in [data]"
        )
    return tuple(folders)


def _no_pictures(source: Source) -> str:
    if not source.stamps:
        return f"{source.path} is empty"
    count, first = len(source.stamps), shown(next(iter(source.stamps)))
    files = "1 file" if count == 1 else f"{count:,} files"
    return f"{source.path} holds no pictures: {files}, such as {first}, but no .jpg, .png or the like"
