"""MNIST, KMNIST and EMNIST, from small files that the tests write in the layouts in use."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ganrun import DataError
from ganrun_datasets import published
from ganrun_datasets.binarized_mnist import BinarizedMnist
from ganrun_datasets.emnist import CLASSES, Emnist
from ganrun_datasets.mnist import FILES, Kmnist, Mnist
from ganrun_datasets.published import md5_of

COUNT = 20


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GANRUN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def arrays(seed: int = 0, classes: int = 10) -> dict[str, np.ndarray]:
    """The content of each file of MNIST's layout."""
    random = np.random.default_rng(seed)
    return {
        name: random.integers(0, 256, (COUNT, 28, 28)) if "images" in name else np.arange(COUNT) % classes
        for pair in FILES.values()
        for name in pair
    }


LAYOUTS = {
    "published": lambda name: name,
    "dotted": lambda name: name.replace("-idx", ".idx"),
    "packed, dotted": lambda name: name.replace("-idx", ".idx") + ".gz",
    "a folder for each": lambda name: f"{name}/{name}",
    "a dotted folder for each": lambda name: f"{name.replace('-idx', '.idx')}/{name}.gz",
}


@pytest.mark.parametrize("data", [Mnist, Kmnist])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_usual_spelling_of_the_files_is_read(tmp_path, data, layout):
    expected = arrays()
    for name, array in expected.items():
        path = tmp_path / "root" / LAYOUTS[layout](name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(idx(array)) if path.suffix == ".gz" else idx(array))
    found = data(data.Settings(root=str(tmp_path / "root")))
    found.prepare()
    for split, (images, labels) in FILES.items():
        assert np.array_equal(found.split(split).images[:, 0], expected[images])
        assert np.array_equal(found.split(split).labels, expected[labels])


def test_a_file_that_is_packed_twice_is_explained(tmp_path):
    for name, array in arrays().items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(gzip.compress(idx(array))))
    with pytest.raises(DataError, match=r"images-idx3-ubyte\.gz is packed twice: unpack it once, with gunzip"):
        Mnist(Mnist.Settings(root=str(tmp_path))).prepare()


def test_a_file_that_unpacks_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("ganrun_datasets.idx.MOST_BYTES", 10_000)
    for name in arrays():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(bytes(100_000)))
    with pytest.raises(DataError, match=r"it unpacks to more than 10,000 bytes"):
        Mnist(Mnist.Settings(root=str(tmp_path))).prepare()


def test_kmnist_is_published_only_as_it_was_packed(tmp_path, monkeypatch):
    """The published checksums are those of the gzip files: other files may hold the same."""
    for name, array in arrays().items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(idx(array), mtime=1))

    def is_published() -> bool | None:
        return Kmnist(Kmnist.Settings(root=str(tmp_path))).manifest()["published"]

    assert is_published() is None
    sums = [hashlib.md5((tmp_path / f"{name}.gz").read_bytes()).hexdigest() for name in arrays()]
    monkeypatch.setattr(Kmnist, "md5s", tuple(sums))
    assert is_published() is True
    first = tmp_path / "train-images-idx3-ubyte.gz"
    first.write_bytes(gzip.compress(gzip.decompress(first.read_bytes()), mtime=2))
    assert is_published() is None


# ── Black and white ───────────────────────────────────────────────────────────────────────────────────────


def test_static_binarisation_draws_each_pixel_once_by_its_grey_value(tmp_path):
    grey = np.tile(np.array([0, 1, 64, 128, 254, 255, 255], np.uint8), (COUNT * 28, 4)).reshape(COUNT, 28, 28)
    for name, array in arrays().items():
        (tmp_path / name).write_bytes(idx(grey if "images" in name else array))
    found, again, plain = (
        Mnist(Mnist.Settings(root=str(tmp_path), binarize=binarize)) for binarize in (True, True, False)
    )
    for data in (found, again, plain):
        data.prepare()
    images = found.split("train").images
    assert set(np.unique(images)) == {0, 255} and images.dtype == np.uint8
    assert np.allclose(images.reshape(-1, 7).mean(0), grey[0, 0, :7], atol=6)
    assert np.array_equal(images, again.split("train").images), "the same in every run"
    assert not np.array_equal(images, found.split("test").images), "each split has its own draws"
    assert np.array_equal(plain.split("train").images[:, 0], grey)
    assert found.fingerprint("test") != plain.fingerprint("test"), "scores on them have different protocols"
    assert found.manifest()["transform"] == {"size": 28, "binarized": "once, by grey value"}
    assert plain.manifest()["transform"] == {"size": 28}


def amat(images: np.ndarray) -> str:
    return "\n".join(" ".join(map(str, row)) for row in images.reshape(len(images), -1)) + " \n"


def test_the_published_binarised_mnist_is_read(tmp_path):
    drawn = {part: np.random.default_rng(number).integers(0, 2, (3, 28, 28)) for number, part in enumerate(PARTS)}
    for part, images in drawn.items():
        (tmp_path / f"binarized_mnist_{part}.amat").write_text(amat(images))
    data = BinarizedMnist(BinarizedMnist.Settings(root=str(tmp_path)))
    data.prepare()
    assert data.spec().classes == 0 and data.manifest()["published"] is None
    assert np.array_equal(data.split("train").images[:, 0], 255 * drawn["train"])
    assert np.array_equal(data.split("test").images[:, 0], 255 * drawn["test"])
    more = BinarizedMnist(BinarizedMnist.Settings(root=str(tmp_path), validation="added"))
    assert np.array_equal(more.split("train").images[3:, 0], 255 * drawn["valid"])


