"""CIFAR-10, SVHN and STL-10, from small files that the tests write in the published formats."""

from __future__ import annotations

import hashlib
import io
import pickle
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from scipy.io import savemat

from ganrun import DataError, DataSpec
from ganrun.testing import assert_conforms
from ganrun_datasets import binarized_mnist, published_data
from ganrun_datasets.cifar import Cifar10, Cifar100
from ganrun_datasets.published import identify
from ganrun_datasets.stl10 import Stl10
from ganrun_datasets.svhn import Svhn

PER_BATCH = 12
"""Pictures in each batch of the small CIFAR-10."""

BATCHES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
"""Of CIFAR-10, in the order of their numbers here."""

STL = ("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin")

MALICE = []
"""Filled only if a pickle is executed."""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GANRUN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def made(component, root=None, **chosen):
    return component(component.Settings(root=None if root is None else str(root), **chosen))


# ── CIFAR-10 ──────────────────────────────────────────────────────────────────────────────────────────────


def batch(number: int) -> tuple[np.ndarray, list[int]]:
    pixels = np.random.default_rng(number).integers(0, 256, (PER_BATCH, 3072), np.uint8)
    return pixels, [(number + index) % 10 for index in range(PER_BATCH)]


def binary(number: int) -> bytes:
    pixels, labels = batch(number)
    return np.concatenate([np.array(labels, np.uint8)[:, None], pixels], axis=1).tobytes()


def python3(number: int, protocol: int = 2) -> bytes:
    pixels, labels = batch(number)
    content = {b"batch_label": b"batch", b"labels": labels, b"data": pixels, b"filenames": [b"a.png"] * PER_BATCH}
    return pickle.dumps(content, protocol)


def python2(number: int, labels_at_a_time: int = 1000) -> bytes:
    """The output of Python 2's cPickle with protocol 2, opcode by opcode: strings are BINSTRINGs, and lists come in
    portions of 1,000."""
    pixels, labels = batch(number)

    def string(content: bytes) -> bytes:
        short = len(content) < 256
        return (b"U" + bytes([len(content)]) if short else b"T" + struct.pack("<i", len(content))) + content

    portions = [labels[low : low + labels_at_a_time] for low in range(0, len(labels), labels_at_a_time)]
    listed = b"".join(b"(" + b"".join(b"K" + bytes([label]) for label in portion) + b"e" for portion in portions)
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x04cnumpy\nndarray\nq\x05K\x00\x85U\x01b\x87Rq\x06(K\x01"
        + b"K" + bytes([PER_BATCH]) + b"M\x00\x0c\x86cnumpy\ndtype\nq\x07U\x02u1K\x00K\x01\x87Rq\x08"
        + b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89" + string(pixels.tobytes()) + b"tb"
    )  # fmt: skip
    items = string(b"data") + array + string(b"labels") + b"]q\x09" + listed
    names = string(b"filenames") + b"](" + string(b"a.png") * PER_BATCH + b"e"
    return b"\x80\x02}q\x01(" + string(b"batch_label") + string(b"training batch 1 of 5") + items + names + b"u."


FORMS = {
    "cifar-10-batches-bin": (binary, ".bin", "cifar-10-binary.tar.gz"),
    "cifar-10-batches-py": (python2, "", "cifar-10-python.tar.gz"),
}


