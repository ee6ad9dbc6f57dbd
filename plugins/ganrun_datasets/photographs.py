"""Crops of the two photographs that scikit-learn ships: real colour on every machine, without a download."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import Field, model_validator

import ganrun
from ganrun import UnreadableError, open_picture
from ganrun_datasets.scikit_learn import installed_file

Pixels = npt.NDArray[np.uint8]

NAMES = ("china", "flower")
"""The photographs, which are the classes."""

LARGEST_BYTES = 4 << 30
"""Limit for the crops of one split."""


class Photographs(ganrun.Data):
    """Crops of two photographs, a pagoda and a dahlia, in colour; nothing to download: they come with scikit-learn.

    The photographs have 640×427 pixels. Crops are taken at random positions, at full resolution: training crops from
    the left half of each, test crops from the right half, so that no pixel is in both. The label is the photograph;
    each has half of the crops.

    china.jpg is by danielbuechele and flower.jpg by vultilion, on Flickr, both under CC BY 2.0, as linked in the
    accompanying note; credit the authors where you show samples.
    """

    class Settings(ganrun.Settings):
        size: int = Field(32, ge=8, le=256)
        """Height and width of a crop in pixels."""

        count: int = Field(10_000, ge=2)
        """Crops of each split."""

        seed: int = Field(0, ge=0)
        """Decides where the crops are."""

        @model_validator(mode="after")
        def _fits(self) -> Self:
            if 3 * self.size**2 * self.count > LARGEST_BYTES:
                raise ValueError(f"count = {self.count:,} crops of this size take more than 4 GiB; say fewer")
            return self

    settings: Settings

    def spec(self) -> ganrun.DataSpec:
        """Colour images of two classes."""
        return ganrun.DataSpec((3, self.settings.size, self.settings.size), classes=len(NAMES))

    def class_names(self) -> tuple[str, ...]:
        """The photographs."""
        return NAMES

    def prepare(self) -> None:
        """Cut out the crops, which takes about a second.

        Raises:
            DataError: if scikit-learn's files are damaged.
        """
        _ = self._splits

    def split(self, name: str) -> ganrun.Split:
        """`train`, from the left halves, or `test`, from the right ones."""
        if name not in self._splits:
            raise ganrun.unknown_split(name, self._splits)
        return self._splits[name]

    def manifest(self) -> Mapping[str, Any]:
        """Counts, size and seed."""
        return {**super().manifest(), "transform": self.settings.model_dump(include={"size", "seed"})}

    @cached_property
    def _splits(self) -> dict[str, ganrun.Split]:
        photographs = [_photograph(name) for name in NAMES]
        middles = [photograph.shape[2] // 2 for photograph in photographs]
        left = [photograph[:, :, :middle] for photograph, middle in zip(photographs, middles, strict=True)]
        right = [photograph[:, :, middle:] for photograph, middle in zip(photographs, middles, strict=True)]
        return {"train": self._crops(left, 0), "test": self._crops(right, 1)}

    def _crops(self, halves: list[Pixels], stream: int) -> ganrun.Split:
        """Crops of each half in turn; their positions are the next numbers of a random stream."""
        size, count = self.settings.size, self.settings.count
        # Raw bits never change; numpy's use of them may change between releases.
        numbers = np.random.PCG64([self.settings.seed, stream]).random_raw(2 * count).reshape(2, count)
        images = np.empty((count, 3, size, size), np.uint8)
        for label, half in enumerate(halves):
            views = np.lib.stride_tricks.sliding_window_view(half, (size, size), axis=(1, 2))
            rows, columns = (numbers[axis, label :: len(halves)] % views.shape[axis + 1] for axis in (0, 1))
            images[label :: len(halves)] = views[:, rows, columns].swapaxes(0, 1)
        return ganrun.Split(images, np.arange(count, dtype=np.int64) % len(halves))


def _photograph(name: str) -> Pixels:
    """uint8 `(3, height, width)`"""
    file = installed_file(f"datasets/images/{name}.jpg")
    if file is None:
        return _load_with_scikit_learn(name)
    try:
        return _channels_first(open_picture(file.read_bytes()))
    except (OSError, UnreadableError) as error:
        raise ganrun.DataError(f"{file} cannot be read: {error}; reinstall scikit-learn") from error


def _load_with_scikit_learn(name: str) -> Pixels:
    from sklearn.datasets import load_sample_image

    return _channels_first(Image.fromarray(load_sample_image(f"{name}.jpg")))


def _channels_first(image: Image.Image) -> Pixels:
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1)
