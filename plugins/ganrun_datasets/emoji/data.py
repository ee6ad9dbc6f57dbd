"""Emoji as a data set: the pictures of one vendor, alone or paired with another's."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from PIL import Image
from pydantic import Field

import ganrun
from ganrun import DataError
from ganrun_datasets.emoji.catalogue import CATEGORIES, Emoji as Entry, Picture, held_out, read_catalogue, read_version
from ganrun_datasets.emoji.packages import NAME, PICTURE_FOLDERS, PUBLISHED, Vendor, find_package, other_vendor
from ganrun_datasets.pictures.data import Layout, RecordData
from ganrun_datasets.pictures.job import Job
from ganrun_datasets.pictures.picture import OnColour
from ganrun_datasets.pictures.sources import Source
from ganrun_datasets.published import identify, verdict_on

SIZE = 64
FIELD = "source"
"""The record field of the other vendor's picture, under the name that translators use."""

Channel = Annotated[int, Field(ge=0, le=255)]

log = logging.getLogger("ganrun.datasets")


class Emoji(RecordData):
    """Emoji: 1,911 small drawings in colour, 64×64, in ten categories, each by Google and by Twitter.

    The counts are those of version 16.0.0 of the npm packages emoji-datasource-google and emoji-datasource-twitter (Cal
    Henderson; code and list under the MIT licence); versions since 7 are read. Get one with `npm pack`, and leave it
    packed or not; ganrun searches $GANRUN_DATA, ./data and its cache. Google's pictures are Noto Emoji, under the
    Apache License 2.0. Twitter's are Twemoji, under CC BY 4.0, which requires attribution where samples are shown.

    The test split is a fifth of each category, chosen by the emoji's code points, and so the same for both vendors, for
    all settings and on every machine. Emoji of one subject are in the same split: variants by skin tone, a man, a woman
    and a person running, and flags with identical pictures. So no picture of version 16.0.0 is in both splits.
    """

    class Settings(ganrun.Settings):
        root: ganrun.LocalPath | None = None
        """The .tgz, or a folder that holds it or the unpacked package; unless given, the usual places."""

        size: int = Field(32, ge=8, le=256)
        """Height and width in pixels; other than 64, resampled by Pillow's bicubic filter."""

        vendor: Vendor = "google"
        """The vendor whose drawings are the images."""

        paired: bool = False
        """Whether each record holds the other vendor's drawing, too, as its field "source"."""

        skin_tones: bool = False
        """Whether the 1,875 variants by skin tone are used, too; all belong to People & Body."""

        background: tuple[Channel, Channel, Channel] = (255, 255, 255)
        """Background colour (red, green, blue) of transparent parts; white by default."""

    settings: Settings

    def spec(self) -> ganrun.DataSpec:
        """Colour images of ten classes, from the settings alone."""
        shape = self._transform.shape
        return ganrun.DataSpec(shape, classes=len(CATEGORIES), fields={FIELD: shape} if self.settings.paired else {})

    def class_names(self) -> tuple[str, ...]:
        """The categories."""
        return CATEGORIES

    def locate(self) -> Path:
        """The vendor's package, packed or not; if the other one is required, it is present, too."""
        return next(source.path for source in self._sources.values())

    def prepare(self) -> None:
        """Check the list and the names, then decode the pictures unless they are in the cache."""
        if self._left_out:
            text = "%s pictures are left out, since %s has not drawn them"
            log.warning(text, f"{self._left_out:,}", " or ".join(self._sources))
        for name in self.layout.splits:
            self.check_split(name)

    def check_files(self) -> Mapping[str, str]:
        """Compare packed ones with the published MD5 sums, and check every byte of the decoded pictures."""
        return {
            **super().check_files(),
            **{str(path): verdict_on(path, PUBLISHED.get(path.name)) for path in self._archives},
        }

    def manifest(self) -> Mapping[str, Any]:
        """Counts, the packages with their versions and digests, and how pictures were chosen and made."""
        return {
            **super().manifest(),
            **self._identity(),
            "versions": {vendor: read_version(source) for vendor, source in self._sources.items()},
            "transform": self.settings.model_dump(mode="json", include={"size", "background"}),
            **self.settings.model_dump(include={"vendor", "paired", "skin_tones"}),
            "left_out": self._left_out,
        }

    @cached_property
    def layout(self) -> Layout:
        """The pictures of each split, by their emoji's code points."""
        names, labels, splits = list[str](), list[int](), {}
        for split, entries in self._entries.items():
            begin = len(names)
            for entry in entries:
                chosen = [picture.image for picture in self._pictures(entry)]
                names += chosen
                labels += [CATEGORIES.index(entry.category)] * len(chosen)
            splits[split] = begin, len(names)
        self._check_complete(names)
        own = PICTURE_FOLDERS[self.settings.vendor]
        return Layout([f"{own}/{name}" for name in names], splits, np.array(labels, np.int64))

    def job(self) -> Job:
        """The vendor's pictures."""
        return self._job(self.settings.vendor)

    def field_jobs(self) -> Mapping[str, Job]:
        """The other vendor's pictures of the same emoji, if required."""
        return {FIELD: self._job(self._other)} if self.settings.paired else {}

    def _job(self, vendor: Vendor) -> Job:
        names = [name.rpartition("/")[2] for name in self.layout.names]
        paths = [f"{PICTURE_FOLDERS[vendor]}/{name}" for name in names]
        return Job(NAME, self._sources[vendor], paths, self._transform, _check)

    @property
    def _transform(self) -> OnColour:
        return OnColour(self.settings.size, background=self.settings.background)

    # ── Which pictures there are ──────────────────────────────────────────────────────────────────────

    @property
    def _other(self) -> Vendor:
        return other_vendor(self.settings.vendor)

    @cached_property
    def _sources(self) -> dict[Vendor, Source]:
        """The packages, the vendor's first."""
        vendors: list[Vendor] = [self.settings.vendor, *([self._other] if self.settings.paired else [])]
        return {vendor: find_package(vendor, self.settings.root) for vendor in vendors}

    @cached_property
    def _entries(self) -> dict[str, list[Entry]]:
        """The emoji of each split, sorted by their code points."""
        entries = read_catalogue(self._sources[self.settings.vendor])
        names = held_out(entries)
        train, test = ([each for each in entries if (each.unified in names) is part] for part in (False, True))
        return {"train": train, "test": test}

    def _pictures(self, entry: Entry) -> Iterator[Picture]:
        """Those that every vendor asked for has drawn."""
        pictures = entry.pictures(skin_tones=self.settings.skin_tones)
        return (each for each in pictures if all(each.is_by(vendor) for vendor in self._sources))

    @cached_property
    def _left_out(self) -> int:
        """How many pictures not every vendor asked for has drawn."""
        entries = [entry for entries in self._entries.values() for entry in entries]
        skin_tones = self.settings.skin_tones
        return sum(len([*entry.pictures(skin_tones=skin_tones)]) for entry in entries) - len(self.layout.names)

    def _check_complete(self, names: list[str]) -> None:
        for vendor, source in self._sources.items():
            folder = PICTURE_FOLDERS[vendor]
            absent = [name for name in names if f"{folder}/{name}" not in source.stamps]
            if absent:
                found = f"{source.path} lacks {len(absent):,} of {len(names):,} pictures"
                same = ", in the same version as the other one" if self.settings.paired else ""
                first = f"the first is {folder}/{ganrun.one_line(absent[0])}"
                raise DataError(f"{found}; {first}; replace it with a fresh copy{same}")

    # ── What the files are ────────────────────────────────────────────────────────────────────────────

    @property
    def _archives(self) -> list[Path]:
        return [source.path for source in self._sources.values() if source.path.is_file()]

    def _identity(self) -> dict[str, Any]:
        """Each package with its digest, and whether all are the published ones."""
        archives, published = identify(NAME, {path: PUBLISHED.get(path.name) for path in self._archives})
        contents = {self.settings.vendor: self.decoded, self._other: self.fields.get(FIELD)}
        folders = {
            str(source.path / PICTURE_FOLDERS[vendor]): found.record.contents
            for vendor, source in self._sources.items()
            if source.path not in self._archives and (found := contents[vendor])
        }
        return {"files": {**archives, **folders}, "published": None if folders else published}


def _check(name: str, content: bytes, image: Image.Image) -> None:
    """Check that a picture is of the published size."""
    if image.size != (SIZE, SIZE):
        width, height = image.size
        raise DataError(f"{ganrun.one_line(name)} is {width}×{height} pixels, not {SIZE}×{SIZE}; replace the package")
