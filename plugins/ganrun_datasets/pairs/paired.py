"""Pairs of pictures: halves of one picture, or two folders with the same names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from typing import Literal

import numpy as np

import ganrun
from ganrun_datasets.pairs.base import SOURCE, TwoSides, TwoSidesSettings, layout_of, log
from ganrun_datasets.pairs.sides import LISTED, Sides, find_sides, matched
from ganrun_datasets.pictures.data import Layout
from ganrun_datasets.pictures.decoding import decode
from ganrun_datasets.pictures.folders import FolderLayout, read_layout
from ganrun_datasets.pictures.maps import Decoded
from ganrun_datasets.pictures.picture import Half, Transform


class PairedFolders(TwoSides):
    """Your own pairs of pictures, in a folder or a zip: halves of one picture, or two folders with the same names.

    Halves: each picture holds A on the left and B on the right, of equal width, as pix2pix's data sets have them. The
    folders train and test (or val, validation, …) are the splits; others mean nothing.

    Folders: A and B are in folders of these names, such as `trainA` and `trainB`, `train/A` and `train/B`, `A/train`
    and `B/train`, or `A` and `B` without splits. Both of a pair have the same name below these, but for the ending.

    Each picture is read as by image-folder; both of a pair are cropped and resized in the same way. If one of a pair is
    skipped, so is the other.
    """

    class Settings(TwoSidesSettings):
        layout: Literal["halves", "folders"] = "halves"
        """Where the two of a pair are: in halves of one picture, or in two folders. Of two folders, both of a pair must
        have the same size in pixels if crop is centre."""

    settings: Settings
    name = "paired-folders"

    def prepare(self) -> None:
        """Decode the pictures unless they are in the cache, and check that those of a pair fit each other.

        Raises:
            DataError: if they do not.
        """
        if isinstance(self._found, FolderLayout):
            for note in self._found.notes:
                log.warning("%s: %s", self._source.path, note)
        elif self.settings.crop == "centre":
            self._check_sides()
        super().prepare()

    @cached_property
    def decoded(self) -> Decoded:
        """The images of those pairs of which both pictures can be read."""
        return self._both[0]

    @cached_property
    def fields(self) -> Mapping[str, Decoded]:
        """Their sources."""
        return {SOURCE: self._both[1]}

    def unused(self) -> int:
        """How many pictures are used in no split."""
        return self._found.unused if isinstance(self._found, Sides) else sum(self._found.unused.values())

    @cached_property
    def _both(self) -> tuple[Decoded, Decoded]:
        images, sources = decode(self.job()), decode(self.field_jobs()[SOURCE])
        numbers = np.intersect1d(images.numbers, sources.numbers)
        return images.only(numbers), sources.only(numbers)

    @cached_property
    def _found(self) -> Sides | FolderLayout:
        if self.settings.layout == "halves":
            return read_layout(self._source, labelled=False)
        return find_sides(self._source, self.settings.sides)

    @cached_property
    def layouts(self) -> tuple[Layout, Layout]:
        """Those of images and of sources, in the same order."""
        if not isinstance(self._found, Sides):
            return self._found, self._found
        pairs = matched(self._found, self.settings.sides)
        first, second = (
            layout_of({split: [pair[side] for pair in pairs[split]] for split in pairs}) for side in (0, 1)
        )
        return (second, first) if self._is_forward else (first, second)

    def _transform(self, field: str = "") -> Transform:
        whole = super()._transform(field)
        if self.settings.layout == "folders":
            return whole
        is_left = bool(field) == self._is_forward
        return Half(**asdict(whole), half="left" if is_left else "right")

    def _check_sides(self) -> None:
        """Check that both pictures of each pair have the same size."""
        images, sources = self._both
        odd = np.flatnonzero((images.sides != sources.sides).any(1))
        if len(odd):
            lines = [self._sizes(int(row)) for row in odd[:LISTED]]
            more = [f"  and {len(odd) - LISTED:,} more"] if len(odd) > LISTED else []
            text = f"{len(odd):,} of {len(images.images):,} pairs have pictures of different sizes:"
            advice = 'resize them, or set crop = "none" in [data] to stretch each to its size'
            raise ganrun.DataError("\n".join([text, *lines, *more, advice]))

    def _sizes(self, row: int) -> str:
        number = int(self.decoded.numbers[row])
        each = zip(self.layouts, self._both, strict=True)
        texts = [f"{ganrun.one_line(a.names[number])} {b.sides[row][0]}×{b.sides[row][1]}" for a, b in each]
        return f"  {', '.join(texts)}"
