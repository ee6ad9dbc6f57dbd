"""A user's own pictures: found in folders, read, and translated or restored by a model."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ganrun import (
    IncompatibleError,
    Model,
    NonFiniteError,
    ProgressReporter,
    RequestError,
    UnreadableError,
    coloured_picture,
    is_hidden,
    is_out_of_memory,
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


class PictureError(RequestError):
    """A picture cannot be read or processed."""


class OwnPictures:
    """Pictures by the names of their results, and those that could not be processed.

    Args:
        paths: Files and folders; of a folder, all pictures below it.

    Raises:
        RequestError: if one does not exist or cannot be read, or a folder holds no pictures.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        found = [(name, file) for path in paths for name, file in _found_at(path)]
        stems = [str(Path(name).with_suffix(".png")) for name, _ in found]
        counts = Counter([*stems, *{str(folder) for stem in stems for folder in Path(stem).parents}])
        self.files = {
            stem if counts[stem] == 1 else f"{name}.png": file for stem, (name, file) in zip(stems, found, strict=True)
        }
        """By the result's name: the file's, with .png; if others would have it, or a folder has it, appended to the
        file's own extension."""
        if len(self.files) < len(found):
            raise RequestError("two pictures have the same name; translate their folders one by one")
        self.faults: list[str] = []

    def made(self, make: Callable[[Path], Picture]) -> Iterator[tuple[str, Picture]]:
        """The result for each picture, with its name; pictures that fail are recorded in `faults`.

        Args:
            make: Reads a picture, and returns its result.

        Raises:
            RequestError: if all fail.
        """
        for name, file in self.files.items():
            try:
                made = make(file)
            except PictureError as error:
                self.faults.append(str(error))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self.faults.append(one_line(f"{file}: there is no memory left for a picture of its size"))
            else:
                yield name, made
        if len(self.faults) == len(self.files):
            self.check()

    def check(self) -> None:
        """Report the pictures that could not be processed.

        Raises:
            RequestError: if there are any.
        """
        if self.faults:
            more = len(self.faults) - SHOWN_FAULTS
            listed = [*self.faults[:SHOWN_FAULTS], *([f"and {more:,} more"] if more > 0 else [])]
            raise RequestError(f"{len(self.faults):,} of {len(self.files):,} pictures failed: {'; '.join(listed)}")


def picture_at(path: Path, channels: int) -> Image.Image:
    """A picture file, upright, in colour (3 channels) or grey (1), of 8 bits, transparent parts laid on white.

    Raises:
        PictureError: if there is none, or it cannot be read.
    """
    with _reading(path):
        return coloured_picture(opaque_picture(_opened(path)), channels)


def mask_at(path: Path) -> Image.Image:
    """A mask's file, upright and grey.

    Raises:
        PictureError: as `picture_at`; or if parts of it are transparent, which is ambiguous.
    """
    with _reading(path):
        opened = _opened(path)
        if opened.has_transparency_data and opened.convert("RGBA").getchannel("A").getextrema() != (255, 255):
            raise UnreadableError("a mask is white where pixels are missing and black elsewhere, not transparent")
    return picture_at(path, 1)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """A block that reads a picture. Any number of pixels is accepted up to Pillow's limit, which is an error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    except UnreadableError as error:
        raise PictureError(one_line(f"{path}: {error}")) from error
    except OSError as error:
        raise PictureError(one_line(f"{path} cannot be read: {error.strerror or error}")) from error


def _opened(path: Path) -> Image.Image:
    return open_picture(read_bytes(path, MOST_BYTES))


# ── Through a model ───────────────────────────────────────────────────────────────────────────────────────


def translation(
    model: Model, image: Image.Image, *, whole: bool, report: ProgressReporter, reverse: bool = False
) -> Picture:
    """A model's output for a picture: uint8 `(height, width)` or `(height, width, 3)`.

    Args:
        model: Makes images from images.
        image: Of the channels that the model takes.
        whole: Whether the picture is resized to what the model was trained on and the result back to the picture's
            size, instead of being made of tiles in that size.
        report: Shows the tiles.
        reverse: Whether the picture is an image, of which the model makes a source.
    """
    _, height, width = model.spec.image_shape if reverse else model.spec.fields["source"]
    shown = image.resize((width, height), Image.Resampling.BICUBIC) if whole else image
    made = model.translate(_tensor(shown), on_progress=lambda *at: report("tiles", *at), reverse=reverse)
    picture = _array(made)
    return np.asarray(Image.fromarray(picture).resize(image.size, Image.Resampling.BICUBIC)) if whole else picture


def restoration(model: Model, image: Image.Image, mask: Image.Image, report: ProgressReporter) -> Picture:
    """A picture whose missing pixels a model has filled in; all others are the picture's own.

    Args:
        model: Takes masks.
        image: Of the channels that the model takes.
        mask: Grey, of its size: white where pixels are missing.
        report: Shows the tiles.

    Raises:
        RequestError: if the sizes differ, or nothing is missing.
    """
    if mask.size != image.size:
        sizes = ["×".join(map(str, each.size)) for each in (mask, image)]
        raise RequestError(f"the mask is {sizes[0]} pixels, and the picture {sizes[1]}")
    pixels, missing = _tensor(image), _tensor(mask) >= to_unit_range(_grey(MISSING))
    if not missing.any():
        raise RequestError("the mask has no white pixel, so nothing is missing")
    given = torch.where(missing, to_unit_range(_grey(UNKNOWN)), pixels)
    made = model.translate(given, missing.float() * 2 - 1, lambda *at: report("tiles", *at))
    if made.shape != pixels.shape:
        raise IncompatibleError(f"the model makes {tuple(made.shape[1:])} of {tuple(pixels.shape[1:])}")
    return _array(torch.where(missing, made, pixels))


def _grey(value: int) -> Tensor:
    return torch.tensor(value, dtype=torch.uint8)


def _tensor(image: Image.Image) -> Tensor:
    """In [-1, 1]: `(1, channels, height, width)`."""
    array = np.array(image)
    return to_unit_range(torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1)[None])


def _array(images: Tensor) -> Picture:
    if not images.isfinite().all():
        raise NonFiniteError("the model's output is not finite, so there is no picture; use another checkpoint")
    picture: Picture = to_uint8(images[0]).permute(1, 2, 0).numpy()
    return picture.squeeze(2) if picture.shape[2] == 1 else picture


def _found_at(path: Path) -> Iterator[tuple[str, Path]]:
    """The pictures at a path, each with its name: of a file, its own; in a folder, its path within it."""
    try:
        if not path.is_dir():
            path.stat()
            yield path.name, path
            return
        files = [*_pictures_below(path)]
    except OSError as error:
        raise RequestError(one_line(f"{error.filename or path} cannot be read: {error.strerror or error}")) from error
    if not files:
        raise RequestError(one_line(f"{path} holds no pictures"))
    yield from ((str(file.relative_to(path)), file) for file in files)


def _pictures_below(folder: Path, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Path]:
    """Files with a picture's extension in a folder and its sub-folders, in order, without hidden ones; links are
    followed, except to a folder that contains them, as `above` says."""
    place = folder.stat()
    if (place.st_dev, place.st_ino) in above:
        return
    for path in sorted(folder.iterdir()):
        if is_hidden(path.name):
            continue
        if path.is_dir():
            yield from _pictures_below(path, above | {(place.st_dev, place.st_ino)})
        elif is_picture(path.name):
            yield path
