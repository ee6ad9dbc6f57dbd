"""A data set whose records are images of another one, and what degradations leave of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator

import ganrun
from ganrun_datasets.cache import cached_parts, digest_of
from ganrun_datasets.degraded.degrading import Mask, blurred, grey, hidden, masks, noisy
from ganrun_datasets.pictures.picture import Filter, Pixels
from ganrun_datasets.resample import resized

SOURCE, MASK = "source", "mask"
"""Record fields, by the names that losses ask for."""

VERSION = 1
"""Part of every key: raise it when the same settings make other pixels."""

PART_BYTES = 4 << 20
"""Images that are degraded at a time: as many as fit, but at least one."""

DEGRADATIONS = ("grey", "blur", "downsample", "noise", "mask")
"""Settings, in the order in which they are applied."""

SPLITS = ("train", "test")


class Made(NamedTuple):
    """The further fields of a split."""

    fields: Mapping[str, Pixels]

    fingerprint: str
    """Of the split with these."""


class Degraded(ganrun.Data):
    """Images of another data set, each with what degradations leave of it: colouring, super-resolution, restoration.

    A record is an image of the data set that `of` names, its label, and the field "source": the image made grey,
    blurred, made smaller, noisy and with missing pixels, in this order, as far as the settings say so. Of missing
    pixels the source shows a grey of 128, and the field "mask" says where they are: 255 there, and 0 elsewhere.

    Everything is computed once, into ganrun's cache, in integers: the same on every machine. Noise and masks follow
    from `seed` and the record's place in its split, so that they are the same at every evaluation, and in every run.
    """

    class Settings(ganrun.Settings):
        of: ganrun.Part
        """The data set whose images are degraded: its name, or a table of its settings that says `use`."""

        grey: bool = False
        """Whether colours become their luma (ITU-R BT.601), so that the source has one channel."""

        blur: float | None = Field(None, gt=0, le=64)
        """σ of a Gaussian that the image is blurred by, in pixels. Its kernel ends after 4 σ."""

        downsample: Literal[2, 3, 4, 8] | None = None
        """How many times smaller the source is than the image, in height and in width."""

        filter: Filter = "bicubic"
        """Pillow's filter for `downsample`. Published super-resolution mostly takes MATLAB's bicubic filter, which
        treats borders and rounds in another way: its sources, and scores from them, differ slightly."""

        noise: float | None = Field(None, gt=0, le=255)
        """σ of normal noise, in levels of 8 bits, as denoising is published: 25 of 255. The sum is rounded and clipped.
        """

        mask: Mask = "none"
        """Which pixels are missing. centre: half of the height and width, in the middle; random: a rectangle anywhere,
        of a quarter to half of the height, and of the width; blocks: four squares of a quarter of them, anywhere, which
        may overlap."""

        seed: int = Field(0, ge=0)
        """Decides the noise and the masks."""

        @model_validator(mode="after")
        def _degrades(self) -> Self:
            if not self.chosen():
                raise ValueError(f"nothing is degraded; say at least one of {', '.join(DEGRADATIONS)}")
            return self

        def chosen(self) -> dict[str, Any]:
            """The degradations that are on."""
            return {name: value for name in DEGRADATIONS if (value := getattr(self, name)) not in (None, False, "none")}

    settings: Settings
    parts = {"of": "data"}

    def __init__(self, settings: Settings, *, of: ganrun.Data) -> None:
        super().__init__(settings)
        self._of = of
        self._made: dict[str, Made] = {}

    def spec(self) -> ganrun.DataSpec:
        """That of the other data set, with the fields.

        Raises:
            IncompatibleError: if its samples are no images, cannot be degraded as the settings say, or have fields.
        """
        with _within():
            spec = self._of.spec()
        return ganrun.DataSpec(spec.sample_shape, spec.classes, self._fields(spec))

    def class_names(self) -> tuple[str, ...]:
        """Those of the other data set."""
        return self._of.class_names()

    def locate(self) -> Path | None:
        """Where the other data set is."""
        with _within():
            return self._of.locate()

    def fetch(self) -> None:
        """Fetch the other data set."""
        with _within():
            self._of.fetch()

    def prepare(self) -> None:
        """Prepare the other data set, and degrade its images unless the results are in the cache."""
        with _within():
            self._of.prepare()
        self.spec()
        for name in self._counts():
            self._make(name)

    def check_files(self) -> Mapping[str, str]:
        """Check those of the other data set, and every byte of the degraded images in the cache."""
        with _within():
            found = dict(self._of.check_files())
            self._of.prepare()
        for name in self._counts():
            for field in self._make(name, whole=True).fields.values():
                if isinstance(field, np.memmap):
                    found[str(field.filename)] = f"{len(field):,} degraded images, every byte by its checksum"
        return found

    def split(self, name: str) -> ganrun.Split:
        """The other data set's split, with the fields."""
        with _within():
            own = self._of.split(name)
        return ganrun.Split(own.images, own.labels, self._beside(name).fields)

    def fingerprint(self, name: str = "train") -> str:
        """A digest of the other data set's fingerprint and the fields."""
        return self._beside(name).fingerprint

    def manifest(self) -> Mapping[str, Any]:
        """Counts, the degradations, and under `of` what the other data set says of itself, except its files."""
        of = dict(self._of.manifest())
        files: dict[str, Any] = {name: of.pop(name) for name in ("files", "published") if name in of}
        named = self.settings.model_dump(mode="json", exclude_none=True, exclude={"of"})
        return {"counts": self._counts(), "fingerprint": self.fingerprint(), **files, "transform": named, "of": of}

    # ── Shapes ────────────────────────────────────────────────────────────────────────────────────────

    def _fields(self, spec: ganrun.DataSpec) -> dict[str, tuple[int, ...]]:
        """The shapes of the fields."""
        channels, height, width = spec.image_shape
        self._check(spec)
        factor = self.settings.downsample or 1
        sides = height // factor, width // factor
        source = (1 if self.settings.grey else channels, *sides)
        return {SOURCE: source} if self.settings.mask == "none" else {SOURCE: source, MASK: (1, *sides)}

    def _check(self, spec: ganrun.DataSpec) -> None:
        (channels, height, width), factor = spec.image_shape, self.settings.downsample
        if spec.fields:
            raise ganrun.IncompatibleError(f"the records to degrade have fields already: {', '.join(spec.fields)}")
        if self.settings.grey and channels != 3:
            raise ganrun.IncompatibleError(f"grey = true, and the images have {channels} channels, not 3")
        if factor and (height % factor or width % factor):
            text = f"downsample = {factor} does not divide {height}×{width}"
            raise ganrun.IncompatibleError(f"{text}; choose another size of the images, or another factor")
        if self.settings.mask != "none" and min(height, width) // (factor or 1) < 4:
            raise ganrun.IncompatibleError("the source has fewer than 4 pixels a side, too few for a mask")

    # ── Pixels ────────────────────────────────────────────────────────────────────────────────────────

    def _counts(self) -> dict[str, int]:
        found = {}
        for name in SPLITS:
            try:
                found[name] = len(self._of.split(name))
            except ganrun.DataError:
                if name == "train":
                    raise
        return found

    def _beside(self, name: str) -> Made:
        return self._made.get(name) or self._make(name)

    def _make(self, name: str, *, whole: bool = False) -> Made:
        """The fields of a split: from the cache, or made now."""
        split = self._of.split(name)
        if split.images.dtype != np.uint8:
            raise ganrun.DataError(f"its {name} images are {split.images.dtype}; only those of 8 bits can be degraded")
        own = self._of.fingerprint(name)
        key = _digest(f"{VERSION} {self.settings.model_dump_json(exclude={'of'})} {own}")
        work = _Work(self.settings, split.images, name)
        fields = {
            field: cached_parts(f"degraded-{name}-{field}-{key}", getattr(work, field), whole=whole)
            for field in self._fields(self._of.spec())
        }
        text = " ".join([own, *(f"{field} {digest_of(pixels)}" for field, pixels in fields.items())])
        self._made[name] = Made(fields, _digest(text))
        return self._made[name]


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@contextmanager
def _within() -> Iterator[None]:
    """A block that calls the other data set, whose errors name its table."""
    try:
        yield
    except ganrun.GanrunError as error:
        error.owned("[data.of]")
        raise


