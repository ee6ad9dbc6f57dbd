"""CelebA's aligned faces, from wherever they are and however they are packed."""

from __future__ import annotations

import logging
import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import Field, field_validator, model_validator

import ganrun
from ganrun_datasets.decoding import Decoded, Job, Unreadable, decoded, shown
from ganrun_datasets.pictures import Filter, Source, Transform, UnreadableError, is_picture, is_web_page, source_at
from ganrun_datasets.places import is_file, places
from ganrun_datasets.published import md5_of

NAME = "celeba"
PUBLISHED_COUNT = 202_599
WIDTH, HEIGHT = 178, 218
FIRST_VALIDATION, FIRST_TEST = 162_771, 182_638
"""The numbers at which the published partition goes on to its next part."""

FOLDER = "img_align_celeba"
ARCHIVE = "img_align_celeba.zip"
ATTRIBUTE_FILE = "list_attr_celeba.txt"
PARTITION_FILE = "list_eval_partition.txt"
PAGE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"

ARCHIVE_FACTS = (
    f"the published {ARCHIVE} has about 1.44 GB; get it in a browser from {PAGE}; "
    "Google Drive sends a web page in its place when too many have asked for it on one day"
)

PICTURE = re.compile(r"\d{6}\.jpg")
JPEG_START = b"\xff\xd8"

Attribute = Literal[
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose",
    "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses",
    "Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache",
    "Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks",
    "Sideburns", "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick",
    "Wearing_Necklace", "Wearing_Necktie", "Young",
]  # fmt: skip

log = logging.getLogger("ganrun.datasets")


