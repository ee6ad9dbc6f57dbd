"""Two sets of pictures that belong together only as sets."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import ganrun
from ganrun_datasets.pairs.base import SOURCE, TwoSides, TwoSidesSettings, layout_of
from ganrun_datasets.pairs.sides import Sides, find_sides
from ganrun_datasets.pictures.data import Layout


class UnpairedFolders(TwoSides):
    """Two sets of your own pictures without pairs, in a folder or a zip: horses and zebras, as CycleGAN takes them.

    A and B are in folders of these names: `trainA` and `trainB`, `train/A` and `train/B`, `A/train` and `B/train`, or
    `A` and `B` without splits; test (or val, validation, …) is the other split. There may be more of one side than of
    the other. Only a loss for unpaired data can be trained on them.

    Each picture is read as by image-folder.
    """

    Settings = TwoSidesSettings
    name = "unpaired-folders"
    paired = False

    def field_rows(self, field: str, split: str) -> slice:
        """The rows of the sources that are a split's."""
        return self.fields[field].rows(*self.layouts[1].splits[split])

    def check_split(self, name: str) -> None:
        """Check that skipping unreadable pictures has emptied neither side of a split.

        Raises:
            DataError: if it has.
        """
        super().check_split(name)
        if not len(self.split(name).beside[SOURCE]):
            raise ganrun.DataError(f"no source of the {name} split can be read")

    def manifest(self) -> Mapping[str, Any]:
        """The same, with the counts of sources."""
        counts = {name: len(self.split(name).beside[SOURCE]) for name in self.layout.splits}
        return {**super().manifest(), "sources": counts}

    def unused(self) -> int:
        """How many pictures are used in no split."""
        return self._found.unused

    @cached_property
    def _found(self) -> Sides:
        return find_sides(self._source, self.settings.sides)

    @cached_property
    def layouts(self) -> tuple[Layout, Layout]:
        """Those of images and of sources."""
        by_split = self._found.by_split
        first, second = (
            layout_of({split: list(by_split[split][side].values()) for split in by_split}) for side in (0, 1)
        )
        return (second, first) if self._is_forward else (first, second)
