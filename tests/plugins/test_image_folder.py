"""The user's own pictures: read completely or refused, decoded once, and never used half decoded."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from ganrun import CacheError, DataError, UnreadableError, message_console, open_picture
from ganrun.testing import assert_conforms
from ganrun_datasets.image_folder import ImageFolder

DECODE = """
import signal
import sys
from pathlib import Path
from ganrun_datasets.pictures.decoding import decode
from ganrun_datasets.pictures.job import Job
from ganrun_datasets.pictures.picture import Transform
from ganrun_datasets.pictures.sources import source_at

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
source = source_at(Path(sys.argv[1]))
print(decode(Job("image-folder", source, sorted(source.stamps), Transform(64))).record.row_digests)
"""
"""The work of `prepare` at size 64, for other processes: without PyTorch, they start in half a second."""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GANRUN_CACHE", str(tmp_path / "cache"))


def pixels(seed: int, width: int = 40, height: int = 30) -> Image.Image:
    """Smooth colours, which JPEG hardly changes."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def save(image: Image.Image, path: Path, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_tree(root: Path, folders: str = "cat dog", count: int = 3) -> Path:
    for number, folder in enumerate(folders.split()):
        for index in range(count):
            save(pixels(100 * number + index), root / folder / f"{index}.png")
    return root


def zipped(root: Path, path: Path, outer: str = "", method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, Path(outer) / file.relative_to(root))
    return path


def folder(root: Path, **chosen) -> ImageFolder:
    return ImageFolder(ImageFolder.Settings(root=str(root), **chosen))


def prepared(root: Path, **chosen) -> ImageFolder:
    data = folder(root, **chosen)
    data.prepare()
    return data


def cache_files(tmp_path: Path, pattern: str = "*.pixels") -> list[Path]:
    return sorted((tmp_path / "cache" / "data" / "pictures").glob(pattern))


def refusal(root: Path, **chosen) -> str:
    with pytest.raises(DataError) as caught:
        prepared(root, **chosen)
    return str(caught.value)


# ── Folders, classes and splits ───────────────────────────────────────────────────────────────────────────


def test_folders_are_classes_and_pixels_are_pillows(tmp_path):
    root = tmp_path / "root"
    for name in ("b/1.png", "b/deep/er/2.PNG", "a/x.jpeg", "a/.hidden.png", "__MACOSX/a/._x.jpeg", ".git/3.png"):
        save(pixels(len(name)), root / name)
    (root / "b" / "notes.txt").write_text("no picture")
    (root / "b" / "Thumbs.db").write_bytes(b"nor this")
    (root / "empty").mkdir()
    data = folder(root, size=16)
    assert data.spec().sample_shape == (3, 16, 16)
    assert data.spec().classes == 2
    assert not (tmp_path / "cache").exists(), "the spec comes from the names alone"
    data.prepare()
    train = data.split("train")
    assert data.class_names() == ("a", "b")
    assert train.labels.tolist() == [0, 1, 1]
    assert train.labels.dtype == np.int64
    expected = pixels(len("b/1.png")).crop((5, 0, 35, 30)).resize((16, 16), Image.Resampling.BICUBIC)
    assert np.array_equal(train.images[1], np.asarray(expected).transpose(2, 0, 1))
    with pytest.raises(DataError, match='no split "test"; it has train'):
        data.split("test")


def test_pictures_in_the_root_have_no_labels_and_a_mixture_is_refused(tmp_path):
    save(pixels(0), tmp_path / "root" / "1.png")
    save(pixels(1), tmp_path / "root" / "2.png")
    data = prepared(tmp_path / "root")
    assert data.spec().classes == 0
    assert data.split("train").labels is None
    save(pixels(2), tmp_path / "root" / "cat" / "3.png")
    with pytest.raises(DataError, match=r"in a class's folder \(cat/3.png\) and some in none \(1.png\)"):
        folder(tmp_path / "root").spec()
    assert len(prepared(tmp_path / "root", labelled=False).split("train")) == 3