def write_cifar(root: Path, folder: str, packed: bool, write=None) -> Path:
    """Write a small CIFAR-10 in its published layout, and return the result that `locate` should have."""
    form, suffix, archive = FORMS[folder]
    contents = {f"{name}{suffix}": (write or form)(number) for number, name in enumerate(BATCHES)}
    if not packed:
        (root / folder).mkdir(parents=True)
        for name, content in contents.items():
            (root / folder / name).write_bytes(content)
        return root / folder
    root.mkdir(parents=True, exist_ok=True)
    with tarfile.open(root / archive, "w:gz") as file:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return root / archive


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("folder", FORMS)
def test_cifar_is_the_same_in_every_form(tmp_path, folder, packed):
    place = write_cifar(tmp_path / "data/cifar10", folder, packed)
    data = made(Cifar10)
    data.prepare()
    assert data.locate().resolve() == place
    train, test = data.split("train"), data.split("test")
    expected = [batch(number) for number in range(6)]
    assert np.array_equal(train.images.reshape(-1, 3072), np.concatenate([pixels for pixels, _ in expected[:5]]))
    assert train.labels.tolist() == [label for _, labels in expected[:5] for label in labels]
    assert np.array_equal(test.images.reshape(-1, 3072), expected[5][0]) and test.labels.tolist() == expected[5][1]
    assert train.images.shape[1:] == data.spec().sample_shape == (3, 32, 32)
    assert data.manifest()["published"] in (False, None), "these are small ones"


def write_cifar100(root: Path, pickled: bool) -> None:
    """Both batches, each with labels `index % 100` and superclasses `index % 20`."""
    root.mkdir(parents=True)
    for number, name in enumerate(("train", "test")):
        pixels = np.random.default_rng(number).integers(0, 256, (120, 3072), np.uint8)
        fine, coarse = np.arange(120, dtype=np.uint8) % 100, np.arange(120, dtype=np.uint8) % 20
        if pickled:
            labels = {b"fine_labels": fine.tolist(), b"coarse_labels": coarse.tolist()}
            (root / name).write_bytes(pickle.dumps({b"filenames": [b"a.png"], **labels, b"data": pixels}, 2))
        else:
            records = np.concatenate([coarse[:, None], fine[:, None], pixels], axis=1)
            (root / f"{name}.bin").write_bytes(records.tobytes())


@pytest.mark.parametrize(("labels", "classes"), [("fine", 100), ("coarse", 20)])
def test_cifar100_has_classes_and_superclasses_in_both_forms(tmp_path, labels, classes):
    write_cifar100(tmp_path / "a/cifar-100-python", pickled=True)
    write_cifar100(tmp_path / "b/cifar-100-binary", pickled=False)
    python, binary = (made(Cifar100, tmp_path / name, labels=labels) for name in "ab")
    assert python.fingerprint() == binary.fingerprint() and python.fingerprint("test") == binary.fingerprint("test")
    split = python.split("train")
    assert split.labels.tolist() == [index % classes for index in range(120)]
    assert np.array_equal(
        split.images.reshape(-1, 3072), np.random.default_rng(0).integers(0, 256, (120, 3072), np.uint8)
    )
    assert len(set(python.class_names())) == python.spec().classes == classes


def test_cifar100_is_not_read_as_cifar10(tmp_path):
    write_cifar100(tmp_path / "cifar-100-python", pickled=True)
    for name in BATCHES:
        (tmp_path / name).write_bytes((tmp_path / "cifar-100-python/train").read_bytes())
    with pytest.raises(DataError, match="data_batch_1 is not a batch of CIFAR-10: it has 0 labels"):
        made(Cifar10, tmp_path).prepare()


@pytest.mark.parametrize("write", [*(lambda n, p=p: python3(n, p) for p in (2, 3, 4)), lambda n: python2(n, 5)])
def test_pickles_of_all_ages_are_read_alike(tmp_path, write):
    write_cifar(tmp_path / "other", "cifar-10-batches-py", False, write)
    write_cifar(tmp_path / "plain", "cifar-10-batches-bin", False)
    found, expected = made(Cifar10, tmp_path / "other"), made(Cifar10, tmp_path / "plain")
    assert found.fingerprint() == expected.fingerprint()


class Malicious:
    def __reduce__(self):
        return MALICE.append, ("executed",)


def test_nothing_in_a_pickle_is_executed(tmp_path):
    def write(number):
        pixels, labels = batch(number)
        return pickle.dumps({b"labels": labels, b"data": pixels.tobytes(), b"evil": Malicious()}, 2)

    write_cifar(tmp_path, "cifar-10-batches-py", False, write)
    assert len(made(Cifar10, tmp_path).split("train")) == 5 * PER_BATCH
    assert MALICE == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(FORMS)), st.integers(0, 2**20))
