"""Where a command writes its pictures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ganrun import RequestError, atomic_folder, atomic_path, one_line

OTHER_FORMATS = (".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".svg", ".pdf")


class Target:
    """One PNG, or a folder of them, which appears when all of them are complete.

    Args:
        path: Ends in .png for one.
        is_new: Whether one PNG may not be there yet, as among a user's own pictures; a folder never may.

    Raises:
        RequestError: if it exists already, or asks for another format.
    """

    def __init__(self, path: Path, *, is_new: bool = False) -> None:
        self.path = path
        self.is_folder = path.suffix.lower() != ".png"
        self.written = 0
        """Pictures."""
        self._place = Path(os.path.realpath(path))  # a link itself cannot be replaced
        if path.suffix.lower() in OTHER_FORMATS:
            raise RequestError(f"{path}: pictures are written as PNG; use NAME.png, or a folder")
        with self._write_errors():
            if not self.is_folder and path.is_dir():
                raise RequestError(f"{path} is a folder; for a folder of pictures, use a name without .png")
            if is_new and not self.is_folder and os.path.lexists(path):
                raise RequestError(f"{path} exists already, and may be a picture of yours; choose another --output")
            if self.is_folder and path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise RequestError(f"{path} exists already and is not an empty folder; choose another --output")
            if self._place == Path.cwd():
                raise RequestError(
                    f"{path} is the working directory, which cannot be replaced; choose another --output"
                )

    def write(self, picture: npt.NDArray[np.uint8]) -> None:
        """Write the one picture, uint8 `(height, width, 3)`."""
        with self._write_errors():
            self._place.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(self._place) as partial:
                Image.fromarray(picture).save(partial, "PNG")
        self.written = 1

    def write_all(self, pictures: Iterable[npt.NDArray[np.uint8]], count: int) -> None:
        """Write the `count` pictures of the folder, numbered; each uint8 `(height, width)` or `(height, width, 3)`."""
        self.write_named((file_name(number, count), picture) for number, picture in enumerate(pictures))

    def write_named(self, pictures: Iterable[tuple[str, npt.NDArray[np.uint8]]]) -> None:
        """Write the pictures of the folder, each under its name, which ends in .png and may be in a sub-folder."""
        with self._write_errors():
            self._place.parent.mkdir(parents=True, exist_ok=True)
            with atomic_folder(self._place) as partial:
                for number, (name, picture) in enumerate(pictures):
                    (partial / name).parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(picture).save(partial / name, "PNG")
                    self.written = number + 1

    def report(self) -> str:
        """A message about what was written, and where."""
        if not self.is_folder:
            return one_line(f"wrote {self.path}")
        return one_line(f"wrote {self.written:,} picture{'' if self.written == 1 else 's'} to {self.path}")

    @contextmanager
    def _write_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RequestError(
                f"cannot write to {self.path}: {error.strerror or error}; choose another --output"
            ) from error


def file_name(number: int, count: int) -> str:
    """`00000.png`, `00001.png`, …: with enough digits for the last of `count` names, so that they sort in order."""
    return f"{number:0{max(5, len(str(count - 1)))}}.png"
