"""CIFAR-10 in any of its published forms: binary or pickled batches, packed or not.

The pickled batches are never unpickled, since unpickling can execute code in a file. Their opcodes are read instead:
the pixels are the longest string, and the labels the list of small integers that follows the key "labels".
"""

from __future__ import annotations

import logging
import pickletools
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import ganrun
from ganrun import DataError
from ganrun_datasets.damage import is_web_page
from ganrun_datasets.places import is_file
from ganrun_datasets.published_data import Images, PublishedData

SIZE = 32
PIXELS = 3 * SIZE * SIZE
BATCHES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
COUNTS = {"train": 50_000, "test": 10_000}
NAMES = [name for names in BATCHES.values() for name in names]

log = logging.getLogger("ganrun.datasets")

Batch = tuple[Images, npt.NDArray[np.int64]]
"""Images `(count, 3, 32, 32)` and labels `(count,)`."""


class Form(NamedTuple):
    """One of the published forms."""

    folder: str
    archive: str
    suffix: str
    """How the names of the batches end."""
    read: Callable[[str, bytes], Batch]
    md5s: Mapping[str, str]
    """MD5 by file name, of the archive and of the batches, as far as they are published."""


class Cifar10(PublishedData):
    """CIFAR-10: 50,000 + 10,000 photographs of things and animals, 32×32, in ten balanced classes.

    Krizhevsky 2009, "Learning multiple layers of features from tiny images". The binary version and the one for Python,
    in their .tar.gz or unpacked, are searched for in $GANRUN_DATA, ./data and ganrun's cache.
    """

    name, channels = "cifar10", 3
    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

    @property
    def checksums(self) -> Mapping[str, str]:
        """The archive that torchvision downloads."""
        return {PYTHON.archive: PYTHON.md5s[PYTHON.archive]}

    def find(self) -> Path | None:
        """The first folder with all batches, or else the first archive."""
        return next((path for path, _ in self._found()), None)

    def instructions(self, folder: Path) -> Sequence[str]:
        """Either archive."""
        head = f"put one of these, packed or not, from https://www.cs.toronto.edu/~kriz/cifar.html, into {folder}:"
        return [head, *(f"  {form.archive}" for form in FORMS)]

    def download_to(self, root: Path) -> None:
        """Download the archive to `root`, and unpack it there."""
        from torchvision.datasets import CIFAR10

        CIFAR10(str(root), download=True)

    def read(self, place: Path) -> Mapping[str, ganrun.Split]:
        """50,000 and 10,000 images."""
        form = self._form(place)
        contents = _contents(place, form)
        splits = {split: _joined([form.read(*contents[name]) for name in names]) for split, names in BATCHES.items()}
        for split, expected in COUNTS.items():
            if (count := len(splits[split])) != expected:
                log.warning("%s: %s has %d images, but CIFAR-10 has %d", place, split, count, expected)
        return splits

    def files_read(self, place: Path) -> Mapping[Path, str | None]:
        """The archive, or the batches; no checksums of the binary batches are published."""
        form = self._form(place)
        files = [place] if place.is_file() else [place / f"{name}{form.suffix}" for name in NAMES]
        return {file: form.md5s.get(file.name) for file in files}

    def _form(self, place: Path) -> Form:
        return next(form for path, form in self._found() if path == place)

    def _found(self) -> Iterator[tuple[Path, Form]]:
        for folder in self.folders():
            for form in FORMS:
                for path in (folder / form.folder, folder):
                    if all(is_file(path / f"{name}{form.suffix}") for name in NAMES):
                        yield path, form
            for form in FORMS:
                for path in (folder / form.archive, folder):
                    if path.name == form.archive and is_file(path):
                        yield path, form


def _joined(batches: Sequence[Batch]) -> ganrun.Split:
    images, labels = zip(*batches, strict=True)
    return ganrun.Split(np.concatenate(images), np.concatenate(labels))


