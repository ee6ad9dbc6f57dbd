"""Digits and the data sets in IDX files: complete, split as documented, and never read from a damaged file."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import struct
import subprocess
import sys
import threading
import warnings
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from hypothesis.extra import numpy as arrays
from packaging.version import Version
from PIL import Image
from sklearn.datasets import load_digits

from ganrun import DataError
from ganrun.discovery.registry import load_registry
from ganrun_datasets import digits as digits_module, scikit_learn
from ganrun_datasets.digits import Digits
from ganrun_datasets.idx import read_idx
from ganrun_datasets.mnist import DEBIAN, FILES, FashionMnist, Mnist
from ganrun_datasets.resample import resampled

DIGITS_PER_CLASS = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
"""As published with the UCI data set."""

DIGITS_FINGERPRINT = "e0538dbbc6903895"
"""At size 8."""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GANRUN_CACHE", str(tmp_path / "cache"))


def idx_bytes(array: np.ndarray, kind: int = 0x08) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape) + array.tobytes()


def write_tree(folder: Path, train: int = 20, test: int = 10, suffix: str = ".gz", seed: int = 0) -> Path:
    """Write four small files in Fashion-MNIST's published layout."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    pack = gzip.compress if suffix else bytes
    for (images, labels), count in zip(FILES.values(), (train, test), strict=True):
        pixels = random.integers(0, 256, (count, 28, 28), np.uint8)
        (folder / f"{images}{suffix}").write_bytes(pack(idx_bytes(pixels)))
        (folder / f"{labels}{suffix}").write_bytes(pack(idx_bytes(np.arange(count, dtype=np.uint8) % 10)))
    return folder


def fashion(**chosen) -> FashionMnist:
    return FashionMnist(FashionMnist.Settings(**{k: str(v) if k == "root" else v for k, v in chosen.items()}))


def digits(**chosen) -> Digits:
    data = Digits(Digits.Settings(**chosen))
    data.prepare()
    return data


# ── Digits ────────────────────────────────────────────────────────────────────────────────────────────────


