"""Base of data sets with two kinds of pictures."""

from __future__ import annotations

import hashlib
import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

import ganrun
from ganrun_datasets.pictures.data import Layout, RecordData
from ganrun_datasets.pictures.job import DIGEST_BYTES, Job, Unreadable
from ganrun_datasets.pictures.notes import check_pixels
from ganrun_datasets.pictures.picture import Filter, Transform
from ganrun_datasets.pictures.sources import Source, source_at
from ganrun_datasets.places import expanded

SOURCE = "source"
"""The record field of what translation starts from, by the name that losses ask for."""

log = logging.getLogger("ganrun.datasets")


def _two_folders(names: tuple[str, str]) -> tuple[str, str]:
    if "" in names or any("/" in name for name in names) or names[0].lower() == names[1].lower():
        raise ValueError("say the names of two folders")
    return names


class TwoSidesSettings(ganrun.Settings):
    """How pictures of two kinds, A and B, become records."""

    root: ganrun.LocalPath
    """The folder, or a .zip, which need not be unpacked."""

    direction: Literal["a-to-b", "b-to-a"] = "a-to-b"
    """a-to-b: A is the record's source, and B its image; b-to-a: the other way round."""

    sides: Annotated[tuple[str, str], AfterValidator(_two_folders)] = ("A", "B")
    """The names of the folders of A and B, where they are folders; their case does not matter."""

    size: int = Field(256, ge=8, le=1024)
    """Height and width of images in pixels."""

    source_size: int | None = Field(None, ge=8, le=1024)
    """Height and width of sources; unless given, those of images."""

    channels: Literal[1, 3] = 3
    """Of images. 3: colour. 1: grey; colours become their luma (ITU-R BT.601)."""

    source_channels: Literal[1, 3] = 3
    """Of sources."""

    crop: Literal["centre", "none", "exact"] = "centre"
    """The part of a picture that is used. centre: the largest square at its centre; none: all of it, stretched; exact:
    all of it, and a picture of any other size counts as damaged."""

    filter: Filter = "bicubic"
    """Pillow's filter for resizing."""

    bits: int = Field(16, ge=8, le=16)
    """How many of their bits 16-bit grey pictures use: 12 if white is 4,095, as in those of many cameras."""

    unreadable: Unreadable = "refuse"
    """Handling of damaged pictures: refuse to start, naming them; or skip them, with a warning."""


class TwoSides(RecordData):
    """A data set of two kinds of pictures: the image and the field "source" of each record."""

    name: ClassVar[str]
    """Of the data set, in a recipe."""

    settings: TwoSidesSettings

    @cached_property
    @abstractmethod
    def layouts(self) -> tuple[Layout, Layout]:
        """The files of images and of sources, in each split."""

    @property
    def layout(self) -> Layout:
        """The files of images."""
        return self.layouts[0]

    def job(self) -> Job:
        """The images."""
        return self._job(self.layouts[0].names)

    def field_jobs(self) -> Mapping[str, Job]:
        """The sources."""
        return {SOURCE: self._job(self.layouts[1].names, SOURCE)}

    def spec(self) -> ganrun.DataSpec:
        """From the settings alone."""
        return ganrun.DataSpec(self._transform().shape, fields={SOURCE: self._transform(SOURCE).shape})

    def locate(self) -> Path:
        """The root, if it exists."""
        return self._source.path

    def prepare(self) -> None:
        """Decode the pictures unless they are in the cache, and warn about what looks like a mistake."""
        check_pixels(self.decoded, self._transform())
        check_pixels(self.fields[SOURCE], self._transform(SOURCE), "source_channels")
        if unused := self.unused():
            log.warning("%s: %s pictures are in no folder that is used", self._source.path, f"{unused:,}")
        for name in self.layout.splits:
            self.check_split(name)

    def manifest(self) -> Mapping[str, Any]:
        """Counts, transform, a digest of all files together, and the numbers of skipped and unused pictures."""
        records = [self.decoded.record, self.fields[SOURCE].record]
        contents = hashlib.blake2b("".join(each.contents for each in records).encode(), digest_size=DIGEST_BYTES)
        return {
            **super().manifest(),
            "files": {str(self._source.path): contents.hexdigest()},
            "published": None,
            "transform": self.settings.model_dump(mode="json", exclude={"root", "unreadable"}, exclude_none=True),
            "skipped": {"images": len(records[0].unreadable), SOURCE: len(records[1].unreadable)},
            "unused": self.unused(),
        }

    def unused(self) -> int:
        """How many pictures are used in no split."""
        return 0

    @property
    def _is_forward(self) -> bool:
        return self.settings.direction == "a-to-b"

    @cached_property
    def _source(self) -> Source:
        return source_at(expanded(self.settings.root))

    def _transform(self, field: str = "") -> Transform:
        """Of images, or of a field."""
        settings = self.settings
        if field:
            size, channels = settings.source_size or settings.size, settings.source_channels
        else:
            size, channels = settings.size, settings.channels
        return Transform(size, channels, settings.filter, settings.crop, settings.bits)

    def _job(self, names: Sequence[str], field: str = "") -> Job:
        return Job(self.name, self._source, names, self._transform(field), unreadable=self.settings.unreadable)


def layout_of(splits: Mapping[str, Sequence[str]]) -> Layout:
    """The layout of pictures without labels, from those of each split."""
    ends = [0, *accumulate(map(len, splits.values()))]
    names = [name for each in splits.values() for name in each]
    return Layout(names, dict(zip(splits, pairwise(ends), strict=True)))