@pytest.mark.parametrize("test_folder", ["test", "Validation"])
def test_folders_called_after_splits_are_the_splits(tmp_path, test_folder):
    root = tmp_path / "root"
    write_tree(root / "train", count=3)
    write_tree(root / test_folder, count=2)
    if test_folder == "test":
        write_tree(root / "val", count=9)
    data = prepared(root)
    train, test = data.split("train"), data.split("test")
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 0, 0, 1, 1, 1], [0, 0, 1, 1])
    assert np.array_equal(train.images[3], test.images[2])
    assert data.manifest()["counts"] == {"train": 6, "test": 4}
    save(pixels(0), root / test_folder / "zebra" / "1.png")
    with pytest.raises(DataError, match='only the test split has a class "zebra"'):
        folder(root).spec()
    shutil.rmtree(root / "train")
    with pytest.raises(DataError, match="but no folder train"):
        folder(root).spec()


def test_links_are_followed_and_loops_end(tmp_path):
    root = write_tree(tmp_path / "root")
    (root / "cat" / "linked.png").symlink_to(root / "dog" / "0.png")
    (root / "cow").symlink_to(write_tree(tmp_path / "elsewhere", "x") / "x")
    (root / "dog" / "loop").symlink_to(root)
    (root / "dog" / "self").symlink_to(root / "dog")
    data = prepared(root)
    assert data.class_names() == ("cat", "cow", "dog")
    assert np.bincount(data.split("train").labels).tolist() == [4, 3, 3]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda root: None, r"there is no .*root; set root in \[data\], or --set data\.root=…, to a folder or a \.zip"),
        (lambda root: root.mkdir(), "is empty"),
        (lambda root: save(pixels(0), root / "a.png").rename(root / "a.txt"), "holds no pictures: it has 1 file"),
        (lambda root: root.write_bytes(b""), "is empty; replace it"),
        (lambda root: root.write_bytes(b"\n<!DOCTYPE html><html>Quota exceeded"), "is a web page saved in place of"),
        (lambda root: root.write_bytes(b"Rar!\x1a\7"), "is not a zip: it starts with 52 61 72 21"),
    ],
)  # fmt: skip
def test_a_root_without_pictures_is_diagnosed(tmp_path, make, reason):
    make(tmp_path / "root")
    with pytest.raises(DataError, match=reason):
        folder(tmp_path / "root").spec()


# ── Zips ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("outer", ["", "pictures"])
def test_a_zip_gives_the_same_as_its_folder(tmp_path, method, outer):
    root = write_tree(tmp_path / "root")
    archive = zipped(root, tmp_path / "root.zip", outer, method)
    ours, theirs = prepared(archive), prepared(root)
    assert ours.class_names() == theirs.class_names() == ("cat", "dog")
    assert ours.fingerprint() == theirs.fingerprint()
    assert np.array_equal(ours.split("train").images, theirs.split("train").images)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "root", "root.zip"]


