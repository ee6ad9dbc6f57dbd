"""MNIST in the black and white that log-likelihoods are published for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

import ganrun
from ganrun import DataError, atomic_path, read_bytes
from ganrun_datasets.idx import MOST_BYTES
from ganrun_datasets.mnist import SIZE
from ganrun_datasets.published_data import Images, PublishedData

PAGE = "https://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/"


COUNTS = {"train": 50_000, "valid": 10_000, "test": 10_000}
"""Images in each published file."""


def _file(part: str) -> str:
    return f"binarized_mnist_{part}.amat"


class BinarizedMnist(PublishedData):
    """MNIST, each pixel drawn as black or white once, as published: 50,000 + 10,000 digits, 28×28, without labels.

    Larochelle and Murray 2011, "The neural autoregressive distribution estimator", after Salakhutdinov and Murray 2008.
    The files binarized_mnist_train.amat, binarized_mnist_test.amat and, to train on 60,000, binarized_mnist_valid.amat
    are searched for in $GANRUN_DATA, ./data and ganrun's cache.
    """

    class Settings(PublishedData.Settings):
        size: int = Field(SIZE, ge=SIZE, le=SIZE)
        """Height and width in pixels: 28, since other sizes would have grey pixels."""

        validation: Literal["left out", "added"] = "left out"
        """Use of the 10,000 validation images: left out, or added to the 50,000 training images."""

    settings: Settings

    name, channels = "binarized-mnist", 1
    classes = ()

    @property
    def checksums(self) -> Mapping[str, str]:
        """The two or three files; their MD5 is not published."""
        return {_file(part): "" for part in (*self._training, "test")}

    def files_read(self, place: Path) -> Mapping[Path, str | None]:
        """The files, without a published MD5."""
        return {self.existing_file(place, name): None for name in self.checksums}

    def instructions(self, folder: Path) -> Sequence[str]:
        """The files."""
        return [f"put these files from {PAGE} into {folder}:", *(f"  {name}" for name in self.checksums)]

    def download_to(self, root: Path) -> None:
        """Download the files to `root`, and count their digits, since no checksum is published."""
        from torchvision.datasets.utils import download_url

        for part in (*self._training, "test"):
            if (root / _file(part)).exists():
                continue
            with atomic_path(root / _file(part)) as partial:
                download_url(PAGE + _file(part), str(root), filename=partial.name)
                if not _holds(partial, COUNTS[part]):
                    raise RuntimeError(f"{_file(part)} arrived without all of its {COUNTS[part]:,} images")

    def read(self, place: Path) -> Mapping[str, ganrun.Split]:
        """50,000 or 60,000 training images and 10,000 test images."""
        training = [read_amat(self.existing_file(place, _file(part))) for part in self._training]
        test = read_amat(self.existing_file(place, _file("test")))
        return {"train": ganrun.Split(np.concatenate(training)), "test": ganrun.Split(test)}

    @property
    def _training(self) -> tuple[str, ...]:
        return ("train", "valid") if self.settings.validation == "added" else ("train",)


def read_amat(path: Path) -> Images:
    """Images of 28×28 in 0 and 255, from a file of their digits 0 and 1 between blanks: `(count, 1, 28, 28)`.

    Raises:
        DataError: if it is anything else, or ends within an image.
    """
    try:
        content = np.frombuffer(read_bytes(path, MOST_BYTES), np.uint8)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    values = content[content > ord(" ")] - ord("0")
    if not values.size or values.max() > 1:
        raise DataError(f"{path} is damaged: it must hold only digits 0 and 1, and blanks; replace it")
    if values.size % SIZE**2:
        raise DataError(f"{path} is damaged: it holds {values.size:,} values, and an image has {SIZE**2}; replace it")
    return values.reshape(-1, 1, SIZE, SIZE) * np.uint8(255)


def _holds(path: Path, count: int) -> bool:
    with suppress(DataError):
        return len(read_amat(path)) == count
    return False