def test_a_truncated_batch_is_never_read(tmp_path, folder, cut):
    root = tmp_path / f"{folder}-{cut}"
    place = write_cifar(root, folder, False)
    file = place / f"data_batch_3{FORMS[folder][1]}"
    content = file.read_bytes()
    file.write_bytes(content[: cut % len(content)])
    if not len(content[: cut % len(content)]) % 3073 and folder.endswith("bin") and cut % len(content):
        return  # complete records: a smaller set, which only its checksum distinguishes from the published one
    with pytest.raises(DataError, match=r"data_batch_3.*is truncated or not|data_batch_3.*is not a batch of CIFAR-10"):
        made(Cifar10, root).prepare()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is truncated or damaged: it has 0 bytes"),
        (b"<!DOCTYPE html><title>Quota exceeded</title>", "is a web page saved in place of the archive"),
        (None, "is truncated or damaged: it has"),
    ],
)
def test_a_damaged_archive_is_diagnosed(tmp_path, content, reason):
    place = write_cifar(tmp_path, "cifar-10-batches-py", True)
    place.write_bytes(place.read_bytes()[:20_000] if content is None else content)
    with pytest.raises(DataError, match=f"{place.name} {reason}"):
        made(Cifar10, tmp_path).prepare()


def test_an_archive_of_something_else_is_refused(tmp_path):
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as file:
        file.addfile(tarfile.TarInfo("cifar-100-binary/train.bin"), io.BytesIO())
    with pytest.raises(DataError, match=r"cifar-10-binary\.tar\.gz lacks data_batch_1, data_batch_2"):
        made(Cifar10, tmp_path).prepare()


def test_a_label_beyond_nine_is_refused(tmp_path):
    place = write_cifar(tmp_path, "cifar-10-batches-bin", False)
    content = bytearray((place / "test_batch.bin").read_bytes())
    content[3073] = 77
    (place / "test_batch.bin").write_bytes(content)
    with pytest.raises(DataError, match=r"test_batch\.bin is not CIFAR-10: it has the label 77, not 0 to 9"):
        made(Cifar10, tmp_path).prepare()


# ── SVHN ──────────────────────────────────────────────────────────────────────────────────────────────────


def write_svhn(root: Path, part: str, count: int = 20, **other) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(count).integers(0, 256, (32, 32, 3, count), np.uint8)
    content = {"X": pixels, "y": (np.arange(count, dtype=np.uint8) % 10 + 1)[:, None], **other}
    savemat(root / f"{part}_32x32.mat", content, do_compression=True)
    return root / f"{part}_32x32.mat"


def test_svhn_is_read_with_ten_for_zero(tmp_path):
    for part, count in (("train", 20), ("test", 10), ("extra", 30)):
        write_svhn(tmp_path / "data/svhn", part, count)
    data = made(Svhn)
    data.prepare()
    train = data.split("train")
    expected = np.random.default_rng(20).integers(0, 256, (32, 32, 3, 20), np.uint8)
    assert np.array_equal(train.images[7], expected[..., 7].transpose(2, 0, 1))
    assert train.labels.tolist()[:10] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    more = made(Svhn, extra=True)
    assert len(more.split("train")) == 50 and len(more.split("test")) == 10
    assert more.fingerprint() != data.fingerprint()


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"X": np.zeros((16, 16, 3, 20), np.uint8)}, "is not SVHN's cropped digits: it holds X of uint8"),
        ({"y": np.ones((19, 1), np.uint8)}, "holds 20 images but 19 labels"),
        ({"y": np.zeros((20, 1), np.uint8)}, "is not SVHN: it has labels from 0 to 0, not 1 to 10"),
    ],
)
def test_another_matlab_file_is_refused(tmp_path, other, reason):
    write_svhn(tmp_path, "test")
    write_svhn(tmp_path, "train", **other)
    with pytest.raises(DataError, match=f"train_32x32.mat {reason}"):
        made(Svhn, tmp_path).prepare()


