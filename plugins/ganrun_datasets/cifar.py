"""CIFAR-10 and CIFAR-100 in any of their published forms: binary or pickled batches, packed or not.

The pickled batches are never unpickled, since unpickling can execute code in a file. Their opcodes are read instead:
the pixels are the longest string, and the labels the list of small integers that follows their key.
"""

from __future__ import annotations

import logging
import pickletools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

import ganrun
from ganrun import DataError
from ganrun_datasets.packed import read_tar
from ganrun_datasets.places import is_file
from ganrun_datasets.published_data import Images, PublishedData

SIZE = 32
PIXELS = 3 * SIZE * SIZE
COUNTS = {"train": 50_000, "test": 10_000}

MOST_BYTES = 1 << 29
"""Limit for a batch, and for unpacking an archive; the published ones have 190 million bytes."""

log = logging.getLogger("ganrun.datasets")

FINE = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest",
    "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion", "lizard",
    "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange", "orchid",
    "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine", "possum",
    "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper",
    "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone",
    "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf",
    "woman", "worm",
)  # fmt: skip

COARSE = (
    "aquatic_mammals", "fish", "flowers", "food_containers", "fruit_and_vegetables", "household_electrical_devices",
    "household_furniture", "insects", "large_carnivores", "large_man-made_outdoor_things",
    "large_natural_outdoor_scenes", "large_omnivores_and_herbivores", "medium_mammals", "non-insect_invertebrates",
    "people", "reptiles", "small_mammals", "trees", "vehicles_1", "vehicles_2",
)  # fmt: skip

Batch = tuple[Images, npt.NDArray[np.int64]]
"""Images `(count, 3, 32, 32)` and labels `(count,)`."""


class Form(NamedTuple):
    """One of the published forms."""

    folder: str
    archive: str
    suffix: str
    """How the names of the batches end."""
    md5s: Mapping[str, str]
    """MD5 by file name, of the archive and of the batches, as far as they are published."""


class Labels(NamedTuple):
    """Where a batch has its labels."""

    key: bytes
    """In the pickled form."""
    byte: int
    """In a record of the binary form."""
    record_bytes: int
    """How many label bytes a record of the binary form has."""


class Cifar(PublishedData):
    """The base of both: 50,000 + 10,000 photographs, 32×32."""

    channels = 3
    title: ClassVar[str]
    """The usual spelling; without its hyphen, the name of torchvision's class."""
    forms: ClassVar[tuple[Form, Form]]
    """The binary one and the one for Python."""
    batches: ClassVar[Mapping[str, Sequence[str]]]
    """The names of the batches of each split, without their suffix."""

    @property
    def labels(self) -> Labels:
        """Where the labels are."""
        return Labels(b"labels", 0, 1)

    @property
    def checksums(self) -> Mapping[str, str]:
        """The archive that torchvision downloads."""
        form = self.forms[1]
        return {form.archive: form.md5s[form.archive]}

    def find(self) -> Path | None:
        """The first folder with all batches, or else the first archive."""
        return next((path for path, _ in self._found()), None)

    def instructions(self, folder: Path) -> Sequence[str]:
        """Either archive."""
        head = f"put one of these, packed or not, from https://www.cs.toronto.edu/~kriz/cifar.html, into {folder}:"
        return [head, *(f"  {form.archive}" for form in self.forms)]

    def download_to(self, root: Path) -> None:
        """Download the archive to `root`, and unpack it there."""
        from torchvision import datasets

        getattr(datasets, self.title.replace("-", ""))(str(root), download=True)

    def read(self, place: Path) -> Mapping[str, ganrun.Split]:
        """50,000 and 10,000 images."""
        form = self._form(place)
        contents = self._contents(place, form)
        splits = {split: self._joined(form, [contents[name] for name in each]) for split, each in self.batches.items()}
        for split, expected in COUNTS.items():
            if (count := len(splits[split])) != expected:
                log.warning("%s: %s has %d images, but %s has %d", place, split, count, self.title, expected)
        return splits

    def files_read(self, place: Path) -> Mapping[Path, str | None]:
        """The archive, or the batches; no checksums of the binary batches are published."""
        form = self._form(place)
        files = [place] if place.is_file() else [place / f"{name}{form.suffix}" for name in self._names]
        return {file: form.md5s.get(file.name) for file in files}

    # ── Files ─────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _names(self) -> list[str]:
        return [name for names in self.batches.values() for name in names]

    def _form(self, place: Path) -> Form:
        return next(form for path, form in self._found() if path == place)

    def _found(self) -> Iterator[tuple[Path, Form]]:
        for folder in self.folders():
            for form in self.forms:
                for path in (folder / form.folder, folder):
                    if all(is_file(path / f"{name}{form.suffix}") for name in self._names):
                        yield path, form
            for form in self.forms:
                for path in (folder / form.archive, folder):
                    if path.name == form.archive and is_file(path):
                        yield path, form

    def _contents(self, path: Path, form: Form) -> dict[str, tuple[str, bytes]]:
        """For each batch, its name in messages, and its bytes."""
        files = {name: f"{name}{form.suffix}" for name in self._names}
        if path.is_dir():
            return {
                name: (str(path / file), ganrun.read_bytes(path / file, MOST_BYTES)) for name, file in files.items()
            }
        members = read_tar(path, lambda name: name.rpartition("/")[2], MOST_BYTES)
        if missing := [name for name, file in files.items() if file not in members]:
            raise DataError(f"{path} lacks {', '.join(missing)}; replace it with a fresh copy")
        return {name: (f"{path}: {file}", members[file]) for name, file in files.items()}

    # ── Batches ───────────────────────────────────────────────────────────────────────────────────────

    def _joined(self, form: Form, contents: Sequence[tuple[str, bytes]]) -> ganrun.Split:
        read = self._read_binary if form.suffix else self._read_pickle
        images, labels = zip(*(read(*content) for content in contents), strict=True)
        return ganrun.Split(np.concatenate(images), np.concatenate(labels))

    def _read_binary(self, name: str, content: bytes) -> Batch:
        """Each record is its labels and 3,072 pixels: planes of red, green and blue."""
        labels = self.labels
        record_bytes = labels.record_bytes + PIXELS
        if not content or len(content) % record_bytes:
            raise DataError(
                f"{name} is truncated or not {self.title}: it has {len(content):,} bytes, not a multiple of "
                f"{record_bytes:,}; replace it with a fresh copy"
            )
        records = np.frombuffer(content, np.uint8).reshape(-1, record_bytes)
        return self._batch(name, records[:, labels.record_bytes :], records[:, labels.byte])

    def _read_pickle(self, name: str, content: bytes) -> Batch:
        """Read pixels and labels from a pickle's opcodes."""
        try:
            pixels, labels = _pixels_and_labels(content, self.labels.key)
        except ValueError as error:  # pickletools raises it at an opcode that is truncated or unknown
            raise DataError(
                f"{name} is truncated or not a batch of {self.title}: {error}; replace it with a fresh copy"
            ) from None
        if len(pixels) != PIXELS * len(labels) or not labels:
            raise DataError(
                f"{name} is not a batch of {self.title}: it has {len(labels):,} labels and {len(pixels):,} pixel "
                f"values, not {PIXELS:,} for each; replace it with a fresh copy"
            )
        return self._batch(name, np.frombuffer(pixels, np.uint8).reshape(-1, PIXELS), np.array(labels))

    def _batch(self, name: str, pixels: Images, labels: npt.NDArray[Any]) -> Batch:
        most = len(self.class_names()) - 1
        if labels.min() < 0 or labels.max() > most:
            raise DataError(f"{name} is not {self.title}: it has the label {labels.max()}, not 0 to {most}")
        return pixels.reshape(-1, 3, SIZE, SIZE), labels.astype(np.int64)


