"""Data files that unpack to far more than their size, and non-files: quickly refused, with the limit."""

from __future__ import annotations

import gzip
import io
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from ganrun import DataError
from ganrun_datasets import cifar, emnist, idx, published, svhn
from ganrun_datasets.cifar import Cifar10
from ganrun_datasets.emnist import Emnist
from ganrun_datasets.image_folder import ImageFolder
from ganrun_datasets.mnist import FILES, Mnist
from ganrun_datasets.pictures import sources
from ganrun_datasets.pixel_files import Record, load_pixels
from ganrun_datasets.svhn import Svhn

LIMIT, MUCH = 1 << 16, bytes(1 << 20)


@pytest.fixture(autouse=True)
def limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that a test can exceed."""
    monkeypatch.setenv("GANRUN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "LARGEST_FILE_BYTES", LIMIT)
    for module in (cifar, emnist, idx, published, svhn):
        monkeypatch.setattr(module, "MOST_BYTES", LIMIT)


def refusal(component: Any, root: Path, **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        component(component.Settings(root=str(root), **settings)).prepare()
    return str(caught.value)


def mnist(root: Path) -> str:
    for pair in FILES.values():
        for name in pair:
            (root / f"{name}.gz").write_bytes(gzip.compress(MUCH))
    return refusal(Mnist, root)


def cifar_in_a_tar(root: Path) -> str:
    with tarfile.open(root / "cifar-10-binary.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
        member.size = len(MUCH)
        archive.addfile(member, io.BytesIO(MUCH))
    return refusal(Cifar10, root)


def emnist_in_a_zip(root: Path) -> str:
    with zipfile.ZipFile(root / "gzip.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("gzip/emnist-digits-train-images-idx3-ubyte.gz", MUCH)
    return refusal(Emnist, root, subset="digits")


def svhn_in_matlab(root: Path) -> str:
    for part in ("train", "test"):
        content = {"X": np.zeros((32, 32, 3, 400), np.uint8), "y": np.ones((400, 1), np.uint8)}
        savemat(root / f"{part}_32x32.mat", content, do_compression=True)
    return refusal(Svhn, root)


def picture_in_a_zip(root: Path) -> str:
    picture = io.BytesIO()
    Image.new("RGB", (16, 16)).save(picture, "png")
    with zipfile.ZipFile(root / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/good.png", picture.getvalue())
        archive.writestr("a/huge.png", picture.getvalue() + MUCH)
    return refusal(ImageFolder, root / "a.zip", size=16)


@pytest.mark.parametrize("make", [mnist, cifar_in_a_tar, emnist_in_a_zip, svhn_in_matlab, picture_in_a_zip])
def test_what_unpacks_to_more_than_any_real_file_is_refused(tmp_path: Path, make: Callable[[Path], str]) -> None:
    message = make(tmp_path)
    assert f"{LIMIT:,}" in message or f"{len(MUCH):,}" in message or "too many for a picture" in message


def test_a_checksum_of_what_is_packed_has_the_same_limit(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(MUCH))
    with pytest.raises(DataError, match=f"more than {LIMIT:,} bytes"):
        published.md5_of(tmp_path / "a.gz")


def test_a_picture_of_billions_of_pixels_is_refused_by_its_header(tmp_path: Path) -> None:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1_000))) + chunk(b"IEND", b"")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "huge.png").write_bytes(content)
    message = refusal(ImageFolder, tmp_path, size=16)
    assert "huge.png" in message and "3600000000 pixels" in message


@pytest.mark.parametrize("name", ["pipe", "/dev/zero"])
def test_what_is_no_file_is_not_read_as_one(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "is neither a folder nor a file" in refusal(ImageFolder, tmp_path / name, size=16)
    names = [name for pair in FILES.values() for name in pair]
    for each in names:
        (tmp_path / each).symlink_to(tmp_path / name)
    assert "its files were not found" in refusal(Mnist, tmp_path)
    assert load_pixels(tmp_path / name, Record) is None
