"""Where a command's pictures go."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ganrun import RequestError, atomic_folder, atomic_path

OTHER_FORMATS = (".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".svg", ".pdf")


class Target:
    """One PNG, or a folder of them, which appears when all of them are there.

    Args:
        path: Ends in .png for one.

    Raises:
        RequestError: if it is taken, or asks for another format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_folder = path.suffix.lower() != ".png"
        self._place = Path(os.path.realpath(path))  # what a link or ".." means: they cannot be replaced themselves
        if path.suffix.lower() in OTHER_FORMATS:
            raise RequestError(f"{path}: pictures are written as PNG; say NAME.png, or name a folder")
        with self._faults_told():
            if not self.is_folder and path.is_dir():
                raise RequestError(f"{path} is a folder; to have a folder of pictures, leave out .png")
            if self.is_folder and path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise RequestError(f"{path} is there already; name a folder that is not, or an empty one")
            if self._place == Path.cwd():
                raise RequestError(f"{path} is the folder you are in, which would be replaced; name a new one")

    def write(self, picture: npt.NDArray[np.uint8]) -> None:
        """Write the one picture, uint8 `(height, width, 3)`."""
        with self._faults_told():
            self._place.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(self._place) as partial:
                Image.fromarray(picture).save(partial, "PNG")

    @contextmanager
    def folder(self, count: int) -> Iterator[Pages]:
        """What takes the `count` pictures of the folder, one after another."""
        with self._faults_told():
            self._place.parent.mkdir(parents=True, exist_ok=True)
            with atomic_folder(self._place) as partial:
                yield Pages(partial, max(5, len(str(count - 1))))

    @contextmanager
    def _faults_told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RequestError(
                f"cannot write to {self.path}: {error.strerror or error}; choose another --output"
            ) from error


class Pages:
    """Pictures called `00000.png`, `00001.png`, … with so many digits, as sorting by name must keep their order."""

    def __init__(self, folder: Path, digits: int) -> None:
        self.count = 0
        self._folder = folder
        self._digits = digits

    def add(self, picture: npt.NDArray[np.uint8]) -> None:
        """Write the next one, uint8 `(height, width)` or `(height, width, 3)`."""
        Image.fromarray(picture).save(self._folder / f"{self.count:0{self._digits}}.png", "PNG")
        self.count += 1