class Celeba(ganrun.Data):
    """CelebA: 202,599 faces of celebrities, aligned, 178×218, with 40 attributes; for research only.

    Liu, Luo, Wang and Tang 2015, arXiv:1411.7766. Get img_align_celeba.zip from the authors' page, and leave it packed
    or not; torchvision's folders will do too. It is looked for under $GANRUN_DATA, in ./data and in ganrun's cache.

    The defaults are torchvision's CenterCrop(178) and Resize(64). Scores of other crops cannot be compared: Progressive
    GAN takes crop = 128 at crop_centre = [89, 121] (Karras et al. 2017, arXiv:1710.10196), WAE crop = 140 (Tolstikhin
    et al. 2017, arXiv:1711.01558), the first TensorFlow programs of DCGAN crop = 108.
    """

    class Settings(ganrun.Settings):
        root: str | None = None
        """The zip, or a folder that holds it or the pictures; unless given, the usual places."""

        size: int = Field(64, ge=8, le=512)
        """Height and width in pixels of what the networks get."""

        crop: int = Field(WIDTH, ge=8, le=WIDTH)
        """Side in pixels of the square that is cut out of the 178×218."""

        crop_centre: tuple[int, int] = (WIDTH // 2, HEIGHT // 2)
        """Where its centre lies, from the left and from the top; (89, 109) is the picture's own."""

        filter: Filter = "bilinear"
        """Pillow's filter for resizing; bilinear is torchvision's."""

        attribute: Attribute | None = None
        """The attribute whose absence (0) or presence (1) is the label, such as "Smiling"; unless given, no labels."""

        train_on: Literal["all", "train"] = "all"
        """all: every picture, as most papers on GANs do, with none left to test on; train: the published split."""

        unreadable: Unreadable = "refuse"
        """What to do about damaged pictures: refuse to start, naming them; or skip them, with a warning."""

        @field_validator("attribute", mode="before")
        @classmethod
        def _known(cls, name: Any) -> Any:
            if not isinstance(name, str) or name in get_args(Attribute):
                return name
            close = get_close_matches(name, get_args(Attribute), n=1)
            hint = f'did you mean "{close[0]}"?' if close else f"it has {', '.join(get_args(Attribute))}"
            raise ValueError(f"CelebA has no such attribute; {hint}")

        @model_validator(mode="after")
        def _inside(self) -> Self:
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
        """Colour images; two classes where an attribute is chosen."""
        return ganrun.DataSpec(self._transform.shape, classes=2 if self.settings.attribute else 0)

    def class_names(self) -> tuple[str, ...]:
        """Without the attribute, and with it."""
        name = self.settings.attribute
        return (f"not {name}", name) if name else ()

    def locate(self) -> Path:
        """The folder of the pictures, or the zip."""
        return self._found.pictures

    def prepare(self) -> None:
        """Check names and labels, then decode the pictures, unless that has been done."""
        self._faces.warn(self.locate())
        _ = self._labels
        for name in self._order.splits:
            if not len(self.split(name)):
                raise ganrun.DataError(f"no picture of the {name} split can be read")

    def split(self, name: str) -> ganrun.Split:
        """`train`; and `test` where train_on = "train"."""
        rows = self._rows(name)
        return ganrun.Split(self._decoded.images[rows], self._labels_of(rows))

    def fingerprint(self, name: str = "train") -> str:
        """A digest of a split's pictures, as the decoder noted it."""
        rows = self._rows(name)
        return self._decoded.fingerprint(rows, self._labels_of(rows))

    def manifest(self) -> Mapping[str, Any]:
        """Counts, transform, attribute, the files with their digests, and how many pictures were skipped."""
        return {
            **super().manifest(),
            **self._files(),
            "transform": self.settings.model_dump(mode="json", include={"crop", "crop_centre", "size", "filter"}),
            "attribute": self.settings.attribute,
            "train_on": self.settings.train_on,
            "skipped": len(self._decoded.record.unreadable),
        }

    @cached_property
    def _transform(self) -> Transform:
        return Transform(self.settings.size, 3, self.settings.filter, self.settings.box)

    @cached_property
    def _found(self) -> _Found:
        return _find(self.settings.root)

    @cached_property
    def _source(self) -> Source:
        try:
            return source_at(self._found.pictures)
        except ganrun.DataError as error:
            error.message += f"\n{ARCHIVE_FACTS}"
            raise

    @cached_property
    def _faces(self) -> _Faces:
        return _read_faces(self._source)

    @cached_property
    def _order(self) -> _Order:
        numbers = np.array(sorted(self._faces.names))
        if self.settings.train_on == "all":
            return _Order(numbers, {"train": (0, len(numbers))})
        return _ordered_by_part(numbers, self._found.text(PARTITION_FILE))

    @cached_property
    def _labels(self) -> npt.NDArray[np.int64] | None:
        """One for each of the ordered numbers."""
        if self.settings.attribute is None:
            return None
        path = self._found.text(ATTRIBUTE_FILE)
        if path is None:
            raise ganrun.DataError(
                f"the attribute {self.settings.attribute} needs {ATTRIBUTE_FILE}, which is not with {self.locate()}; "
                f"get it from the folder Anno of {PAGE}, and put it there"
            )
        return _attribute(path, self.settings.attribute, self._order.numbers)

    @cached_property
    def _decoded(self) -> Decoded:
        names = [self._faces.names[number] for number in self._order.numbers.tolist()]
        return decoded(Job(NAME, self._source, names, self._transform, _check), self.settings.unreadable)

    def _rows(self, name: str) -> slice:
        if name not in self._order.splits:
            raise ganrun.unknown_split(name, self._order.splits)
        return self._decoded.rows(*self._order.splits[name])

    def _labels_of(self, rows: slice) -> npt.NDArray[np.int64] | None:
        return None if self._labels is None else self._labels[self._decoded.numbers[rows]]

    def _files(self) -> dict[str, Any]:
        """Each file with its digest, and whether all are the published ones; None where that is not known."""
        pictures = self._found.pictures
        texts = {path.name: md5_of(path) for path in self._texts()}
        if pictures.is_file():
            sums = {pictures.name: md5_of(pictures), **texts}
            return {"files": sums, "published": set(sums.values()) <= _published()}
        is_other = not self._faces.are_all or not set(texts.values()) <= _published()
        files = {pictures.name: self._decoded.record.contents, **texts}
        return {"files": files, "published": False if is_other else None}

    def _texts(self) -> list[Path]:
        """The text files that the settings ask for and that are there."""
        wanted = [ATTRIBUTE_FILE] * bool(self.settings.attribute) + [PARTITION_FILE] * (self.settings.train_on != "all")
        return [path for path in map(self._found.text, wanted) if path]


def _check(name: str, content: bytes, image: Image.Image) -> None:
    """Whether a picture is an aligned one, as published. (That its file is whole, Pillow has seen.)"""
    if image.size != (WIDTH, HEIGHT):
        width, height = image.size
        raise ganrun.DataError(
            f"{shown(name)} measures {width}×{height}, not {WIDTH}×{HEIGHT}: this is not the aligned set; "
            f"get {ARCHIVE} from {PAGE}, or use image-folder for pictures of any size"
        )
    if not content.startswith(JPEG_START):
        raise UnreadableError("it is no JPEG file")


def _published() -> set[str]:
    """The MD5 sums of the published files, as torchvision lists them."""
    from torchvision.datasets import CelebA

    return {md5 for _, md5, _ in CelebA.file_list}


# ── Finding the files ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Found:
    """Where the pictures are, and which folder was meant to hold everything."""

    pictures: Path
    place: Path

    def text(self, name: str) -> Path | None:
        """A text file by its name: beside the pictures, or where the authors' page has it."""
        folders = [self.place, self.pictures.parent, self.pictures, self.pictures.parent.parent]
        files = [folder / part / name for folder in folders for part in ("", "Anno", "Eval")]
        return next(filter(is_file, files), None)


def _find(root: str | None) -> _Found:
    """The first place that holds pictures.

    Raises:
        DataError: if there is none, with the steps that mend it.
    """
    folders = places(NAME, root, NAME)
    for place in folders:
        pictures = _pictures_in(place)
        if pictures is not None:
            return _Found(pictures, place)
    raise ganrun.DataError(_steps(folders))


def _pictures_in(place: Path) -> Path | None:
    """The zip, which can be checked, or else a folder with pictures, or else a zip that is damaged."""
    if is_file(place):
        return place
    archives = [path for path in (place / ARCHIVE, place / "Img" / ARCHIVE) if is_file(path)]
    whole = [path for path in archives if zipfile.is_zipfile(path)]
    usual = (place / FOLDER, place / FOLDER / FOLDER, place / "Img" / FOLDER, place)  # some unpackers nest it
    folders = [path for path in usual if _holds_pictures(path)]
    return next(iter([*whole, *folders, *archives]), None)


def _holds_pictures(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(PICTURE.fullmatch(entry.name) for entry in entries)
    except OSError:
        return False


def _steps(folders: Sequence[Path]) -> str:
    lines = ["its files were not found"]
    lines += ["its owners ask that you agree to their terms, so ganrun does not download it:"]
    lines += [f"  read the agreement on {PAGE}"]
    lines += [f"  get from there, under Align&Cropped Images, Img/{ARCHIVE} (1.4 GB); it need not be unpacked"]
    lines += [f"  for labels also Anno/{ATTRIBUTE_FILE}, and for the published split Eval/{PARTITION_FILE}"]
    lines += [f"  put them into {folders[0].absolute()}, or say in [data] where they are: root = …"]
    lines += ["the places looked in:"]
    lines += [f"  {folder.absolute()}" for folder in folders]
    return "\n".join(lines)


# ── Names, parts and attributes ───────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Faces:
    """The pictures by their published numbers, and others that lie among them."""

    names: Mapping[int, str]
    foreign: Sequence[str]

    @property
    def are_all(self) -> bool:
        return len(self.names) == PUBLISHED_COUNT

    def warn(self, place: Path) -> None:
        """Of what is missing and of what is too much."""
        if not self.are_all:
            missing = next(number for number in range(1, PUBLISHED_COUNT + 1) if number not in self.names)
            held, first = f"{len(self.names):,} of CelebA's {PUBLISHED_COUNT:,}", f"{missing:06d}.jpg"
            log.warning(
                "%s holds %s pictures: good for a try, not for figures; the first one missing is %s", place, held, first
            )
        if self.foreign:
            count, first = f"{len(self.foreign):,}", shown(self.foreign[0])
            log.warning("%s holds %s other pictures, which are left out; the first is %s", place, count, first)


@dataclass(frozen=True)
class _Order:
    """The numbers of the pictures in the order of their rows, and where each split begins and ends."""

    numbers: npt.NDArray[np.int64]
    splits: Mapping[str, tuple[int, int]]


def _read_faces(source: Source) -> _Faces:
    names: dict[int, str] = {}
    foreign = []
    for name in filter(is_picture, source.stamps):
        number = _number(name.rpartition("/")[2])
        if number and number not in names:
            names[number] = name
        else:
            foreign.append(name)
    if not names:
        held = f"{len(foreign):,} of other names, such as {shown(foreign[0])}" if foreign else "no pictures at all"
        raise ganrun.DataError(f"{source.path} holds none of 000001.jpg to {PUBLISHED_COUNT}.jpg, but {held}")
    return _Faces(names, foreign)


def _number(name: str) -> int:
    """The published number that a file's name says; 0 if it says none."""
    number = int(name[:6]) if PICTURE.fullmatch(name) else 0
    return number if number <= PUBLISHED_COUNT else 0


def _ordered_by_part(numbers: npt.NDArray[np.int64], partition: Path | None) -> _Order:
    """Training pictures first, then those for validation, then those to test on."""
    if partition is None:
        parts = np.searchsorted((FIRST_VALIDATION, FIRST_TEST), numbers, side="right")
    else:
        parts = _column(partition, _lines(partition), 1, {"0": 0, "1": 1, "2": 2}, numbers)
    order = np.argsort(parts, kind="stable")
    ends = np.cumsum(np.bincount(parts, minlength=3)).tolist()
    if not ends[0]:
        raise ganrun.DataError('it holds no picture of the published training split; set train_on = "all" for a try')
    test = {"test": (ends[1], ends[2])} if ends[1] < ends[2] else {}
    return _Order(numbers[order], {"train": (0, ends[0]), **test})


def _attribute(path: Path, attribute: str, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """0 or 1 for each number. The file: a count, a line of 40 names, then for each picture its name and 40 × ±1."""
    lines = _lines(path)
    names = lines[1][1].split() if len(lines) > 1 else []
    if attribute not in names:
        raise ganrun.DataError(f"{path} has no column {attribute} in its second line; replace it with a fresh copy")
    return _column(path, lines[2:], 1 + names.index(attribute), {"-1": 0, "1": 1}, numbers)


def _lines(path: Path) -> list[tuple[int, str]]:
    """The lines that hold something, with their numbers."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ganrun.DataError(f"{path} cannot be read: {error.strerror}") from error
    if is_web_page(content):
        raise ganrun.DataError(f"{path} is a web page, saved in place of the file; get it again in a browser")
    lines = content.decode("utf-8-sig", "replace").splitlines()
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _column(
    path: Path, lines: Sequence[tuple[int, str]], column: int, values: Mapping[str, int], numbers: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """What a table's column says of each number."""
    table = np.full(PUBLISHED_COUNT + 1, -1, np.int64)
    for line_number, line in lines:
        fields = line.split()
        number = _number(fields[0])
        if not number or len(fields) <= column or fields[column] not in values:
            raise ganrun.DataError(
                f"{path}:{line_number} is damaged: {shown(line[:60])!r}; replace it with a fresh copy"
            )
        table[number] = values[fields[column]]
    chosen = table[numbers]
    if (chosen < 0).any():
        absent = numbers[np.argmax(chosen < 0)]
        raise ganrun.DataError(f"{path} says nothing of {absent:06d}.jpg; replace it with a fresh copy")
    return chosen
