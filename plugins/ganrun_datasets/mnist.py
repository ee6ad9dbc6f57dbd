"""MNIST and Fashion-MNIST, from wherever their four files are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

import ganrun
from ganrun_datasets.cache import cached
from ganrun_datasets.idx import read_idx
from ganrun_datasets.places import download_folder, is_file, looked_in, places
from ganrun_datasets.published import Identity, identify
from ganrun_datasets.resample import resampled

SIZE = 28
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
NAMES = [name for pair in FILES.values() for name in pair]
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


class IdxData(ganrun.Data):
    """What data sets in MNIST's format share."""

    class Settings(ganrun.Settings):
        root: str | None = None
        """Folder that holds the four files, or torchvision's root; unless given, the usual places."""

        size: int = Field(SIZE, ge=8, le=256)
        """Height and width in pixels; other than 28, resampled by Pillow's bicubic filter."""

        download: bool = False
        """Whether to fetch absent files with torchvision, into root or else into ganrun's cache."""

    settings: Settings

    title: ClassVar[str]
    """As people write it."""
    name: ClassVar[str]
    torchvision: ClassVar[str]
    """Its class in torchvision, and the folder below torchvision's root."""
    classes: ClassVar[tuple[str, ...]]
    digests: ClassVar[tuple[str, ...]]
    """The published MD5 of each file, unpacked, in the order of `NAMES`."""
    package: ClassVar[str | None] = None
    """The package of Debian's that holds it."""
    system: ClassVar[tuple[Path, ...]] = ()
    """Where that package puts it."""

    def problem(self) -> ganrun.Problem:
        """Grey images of ten classes."""
        return ganrun.Problem((1, self.settings.size, self.settings.size), classes=len(self.classes))

    def class_names(self) -> tuple[str, ...]:
        """What the labels mean."""
        return self.classes

    def locate(self) -> Path:
        """The folder of the four files."""
        folder = self._complete()
        if folder is None:
            raise ganrun.DataError(self._steps())
        return folder

    def fetch(self) -> None:
        """Have torchvision download the files, unless they are there."""
        if self._complete() is None:
            self._download()

    def prepare(self) -> None:
        """Find the files, or download them if the settings say so; check them whole, and resample them."""
        _ = self._splits, self._identity

    def split(self, name: str) -> ganrun.Split:
        """`train` (60,000 images) or `test` (10,000)."""
        if name not in FILES:
            raise ganrun.no_such_split(name, FILES)
        return self._splits[name]

    def manifest(self) -> Mapping[str, Any]:
        """Counts, the files with their MD5, and the size."""
        return {**super().manifest(), **self._identity._asdict(), "transform": {"size": self.settings.size}}

    @cached_property
    def _splits(self) -> dict[str, ganrun.Split]:
        if self.settings.download:
            self.fetch()
        folder = self.locate()
        return {split: self._read_split(folder, split) for split in FILES}

    @cached_property
    def _identity(self) -> Identity:
        paths = [_present(self.locate(), name) for name in NAMES]
        return identify(self.name, dict(zip(paths, self.digests, strict=True)))

    # ── Finding the files ─────────────────────────────────────────────────────────────────────────────

    def _places(self) -> list[Path]:
        return places(self.name, self.settings.root, f"{self.torchvision}/raw", self.system)

    def _complete(self) -> Path | None:
        return next((folder for folder in self._places() if not _missing(folder)), None)

    def _steps(self) -> str:
        """What was looked for, and the ways to mend it."""
        folders = self._places()
        lines = ["its files were not found; do one of these:"]
        if self.package:
            elsewhere = f', and leave root out or say root = "{self.system[0]}"' if self.settings.root else ""
            lines += [f"  on Debian or Ubuntu: sudo apt-get install {self.package}{elsewhere}"]
        lines += [f"  ganrun data fetch {self.name}, or download = true in [data]: torchvision fetches them"]
        lines += [f"  put these four files, gzipped (.gz) or not, into {folders[0].absolute()}:"]
        return "\n".join([*lines, *(f"    {name}" for name in NAMES), *looked_in(folders, _missing, len(NAMES))])

    def _download(self) -> None:
        from torchvision import datasets

        try:
            getattr(datasets, self.torchvision)(str(download_folder(self.settings.root)), download=True)
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ganrun.DataError(f"the download failed: {reason}\n{self._steps()}") from error

    # ── Reading them ──────────────────────────────────────────────────────────────────────────────────

    def _read_split(self, folder: Path, split: str) -> ganrun.Split:
        image_file, label_file = (_present(folder, name) for name in FILES[split])
        labels = self._labels(label_file)
        if self.settings.size == SIZE:
            images = self._images(image_file)
        else:
            size = self.settings.size
            images = cached(
                f"{self.name}-{split}-{size}", image_file, lambda: resampled(self._images(image_file), size)
            )
        if len(images) != len(labels):
            raise ganrun.DataError(
                f"{image_file} holds {len(images):,} images, but {label_file} holds {len(labels):,} labels; "
                "replace both with fresh copies"
            )
        return ganrun.Split(images, labels)

    def _images(self, path: Path) -> npt.NDArray[np.uint8]:
        images = read_idx(path, dimensions=3)
        if not len(images) or images.shape[1:] != (SIZE, SIZE):
            held = " × ".join(f"{length:,}" for length in images.shape)
            raise ganrun.DataError(f"{path} is not {self.title}: it holds {held} values, not images of {SIZE} × {SIZE}")
        return images[:, np.newaxis]

    def _labels(self, path: Path) -> npt.NDArray[np.int64]:
        labels = read_idx(path, dimensions=1)
        if len(labels) and labels.max() >= len(self.classes):
            raise ganrun.DataError(f"{path} is not {self.title}: it has the label {labels.max()}, where 0 to 9 belong")
        return labels.astype(np.int64)


class Mnist(IdxData):
    """MNIST: 60,000 + 10,000 handwritten digits, grey, 28×28.

    LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document recognition". The four IDX
    files, gzipped or not, are looked for under $GANRUN_DATA, in ./data and in ganrun's cache.
    """

    title = "MNIST"
    name = "mnist"
    torchvision = "MNIST"
    classes = tuple("0123456789")
    digests = (
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    )


class FashionMnist(IdxData):
    """Fashion-MNIST: 60,000 + 10,000 grey pictures of clothes, 28×28, in ten balanced classes.

    Xiao, Rasul and Vollgraf, arXiv:1708.07747. The four IDX files, gzipped or not, are looked for under
    $GANRUN_DATA, in ./data, in ganrun's cache and where Debian's package dataset-fashion-mnist puts them.
    """

    title = "Fashion-MNIST"
    name = "fashion-mnist"
    torchvision = "FashionMNIST"
    classes = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    digests = (
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    )
    package = "dataset-fashion-mnist"
    system = (DEBIAN,)


def _missing(folder: Path) -> Sequence[str]:
    return [name for name in NAMES if _file(folder, name) is None]


def _file(folder: Path, name: str) -> Path | None:
    """The file, plain or gzipped; None where it is neither."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if is_file(path)), None)


def _present(folder: Path, name: str) -> Path:
    path = _file(folder, name)
    if path is None:
        raise ganrun.DataError(f"{folder / name} has vanished")
    return path
