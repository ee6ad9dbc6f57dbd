"""Fashion-MNIST, from wherever its four files are."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import Field

import ganrun
from ganrun_datasets.cache import cached
from ganrun_datasets.idx import read_idx
from ganrun_datasets.resample import resampled

NAME = "fashion-mnist"
SIZE = 28
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
TORCHVISION = Path("FashionMNIST", "raw")
DATA_VARIABLE = "GANRUN_DATA"


class FashionMnist(ganrun.Data):
    """Fashion-MNIST: 60,000 + 10,000 grey pictures of clothes, 28×28, in ten balanced classes.

    Xiao, Rasul and Vollgraf, arXiv:1708.07747. The four IDX files, gzipped or not, are looked for under
    $GANRUN_DATA, in ./data, in ganrun's cache and where Debian's package dataset-fashion-mnist puts them.
    """

    class Settings(ganrun.Settings):
        root: str | None = None
        """Folder that holds the four files, or torchvision's FashionMNIST/raw; unless given, the usual places."""

        size: int = Field(SIZE, ge=8, le=256)
        """Height and width in pixels; other than 28, resampled by Pillow's bicubic filter."""

        download: bool = False
        """Whether to fetch absent files with torchvision, into root or else into ganrun's cache."""

    settings: Settings

    def problem(self) -> ganrun.Problem:
        """Grey images of ten classes."""
        return ganrun.Problem((1, self.settings.size, self.settings.size), classes=len(CLASSES))

    def class_names(self) -> tuple[str, ...]:
        """The kinds of clothes."""
        return CLASSES

    def prepare(self) -> None:
        """Find the files, or download them if the settings say so; check them whole, and resample them."""
        _ = self._splits

    def split(self, name: str) -> ganrun.Split:
        """`train` (60,000 images) or `test` (10,000)."""
        if name not in FILES:
            raise ganrun.no_such_split(name, FILES)
        return self._splits[name]

    @cached_property
    def _splits(self) -> dict[str, ganrun.Split]:
        folder = self._folder()
        return {name: _read_split(folder, name, self.settings.size) for name in FILES}

    def _folder(self) -> Path:
        places = list(_places(self.settings.root))
        found = _first_complete(places)
        if found is None and self.settings.download:
            found = _download(self.settings.root)
        if found is None:
            raise ganrun.DataError(_steps(places))
        return found


def checkup() -> ganrun.Checkup:
    """Where Fashion-MNIST is, or how to get it."""
    places = list(_places(None))
    found = _first_complete(places)
    return ganrun.Checkup(found is not None, f"found in {found.absolute()}" if found else _steps(places))


# ── Finding the files ─────────────────────────────────────────────────────────────────────────────────────


def _places(root: str | None) -> Iterator[Path]:
    """The folders that may hold the files; those under `root` alone where it is given."""
    if root is not None:
        yield _expanded(root)
        yield _expanded(root) / TORCHVISION
        return
    shared = os.environ.get(DATA_VARIABLE)
    for base in filter(None, (_expanded(shared) if shared else None, Path("data"), _cache())):
        yield base / NAME
        yield base / TORCHVISION
    yield DEBIAN


def _expanded(path: str) -> Path:
    return Path(os.path.expanduser(path))  # noqa: PTH111 - pathlib's raises where there is no such user


def _cache() -> Path | None:
    try:
        return ganrun.cache_directory("data")
    except OSError:
        return None


def _first_complete(places: Iterable[Path]) -> Path | None:
    return next((place for place in places if not _missing(place)), None)


def _missing(folder: Path) -> list[str]:
    return [name for names in FILES.values() for name in names if _file(folder, name) is None]


def _file(folder: Path, name: str) -> Path | None:
    """The file, plain or gzipped; None where it is neither."""
    # pathlib's is_file raises where a folder may not be entered; here that folder is just not the one.
    return next((path for path in (folder / name, folder / f"{name}.gz") if os.path.isfile(path)), None)  # noqa: PTH113


def _steps(places: list[Path]) -> str:
    """What was looked for, and the ways to mend it."""
    names = [name for pair in FILES.values() for name in pair]
    lines = ["its files were not found; do one of these:"]
    lines += ["  on Debian or Ubuntu: sudo apt-get install dataset-fashion-mnist" + _unless_known(places)]
    lines += ["  set download = true in [data]: torchvision fetches them, 30 MB"]
    lines += [f"  put these four files, gzipped (.gz) or not, into {places[0].absolute()}:"]
    lines += [f"    {name}" for name in names]
    lines += ["the places looked in:"]
    lines += [f"  {place.absolute()}{_lacking(place, len(names))}" for place in places]
    return "\n".join(lines)


def _unless_known(places: list[Path]) -> str:
    return "" if DEBIAN in places else f', and leave root out or say root = "{DEBIAN}"'


def _lacking(folder: Path, count: int) -> str:
    missing = _missing(folder)
    return f" (which lacks only {', '.join(missing)})" if len(missing) < count else ""


def _download(root: str | None) -> Path:
    """Have torchvision fetch the files, checked by its MD5 sums.

    Raises:
        DataError: if it fails.
    """
    from torchvision.datasets import FashionMNIST

    try:
        target = _expanded(root) if root else ganrun.cache_directory("data")
        FashionMNIST(str(target), download=True)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ganrun.DataError(f"the download failed: {reason}\n{_steps(list(_places(root)))}") from error
    return target / TORCHVISION


# ── Reading them ──────────────────────────────────────────────────────────────────────────────────────────


def _read_split(folder: Path, name: str, size: int) -> ganrun.Split:
    image_file, label_file = (_present(folder, each) for each in FILES[name])
    labels = _labels(label_file)
    if size == SIZE:
        images = _images(image_file)[:, np.newaxis]
    else:
        images = cached(f"{NAME}-{name}-{size}", image_file, lambda: resampled(_images(image_file), size))
    if len(images) != len(labels):
        raise ganrun.DataError(
            f"{image_file} holds {len(images):,} images, but {label_file} holds {len(labels):,} labels; "
            "replace both with fresh copies"
        )
    return ganrun.Split(images, labels)


def _present(folder: Path, name: str) -> Path:
    path = _file(folder, name)
    if path is None:
        raise ganrun.DataError(f"{folder / name} has vanished")
    return path


def _images(path: Path) -> npt.NDArray[np.uint8]:
    images = read_idx(path, dimensions=3)
    if not len(images) or images.shape[1:] != (SIZE, SIZE):
        held = " × ".join(f"{length:,}" for length in images.shape)
        raise ganrun.DataError(f"{path} is not Fashion-MNIST: it holds {held} values, not images of {SIZE} × {SIZE}")
    return images


def _labels(path: Path) -> npt.NDArray[np.int64]:
    labels = read_idx(path, dimensions=1)
    if len(labels) and labels.max() >= len(CLASSES):
        raise ganrun.DataError(f"{path} is not Fashion-MNIST: it has the label {labels.max()}, where 0 to 9 belong")
    return labels.astype(np.int64)