@pytest.mark.parametrize("keep", [0, 1, 100, 128, 140, 1000, 20_000])
def test_a_truncated_matlab_file_is_never_read(tmp_path, keep):
    write_svhn(tmp_path, "test")
    file = write_svhn(tmp_path, "train")
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"train_32x32\.mat"):
        made(Svhn, tmp_path).prepare()


# ── STL-10 ────────────────────────────────────────────────────────────────────────────────────────────────


def write_stl(root: Path) -> np.ndarray:
    """Write small files in the published format, and return the training images row by row."""
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    images = {part: random.integers(0, 256, (count, 3, 96, 96), np.uint8) for part, count in
              (("train", 20), ("test", 10), ("unlabeled", 15))}  # fmt: skip
    for part, pixels in images.items():
        (folder / f"{part}_X.bin").write_bytes(pixels.swapaxes(2, 3).tobytes())
        if part != "unlabeled":
            (folder / f"{part}_y.bin").write_bytes((np.arange(len(pixels), dtype=np.uint8) % 10 + 1).tobytes())
    return images["train"]


def test_stl_is_read_row_by_row_with_labels_from_zero(tmp_path):
    expected = write_stl(tmp_path)
    data = made(Stl10, tmp_path, size=96)
    data.prepare()
    assert np.array_equal(data.split("train").images, expected)
    assert data.split("train").labels.tolist() == [*range(10), *range(10)]
    assert made(Stl10, tmp_path).split("test").images.shape == (10, 3, 48, 48)


def test_stl_without_labels(tmp_path):
    write_stl(tmp_path)
    data = made(Stl10, tmp_path, train_on="unlabeled")
    assert data.spec() == DataSpec((3, 48, 48))
    assert data.split("train").labels is None and len(data.split("train")) == 15
    with pytest.raises(DataError, match='no split "test"'):
        data.split("test")


def test_a_truncated_stl_file_is_refused(tmp_path):
    write_stl(tmp_path)
    file = tmp_path / "stl10_binary/test_X.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"test_X\.bin is truncated or not STL-10: it has 276,479 bytes"):
        made(Stl10, tmp_path).prepare()


# ── All of them ───────────────────────────────────────────────────────────────────────────────────────────


def small(component, root: Path):
    """The settings of a small set of this kind, written below `root`."""
    if component is Cifar10:
        write_cifar(root, "cifar-10-batches-py", False)
    elif component is Svhn:
        write_svhn(root, "train"), write_svhn(root, "test")
    else:
        write_stl(root)
    return {"root": str(root)}


@pytest.mark.parametrize("component", [Cifar10, Svhn, Stl10])
def test_it_conforms_and_is_known_not_to_be_the_published_one(tmp_path, component, caplog):
    chosen = small(component, tmp_path)
    assert_conforms("data", component, chosen)
    assert_conforms("data", component, {**chosen, "size": 16})
    data = component(component.Settings(**chosen))
    assert data.manifest()["published"] is False
    assert "are not the published ones" in caplog.text


@pytest.mark.parametrize("component", [Cifar10, Svhn, Stl10])
def test_without_its_files_the_spec_is_known_and_the_error_gives_the_steps(tmp_path, component):
    data = made(component, tmp_path / "nowhere")
    assert data.spec().classes == 10
    with pytest.raises(DataError) as caught:
        data.prepare()
    text = str(caught.value)
    assert f"ganrun data fetch {component.name}" in text
    assert str(tmp_path / "nowhere") in text and "folders searched:" in text