PARTS = ("train", "valid", "test")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("0 1 1\n", r"it holds 3 values, and an image has 784; replace it"),
        ("0.5 0.25", r"it must hold only digits 0 and 1, and blanks; replace it"),
        ("", r"is damaged"),
    ],
)
def test_a_damaged_binarised_mnist_is_explained(tmp_path, content, message):
    for part in PARTS:
        (tmp_path / f"binarized_mnist_{part}.amat").write_text(content)
    with pytest.raises(DataError, match=rf"binarized_mnist_train\.amat .*{message}"):
        BinarizedMnist(BinarizedMnist.Settings(root=str(tmp_path))).prepare()


def test_without_its_files_it_says_which_and_where(tmp_path):
    with pytest.raises(DataError, match=r"binarized_mnist_train\.amat\n.*binarized_mnist_test\.amat"):
        BinarizedMnist(BinarizedMnist.Settings(root=str(tmp_path))).prepare()


# ── EMNIST ────────────────────────────────────────────────────────────────────────────────────────────────


def emnist_files(subset: str, seed: int = 0) -> dict[str, bytes]:
    """The four files of a subset; the pictures are lying on their side, and the labels of letters count from 1."""
    first, files = int(subset == "letters"), {}
    for split in ("train", "test"):
        pixels = np.random.default_rng([seed, len(split)]).integers(0, 256, (COUNT, 28, 28))
        labels = np.arange(COUNT) % len(CLASSES[subset]) + first
        files[f"emnist-{subset}-{split}-images-idx3-ubyte"] = idx(pixels.transpose(0, 2, 1))
        files[f"emnist-{subset}-{split}-labels-idx1-ubyte"] = idx(labels)
    return files


def emnist(root: Path, **chosen) -> Emnist:
    return Emnist(Emnist.Settings(root=str(root), **chosen))


@pytest.mark.parametrize("subset", CLASSES)
def test_emnist_is_upright_and_counts_its_labels_from_0_packed_or_not(tmp_path, subset):
    (tmp_path / "EMNIST/raw").mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "gzip.zip", "w") as archive:
        for name, content in emnist_files(subset).items():
            archive.writestr(f"gzip/{name}.gz", gzip.compress(content))
            (tmp_path / "EMNIST/raw" / name).write_bytes(content)
    folder, packed = emnist(tmp_path, subset=subset), emnist(tmp_path / "gzip.zip", subset=subset)
    assert folder.locate() == tmp_path / "EMNIST/raw" and packed.locate() == tmp_path / "gzip.zip"
    assert folder.fingerprint() == packed.fingerprint() and folder.fingerprint("test") == packed.fingerprint("test")
    expected = np.random.default_rng([0, 5]).integers(0, 256, (COUNT, 28, 28))
    assert np.array_equal(packed.split("train").images[:, 0], expected)
    assert packed.split("train").labels.tolist() == [index % len(CLASSES[subset]) for index in range(COUNT)]
    assert packed.manifest()["published"] is False and folder.manifest()["published"] is None
    assert (
        packed.spec().classes
        == len(CLASSES[subset])
        == {"byclass": 62, "letters": 26}.get(subset, 47 if subset in ("bymerge", "balanced") else 10)
    )


def test_an_emnist_that_is_another_subset_or_damaged_is_refused(tmp_path):
    letters = emnist_files("letters")
    for name, content in letters.items():
        (tmp_path / name.replace("letters", "digits")).write_bytes(content)
    with pytest.raises(DataError, match="is not EMNIST's subset digits: train has the label 20, not 0 to 9"):
        emnist(tmp_path, subset="digits").prepare()
    archive = tmp_path / "gzip.zip"
    archive.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(DataError, match=r"gzip\.zip is truncated or damaged"):
        emnist(archive).prepare()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("gzip/é", "x")
    archive.write_bytes(archive.read_bytes().replace("é".encode(), b"\xff\xff"))  # marked as UTF-8, which it is not
    with pytest.raises(DataError, match=r"gzip\.zip is truncated or damaged: .*codec can't decode"):
        emnist(archive).prepare()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("readme", "x")
    with pytest.raises(DataError, match=r"gzip\.zip lacks emnist-balanced-train-images-idx3-ubyte\.gz"):
        emnist(archive).prepare()
    with pytest.raises(DataError, match=r"put gzip\.zip, unpacked or not, from https://www\.nist\.gov"):
        emnist(tmp_path / "nowhere").prepare()


# ── Checksums ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_checksum_is_remembered_until_the_file_changes(tmp_path, monkeypatch):
    path, reads = tmp_path / "big", []
    compute = published._computed
    monkeypatch.setattr(published, "_computed", lambda path, unpacked: reads.append(path) or compute(path, unpacked))

    def write(content: bytes, seconds_ago: int) -> None:
        path.write_bytes(content)
        past = path.stat().st_mtime - seconds_ago
        os.utime(path, (past, past))

    write(b"one", 60)
    assert {md5_of(path) for _ in range(3)} == {hashlib.md5(b"one").hexdigest()} and len(reads) == 1
    write(b"two", 60)  # as long, and with a time of the past, as `cp -p` and archives leave it
    assert md5_of(path) == hashlib.md5(b"two").hexdigest()
    write(b"now", 0)
    assert {md5_of(path) for _ in range(2)} == {hashlib.md5(b"now").hexdigest()} and len(reads) == 4

    assert md5_of(path, again=True) == hashlib.md5(b"now").hexdigest() and len(reads) == 5

    write(b"one", 60)
    md5_of(path)
    (memory,) = (tmp_path / "cache/checksums").glob("*.json")
    for damage in ("", "[1]", json.dumps({"stamp": None, "md5": "x"})):
        memory.write_text(damage)
        assert md5_of(path) == hashlib.md5(b"one").hexdigest()
