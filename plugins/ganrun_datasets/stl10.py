"""STL-10, from its binary files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

import ganrun
from ganrun import DataError
from ganrun_datasets.published_data import Images, PublishedData

FOLDER = "stl10_binary"
SIZE = 96
PIXELS = 3 * SIZE * SIZE
UNLABELLED = {"unlabeled_X.bin": "5242ba1fed5e4be9e1e742405eb56ca4"}
LABELLED = {
    "train_X.bin": "918c2871b30a85fa023e0c44e0bee87f",
    "train_y.bin": "5a34089d4802c674881badbb80307741",
    "test_X.bin": "7f263ba9f9e0b06b93213547f721ac82",
    "test_y.bin": "36f9794fa4beb8a2c72628de14fa638e",
}


class Stl10(PublishedData):
    """STL-10: 5,000 + 8,000 labelled photographs of things and animals, 96×96, and 100,000 without labels.

    Coates, Lee and Ng 2011, "An analysis of single-layer networks in unsupervised feature learning". The folder
    stl10_binary is searched for in $GANRUN_DATA, ./data and ganrun's cache. Papers on GANs train on the 100,000
    unlabelled pictures, at 48×48.
    """

    class Settings(PublishedData.Settings):
        size: int = Field(48, ge=8, le=256)
        """Height and width in pixels; other than 96, resampled by Pillow's bicubic filter."""

        train_on: Literal["train", "unlabeled"] = "train"
        """train: 5,000 pictures with labels; unlabeled: 100,000 without, and no test split."""

    settings: Settings
    name, channels = "stl10", 3
    classes = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")

    def class_names(self) -> tuple[str, ...]:
        """The subjects of the labelled pictures; none for the unlabelled."""
        return self.classes if self.settings.train_on == "train" else ()

    @property
    def checksums(self) -> Mapping[str, str]:
        """Four files with labels, or one without."""
        return LABELLED if self.settings.train_on == "train" else UNLABELLED

    def folders(self) -> list[Path]:
        """The default locations, and the archive's folder in each."""
        found = [path for folder in super().folders() for path in (folder / FOLDER, folder)]
        return list(dict.fromkeys(found))

    def instructions(self, folder: Path) -> Sequence[str]:
        """The archive, unpacked."""
        source = "https://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz"
        return [
            f"unpack {source} (2.6 GB) with tar -xzf, so that {folder} holds these:",
            *(f"  {name}" for name in self.checksums),
        ]

    def download_to(self, root: Path) -> None:
        """Download the archive to `root`, and unpack it to `root/stl10_binary`."""
        from torchvision.datasets import STL10

        STL10(str(root), split="train", download=True)

    def read(self, place: Path) -> Mapping[str, ganrun.Split]:
        """5,000 and 8,000 images with labels; or 100,000 without."""
        if self.settings.train_on == "unlabeled":
            return {"train": ganrun.Split(_images(place / "unlabeled_X.bin"))}
        return {split: self._labelled(place, split) for split in ("train", "test")}

    def manifest(self) -> Mapping[str, Any]:
        """As the base class, and `train_on`."""
        return {**super().manifest(), "train_on": self.settings.train_on}

    def _labelled(self, place: Path, split: str) -> ganrun.Split:
        images, path = _images(place / f"{split}_X.bin"), place / f"{split}_y.bin"
        labels = np.fromfile(path, np.uint8, count=len(images) + 1)
        if len(labels) != len(images):
            raise DataError(
                f"{path} holds {len(labels):,} labels for {len(images):,} images; replace both with fresh copies"
            )
        if labels.min() < 1 or labels.max() > len(self.classes):
            raise DataError(f"{path} is not STL-10: it has labels from {labels.min()} to {labels.max()}, not 1 to 10")
        return ganrun.Split(images, labels.astype(np.int64) - 1)


def _images(path: Path) -> Images:
    """The pictures `(count, 3, 96, 96)` of a file as a memory map. Unlike others, the file is column by column."""
    size = path.stat().st_size
    if not size or size % PIXELS:
        raise DataError(
            f"{path} is truncated or not STL-10: it has {size:,} bytes, not a multiple of {PIXELS:,}; "
            "replace it with a fresh copy"
        )
    return np.memmap(path, np.uint8, mode="c").reshape(-1, 3, SIZE, SIZE).swapaxes(2, 3)
