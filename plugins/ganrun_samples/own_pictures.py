"""A user's own pictures: found in folders, read, and translated or restored by a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ganrun import (
    IncompatibleError,
    Model,
    ProgressReporter,
    RequestError,
    UnreadableError,
    coloured_picture,
    is_picture,
    one_line,
    opaque_picture,
    open_picture,
    read_bytes,
    to_uint8,
    to_unit_range,
)
from ganrun_samples.pictures import Picture

MOST_BYTES = 1 << 30
"""Of a picture's file."""

SHOWN_FAULTS = 3

MISSING, UNKNOWN = 128, 128
"""Mask values, of 0 to 255, from the first up mark missing pixels; these get the second as grey value."""


class OwnPictures:
    """Pictures by the names of their results, and those that could not be read.

    Args:
        paths: Files and folders; of a folder, all pictures below it.

    Raises:
        RequestError: if one does not exist, or a folder holds no pictures.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        found = [(name, file) for path in paths for name, file in _found_at(path)]
        stems = [str(Path(name).with_suffix(".png")) for name, _ in found]
        self.files = {
            stem if stems.count(stem) == 1 else f"{name}.png": file
            for stem, (name, file) in zip(stems, found, strict=True)
        }
        """By the result's name: the file's, with .png; if several would have it, appended to their own extension."""
        if len(self.files) < len(found):
            raise RequestError("two pictures have the same name; translate their folders one by one")
        self.faults: list[str] = []

    def read(self) -> Iterator[tuple[str, Image.Image]]:
        """Each picture, with the name for its result; those that cannot be read are noted in `faults`.

        Raises:
            RequestError: if none can be read.
        """
        for name, file in self.files.items():
            try:
                yield name, picture_at(file)
            except RequestError as error:
                self.faults.append(str(error))
        if len(self.faults) == len(self.files):
            self.check()

    def check(self) -> None:
        """Report the pictures that could not be read.

        Raises:
            RequestError: if there are any.
        """
        if self.faults:
            more = len(self.faults) - SHOWN_FAULTS
            listed = [*self.faults[:SHOWN_FAULTS], *([f"and {more:,} more"] if more > 0 else [])]
            count = f"{len(self.faults):,} of {len(self.files):,} pictures could not be read"
            raise RequestError(f"{count}: {'; '.join(listed)}")


def picture_at(path: Path) -> Image.Image:
    """A picture file, upright, with 8 bits for each colour, transparent parts laid on white.

    Raises:
        RequestError: if there is none, or it cannot be read.
    """
    try:
        return opaque_picture(open_picture(read_bytes(path, MOST_BYTES)))
    except UnreadableError as error:
        raise RequestError(one_line(f"{path}: {error}")) from error
    except OSError as error:
        raise RequestError(one_line(f"{path} cannot be read: {error.strerror or error}")) from error


# ── Through a model ───────────────────────────────────────────────────────────────────────────────────────


def translation(model: Model, image: Image.Image, *, whole: bool, report: ProgressReporter) -> Picture:
    """A model's output for a picture: uint8 `(height, width)` or `(height, width, 3)`.

    Args:
        model: Makes images from images.
        image: Opaque.
        whole: Whether the picture is resized to what the model was trained on and the result back to the picture's
            size, instead of being made of tiles in that size.
        report: Shows the tiles.
    """
    channels, height, width = model.spec.fields["source"]
    shown = image.resize((width, height), Image.Resampling.BICUBIC) if whole else image
    made = model.translate(_tensor(shown, channels), on_progress=lambda *at: report("tiles", *at))
    picture = _array(made)
    return np.asarray(Image.fromarray(picture).resize(image.size, Image.Resampling.BICUBIC)) if whole else picture


def restoration(model: Model, image: Image.Image, mask: Image.Image, report: ProgressReporter) -> Picture:
    """A picture whose missing pixels a model has filled in; all others are the picture's own.

    Args:
        model: Takes masks.
        image: Opaque.
        mask: Of its size: white where pixels are missing.
        report: Shows the tiles.

    Raises:
        RequestError: if the sizes differ, or nothing is missing.
    """
    if mask.size != image.size:
        sizes = ["×".join(map(str, each.size)) for each in (mask, image)]
        raise RequestError(f"the mask is {sizes[0]} pixels, and the picture {sizes[1]}")
    pixels, missing = _tensor(image, model.spec.fields["source"][0]), _tensor(mask, 1) >= to_unit_range(_grey(MISSING))
    if not missing.any():
        raise RequestError("the mask has no white pixel, so nothing is missing")
    given = torch.where(missing, to_unit_range(_grey(UNKNOWN)), pixels)
    made = model.translate(given, missing.float() * 2 - 1, lambda *at: report("tiles", *at))
    if made.shape != pixels.shape:
        raise IncompatibleError(f"the model makes {tuple(made.shape[1:])} of {tuple(pixels.shape[1:])}")
    return _array(torch.where(missing, made, pixels))


def _grey(value: int) -> Tensor:
    return torch.tensor(value, dtype=torch.uint8)


def _tensor(image: Image.Image, channels: int) -> Tensor:
    """In [-1, 1]: `(1, channels, height, width)`."""
    try:
        array = np.array(coloured_picture(image, channels))
    except UnreadableError as error:
        raise RequestError(str(error)) from error
    return to_unit_range(torch.from_numpy(array.reshape(*array.shape[:2], channels)).permute(2, 0, 1)[None])


def _array(images: Tensor) -> Picture:
    picture: Picture = to_uint8(images[0]).permute(1, 2, 0).numpy()
    return picture.squeeze(2) if picture.shape[2] == 1 else picture


def _found_at(path: Path) -> Iterator[tuple[str, Path]]:
    """The pictures at a path, each with its name: of a file, its own; in a folder, its path within it."""
    try:
        if not path.is_dir():
            path.stat()
            yield path.name, path
            return
        files = sorted(file for file in path.rglob("*") if is_picture(file.name) and file.is_file())
    except OSError as error:
        raise RequestError(one_line(f"{path} cannot be read: {error.strerror or error}")) from error
    if not files:
        raise RequestError(one_line(f"{path} holds no pictures"))
    yield from ((str(file.relative_to(path)), file) for file in files)
