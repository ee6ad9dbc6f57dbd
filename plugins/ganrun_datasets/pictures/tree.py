"""Folders that hold pictures, and the names of pictures below each."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from ganrun import DataError, one_line

LISTED = 8
"""Names that a message lists."""

IMAGE_FOLDERS = {"image", "images", "img", "imgs", "input", "inputs", "photos", "pictures", "jpegimages"}
MASK_FOLDERS = {
    *("mask", "masks", "label", "labels", "seg", "trimaps", "gt", "groundtruth", "ground_truth"),
    *("annotation", "annotations", "segmentation", "segmentations", "segmentationclass", "segmentationobject"),
}
THUMBNAIL_FOLDERS = {"thumb", "thumbs", "thumbnail", "thumbnails"}

_MASK_END = re.compile(r"[-_ .]+(?:mask|masks|seg|segmentation|gt|groundtruth)(?:[-_ .]?\d+)?$", re.IGNORECASE)


class Tree:
    """The folders of some pictures. A folder is written with a slash at its end; the root is empty."""

    def __init__(self, names: Sequence[str]) -> None:
        """A tree of sorted names."""
        self.names = names

    @cached_property
    def holders(self) -> set[str]:
        """The folders with pictures in them, not counting sub-folders."""
        return {name[: name.rfind("/") + 1] for name in self.names}

    @cached_property
    def folders(self) -> Mapping[str, set[str]]:
        """The names of each folder's sub-folders; those without pictures are left out."""
        found: dict[str, set[str]] = defaultdict(set)
        for folder in self.holders:
            parts = folder.split("/")[:-1]
            for depth, part in enumerate(parts):
                found["".join(f"{each}/" for each in parts[:depth])].add(part)
        return found

    def within(self, folder: str) -> list[str]:
        """The names of the sub-folders of one folder, sorted."""
        return sorted(self.folders.get(folder, ()))

    def below(self, folder: str) -> Sequence[str]:
        """The pictures below a folder, sorted."""
        if not folder:
            return self.names
        after = folder[:-1] + chr(ord("/") + 1)
        return self.names[bisect_left(self.names, folder) : bisect_left(self.names, after)]

    def look_through(self, folder: str, stop: Sequence[str] = ()) -> str:
        """The folder below a chain of folders that each hold one folder and nothing else.

        Args:
            folder: Where the chain begins.
            stop: Names in lower case that end the chain.
        """
        found = self.within(folder)
        if len(found) != 1 or folder in self.holders or found[0].lower() in stop:
            return folder
        inner = f"{folder}{found[0]}/"
        is_outer = inner in self.folders and inner not in self.holders
        return self.look_through(inner, stop) if is_outer else folder


def listed(names: Sequence[str]) -> str:
    """Some names as text."""
    more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    return ", ".join(map(one_line, names[:LISTED])) + more


# ── Pictures that are made from others ────────────────────────────────────────────────────────────────────


def check_no_derived(tree: Tree) -> None:
    """Check that there are no folders of masks or thumbnails beside the pictures that they were made from.

    Raises:
        DataError: if there are.
    """
    for folder, found in sorted(tree.folders.items()):
        lower = {each.lower(): each for each in sorted(found)}
        has_images = folder in tree.holders or not IMAGE_FOLDERS.isdisjoint(lower)
        has_others = folder in tree.holders or not lower.keys() <= THUMBNAIL_FOLDERS
        derived = (MASK_FOLDERS if has_images else set()) | (THUMBNAIL_FOLDERS if has_others else set())
        odd = [lower[each] for each in lower if each in derived]
        if odd:
            raise DataError(
                f"{one_line(folder + odd[0])} seems to hold masks or thumbnails of the pictures beside it; "
                "move it away, or set root to a folder without it"
            )


def mask_files(names: Sequence[str]) -> Iterator[str]:
    """Pictures such as `1_mask.png` that have a `1.jpg` or `1.png` beside them."""
    stems = {name: name.rpartition(".")[0] for name in names}
    ends = {name: match for name, stem in stems.items() if (match := _MASK_END.search(stem, stem.rfind("/") + 2))}
    plain = set(stems.values()) if ends else set()
    return (name for name, match in ends.items() if match.string[: match.start()] in plain)