class Cifar10(Cifar):
    """CIFAR-10: 50,000 + 10,000 photographs of things and animals, 32×32, in ten balanced classes.

    Krizhevsky 2009, "Learning multiple layers of features from tiny images". The binary version and the one for Python,
    in their .tar.gz or unpacked, are searched for in $GANRUN_DATA, ./data and ganrun's cache.
    """

    title, name = "CIFAR-10", "cifar10"
    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    batches = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
    forms = (
        Form(
            folder="cifar-10-batches-bin",
            archive="cifar-10-binary.tar.gz",
            suffix=".bin",
            md5s={"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"},
        ),
        Form(
            folder="cifar-10-batches-py",
            archive="cifar-10-python.tar.gz",
            suffix="",
            md5s={
                "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
                "data_batch_1": "c99cafc152244af753f735de768cd75f",
                "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
                "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
                "data_batch_4": "634d18415352ddfa80567beed471001a",
                "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
                "test_batch": "40351d587109b95175f43aff81a1287e",
            },
        ),
    )


class Cifar100(Cifar):
    """CIFAR-100: 50,000 + 10,000 photographs, 32×32, in a hundred balanced classes of twenty superclasses.

    Krizhevsky 2009, "Learning multiple layers of features from tiny images". The binary version and the one for Python,
    in their .tar.gz or unpacked, are searched for in $GANRUN_DATA, ./data and ganrun's cache.
    """

    class Settings(PublishedData.Settings):
        labels: Literal["fine", "coarse"] = "fine"
        """fine: the hundred classes; coarse: the twenty superclasses."""

    settings: Settings

    title, name = "CIFAR-100", "cifar100"
    classes = FINE
    batches = {"train": ["train"], "test": ["test"]}
    forms = (
        Form(
            folder="cifar-100-binary",
            archive="cifar-100-binary.tar.gz",
            suffix=".bin",
            md5s={"cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8"},
        ),
        Form(
            folder="cifar-100-python",
            archive="cifar-100-python.tar.gz",
            suffix="",
            md5s={
                "cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85",
                "train": "16019d7e3df5f24257cddd939b257f8d",
                "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
            },
        ),
    )

    def class_names(self) -> tuple[str, ...]:
        """The meaning of the labels."""
        return FINE if self.settings.labels == "fine" else COARSE

    @property
    def labels(self) -> Labels:
        """A record of the binary form has the superclass first."""
        return Labels(f"{self.settings.labels}_labels".encode(), int(self.settings.labels == "fine"), 2)


def _pixels_and_labels(content: bytes, key: bytes) -> tuple[bytes, list[int]]:
    """The longest string, and the integers between `key` and the next key."""
    longest, labels, in_labels = b"", list[int](), False
    for opcode, argument, _ in pickletools.genops(content):
        if isinstance(argument, str | bytes):
            # pickletools decodes a str of Python 2 as Latin-1, byte for byte.
            text = argument if isinstance(argument, bytes) else argument.encode("latin-1", "replace")
            longest = max(longest, text, key=len)
            # Python 3 writes bytes for Python 2 as a text followed by the word latin1.
            in_labels = text == key or (in_labels and text == b"latin1")
        elif in_labels and opcode.name.startswith("BININT") and isinstance(argument, int):
            labels.append(argument)
        elif opcode.name.startswith("SETITEM"):
            in_labels = False
    return longest, labels