def test_a_truncated_zip_is_reported_wherever_it_was_cut(tmp_path):
    whole = zipped(write_tree(tmp_path / "root"), tmp_path / "whole.zip").read_bytes()
    cut = tmp_path / "cut.zip"
    for length in [1, 4, 40, *range(100, len(whole), len(whole) // 20), len(whole) - 1]:
        cut.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"cut\.zip (is truncated or damaged: it has|is not a zip)"):
            folder(cut).spec()


def test_a_damaged_member_is_unreadable_and_the_others_are_not(tmp_path):
    path = zipped(write_tree(tmp_path / "root"), tmp_path / "root.zip", method=zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        place = archive.getinfo("cat/1.png").header_offset
    content[place + 60] ^= 1
    path.write_bytes(content)
    assert "1 of 6 pictures cannot be read:\n  cat/1.png: the zip is damaged here: Bad CRC-32" in refusal(path)


# ── Unreadable pictures ───────────────────────────────────────────────────────────────────────────────────


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    parts = [struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def bomb() -> bytes:
    """A PNG of a few bytes whose header says 60,000 × 60,000."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return png((b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b""))


JPEG = encoded(pixels(5, 64, 64))
DAMAGED = {
    "bomb.png": (bomb(), "decompression bomb"),
    "cut.jpg": (JPEG[:-20], "truncated"),
    "empty.jpg": (b"", "it is empty"),
    "floats.tif": (encoded(Image.fromarray(np.ones((9, 9), np.float32)), "TIFF"), "its pixels are floats"),
    "page.jpg": (b"<html>quota</html>", "it is a web page"),
    "program.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "it starts with 25 21 50 53"),
    "text.jpg": (b"hello, world", "it is not a picture: it starts with 68 65 6c 6c"),
    "zeros.jpg": (bytes(len(JPEG)), "it is not a picture"),
}  # fmt: skip


def test_all_unreadable_pictures_are_found_at_once_and_can_be_skipped(tmp_path, caplog):
    root = write_tree(tmp_path / "root")
    for name, (content, _) in DAMAGED.items():
        (root / "cat" / name).write_bytes(content)
    text = refusal(root)
    assert "8 of 14 pictures cannot be read" in text
    assert "and 3 more" in text
    assert 'unreadable = "skip"' in text
    for name, (_, reason) in list(DAMAGED.items())[:5]:
        assert reason in next(line for line in text.splitlines() if name in line)
    written = cache_files(tmp_path)[0].stat().st_ino
    for _ in range(2):
        data = prepared(root, unreadable="skip")
        assert data.split("train").labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert data.manifest()["counts"] == {"train": 6}
        assert data.manifest()["skipped"] == 8
    assert cache_files(tmp_path)[0].stat().st_ino == written
    assert caplog.text.count("8 of 14 pictures cannot be read") == caplog.text.count("they are skipped") == 2
    assert data.fingerprint() == prepared(write_tree(tmp_path / "sound")).fingerprint()
    assert refusal(root) == text


@pytest.mark.parametrize("name", DAMAGED)
def test_each_damage_has_its_reason(tmp_path, name):
    content, reason = DAMAGED[name]
    (write_tree(tmp_path / "root", count=1) / "cat" / name).write_bytes(content)
    text = refusal(tmp_path / "root")
    assert f"1 of 3 pictures cannot be read:\n  cat/{name}: " in text
    assert reason in text


def test_a_jpeg_cut_anywhere_is_unreadable(tmp_path):
    root = write_tree(tmp_path / "root", "cat", 1)
    cuts = [*range(0, len(JPEG) - 2, len(JPEG) // 40), len(JPEG) - 2, len(JPEG) - 1]
    for cut in cuts:
        (root / "cat" / f"{cut}.jpg").write_bytes(JPEG[:cut])
    assert f"{len(cuts)} of {len(cuts) + 1} pictures cannot be read" in refusal(root)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"]),
    place=st.floats(0, 1),
    by=st.integers(1, 255),
)
def test_a_changed_byte_gives_a_picture_or_a_reason(kind, place, by):
    content = bytearray(encoded(pixels(5, 16, 16), kind))
    content[int(place * (len(content) - 1))] ^= by
    try:
        assert open_picture(bytes(content)).size > (0, 0)
    except UnreadableError as error:
        assert str(error)


def test_skipping_must_leave_a_picture_of_every_class(tmp_path):
    root = tmp_path / "root"
    for name in ("cat/1.jpg", "dog/2.jpg"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text("no")
    text = refusal(root, unreadable="skip")
    assert "2 of 2 pictures cannot be read" in text
    assert '"skip"' not in text
    save(pixels(0), root / "cat" / "3.png")
    assert 'no picture of class "dog" in the train split can be read' in refusal(root, unreadable="skip")


def test_a_picture_that_becomes_readable_is_no_longer_skipped(tmp_path):
    root = write_tree(tmp_path / "root")
    (root / "cat" / "1.png").chmod(0)
    if os.access(root / "cat" / "1.png", os.R_OK):
        pytest.skip("this user may read everything")
    assert len(prepared(root, unreadable="skip").split("train")) == 5
    (root / "cat" / "1.png").chmod(0o600)
    assert len(prepared(root).split("train")) == 6


# ── Modes ─────────────────────────────────────────────────────────────────────────────────────────────────


def flat(mode: str, colour) -> Image.Image:
    return Image.new(mode, (20, 20), colour)


def half_transparent_palette() -> Image.Image:
    image = flat("P", 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.info["transparency"] = bytes([0, 255])
    return image


def transparent_palette() -> Image.Image:
    """All of its one colour is transparent, as GIF and PNG have it."""
    image = half_transparent_palette()
    image.info["transparency"] = 0
    return image


EXTRA = b"\x52\x01\x03\x00\x01\x00\x00\x00"
"""Of a TIFF's tag 338, before its value: 2 where colours are not multiplied by opacity, 1 where they are."""

GREY_16 = Image.fromarray(np.full((20, 20), 51_400, np.uint16))

MODES = {
    "rgba.png": (flat("RGBA", (255, 0, 0, 0)), (255, 255, 255)),
    "half.png": (flat("RGBA", (0, 0, 0, 128)), (127, 127, 127)),
    "palette.png": (half_transparent_palette(), (255, 255, 255)),
    "cmyk.tif": (flat("CMYK", (255, 0, 0, 0)), (0, 255, 255)),
    "lab.tif": (flat("LAB", (121, 147, 148)), (150, 100, 80)),
    "ycbcr.tif": (flat("YCbCr", (76, 84, 255)), (255, 0, 0)),
    "one colour.png": (transparent_palette(), (255, 255, 255)),
    "rgbx.tif": (flat("RGBX", (1, 2, 3, 0)), (1, 2, 3)),
    "ycbcr.jpg": (flat("RGB", (10, 20, 250)), (10, 20, 250)),
    "la.png": (flat("LA", (0, 0)), (255, 255, 255)),
    "multiplied.tif": (flat("LA", (60, 120)), (195, 195, 195)),
    "deep.png": (GREY_16, (200, 200, 200)),
    "deep.tif": (GREY_16, (200, 200, 200)),
    "bits.png": (flat("1", 1), (255, 255, 255)),
    "grey.jpg": (flat("L", 77), (77, 77, 77)),
}


@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_the_colour_that_it_shows(tmp_path, channels):
    root = tmp_path / "root"
    for name, (image, _) in MODES.items():
        save(image, root / name)
    multiplied = root / "multiplied.tif"  # Pillow writes no such file: tag 338 says so
    multiplied.write_bytes(multiplied.read_bytes().replace(EXTRA + b"\2", EXTRA + b"\1"))
    data = prepared(root, size=8, channels=channels)
    names = data.layout.names
    for name, row in zip(names, data.split("train").images, strict=True):
        red, green, blue = MODES[name][1]
        expected = (red, green, blue) if channels == 3 else [round(0.299 * red + 0.587 * green + 0.114 * blue)]
        assert np.abs(row.reshape(channels, -1).T.astype(int) - expected).max() <= 3, name


def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path):
    ramp = np.linspace(0, 65_535, 64 * 64).astype(np.uint16).reshape(64, 64)
    save(Image.fromarray(ramp), tmp_path / "root" / "ramp.png")
    row = prepared(tmp_path / "root", size=64, channels=1).split("train").images[0, 0]
    assert np.abs(row - ramp / 257).max() <= 0.5


def deep_colour(value: int) -> bytes:
    """A PNG with 16 bits for each of three colours, which Pillow does not write."""
    header = struct.pack(">IIBBBBB", 9, 9, 16, 2, 0, 0, 0)
    rows = (b"\0" + struct.pack(">H", value) * 27) * 9
    return png((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_few_of_16_bits_are_warned_about_over_all_pictures_and_can_be_set(tmp_path, caplog, bits):
    root, white = tmp_path / "root", 2**bits - 1
    for name, value in (("a.png", 3), ("b.tif", white), ("c.png", white // 2)):
        save(Image.fromarray(np.full((20, 20), value, np.uint16)), root / name)
    dark = prepared(root, size=8, channels=1)
    assert f"3 of 3 pictures have 16 bits and use values only up to {white:,}" in caplog.text
    assert f"set bits = {bits} in [data] if {white:,} is white; the first is a.png" in caplog.text
    caplog.clear()
    data = prepared(root, size=8, channels=1, bits=bits)
    assert data.split("train").images[:, 0, 0, 0].tolist() == [round(3 * 255 / white), 255, 127]
    assert data.fingerprint() != dark.fingerprint()
    assert "bits" not in caplog.text
    text = refusal(root, channels=1, bits=bits - 1)
    assert f"b.tif: its pixels range from {white:,} to {white:,}, beyond {bits - 1} bits" in text
    save(Image.fromarray(np.full((20, 20), 65_000, np.uint16)), root / "d.png")
    prepared(root, size=8, channels=1)
    assert "bits" not in caplog.text, "the set uses all of them"


def test_deep_colour_is_warned_about_and_needs_all_bits(tmp_path, caplog):
    (tmp_path / "a.png").write_bytes(deep_colour(4095))
    prepared(tmp_path, size=8)
    assert "1 of 1 pictures have 16 bits and use values only up to 4,095" in caplog.text
    assert "it has 16 bits for each colour, and bits = 12 is for grey" in refusal(tmp_path, bits=12)
    (tmp_path / "a.png").write_bytes(deep_colour(51_400))
    assert np.unique(prepared(tmp_path, size=8).split("train").images).tolist() == [200]


def test_colours_that_cannot_be_converted_are_refused_by_name(tmp_path, monkeypatch):
    """As where Pillow was built without littleCMS."""
    save(flat("LAB", (138, 209, 198)), tmp_path / "a.tif")
    monkeypatch.setattr("PIL.ImageCms.buildTransform", None)
    assert "a.tif: Pillow does not convert its colours, LAB; store it as RGB" in refusal(tmp_path)


@pytest.mark.parametrize(("dtype", "value"), [(np.int32, 70_000), (np.int32, -1), (np.float32, 0.5)])
def test_pixels_without_a_known_range_are_unreadable(tmp_path, dtype, value):
    save(Image.fromarray(np.full((9, 9), value, dtype)), tmp_path / "a.tif")
    assert re.search("its pixels (are floats|range from)", refusal(tmp_path, channels=1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_upright_by_its_exif_orientation(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = open_picture(encoded(pixels(1, 30, 20), "PNG", exif=exif))
    columns, rows = np.meshgrid(np.arange(30), np.arange(20))
    # Where each stored pixel belongs, by EXIF 2.3's definition of the 0th row and the 0th column.
    across, down = {
        1: (columns, rows), 2: (29 - columns, rows), 3: (29 - columns, 19 - rows), 4: (columns, 19 - rows),
        5: (rows, columns), 6: (19 - rows, columns), 7: (19 - rows, 29 - columns), 8: (rows, 29 - columns),
    }[orientation]  # fmt: skip
    assert np.array_equal(np.asarray(turned)[down, across], np.asarray(pixels(1, 30, 20)))


@pytest.mark.parametrize("kind", ["gif", "tif", "png", "webp"])
def test_the_first_of_several_frames_is_used_and_said_to_be(tmp_path, caplog, kind):
    frames = [flat("RGB", (255, 0, 0)), flat("RGB", (0, 255, 0))]
    save(frames[0], tmp_path / f"a.{kind}", save_all=True, append_images=frames[1:])
    save(frames[1], tmp_path / f"b.{kind}")
    images = prepared(tmp_path, size=8).split("train").images
    assert np.abs(images[0, :, 0, 0].astype(int) - (255, 0, 0)).max() < 3
    assert f"1 of 2 pictures have several frames, of which the first is used; the first is a.{kind}" in caplog.text


@pytest.mark.parametrize(("crop", "left_half"), [("centre", 255), ("none", 0)])
def test_the_largest_centred_square_is_used_or_all_is_stretched(tmp_path, crop, left_half):
    stripes = np.zeros((20, 60, 3), np.uint8)
    stripes[:, 20:40] = 255
    save(Image.fromarray(stripes), tmp_path / "root" / "1.png")
    image = prepared(tmp_path / "root", size=30, crop=crop, filter="box").split("train").images[0]
    assert image[0, 15, 15] == 255
    assert image[0, 15, 3] == left_half


def test_grey_pictures_among_coloured_ones_and_small_ones_are_warned_about(tmp_path, caplog):
    root = write_tree(tmp_path / "root")
    save(pixels(9, 50, 50).convert("L"), root / "cat" / "grey.png")
    prepared(root, size=32)
    assert "1 of 7 pictures are grey and are converted to colour; the first is cat/grey.png" in caplog.text
    assert "6 of 7 pictures are smaller than 32 pixels and are enlarged; the first is cat/0.png" in caplog.text
    caplog.clear()
    prepared(root, size=16, channels=1)
    assert not caplog.records


def test_grey_pictures_alone_need_one_channel(tmp_path):
    save(pixels(9).convert("L"), tmp_path / "root" / "1.png")
    assert "all 1 pictures are grey; set channels = 1" in refusal(tmp_path / "root")
    assert prepared(tmp_path / "root", channels=1).split("train").images.shape == (1, 1, 32, 32)


# ── The cache ─────────────────────────────────────────────────────────────────────────────────────────────


def test_pictures_are_decoded_again_when_one_or_the_transform_changes_and_only_then(tmp_path):
    root = write_tree(tmp_path / "root")
    first = prepared(root)
    (file,) = cache_files(tmp_path)
    written = file.stat().st_ino
    again = prepared(root, unreadable="skip", labelled=True)
    assert isinstance(again.split("train").images, np.memmap)
    assert again.fingerprint() == first.fingerprint()
    assert (cache_files(tmp_path), file.stat().st_ino) == ([file], written)
    others = [{"size": 16}, {"filter": "box"}, {"crop": "none"}, {"channels": 1}]
    fingerprints = {prepared(root, **other).fingerprint() for other in others} | {first.fingerprint()}
    assert len(fingerprints) == len(cache_files(tmp_path)) == 5
    save(pixels(77), root / "dog" / "1.png")
    assert prepared(root).fingerprint() not in fingerprints
    (root / "dog" / "1.png").rename(root / "cat" / "9.png")
    assert len(prepared(root).split("train")) == 6
    assert len(cache_files(tmp_path)) == 7
    assert file.stat().st_ino == written


def test_a_cache_without_space_or_permission_is_an_error(tmp_path, monkeypatch):
    root = write_tree(tmp_path / "root")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    assert "need 0.00 GB, but" in refusal(root)
    assert "set GANRUN_CACHE to a folder on another disk" in refusal(root)
    (tmp_path / "file").touch()
    monkeypatch.setenv("GANRUN_CACHE", str(tmp_path / "file"))
    with pytest.raises(CacheError, match="set GANRUN_CACHE to a folder that you can write to"):
        prepared(root)


# ── Interruption, and two at a time ───────────────────────────────────────────────────────────────────────


@pytest.fixture
def large(tmp_path) -> Path:
    """Pictures that take a second or two to decode."""
    root = tmp_path / "large"
    content = encoded(pixels(3, 500, 500))
    for number in range(250):
        path = root / str(number % 2) / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def decoding(root: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", DECODE, str(root)], stdout=-1, stderr=-1, text=True)


def is_halfway(tmp_path: Path) -> bool:
    return any(partial.stat().st_size > 10_000 for partial in cache_files(tmp_path, ".*.partial"))


def stopped_halfway(root: Path, tmp_path: Path) -> subprocess.Popen:
    """A process that decodes, stopped once it has written some pixels."""
    process = decoding(root)
    deadline = time.monotonic() + 60
    while not is_halfway(tmp_path):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGSTOP)
    return process


def call_when_waiting(monkeypatch, action) -> None:
    """Call `action` as soon as the decoder says that it waits for another process."""
    console = message_console()
    show = console.print

    def show_and_act(text: str, **options) -> None:
        show(text, **options)
        if "waiting for it" in text:
            action()

    monkeypatch.setattr(console, "print", show_and_act)


@pytest.mark.parametrize("is_killed", [False, True])
def test_while_a_process_decodes_another_waits_and_takes_over_if_that_one_dies(
    tmp_path, monkeypatch, capsys, large, is_killed
):
    other = stopped_halfway(large, tmp_path)
    call_when_waiting(monkeypatch, lambda: other.send_signal(signal.SIGKILL if is_killed else signal.SIGCONT))
    ours = prepared(large, size=64).decoded.record.row_digests
    theirs, _ = other.communicate(timeout=60)
    said = capsys.readouterr().err
    assert "another process is decoding these pictures; waiting for it" in said
    assert ("decoding 250 pictures" in said) == is_killed
    assert (other.returncode, theirs) == ((-9, "") if is_killed else (0, f"{ours}\n"))
    assert cache_files(tmp_path, ".*.partial") == []


def test_what_a_killed_process_leaves_is_neither_used_nor_kept(tmp_path, large):
    process = stopped_halfway(large, tmp_path)
    process.kill()
    process.communicate()
    assert cache_files(tmp_path) == []
    assert len(cache_files(tmp_path, ".*.partial")) == 1
    prepared(write_tree(tmp_path / "another"))
    assert cache_files(tmp_path, ".*.partial") == []
    assert (prepared(large, size=64).split("train").images.reshape(250, -1).std(0) == 0).all()


def test_ctrl_c_leaves_nothing_behind(tmp_path, large):
    process = stopped_halfway(large, tmp_path)
    assert len(cache_files(tmp_path, ".*.partial")) == 1
    for number in (signal.SIGINT, signal.SIGCONT):
        process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT and errors.rstrip().endswith("KeyboardInterrupt")
    assert {path.suffix for path in cache_files(tmp_path, "*")} <= {".TAG", ".lock"}


# ── Cases easily overlooked ───────────────────────────────────────────────────────────────────────────────


def test_pictures_of_equal_size_and_age_that_are_exchanged_are_read_again(tmp_path):
    root = tmp_path / "root"
    for folder, colour in (("cat", "red"), ("dog", "blue")):
        save(Image.new("RGB", (16, 16), colour), root / folder / "0.bmp")
        os.utime(root / folder / "0.bmp", (1e9, 1e9))
    assert prepared(root, size=16).split("train").images[0, :, 0, 0].tolist() == [255, 0, 0]
    (root / "cat" / "0.bmp").rename(root / "aside.bmp")
    (root / "dog" / "0.bmp").rename(root / "cat" / "0.bmp")
    (root / "aside.bmp").rename(root / "dog" / "0.bmp")
    assert prepared(root, size=16).split("train").images[0, :, 0, 0].tolist() == [0, 0, 255]


def test_ignored_files_are_warned_about_unless_they_are_notes(tmp_path, caplog):
    root = write_tree(tmp_path / "root")
    (root / "cat" / "notes.txt").write_text("black, mostly")
    prepared(root)
    assert "ignored" not in caplog.text
    (root / "fox").mkdir()
    for number in range(2):
        (root / "fox" / f"{number}.xyz").write_bytes(b"of a camera of tomorrow")
    prepared(root)
    assert "2 files of" in caplog.text and "are ignored" in caplog.text and "the first is fox/0.xyz" in caplog.text


def test_a_pipe_among_pictures_does_not_block(tmp_path):
    root = write_tree(tmp_path / "root")
    os.mkfifo(root / "cat" / "pipe.png")
    assert len(prepared(root).split("train")) == 6


def test_a_zip_with_backslashes_has_classes_and_an_encrypted_one_is_refused(tmp_path):
    root = write_tree(tmp_path / "root")
    with zipfile.ZipFile(tmp_path / "windows.zip", "w") as archive:
        for file in root.rglob("*.png"):
            archive.writestr(str(file.relative_to(root)).replace("/", "\\"), file.read_bytes())
    assert prepared(tmp_path / "windows.zip").class_names() == ("cat", "dog")
    locked = bytearray(zipped(write_tree(tmp_path / "other", "fox owl"), tmp_path / "locked.zip").read_bytes())
    place = locked.find(b"PK\x01\x02")
    while place >= 0:
        locked[place + 8] |= 1
        place = locked.find(b"PK\x01\x02", place + 1)
    (tmp_path / "locked.zip").write_bytes(locked)
    assert "the zip is encrypted; unpack it and set root to the folder" in refusal(tmp_path / "locked.zip")


# ── As a plugin ───────────────────────────────────────────────────────────────────────────────────────────


def test_it_conforms_and_has_a_manifest(tmp_path):
    root = write_tree(tmp_path / "root")
    assert_conforms("data", ImageFolder, settings={"root": str(root)})
    manifest = prepared(root).manifest()
    assert manifest["transform"] == {"size": 32, "channels": 3, "crop": "centre", "filter": "bicubic", "bits": 16}
    assert manifest["published"] is None
    assert manifest["files"].keys() == {str(root)}
    assert ImageFolder.summary().startswith("Your own pictures")