class _Work:
    """Makes the fields of a split, part by part."""

    def __init__(self, settings: Degraded.Settings, images: Pixels, split: str) -> None:
        self._settings = settings
        self._images = images
        self._split = SPLITS.index(split)

    def source(self) -> Iterator[Pixels]:
        """The degraded images."""
        with ganrun.ProgressReporter() as report:
            for begin, images in self._parts():
                yield self._degraded(begin, images)
                report("degraded: degrading images", begin + len(images), len(self._images))

    def mask(self) -> Iterator[Pixels]:
        """Where pixels are missing."""
        factor, (_, _, height, width) = self._settings.downsample or 1, self._images.shape
        for begin, images in self._parts():
            yield masks(self._settings.mask, height // factor, width // factor, self._seeds(begin), len(images))

    def _parts(self) -> Iterator[tuple[int, Pixels]]:
        """The place of each part's first image, and its images."""
        rows = max(1, PART_BYTES // self._images[0].nbytes)
        return ((begin, self._images[begin : begin + rows]) for begin in range(0, len(self._images), rows))

    def _degraded(self, begin: int, images: Pixels) -> Pixels:
        settings = self._settings
        if settings.grey:
            images = grey(images)
        if settings.blur:
            images = blurred(images, settings.blur)
        if settings.downsample:
            height, width = (side // settings.downsample for side in images.shape[2:])
            images = resized(images, height, width, settings.filter)
        if settings.noise:
            images = noisy(images, settings.noise, self._seeds(begin))
        if settings.mask != "none":
            height, width = images.shape[2:]
            images = hidden(images, masks(settings.mask, height, width, self._seeds(begin), len(images)))
        return images

    def _seeds(self, begin: int) -> Iterator[list[int]]:
        """Of each record from `begin` on: the setting, the split, and the record's place."""
        for place in range(begin, len(self._images)):
            yield [self._settings.seed, self._split, place]
