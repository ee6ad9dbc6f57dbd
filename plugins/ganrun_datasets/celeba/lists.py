"""CelebA's two lists: the attributes and the split of each picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from ganrun import DataError, is_web_page, one_line, read_bytes
from ganrun_datasets.celeba.faces import COUNT, number_of

MOST_BYTES = 1 << 28
"""Limit for a list; the published ones have up to 26 million bytes."""

MOST_HEADING_LINES = 2
"""Lines above the first picture: in the published list of attributes, a count and the names."""

FIRST_VALIDATION, FIRST_TEST = 162_771, 182_638
"""The first picture of each part of the published partition that follows the training pictures."""

Attribute = Literal[
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose",
    "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses",
    "Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache",
    "Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks",
    "Sideburns", "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick",
    "Wearing_Necklace", "Wearing_Necktie", "Young",
]  # fmt: skip

Numbers = npt.NDArray[np.int64]


def attribute_labels(path: Path, attribute: Attribute, numbers: Numbers) -> Numbers:
    """Whether each picture has an attribute: int64 `(count,)`, 0 or 1.

    Args:
        path: The list: a count, a line of 40 names, then for each picture its file name and 40 times -1 or 1; or the
            same as comma-separated values, in which 0 may stand for -1.
        attribute: One of the names.
        numbers: The pictures' numbers.

    Raises:
        DataError: if the list cannot be read, is damaged, or lacks the attribute or a picture.
    """
    table = _Table.read(path)
    names = table.heading[-1] if table.heading else []
    if attribute not in names:
        raise DataError(
            f"{path} has no column {attribute} in the line above the pictures; replace it with a fresh copy"
        )
    from_the_end = names.index(attribute) - len(names)  # the first column, of file names, may have no name
    return table.column(from_the_end, {"-1": 0, "0": 0, "1": 1}, numbers)


def published_splits(path: Path | None, numbers: Numbers) -> tuple[Numbers, dict[str, tuple[int, int]]]:
    """The pictures ordered by split, and where in that order each split begins and ends.

    Validation pictures are in neither split. Without test pictures, there is no test split.

    Args:
        path: The list: for each picture its file name and 0 for training, 1 for validation or 2 for testing. None for
            the published partition. Comma-separated values, with a heading, are the same.
        numbers: The pictures' numbers, ascending.

    Raises:
        DataError: if the list cannot be read, is damaged or lacks a picture; or if there is no training picture.
    """
    parts = _partition(path, numbers)
    ends = np.cumsum(np.bincount(parts, minlength=3)).tolist()
    if not ends[0]:
        raise DataError('it has no picture of the published training split; set train_on = "all" for a trial')
    test = {"test": (ends[1], ends[2])} if ends[1] < ends[2] else {}
    return numbers[np.argsort(parts, kind="stable")], {"train": (0, ends[0]), **test}


def _partition(path: Path | None, numbers: Numbers) -> Numbers:
    if path is None:
        return np.searchsorted((FIRST_VALIDATION, FIRST_TEST), numbers, side="right")
    return _Table.read(path).column(1, {"0": 0, "1": 1, "2": 2}, numbers)


class _Line(NamedTuple):
    number: int
    """In the file."""
    text: str

    @property
    def fields(self) -> list[str]:
        """Separated by commas, or by spaces."""
        return [each.strip(' \t"') for each in self.text.split(",")] if "," in self.text else self.text.split()


@dataclass(frozen=True)
class _Table:
    """A text file with a line for each picture: its file name, then values, separated by spaces or commas."""

    path: Path
    heading: list[list[str]]
    """The fields of the lines above the first picture."""
    lines: list[_Line]
    """The other lines that are not blank."""

    @classmethod
    def read(cls, path: Path) -> Self:
        try:
            content = read_bytes(path, MOST_BYTES)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from error
        if is_web_page(content):
            raise DataError(f"{path} is a web page saved in place of the file; download it again in a browser")
        texts = enumerate(content.decode("utf-8-sig", "replace").splitlines(), 1)
        lines = [_Line(number, text) for number, text in texts if text.strip()]
        first = next(
            (index for index, line in enumerate(lines[:MOST_HEADING_LINES]) if number_of(line.fields[0])), None
        )
        start = MOST_HEADING_LINES if first is None else first
        return cls(path, [line.fields for line in lines[:start]], lines[start:])

    def column(self, column: int, values: Mapping[str, int], numbers: Numbers) -> Numbers:
        """The value of a column for each of the pictures `numbers`; `values` gives the meaning of its texts."""
        found, width = np.full(COUNT + 1, -1, np.int64), len(self.lines[0].fields) if self.lines else 0
        is_wide = width >= 2 and -width < column < width
        for line in self.lines:
            fields = line.fields
            number = number_of(fields[0])
            if not number or len(fields) != width or not is_wide or fields[column] not in values:
                raise DataError(
                    f"{self.path}:{line.number} is damaged: {one_line(line.text[:60])!r}; replace it with a fresh copy"
                )
            found[number] = values[fields[column]]
        chosen = found[numbers]
        if (chosen < 0).any():
            absent = numbers[np.argmax(chosen < 0)]
            raise DataError(f"{self.path} has no line for {absent:06d}.jpg; replace it with a fresh copy")
        return chosen