def test_files_are_published_if_their_checksums_are(tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    right = {tmp_path / name: hashlib.md5(name.encode()).hexdigest() for name in "ab"}
    assert identify("x", right) == ({path.name: digest for path, digest in right.items()}, True)
    assert identify("x", {**right, tmp_path / "b": None}).published is None
    assert identify("x", {**right, tmp_path / "b": "0" * 32}).published is False


def test_bytes_and_not_names_decide_whether_a_file_is_packed(tmp_path):
    import gzip

    (tmp_path / "plain.gz").write_bytes(b"digits")
    (tmp_path / "packed").write_bytes(gzip.compress(b"digits"))
    expected = hashlib.md5(b"digits", usedforsecurity=False).hexdigest()
    found = identify("mnist", {tmp_path / "plain.gz": expected, tmp_path / "packed": expected})
    assert found.published and set(found.files.values()) == {expected}


def test_an_archive_with_links_in_it_is_read(tmp_path):
    path = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        link = tarfile.TarInfo("cifar-10-batches-py/latest")
        link.type, link.linkname = tarfile.LNKTYPE, "cifar-10-batches-py/gone"
        archive.addfile(link)
        for number, name in enumerate(BATCHES):
            content = python3(number)
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    data = made(Cifar10, tmp_path)
    data.prepare()
    assert len(data.split("train")) == 5 * PER_BATCH


@pytest.mark.parametrize("component", [Cifar10, Svhn, Stl10])
def test_files_without_read_permission_are_reported(component):
    """Runs as another user, since root may read everything, and in a folder that other users may enter."""
    code = f"""
import os, sys, scipy.io
from ganrun import DataError
from {component.__module__} import {component.__name__} as Data
if os.getuid() == 0:
    os.setuid(65534)
try:
    Data(Data.Settings(root=sys.argv[1])).prepare()
except DataError as error:
    print(error)
"""
    with tempfile.TemporaryDirectory() as root:
        Path(root).chmod(0o755)
        for name in (*(f"{name}.bin" for name in BATCHES), "train_32x32.mat", "test_32x32.mat", *STL):
            (Path(root) / name).write_bytes(b"0" * 27_648)
            (Path(root) / name).chmod(0)
        done = subprocess.run([sys.executable, "-c", code, root], capture_output=True, text=True, timeout=60)
    assert "cannot be read: Permission denied" in done.stdout, done.stderr


# ── Downloads ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("answer", "ends", "reason"),
    [
        (b"", False, "timed out"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 99\r\n\r\n01", False, "timed out"),
        (b"HTTP/1.0 200 OK\r\n\r\n" + b"0 " * 784, True, "arrived without all of its 50,000 images"),
    ],
    ids=["silent", "falls silent", "cut short"],
)
def test_a_download_that_is_not_completed_leaves_nothing(
    answer: bytes, ends: bool, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(binarized_mnist, "PAGE", f"http://127.0.0.1:{server.getsockname()[1]}/")
        monkeypatch.setattr(published_data, "SILENCE_SECONDS", 0.3)
        threading.Thread(target=_answer, args=(server, answer, ends), daemon=True).start()
        data = binarized_mnist.BinarizedMnist(binarized_mnist.BinarizedMnist.Settings(root=str(tmp_path)))
        before = socket.getdefaulttimeout()
        with pytest.raises(DataError, match=f"the download failed: .*{reason}"):
            data.fetch()
    assert socket.getdefaulttimeout() == before
    assert [path.name for path in tmp_path.rglob("*")] == [".binarized-mnist.incomplete"]


def test_an_interrupted_download_is_continued_though_all_names_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Path] = []

    def download_to(self: Stl10, root: Path) -> None:
        calls.append(root)
        for name in self.checksums:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(b"")
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Stl10, "download_to", download_to)
    data = Stl10(Stl10.Settings(root=str(tmp_path)))
    with pytest.raises(KeyboardInterrupt):
        data.fetch()
    for _ in range(2):
        data.fetch()
    assert len(calls) == 2 and data.find() is not None


def _answer(server: socket.socket, answer: bytes, ends: bool) -> None:
    connections = []  # stay open unless they end
    with suppress(OSError):
        while True:
            connection, _ = server.accept()
            connections.append(connection)
            connection.recv(10_000)
            connection.sendall(answer)
            if ends:
                connection.close()