def _contents(path: Path, form: Form) -> dict[str, tuple[str, bytes]]:
    """For each batch, its name in messages, and its bytes."""
    if path.is_dir():
        files = {name: path / f"{name}{form.suffix}" for name in NAMES}
        return {name: (str(file), file.read_bytes()) for name, file in files.items()}
    members = dict(_members(path))
    missing = [name for name in NAMES if f"{name}{form.suffix}" not in members]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}; replace it with a fresh copy")
    return {name: (f"{path}: {name}{form.suffix}", members[f"{name}{form.suffix}"]) for name in NAMES}


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    """The files in an archive, by their names without folders; nothing is unpacked to disk."""
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isfile() else None
                if file is not None:
                    yield member.name.rpartition("/")[2], file.read()
    except PermissionError:
        raise
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise DataError(_damage(path, error)) from error


def _damage(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        start = file.read(256)
    if is_web_page(start):
        return f"{path} is a web page saved in place of the archive; replace it with a fresh copy"
    size = path.stat().st_size
    reason = " ".join(str(error).split())
    return f"{path} is truncated or damaged: it has {size:,} bytes ({reason}); replace it with a fresh copy"


def _read_binary(name: str, content: bytes) -> Batch:
    """Each record is a label and 3,072 pixels: planes of red, green and blue."""
    if not content or len(content) % (1 + PIXELS):
        raise DataError(
            f"{name} is truncated or not CIFAR-10: it has {len(content):,} bytes, not a multiple of {1 + PIXELS:,}; "
            "replace it with a fresh copy"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, 1 + PIXELS)
    return _batch(name, records[:, 1:], records[:, 0])


def _read_pickle(name: str, content: bytes) -> Batch:
    """Read pixels and labels from a pickle's opcodes."""
    try:
        pixels, labels = _pixels_and_labels(content)
    except ValueError as error:  # pickletools raises it at an opcode that is truncated or unknown
        raise DataError(
            f"{name} is truncated or not a batch of CIFAR-10: {error}; replace it with a fresh copy"
        ) from None
    if len(pixels) != PIXELS * len(labels) or not labels:
        raise DataError(
            f"{name} is not a batch of CIFAR-10: it has {len(labels):,} labels and {len(pixels):,} pixel values, not "
            f"{PIXELS:,} for each; replace it with a fresh copy"
        )
    return _batch(name, np.frombuffer(pixels, np.uint8).reshape(-1, PIXELS), np.array(labels))


def _pixels_and_labels(content: bytes) -> tuple[bytes, list[int]]:
    """The longest string, and the integers between the key "labels" and the next key."""
    longest, labels, in_labels = b"", list[int](), False
    for opcode, argument, _ in pickletools.genops(content):
        if isinstance(argument, str | bytes):
            # pickletools decodes a str of Python 2 as Latin-1, byte for byte.
            text = argument if isinstance(argument, bytes) else argument.encode("latin-1", "replace")
            longest = max(longest, text, key=len)
            # Python 3 writes bytes for Python 2 as a text followed by the word latin1.
            in_labels = text == b"labels" or (in_labels and text == b"latin1")
        elif in_labels and opcode.name.startswith("BININT") and isinstance(argument, int):
            labels.append(argument)
        elif opcode.name.startswith("SETITEM"):
            in_labels = False
    return longest, labels


def _batch(name: str, pixels: Images, labels: npt.NDArray[Any]) -> Batch:
    if labels.min() < 0 or labels.max() >= 10:
        raise DataError(f"{name} is not CIFAR-10: it has the label {labels.max()}, not 0 to 9")
    return pixels.reshape(-1, 3, SIZE, SIZE), labels.astype(np.int64)


BINARY = Form(
    folder="cifar-10-batches-bin",
    archive="cifar-10-binary.tar.gz",
    suffix=".bin",
    read=_read_binary,
    md5s={"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"},
)
PYTHON = Form(
    folder="cifar-10-batches-py",
    archive="cifar-10-python.tar.gz",
    suffix="",
    read=_read_pickle,
    md5s={
        "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    },
)
FORMS = (BINARY, PYTHON)
