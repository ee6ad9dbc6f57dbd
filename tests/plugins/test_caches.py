"""Shared results: never used if any byte is wrong, and kept within a limit."""

from __future__ import annotations

import contextlib
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings, strategies as st
from PIL import Image

from ganrun import cache_file
from ganrun.cli import main
from ganrun_datasets import pixel_files
from ganrun_datasets.cache import cached
from ganrun_datasets.image_folder import ImageFolder
from ganrun_fidelity.stored import load_stored, store

SHAPE = (3, 2, 17, 5)
IMAGES = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
SOURCE = np.zeros((3, 1, 4, 4), np.uint8)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GANRUN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pixel_files, "BLOCK_BYTES", 100)


def resampled() -> np.ndarray:
    return cached("things-train-17", SOURCE, IMAGES.copy)


def write_pictures(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for number, noise in enumerate(np.random.default_rng(1).integers(0, 256, (5, 9, 9, 3), np.uint8)):
        Image.fromarray(noise).save(folder / f"{number}.png")
    return folder


def decoded(root: Path) -> np.ndarray:
    data = ImageFolder(ImageFolder.Settings(root=str(root), size=8, labelled=False))
    data.prepare()
    return data.split("train").images


def statistics() -> np.ndarray:
    """Tensors of the cache of statistics; made again if they are not there."""
    tensors = {"mean": torch.arange(5.0), "count": torch.tensor(3)}
    found = load_stored("statistics", "key")
    if found is None:
        store("statistics", "key", tensors, {"accuracy": 0.5, "name": "a"})
        return statistics()
    assert found.facts == {"accuracy": 0.5, "name": "a"}
    return np.array([*found.tensors["mean"], found.tensors["count"]])


@pytest.fixture(params=["resampled", "decoded", "statistics"])
def make(request, tmp_path) -> Callable[[], np.ndarray]:
    """Each of the caches, as a function that uses it."""
    if request.param == "decoded":
        root = write_pictures(tmp_path / "root" / "all")
        return lambda: decoded(root)
    return {"resampled": resampled, "statistics": statistics}[request.param]


def only_file(tmp_path: Path) -> Path:
    kinds = ("*.pixels", "*.safetensors")
    (file,) = [file for kind in kinds for file in (tmp_path / "cache").rglob(kind)]
    return file


# ── Damage ────────────────────────────────────────────────────────────────────────────────────────────────


def changed(content: bytes, way: str, place: int, value: int) -> bytes:
    place %= len(content)
    if way == "flip":
        return content[:place] + bytes([content[place] ^ value]) + content[place + 1 :]
    return {
        "truncate": content[:place],
        "extend": content + bytes([value]) * (1 + place % 99),
        "remove": content[:place] + content[place + 1 :],
        "insert": content[:place] + bytes([value]) + content[place:],
        "zero": content[: place - place % 64] + bytes(64) + content[place - place % 64 + 64 :],
    }[way]


def test_whatever_is_damaged_is_never_used(tmp_path, make, caplog):
    expected = np.array(make())
    file = only_file(tmp_path)
    whole = file.read_bytes()

    @settings(max_examples=150, deadline=None, database=None)
    @given(
        st.sampled_from(["flip", "flip", "truncate", "extend", "remove", "insert", "zero"]),
        st.integers(0, 2 * len(whole)),
        st.integers(1, 255),
    )
    def check(way: str, place: int, value: int) -> None:
        damaged = changed(whole, way, place, value)
        file.write_bytes(damaged)
        caplog.clear()
        assert np.array_equal(make(), expected)
        if file.suffix == ".pixels":  # in the other format, one white space may stand for another
            assert (f"{file} is damaged and is rebuilt" in caplog.text) == (damaged != whole)
        caplog.clear()
        assert np.array_equal(make(), expected) and not caplog.text, "it was made again"

    check()


def test_every_byte_of_a_file_of_pixels_is_covered(tmp_path, caplog):
    resampled()
    file = only_file(tmp_path)
    whole = file.read_bytes()
    for place in range(len(whole)):
        file.write_bytes(changed(whole, "flip", place, 1 << place % 8))
        with pytest.raises(ValueError):
            pixel_files.open_pixels(file, pixel_files.Record)
    file.write_bytes(whole)
    other = file.with_name("other.pixels")
    file.rename(other)
    with pytest.raises(ValueError):
        pixel_files.open_pixels(other, pixel_files.Record)


def test_blocks_end_where_they_may(tmp_path):
    for count in (1, 99, 100, 101, 200, 1000):
        rows = np.random.default_rng(count).integers(0, 256, (count, 1, 1, 1), np.uint8)
        path = tmp_path / f"{count}.pixels"
        for at_once in (1, 7, 100, 1000):
            with pixel_files.new_pixels(path) as writer:
                for begin in range(0, count, at_once):
                    writer.write(rows[begin : begin + at_once])
                    writer.write(rows[:0])
                writer.finish(pixel_files.Record(), rows.shape[1:])
            found, record = pixel_files.open_pixels(path, pixel_files.Record)
            assert np.array_equal(found, rows) and len(record.checksums) == -(-count // 100)


def test_of_a_large_file_a_part_is_checked_at_a_start_and_all_of_it_on_request(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(pixel_files, "CHECKED_BYTES", 200)
    resampled()
    file = only_file(tmp_path)
    whole = file.read_bytes()
    found_at_once = 0
    for attempt in range(60):
        file.write_bytes(changed(whole, "flip", 10 + attempt * 8, 1))
        caplog.clear()
        resampled()
        found_at_once += "is damaged and is rebuilt" in caplog.text
        assert "0.0 of its 0.0 GB are checked; ganrun data check --full checks all" in caplog.text
        caplog.clear()
        assert np.array_equal(cached("things-train-17", SOURCE, IMAGES.copy, whole=True), IMAGES)
        assert "are checked" not in caplog.text.partition("is rebuilt")[0]
        assert file.read_bytes() == whole
    assert 5 < found_at_once < 50, "2 of 6 blocks, others each time"


def test_a_file_removed_or_replaced_while_it_is_mapped_keeps_its_pixels(tmp_path):
    images = resampled()
    file = only_file(tmp_path)
    file.unlink()
    assert np.array_equal(resampled(), IMAGES), "made again"
    shutil.rmtree(tmp_path / "cache")
    assert np.array_equal(images, IMAGES)


def test_the_file_that_is_checked_is_the_file_that_is_used(tmp_path, monkeypatch, caplog):
    resampled()
    file = only_file(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(changed(whole, "flip", 5, 1))
    check = pixel_files._check

    def replaced_meanwhile(*arguments) -> None:
        with cache_file(file) as partial:
            partial.write_bytes(whole)
        check(*arguments)

    monkeypatch.setattr(pixel_files, "_check", replaced_meanwhile)
    assert np.array_equal(resampled(), IMAGES) and "is damaged and is rebuilt" in caplog.text


def test_data_check_full_says_what_it_checked_and_mends_what_is_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(pixel_files, "CHECKED_BYTES", 0)
    root = write_pictures(tmp_path / "root")
    options = ["image-folder", "-s", f"root={root}", "-s", "size=8", "-s", "labelled=false"]

    def check(*flags: str) -> str:
        result = CliRunner().invoke(main, ["data", "check", *flags, *options])
        assert result.exit_code == 0, result.output
        return result.output

    check()
    file = only_file(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(changed(whole, "flip", 500, 1))
    assert "0.0 of its 0.0 GB are checked" in check() and file.read_bytes() != whole
    said = check("--full")
    assert f"{file} is damaged and is rebuilt: its pixels have changed after byte 500" in said
    assert re.search(rf"checked +{re.escape(str(file))}: 5 decoded pictures, every byte by its checksum", said)
    assert file.read_bytes() == whole and "damaged" not in check("--full")


# ── Disks ─────────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """Within it, no file can grow beyond `limit` bytes."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("limit", [0, 100, 520])
def test_a_full_disk_only_costs_time(tmp_path, limit, caplog):
    with full_disk(limit):
        assert np.array_equal(resampled(), IMAGES)
    assert "images cannot be cached" in caplog.text
    assert not list((tmp_path / "cache").rglob("*.pixels")) + list((tmp_path / "cache").rglob("*.partial"))
    assert np.array_equal(resampled(), IMAGES) and only_file(tmp_path)


TOGETHER = """
import sys, time, numpy as np
from ganrun_datasets.cache import cached
images = np.random.default_rng(0).integers(0, 256, (2000, 1, 32, 32), np.uint8)
for number in range(20):
    made = cached(f"things-{number}", images[:4], images.copy)
    assert np.array_equal(made, images), number
"""


def test_two_processes_that_make_the_same_files_at_once(tmp_path):
    processes = [subprocess.Popen([sys.executable, "-c", TOGETHER], stderr=-1, text=True) for _ in range(2)]
    assert [process.communicate(timeout=120)[1] for process in processes] == ["", ""]
    assert len(list((tmp_path / "cache" / "data" / "resampled").glob("*.pixels"))) == 20