def test_digits_are_the_real_ones_and_every_one_is_in_exactly_one_split():
    data = digits(size=8)
    parts = [data.split(name) for name in ("train", "test")]
    ours = np.concatenate([part.images.reshape(len(part), 64) for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    original = load_digits()
    assert np.bincount(labels).tolist() == DIGITS_PER_CLASS
    theirs = np.rint(original.data * 255 / 16).astype(np.uint8)
    pairs = sorted(zip(map(bytes, ours), labels.tolist(), strict=True))
    assert pairs == sorted(zip(map(bytes, theirs), original.target.tolist(), strict=True))


def test_digits_are_read_from_scikit_learns_file_and_equal_its_own_bit_for_bit(monkeypatch):
    original = load_digits()
    pixels = np.rint(original.images * (255 / 16)).astype(np.uint8)
    assert scikit_learn.installed_file(digits_module.FILE) is not None
    for _ in range(2):
        images, labels = digits_module._read()
        assert images.dtype == np.uint8 and np.array_equal(images, pixels)
        assert labels.dtype == np.int64 and np.array_equal(labels, original.target)
        monkeypatch.setattr(scikit_learn, "find_spec", lambda name: None)  # then scikit-learn loads them


@pytest.mark.parametrize("locations", [None, [], ["/nowhere"]])
def test_digits_are_loaded_by_scikit_learn_if_their_file_is_elsewhere(monkeypatch, locations):
    spec = ModuleSpec("sklearn", None)
    spec.submodule_search_locations = locations
    monkeypatch.setattr(scikit_learn, "find_spec", lambda name: spec)
    assert scikit_learn.installed_file(digits_module.FILE) is None
    assert digits(size=8).fingerprint() == DIGITS_FINGERPRINT


def test_digits_import_no_library_that_takes_long():
    """In a separate process, because other tests import them."""
    code = """
import sys
from ganrun_datasets import ganrun_data
digits = ganrun_data()["digits"]
data = digits(digits.Settings())
data.prepare()
data.manifest()
print(sorted({"pandas", "scipy", "sklearn", "torchvision"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_digits_splits_are_stratified_and_typed():
    data = digits()
    train, test = data.split("train"), data.split("test")
    assert train.images.shape == (1437, 1, 32, 32)
    assert test.images.shape == (360, 1, 32, 32)
    for part in (train, test):
        assert part.images.dtype == np.uint8
        assert part.labels.dtype == np.int64
        assert (part.images.min(), part.images.max()) == (0, 255)
    share = np.bincount(test.labels) / DIGITS_PER_CLASS
    assert np.all(np.abs(share - 0.2) < 0.01)


def test_digits_spec_comes_from_the_settings_alone_and_fits_the_images():
    data = Digits(Digits.Settings(size=20))
    spec = data.spec()
    assert "_splits" not in vars(data)
    assert (spec.sample_shape, spec.classes) == (data.split("train").images.shape[1:], 10)


def test_digits_fingerprint_is_known_and_changes_with_the_size():
    # If this fails, all earlier scores on digits are scores of other data: then the data set needs a new name.
    assert digits(size=8).fingerprint() == digits(size=8).fingerprint() == DIGITS_FINGERPRINT
    assert digits().fingerprint() == "fccb69d496efa0f6"


def test_an_unknown_split_is_an_error():
    with pytest.raises(DataError, match='no split "validation"; it has train, test'):
        digits().split("validation")


# ── Resampling ────────────────────────────────────────────────────────────────────────────────────────────


def test_resampling_keeps_flat_pictures_flat_and_does_not_alias():
    flat = np.full((3, 1, 28, 28), 200, np.uint8)
    assert np.all(resampled(flat, 17) == 200)
    stripes = np.zeros((1, 1, 28, 28), np.uint8)
    stripes[..., ::2] = 255
    inner = resampled(stripes, 14)[0, 0, 3:-3, 3:-3].astype(int)
    assert np.all(np.abs(inner - 127) < 40)


def test_resampling_is_pillows_bicubic_of_each_picture_by_itself():
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 28, 28), np.uint8)
    expected = Image.fromarray(images[2].transpose(1, 2, 0)).resize((32, 32), Image.Resampling.BICUBIC)
    assert np.array_equal(resampled(images, 32)[2].transpose(1, 2, 0), np.asarray(expected))


# ── IDX ───────────────────────────────────────────────────────────────────────────────────────────────────

shapes = st.integers(1, 4).flatmap(lambda rank: st.tuples(*[st.integers(0, 7)] * rank))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(array=shapes.flatmap(lambda shape: arrays.arrays(np.uint8, shape)), zipped=st.booleans())
def test_idx_round_trip(tmp_path, array, zipped):
    path = tmp_path / "any-name"
    path.write_bytes(gzip.compress(idx_bytes(array)) if zipped else idx_bytes(array))
    read = read_idx(path, array.ndim)
    assert read.shape == array.shape
    assert np.array_equal(read, array)
    assert read.flags.writeable


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 1000), zipped=st.booleans())
def test_a_truncated_file_is_never_read(tmp_path, cut, zipped):
    content = idx_bytes(np.random.default_rng(1).integers(0, 256, (5, 6, 7), np.uint8))
    content = gzip.compress(content) if zipped else content
    path = tmp_path / "cut-short"
    path.write_bytes(content[: cut % len(content)])
    with pytest.raises(DataError, match="cut-short is damaged"):
        read_idx(path, 3)


whole = idx_bytes(np.zeros((2, 3, 3), np.uint8))
zipped = gzip.compress(whole, mtime=0)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<html>not found</html>", "it is not an IDX file: it starts with 3c 68 74 6d"),
        (b"", "it is not an IDX file: it starts with nothing"),
        (whole + b"\0", "its header says 2 × 3 × 3 = 18 values, but it holds 19"),
        (whole[:4] + struct.pack(">I", 3) + whole[8:], "its header says 3 × 3 × 3 = 27 values, but it holds 18"),
        (idx_bytes(np.zeros((2, 3, 3), ">f4"), kind=0x0D), "it holds float32, not uint8"),
        (idx_bytes(np.zeros((2, 3, 3), np.uint8), kind=0x77), "it holds the unknown type 0x77, not uint8"),
        (idx_bytes(np.zeros(18, np.uint8)), "it has 1 dimensions, not 3"),
        (whole[:9], "it ends within its header"),
        (zipped[:12] + bytes([zipped[12] ^ 0xFF]) + zipped[13:], "it is not a complete gzip file"),
        (zipped[:-8] + bytes(4) + zipped[-4:], "it is not a complete gzip file: CRC check failed"),
    ],
)
def test_a_damaged_file_is_reported_with_its_name_and_the_reason(tmp_path, content, reason):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_idx(path, 3)
    assert f"{path} is damaged: {reason}" in str(caught.value)
    assert "replace it" in str(caught.value)


# ── Fashion-MNIST ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="the package dataset-fashion-mnist is not installed")
def test_debians_files_are_the_published_fashion_mnist():
    data = fashion(root=DEBIAN)
    data.prepare()
    train, test = data.split("train"), data.split("test")
    assert train.images.shape == (60_000, 1, 28, 28)
    assert test.images.shape == (10_000, 1, 28, 28)
    assert np.bincount(train.labels).tolist() == [6_000] * 10
    assert np.bincount(test.labels).tolist() == [1_000] * 10
    assert train.images.mean() / 255 == pytest.approx(0.2860, abs=1e-4)  # as published with the data set
    assert data.class_names()[train.labels[0]] == "Ankle boot"
    assert fashion().locate() == DEBIAN
    assert data.manifest()["published"] is True, "their content is what was published, however they are packed"
    assert data.manifest()["counts"] == {"train": 60_000, "test": 10_000}


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("layout", ["", "FashionMNIST/raw"])
def test_root_may_be_the_folder_or_torchvisions_root(tmp_path, layout, suffix):
    write_tree(tmp_path / layout, suffix=suffix)
    data = fashion(root=tmp_path)
    data.prepare()
    train = data.split("train")
    assert (train.images.shape, train.images.dtype) == ((20, 1, 28, 28), np.uint8)
    assert train.labels.tolist() == [*range(10), *range(10)]
    assert len(data.split("test")) == 10
    assert data.spec().sample_shape == (1, 28, 28)
    assert len(data.class_names()) == data.spec().classes == 10


@pytest.mark.parametrize("place", ["given/fashion-mnist", "here/data/fashion-mnist", "cache/data/FashionMNIST/raw"])
def test_the_usual_places_are_searched(tmp_path, monkeypatch, place):
    write_tree(tmp_path / place, train=7)
    (tmp_path / "here").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("GANRUN_DATA", str(tmp_path / "given"))
    assert len(fashion().split("train")) == 7
    assert fashion().locate().resolve() == tmp_path / place


def test_mnist_is_read_the_same_way_and_has_no_package_of_debians(tmp_path, caplog):
    write_tree(tmp_path / "MNIST" / "raw")
    data = Mnist(Mnist.Settings(root=str(tmp_path)))
    data.prepare()
    assert data.split("train").images.shape == (20, 1, 28, 28)
    assert data.manifest()["published"] is False
    assert "mnist: 4 of 4 files are not the published ones" in caplog.text
    with pytest.raises(DataError) as caught:
        Mnist(Mnist.Settings(root=str(tmp_path / "nowhere"))).prepare()
    assert "apt-get" not in str(caught.value) and "ganrun data fetch mnist" in str(caught.value)


def test_fetch_downloads_without_the_recipes_consent_and_only_once(tmp_path, mirror):
    data = fashion(root=tmp_path / "root")
    data.fetch()
    assert data.locate() == tmp_path / "root/FashionMNIST/raw"
    shutil.rmtree(mirror)
    data.fetch()


def test_absent_files_give_the_steps(tmp_path):
    half = write_tree(tmp_path / "FashionMNIST" / "raw")
    (half / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError) as caught:
        fashion(root=tmp_path).prepare()
    text = str(caught.value)
    for step in ("apt-get install dataset-fashion-mnist", "download = true", str(tmp_path), "train-images-idx3-ubyte"):
        assert step in text
    assert f"{half} (only t10k-labels-idx1-ubyte missing)" in text


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    write_tree(tmp_path)
    labels = tmp_path / "train-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(idx_bytes(np.zeros(19, np.uint8))))
    with pytest.raises(DataError, match=r"20 images, but .*train-labels-idx1-ubyte\.gz holds 19 labels"):
        fashion(root=tmp_path).prepare()
    labels.write_bytes(gzip.compress(idx_bytes(np.full(20, 26, np.uint8))))
    with pytest.raises(DataError, match="has the label 26, not 0 to 9"):
        fashion(root=tmp_path).prepare()
    images = write_tree(tmp_path) / "train-images-idx3-ubyte.gz"
    images.write_bytes(gzip.compress(idx_bytes(np.zeros((20, 32, 32), np.uint8))))
    with pytest.raises(DataError, match="holds 20 × 32 × 32 values, not images of 28 × 28"):
        fashion(root=tmp_path).prepare()


def test_other_sizes_are_cached_by_the_files_contents(tmp_path):
    folder = write_tree(tmp_path / "data")
    first = fashion(root=folder, size=32)
    assert first.split("train").images.shape == (20, 1, 32, 32)
    cache = tmp_path / "cache" / "data" / "resampled"
    (file,) = cache.glob("fashion-mnist-train-32-*.pixels")
    written = file.stat().st_ino
    again = fashion(root=folder, size=32)
    assert isinstance(again.split("train").images, np.memmap)
    assert again.fingerprint() == first.fingerprint() != fashion(root=folder).fingerprint()
    assert file.stat().st_ino == written
    write_tree(folder, seed=1)
    assert fashion(root=folder, size=32).fingerprint() != first.fingerprint()
    assert len(list(cache.glob("fashion-mnist-train-32-*.pixels"))) == 2


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path, monkeypatch, caplog):
    (tmp_path / "a-file").touch()
    monkeypatch.setenv("GANRUN_CACHE", str(tmp_path / "a-file"))
    data = fashion(root=write_tree(tmp_path / "data"), size=32)
    assert data.split("train").images.shape == (20, 1, 32, 32)
    assert "cannot be cached" in caplog.text


def test_cached_images_become_tensors_without_a_warning_and_writing_to_them_leaves_the_file_alone(tmp_path):
    folder = write_tree(tmp_path / "data")
    before = fashion(root=folder, size=32).fingerprint()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.from_numpy(fashion(root=folder, size=32).split("train").images).zero_()
    assert fashion(root=folder, size=32).fingerprint() == before


# ── Downloading ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A local server of small files that torchvision downloads from."""
    from torchvision.datasets import FashionMNIST

    folder = write_tree(tmp_path / "served")
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sums = [(path.name, hashlib.md5(path.read_bytes()).hexdigest()) for path in sorted(folder.iterdir())]
        monkeypatch.setattr(FashionMNIST, "resources", sums)
        monkeypatch.setattr(FashionMNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        yield folder
        server.shutdown()


def test_files_are_downloaded_only_if_the_recipe_says_so(tmp_path, mirror):
    root = tmp_path / "root"
    with pytest.raises(DataError, match="were not found"):
        fashion(root=root).prepare()
    assert not root.exists()
    assert len(fashion(root=root, download=True).split("train")) == 20
    shutil.rmtree(mirror)
    assert len(fashion(root=root, download=True).split("train")) == 20


def test_a_failed_download_is_reported_with_the_other_ways(tmp_path, mirror):
    (mirror / "train-images-idx3-ubyte.gz").write_bytes(b"an error page")
    is_old = Version(version("torchvision")) < Version("0.27")
    reason = r"File not found or corrupted\." if is_old else ".*train-images-idx3-ubyte"
    with pytest.raises(DataError, match=rf"the download failed: {reason}(?s:.*)apt-get install"):
        fashion(root=tmp_path / "root", download=True).prepare()


# ── As a plugin ───────────────────────────────────────────────────────────────────────────────────────────


def test_the_plugin_offers_them():
    registry = load_registry()
    assert {"digits", "fashion-mnist", "mnist"} <= set(registry.names("data"))
    assert registry.find("data", "digits").cls.summary().startswith("1,797 real handwritten digits")
