"""SVHN's cropped digits, from their MATLAB files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

import ganrun
from ganrun import DataError
from ganrun_datasets.matlab import read_arrays
from ganrun_datasets.published_data import Images, PublishedData

SIZE = 32

MOST_BYTES = 1 << 32
"""Limit for unpacking an array; the largest published one has 1.6 billion bytes."""

MD5S = {
    "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
    "extra_32x32.mat": "a93ce644f1a588dc4d68dda5feec44a7",
}


class Svhn(PublishedData):
    """Street View House Numbers: 73,257 + 26,032 digits cropped from photographs, 32×32, in colour.

    Netzer et al. 2011, "Reading digits in natural images with unsupervised feature learning"; for non-commercial use.
    The files train_32x32.mat and test_32x32.mat are searched for in $GANRUN_DATA, ./data and ganrun's cache.
    """

    class Settings(PublishedData.Settings):
        extra: bool = False
        """Whether to train also on the 531,131 easier digits of extra_32x32.mat."""

    settings: Settings
    name, channels = "svhn", 3
    classes = tuple("0123456789")

    @property
    def checksums(self) -> Mapping[str, str]:
        """Two files, or three with the extra digits."""
        return {name: md5 for name, md5 in MD5S.items() if self.settings.extra or "extra" not in name}

    def instructions(self, folder: Path) -> Sequence[str]:
        """The files."""
        head = f"put these files, from http://ufldl.stanford.edu/housenumbers, into {folder}:"
        return [head, *(f"  {name}" for name in self.checksums)]

    def download_to(self, root: Path) -> None:
        """Download the files to `root` itself."""
        from torchvision.datasets import SVHN

        for name in self.checksums:
            SVHN(str(root), split=name.partition("_")[0], download=True)

    def read(self, place: Path) -> Mapping[str, ganrun.Split]:
        """73,257 images, or 604,388 with the extra ones, and 26,032."""
        images, labels = _read(place / "train_32x32.mat")
        if self.settings.extra:
            more_images, more_labels = _read(place / "extra_32x32.mat")
            images, labels = np.concatenate([images, more_images]), np.concatenate([labels, more_labels])
        return {"train": ganrun.Split(images, labels), "test": ganrun.Split(*_read(place / "test_32x32.mat"))}


def _read(path: Path) -> tuple[Images, npt.NDArray[np.int64]]:
    """X is `(32, 32, 3, count)`, y is `(count, 1)` with 10 for the digit 0."""
    try:
        content = read_arrays(path, ("X", "y"), MOST_BYTES)
    except PermissionError:
        raise
    except (OSError, ValueError) as error:
        size = path.stat().st_size
        raise DataError(
            f"{path} is truncated or not a MATLAB file: it has {size:,} bytes ({error}); replace it with a fresh copy"
        ) from error
    images, labels = np.asarray(content.get("X", ())), np.asarray(content.get("y", ())).ravel()
    if images.ndim != 4 or images.shape[:3] != (SIZE, SIZE, 3) or images.dtype != np.uint8:
        raise DataError(f"{path} is not SVHN's cropped digits: it holds X of {images.dtype} {images.shape}")
    if len(labels) != images.shape[3] or not len(labels):
        raise DataError(
            f"{path} holds {images.shape[3]:,} images but {len(labels):,} labels; replace it with a fresh copy"
        )
    if labels.min() < 1 or labels.max() > 10:
        raise DataError(f"{path} is not SVHN: it has labels from {labels.min()} to {labels.max()}, not 1 to 10")
    return np.ascontiguousarray(images.transpose(3, 2, 0, 1)), labels.astype(np.int64) % 10
