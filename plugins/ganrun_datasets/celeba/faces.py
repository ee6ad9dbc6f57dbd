"""CelebA's pictures by their published numbers, 000001.jpg to 202599.jpg."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ganrun import DataError, is_picture, one_line
from ganrun_datasets.pictures.sources import Source

COUNT = 202_599
"""The number of published pictures, and of the last one."""

FILE_NAME = re.compile(r"\d{6}\.jpg")

log = logging.getLogger("ganrun.datasets")


@dataclass(frozen=True)
class Faces:
    """The published pictures of a source, and other pictures among them."""

    names: Mapping[int, str]
    """The file of each number."""

    others: Sequence[str]
    """Files of pictures that have no published number, or one that another file has already."""

    @property
    def numbers(self) -> npt.NDArray[np.int64]:
        """All numbers, ascending."""
        return np.array(sorted(self.names))

    @property
    def are_complete(self) -> bool:
        """Whether every published number is there."""
        return len(self.names) == COUNT

    def warn(self, place: Path) -> None:
        """Log how many pictures are missing, and how many others are ignored."""
        if not self.are_complete:
            missing = next(number for number in range(1, COUNT + 1) if number not in self.names)
            log.warning(
                "%s has %s of CelebA's %s pictures: enough for a trial, not for published scores; "
                "the first missing one is %06d.jpg",
                *(place, f"{len(self.names):,}", f"{COUNT:,}", missing),
            )
        if self.others:
            count, first = f"{len(self.others):,}", one_line(self.others[0])
            log.warning("%s also has %s other pictures, which are ignored; the first is %s", place, count, first)


def read_faces(source: Source) -> Faces:
    """Find the published pictures by the names of the files.

    Raises:
        DataError: if there are none.
    """
    names: dict[int, str] = {}
    others = []
    for name in filter(is_picture, source.stamps):
        number = number_of(name.rpartition("/")[2])
        if number and number not in names:
            names[number] = name
        else:
            others.append(name)
    if not names:
        held = f"{len(others):,} with other names, such as {one_line(others[0])}" if others else "no pictures at all"
        raise DataError(f"{source.path} has none of 000001.jpg to {COUNT}.jpg, but {held}")
    return Faces(names, others)


def number_of(file_name: str) -> int:
    """The published number of a file, by its name; 0 if it has none."""
    number = int(file_name[:6]) if FILE_NAME.fullmatch(file_name) else 0
    return number if number <= COUNT else 0
