"""CelebA's aligned faces as a data set."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, get_args

from PIL import Image
from pydantic import Field, field_validator, model_validator

import ganrun
from ganrun import UnreadableError
from ganrun_datasets.celeba.faces import Faces, read_faces
from ganrun_datasets.celeba.files import (
    ARCHIVE,
    ATTRIBUTES,
    NAME,
    PAGE,
    PARTITION,
    PUBLISHED,
    CelebaFiles,
)
from ganrun_datasets.celeba.lists import Attribute, Numbers, attribute_labels, published_splits
from ganrun_datasets.pictures.data import Layout, PictureData
from ganrun_datasets.pictures.job import Job, Unreadable
from ganrun_datasets.pictures.picture import Filter, Transform
from ganrun_datasets.pictures.sources import Source
from ganrun_datasets.published import md5_of, verdict_on

WIDTH, HEIGHT = 178, 218
JPEG_START = b"\xff\xd8"


class Celeba(PictureData):
    """CelebA: 202,599 faces of celebrities, aligned, 178×218, with 40 attributes; for research only.

    Liu, Luo, Wang and Tang 2015, arXiv:1411.7766. Download img_align_celeba.zip from the authors' page, and leave it
    packed or not; torchvision's folders work too. ganrun searches $GANRUN_DATA, ./data and its cache.

    The defaults are torchvision's CenterCrop(178) and Resize(64). Scores of different crops cannot be compared:
    Progressive GAN uses crop = 128 at crop_centre = [89, 121] (Karras et al. 2017, arXiv:1710.10196), WAE crop = 140
    (Tolstikhin et al. 2017, arXiv:1711.01558), the first TensorFlow implementations of DCGAN crop = 108.
    """

    class Settings(ganrun.Settings):
        root: ganrun.LocalPath | None = None
        """The zip, or a folder that holds it or the pictures; unless given, the usual places."""

        size: int = Field(64, ge=8, le=512)
        """Height and width in pixels of the resized pictures."""

        crop: int = Field(WIDTH, ge=8, le=WIDTH)
        """Side in pixels of the square that is cut out of the 178×218."""

        crop_centre: tuple[int, int] = (WIDTH // 2, HEIGHT // 2)
        """The centre of that square in pixels, from the left and from the top; (89, 109) is the picture's centre."""

        filter: Filter = "bilinear"
        """Pillow's filter for resizing; torchvision uses bilinear."""

        attribute: Attribute | None = None
        """The attribute whose absence (0) or presence (1) is the label, such as "Smiling"; unless given, no labels."""

        train_on: Literal["all", "train"] = "all"
        """all: every picture, as most papers on GANs do, with none left to test on; train: the published split."""

        unreadable: Unreadable = "refuse"
        """Handling of damaged pictures: refuse to start, naming them; or skip them, with a warning."""

        @field_validator("attribute", mode="before")
        @classmethod
        def _is_known(cls, name: Any) -> Any:
            if not isinstance(name, str) or name in get_args(Attribute):
                return name
            close = get_close_matches(name, get_args(Attribute), n=1)
            hint = f'did you mean "{close[0]}"?' if close else f"it has {', '.join(get_args(Attribute))}"
            raise ValueError(f"CelebA has no such attribute; {hint}")

        @model_validator(mode="after")
        def _is_inside(self) -> Self:
            left, top, right, bottom = self.box
            if left < 0 or top < 0 or right > WIDTH or bottom > HEIGHT:
                raise ValueError(
                    f"crop = {self.crop} at crop_centre = {list(self.crop_centre)} goes from {left}, {top} to "
                    f"{right}, {bottom}, beyond the picture's {WIDTH}×{HEIGHT}"
                )
            return self

        @property
        def box(self) -> tuple[int, int, int, int]:
            """(left, top, right, bottom) of the crop; halves are rounded as torchvision rounds them."""
            left, top = (round(centre - self.crop / 2) for centre in self.crop_centre)
            return left, top, left + self.crop, top + self.crop

    settings: Settings

    def spec(self) -> ganrun.DataSpec:
        """Colour images; two classes if an attribute is chosen."""
        return ganrun.DataSpec(self._transform.shape, classes=len(self.class_names()))

    def class_names(self) -> tuple[str, ...]:
        """Without the attribute, and with it."""
        name = self.settings.attribute
        return (f"not {name}", name) if name else ()

    def locate(self) -> Path:
        """The zip, or the folder of the pictures."""
        return self._files.pictures

    def prepare(self) -> None:
        """Check names and labels, then decode the pictures unless they are in the cache."""
        self._faces.warn(self.locate())
        for name in self.layout.splits:
            self.check_split(name)

    def check_files(self) -> Mapping[str, str]:
        """Compare the zip and the lists with the published MD5 sums, and check every byte of the decoded pictures."""
        files = self._files.with_checksum(self._lists)
        return {**super().check_files(), **{str(path): verdict_on(path, PUBLISHED.get(path.name)) for path in files}}

    def manifest(self) -> Mapping[str, Any]:
        """Counts, the files with their digests, crop and size, attribute, and the number of skipped pictures."""
        return {
            **super().manifest(),
            **self._identity(),
            "transform": self.settings.model_dump(mode="json", include={"crop", "crop_centre", "size", "filter"}),
            "attribute": self.settings.attribute,
            "train_on": self.settings.train_on,
            "skipped": len(self.decoded.record.unreadable),
        }

    @cached_property
    def layout(self) -> Layout:
        """The pictures by number, or by split and number."""
        numbers, splits = self._faces.numbers, {"train": (0, len(self._faces.names))}
        if self.settings.train_on == "train":
            numbers, splits = published_splits(self._files.list_file(PARTITION), numbers)
        names = [self._faces.names[number] for number in numbers.tolist()]
        return Layout(names, splits, self._labels_of(numbers))

    def job(self) -> Job:
        """Every picture, checked to be an aligned one."""
        return Job(NAME, self._source, self.layout.names, self._transform, _check, self.settings.unreadable)

    @cached_property
    def _files(self) -> CelebaFiles:
        return CelebaFiles.find(self.settings.root)

    @cached_property
    def _source(self) -> Source:
        return self._files.source()

    @cached_property
    def _faces(self) -> Faces:
        return read_faces(self._source)

    @property
    def _transform(self) -> Transform:
        return Transform(self.settings.size, 3, self.settings.filter, self.settings.box)

    def _labels_of(self, numbers: Numbers) -> Numbers | None:
        attribute = self.settings.attribute
        if attribute is None:
            return None
        path = self._files.list_file(ATTRIBUTES)
        if path is None:
            raise ganrun.DataError(
                f"the attribute {attribute} needs {ATTRIBUTES}, which is not with {self.locate()}; "
                f"download it from the folder Anno of {PAGE}, and put it there"
            )
        return attribute_labels(path, attribute, numbers)

    @property
    def _lists(self) -> list[str]:
        """The lists that the settings need, as far as they are there."""
        return [ATTRIBUTES] * bool(self.settings.attribute) + [PARTITION] * (self.settings.train_on == "train")

    def _identity(self) -> dict[str, Any]:
        """Each file with its digest, and whether all are the published ones."""
        pictures = self._files.pictures
        sums = {path.name: md5_of(path) for path in self._files.with_checksum(self._lists)}
        copies = {name for name in sums if name.endswith(".csv")}  # another format, without a published checksum
        are_published = {sums[name] for name in sums.keys() - copies} <= set(PUBLISHED.values())
        if pictures.is_file():
            return {"files": sums, "published": are_published and (None if copies else True)}
        # No checksum of a folder is published: it can only be recognised as different.
        is_unknown = are_published and self._faces.are_complete
        files = {pictures.name: self.decoded.record.contents, **sums}
        return {"files": files, "published": None if is_unknown else False}


def _check(name: str, content: bytes, image: Image.Image) -> None:
    """Check that a picture is an aligned one as published. Pillow has checked that its file is complete."""
    if image.size != (WIDTH, HEIGHT):
        width, height = image.size
        raise ganrun.DataError(
            f"{ganrun.one_line(name)} is {width}×{height} pixels, not {WIDTH}×{HEIGHT}: this is not the aligned set; "
            f"download {ARCHIVE} from {PAGE}, or use image-folder for pictures of any size"
        )
    if not content.startswith(JPEG_START):
        raise UnreadableError("it is not a JPEG file")
