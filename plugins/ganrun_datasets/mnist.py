"""MNIST, Fashion-MNIST and KMNIST, each from four IDX files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

import ganrun
from ganrun_datasets.idx import read_idx
from ganrun_datasets.places import candidate_folders, is_file
from ganrun_datasets.published_data import Images, PublishedData

SIZE = 28
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
NAMES = [name for pair in FILES.values() for name in pair]
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


class IdxData(PublishedData):
    """A data set in MNIST's format: four IDX files, gzipped or not."""

    class Settings(PublishedData.Settings):
        size: int = Field(SIZE, ge=8, le=256)
        """Height and width in pixels; other than 28, resampled by Pillow's bicubic filter."""

        binarize: bool = False
        """Whether each pixel is drawn once as black or white, white with its grey value as the probability, from a
        fixed random stream: static binarisation. Leave it out if the loss binarises in every update."""

    settings: Settings

    channels = 1
    title: ClassVar[str]
    """The usual spelling; without its hyphen, the name of torchvision's class."""
    md5s: ClassVar[tuple[str, ...]]
    """The published MD5 of each file, unpacked, in the order of `NAMES`."""

    @property
    def checksums(self) -> Mapping[str, str]:
        """The four files."""
        return dict(zip(NAMES, self.md5s, strict=True))

    def folders(self) -> list[Path]:
        """The usual places, and torchvision's folder in each."""
        return candidate_folders(self.name, self.settings.root, f"{self._torchvision_name}/raw", self.system)

    def file(self, folder: Path, name: str) -> Path | None:
        """The file, plain or gzipped, in any of the usual spellings."""
        return next(filter(is_file, spelled(folder, name)), None)

    def instructions(self, folder: Path) -> Sequence[str]:
        """The four files."""
        return [f"put these four files, gzipped (.gz) or not, into {folder}:", *(f"  {name}" for name in NAMES)]

    def download_to(self, root: Path) -> None:
        """Download to `root/MNIST/raw` or similar."""
        from torchvision import datasets

        getattr(datasets, self._torchvision_name)(str(root), download=True)

    def read(self, place: Path) -> Mapping[str, ganrun.Split]:
        """60,000 and 10,000 images."""
        return {split: self._read_split(place, *names) for split, names in FILES.items()}

    def finished(self, split: str, images: Images) -> Images:
        """Black and white images, if the settings say so."""
        return drawn_black_or_white(images, split) if self.settings.binarize else images

    def manifest(self) -> Mapping[str, Any]:
        """As for all published data, plus whether it is binarised."""
        manifest = super().manifest()
        extra = {"binarized": "once, by grey value"} if self.settings.binarize else {}
        return {**manifest, "transform": {**manifest["transform"], **extra}}

    @property
    def _torchvision_name(self) -> str:
        return self.title.replace("-", "")

    def _read_split(self, place: Path, image_name: str, label_name: str) -> ganrun.Split:
        image_file, label_file = self.existing_file(place, image_name), self.existing_file(place, label_name)
        images, labels = self._images(image_file), self._labels(label_file)
        if len(images) != len(labels):
            raise ganrun.DataError(
                f"{image_file} holds {len(images):,} images, but {label_file} holds {len(labels):,} labels; "
                "replace both with fresh copies"
            )
        return ganrun.Split(images, labels)

    def _images(self, path: Path) -> Images:
        images = read_idx(path, dimensions=3)
        if not len(images) or images.shape[1:] != (SIZE, SIZE):
            held = " × ".join(f"{length:,}" for length in images.shape)
            raise ganrun.DataError(f"{path} is not {self.title}: it holds {held} values, not images of {SIZE} × {SIZE}")
        return images[:, np.newaxis]

    def _labels(self, path: Path) -> npt.NDArray[np.int64]:
        labels = read_idx(path, dimensions=1)
        if len(labels) and labels.max() >= len(self.classes):
            raise ganrun.DataError(f"{path} is not {self.title}: it has the label {labels.max()}, not 0 to 9")
        return labels.astype(np.int64)


def spelled(folder: Path, name: str) -> Iterator[Path]:
    """A file under its published name, or with a dot that some unpackers insert; plain, gzipped, or, as in some
    archives, alone in a folder of its name."""
    names = [spelling + end for spelling in (name, name.replace("-idx", ".idx")) for end in ("", ".gz")]
    yield from (folder / each for each in names)
    yield from (folder / outer / inner for outer in names for inner in names)


def drawn_black_or_white(images: Images, split: str) -> Images:
    """0 or 255 for each pixel, 255 with probability pixel / 255; the same for a split's images on every machine."""
    # numpy promises never to change RandomState's stream.
    random = np.random.RandomState(ganrun.derived_seed(0, "binarize", split) % 2**32)
    draws = random.randint(0, 255, images.shape, dtype=np.uint8)  # 0 to 254
    return (draws < images) * np.uint8(255)


class Mnist(IdxData):
    """MNIST: 60,000 + 10,000 handwritten digits, grey, 28×28.

    LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document recognition". The four IDX
    files, gzipped or not, are searched for in $GANRUN_DATA, ./data and ganrun's cache.
    """

    title, name = "MNIST", "mnist"
    classes = tuple("0123456789")
    md5s = (
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    )


class FashionMnist(IdxData):
    """Fashion-MNIST: 60,000 + 10,000 grey pictures of clothes, 28×28, in ten balanced classes.

    Xiao, Rasul and Vollgraf, arXiv:1708.07747. The four IDX files, gzipped or not, are searched for in
    $GANRUN_DATA, ./data, ganrun's cache and the folder of Debian's package dataset-fashion-mnist.
    """

    title, name = "Fashion-MNIST", "fashion-mnist"
    classes = (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    )
    md5s = (
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    )
    system = (DEBIAN,)

    def instructions(self, folder: Path) -> Sequence[str]:
        """Debian's package, or the four files."""
        elsewhere = f', and leave root out or say root = "{DEBIAN}"' if self.settings.root else ""
        package = f"on Debian or Ubuntu: sudo apt-get install dataset-fashion-mnist{elsewhere}"
        return [package, *super().instructions(folder)]


class Kmnist(IdxData):
    """KMNIST: 60,000 + 10,000 cursive Japanese characters (Kuzushiji), grey, 28×28, in ten balanced classes.

    Clanuwat, Bober-Irizar, Kitamoto, Lamb, Yamamoto and Ha, arXiv:1812.01718. The four IDX files, gzipped or not, are
    searched for in $GANRUN_DATA, ./data and ganrun's cache.
    """

    title, name = "KMNIST", "kmnist"
    classes = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
    md5s = (
        "bdb82020997e1d708af4cf47b453dcf7",
        "e144d726b3acfaa3e44228e80efcd344",
        "5c965bf0a639b31b8f53240b1b52f4d7",
        "7320c461ea6c1c855c0b718fb2a4b134",
    )
    md5s_as_packed = True
