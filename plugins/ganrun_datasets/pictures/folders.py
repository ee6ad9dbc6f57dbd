"""What folders mean: splits and classes of pictures, from the names of their files alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np

from ganrun import DataError
from ganrun_datasets.pictures.data import Layout
from ganrun_datasets.pictures.picture import is_picture
from ganrun_datasets.pictures.sources import Archive, Source, printable

TEST_FOLDERS = ("test", "val", "valid", "validation")
"""Folders that may hold the test split; the first of these that exists does."""

SPLIT_FOLDERS = {"train", *TEST_FOLDERS}

log = logging.getLogger("ganrun.datasets")


@dataclass(frozen=True)
class FolderLayout(Layout):
    """A layout whose classes are folders."""

    classes: tuple[str, ...] = ()
    """The folders' names, sorted."""


def read_layout(source: Source, labelled: bool) -> FolderLayout:
    """Find splits, classes and labels.

    Args:
        source: The files.
        labelled: Whether folders are classes.

    Raises:
        DataError: if there is no picture, or the folders contradict each other.
    """
    names = sorted(filter(is_picture, source.stamps))
    if not names:
        raise DataError(_no_pictures(source))
    branches = _branches_by_split(_Branch(names, _outer_folder(source, names)))
    classes = _common_classes(branches) if labelled else ()
    ends = [0, *accumulate(len(branch.names) for branch in branches.values())]
    label_of = {folder: label for label, folder in enumerate(classes)}
    labels = [label_of[branch.folder(name)] for branch in branches.values() for name in branch.names if classes]
    return FolderLayout(
        [name for branch in branches.values() for name in branch.names],
        dict(zip(branches, pairwise(ends), strict=True)),
        np.array(labels, np.int64) if classes else None,
        classes,
    )


@dataclass(frozen=True)
class _Branch:
    """Pictures below one folder."""

    names: list[str]
    prefix: str = ""
    """That folder, with a slash at the end."""

    def folder(self, name: str) -> str:
        """The folder just below the prefix that holds a picture; empty for a picture in the prefix itself."""
        first, slash, _ = name[len(self.prefix) :].partition("/")
        return first if slash else ""

    def within(self, folder: str) -> _Branch:
        return _Branch([name for name in self.names if self.folder(name) == folder], f"{self.prefix}{folder}/")

    def folders(self) -> list[str]:
        return sorted({self.folder(name) for name in self.names})


def _outer_folder(source: Source, names: list[str]) -> str:
    """The single folder around all pictures of a zip, which a zip of a folder has."""
    folders = _Branch(names).folders()
    is_outer = isinstance(source, Archive) and len(folders) == 1 and folders[0].lower() not in {"", *SPLIT_FOLDERS}
    return f"{folders[0]}/" if is_outer else ""


def _branches_by_split(whole: _Branch) -> dict[str, _Branch]:
    found = whole.folders()
    folders = {folder.lower(): folder for folder in found}
    others = [folder for folder in found if folder.lower() not in SPLIT_FOLDERS]
    listed = ", ".join(printable(each) or "the root itself" for each in found)
    if len(folders) < len(found) or (others and "train" in folders and not folders.keys().isdisjoint(TEST_FOLDERS)):
        raise DataError(f"{listed} are side by side, so it is unclear which are splits; move some of them away")
    if others and "train" in folders:
        log.warning("%s are read as classes; if train is a split, move the other folders away", listed)
    if others:
        return {"train": whole}
    if "train" not in folders:
        raise DataError(f"there is a folder {next(iter(folders.values()))}, but no folder train")
    tests = [whole.within(folders[each]) for each in TEST_FOLDERS if each in folders]
    return {"train": whole.within(folders["train"]), **({"test": tests[0]} if tests else {})}


def _common_classes(branches: Mapping[str, _Branch]) -> tuple[str, ...]:
    """The classes, which all splits must have in common."""
    classes = {split: _classes(branch) for split, branch in branches.items()}
    train, test = set(classes["train"]), set(classes.get("test", classes["train"]))
    if train != test:
        odd = min(train ^ test)
        raise DataError(f'only the {"train" if odd in train else "test"} split has a class "{printable(odd)}"')
    return classes["train"]


def _classes(branch: _Branch) -> tuple[str, ...]:
    folders = branch.folders()
    if folders == [""]:
        return ()
    if "" in folders:
        beside, inside = (next(n for n in branch.names if bool(branch.folder(n)) == is_in) for is_in in (False, True))
        raise DataError(
            f"some pictures are in a class's folder ({printable(inside)}) and some in none ({printable(beside)}); "
            "move them, or set labelled = false in [data]"
        )
    return tuple(folders)


def _no_pictures(source: Source) -> str:
    if not source.stamps:
        return f"{source.path} is empty"
    count, first = len(source.stamps), printable(next(iter(source.stamps)))
    files = "1 file" if count == 1 else f"{count:,} files"
    return f"{source.path} holds no pictures: it has {files}, such as {first}, but no .jpg, .png or similar"
