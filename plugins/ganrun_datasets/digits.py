"""The digits that scikit-learn ships: real data on every machine, without a download."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt
from pydantic import Field

import ganrun
from ganrun_datasets.resample import resampled
from ganrun_datasets.scikit_learn import installed_file

FILE = "datasets/data/digits.csv.gz"
"""Where scikit-learn keeps them."""

SPLIT_SEED = 0
TEST_SHARE = 5
"""One image in this many is a test image."""


class Digits(ganrun.Data):
    """1,797 real handwritten digits, grey and labelled; nothing to download: they come with scikit-learn.

    The test part of UCI's "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998): 8×8 pixels of
    17 grey levels, here 0…255, resampled by Pillow's bicubic filter. The test split is a fixed random fifth of each
    class: 1,437 images to train on and 360 to test on.
    """

    class Settings(ganrun.Settings):
        size: int = Field(32, ge=8, le=256)
        """Height and width in pixels; the originals have 8."""

    settings: Settings

    def spec(self) -> ganrun.DataSpec:
        """Grey images of ten classes."""
        return ganrun.DataSpec((1, self.settings.size, self.settings.size), classes=10)

    def prepare(self) -> None:
        """Read and resample the images, in less than a tenth of a second."""
        _ = self._splits

    def split(self, name: str) -> ganrun.Split:
        """`train` (1,437 images) or `test` (360)."""
        if name not in self._splits:
            raise ganrun.unknown_split(name, self._splits)
        return self._splits[name]

    @cached_property
    def _splits(self) -> dict[str, ganrun.Split]:
        originals, labels = _read()
        images = resampled(originals[:, np.newaxis], self.settings.size)
        return {name: ganrun.Split(images[rows], labels[rows]) for name, rows in _rows(labels).items()}


def _read() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images `(1797, 8, 8)` in 0…255, and labels `(1797,)`."""
    file = installed_file(FILE)
    table = _load_with_scikit_learn() if file is None else np.loadtxt(file, np.uint8, delimiter=",")
    images = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8)
    return images.reshape(-1, 8, 8), table[:, -1].astype(np.int64)


def _load_with_scikit_learn() -> npt.NDArray[np.float64]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.column_stack([bunch.data, bunch.target])


def _rows(labels: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.int64]]:
    """The rows of each split. Of the images sorted by class, and shuffled within it, every fifth is a test image."""
    # RandomState never changes; the numbers of numpy's newer generators may change between releases.
    shuffled = np.random.RandomState(SPLIT_SEED).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    is_test = np.zeros(len(labels), bool)
    is_test[by_class[::TEST_SHARE]] = True
    return {"train": np.flatnonzero(~is_test), "test": np.flatnonzero(is_test)}
