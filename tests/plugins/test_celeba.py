"""CelebA in every layout in use, cropped as the papers crop it, and an error for every kind of damage."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError
from torchvision import datasets
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from ganrun import DataError
from ganrun.testing import assert_conforms
from ganrun_datasets.celeba import faces
from ganrun_datasets.celeba.data import Celeba
from ganrun_datasets.celeba.files import ATTRIBUTES, PAGE, PARTITION, PUBLISHED

NUMBERS = (1, 2, 162_770, 162_771, 182_637, 182_638, 202_599)
COLUMNS = "Bald Eyeglasses Smiling"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GANRUN_CACHE", str(tmp_path / "cache"))


def face(number: int, size: tuple[int, int] = (178, 218)) -> bytes:
    noise = np.random.default_rng(number).integers(0, 256, (20, 16, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_faces(folder: Path, numbers: Iterable[int] = NUMBERS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / f"{number:06d}.jpg").write_bytes(face(number))
    return folder


def write_zip(folder: Path, numbers: Iterable[int] = NUMBERS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as archive:
        archive.mkdir("img_align_celeba")
        for number in numbers:
            archive.writestr(f"img_align_celeba/{number:06d}.jpg", face(number))
    return folder / "img_align_celeba.zip"


def write_attributes(folder: Path, numbers: Iterable[int] = NUMBERS) -> Path:
    """In the published format: those of even numbers smile."""
    rows = [f"{number:06d}.jpg -1  1 {' 1' if number % 2 == 0 else '-1'}" for number in numbers]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ATTRIBUTES).write_text("\n".join([str(len(rows)), f"{COLUMNS} ", *rows, ""]))
    return folder / ATTRIBUTES


def data(root: Path | None = None, **chosen) -> Celeba:
    return Celeba(Celeba.Settings(root=None if root is None else str(root), **chosen))


def prepared(root: Path | None = None, **chosen) -> Celeba:
    found = data(root, **chosen)
    found.prepare()
    return found


def refusal(root: Path | None = None, **chosen) -> str:
    with pytest.raises(DataError) as caught:
        prepared(root, **chosen)
    return str(caught.value)


# ── Pixels ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [32, 64, 128, 178])
@pytest.mark.parametrize("crop", [178, 160, 141, 140, 109, 108, 107])
def test_pixels_are_torchvisions_center_crop_and_resize(tmp_path, crop, size):
    root = write_faces(tmp_path / "faces", [1, 2])
    transform = Compose([CenterCrop(crop), Resize(size, InterpolationMode.BILINEAR, antialias=True)])
    expected = [np.asarray(transform(Image.open(path))).transpose(2, 0, 1) for path in sorted(root.iterdir())]
    assert np.array_equal(prepared(root, crop=crop, size=size).split("train").images, expected)


def test_progressive_gans_crop_is_128_around_89_121(tmp_path):
    root = write_faces(tmp_path / "faces", [1])
    whole = np.asarray(Image.open(root / "000001.jpg"))
    row = prepared(root, crop=128, crop_centre=(89, 121), size=128).split("train").images[0]
    assert np.array_equal(row, whole[121 - 64 : 121 + 64, 89 - 64 : 89 + 64].transpose(2, 0, 1))


def test_a_crop_beyond_the_picture_is_refused():
    with pytest.raises(ValidationError, match=r"goes from 1, 32 to 179, 210"):
        Celeba.Settings(crop=178, crop_centre=(90, 121))
    with pytest.raises(ValidationError, match="beyond the picture's 178×218"):
        Celeba.Settings(crop=128, crop_centre=(89, 155))


# ── Layouts ───────────────────────────────────────────────────────────────────────────────────────────────

LAYOUTS = {
    "torchvision's root": ("celeba/img_align_celeba", False, "celeba"),
    "the folder with all": ("img_align_celeba", False, ""),
    "a folder within its like": ("img_align_celeba/img_align_celeba", False, ""),
    "a flat folder": ("", False, ""),
    "the zip beside the tables": ("", True, ""),
    "the zip below torchvision's root": ("celeba", True, "celeba"),
    "the page's own folders": ("Img", True, "Anno"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same(tmp_path, layout):
    pictures, is_zip, tables = LAYOUTS[layout]
    root = tmp_path / "root"
    (write_zip if is_zip else write_faces)(root / pictures)
    write_attributes(root / tables)
    found = prepared(root, attribute="Smiling")
    assert found.split("train").labels.tolist() == [number % 2 == 0 for number in NUMBERS]
    assert found.class_names() == ("not Smiling", "Smiling")
    assert found.locate().exists()
    flat = write_faces(tmp_path / "flat")
    assert np.array_equal(found.split("train").images, prepared(flat).split("train").images)


def test_root_may_be_the_zip_and_a_whole_zip_goes_before_a_folder(tmp_path):
    archive = write_zip(tmp_path)
    write_faces(tmp_path / "img_align_celeba", [1])
    assert len(prepared(archive).split("train")) == len(prepared(tmp_path).split("train")) == len(NUMBERS)
    archive.write_bytes(archive.read_bytes()[:-100])
    assert len(prepared(tmp_path).split("train")) == 1


@pytest.mark.parametrize("place", ["given/celeba", "here/data/celeba", "cache/data/celeba"])
def test_the_usual_places_are_searched(tmp_path, monkeypatch, place):
    write_zip(tmp_path / place)
    (tmp_path / "here").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("GANRUN_DATA", str(tmp_path / "given"))
    assert len(prepared().split("train")) == len(NUMBERS)


def test_absent_files_give_the_steps_and_nothing_is_fetched(tmp_path):
    found = data(tmp_path / "nowhere", attribute="Smiling")
    assert (found.spec().sample_shape, found.spec().classes) == ((3, 64, 64), 2)
    for ask in (found.locate, found.fetch, found.prepare):
        with pytest.raises(DataError) as caught:
            ask()
        steps = [PAGE, "Img/img_align_celeba.zip", "you to agree to their terms", f"Anno/{ATTRIBUTES}"]
        for step in (*steps, f"Eval/{PARTITION}", str(tmp_path / "nowhere")):
            assert step in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda whole: whole[: len(whole) // 2], "is truncated or damaged: it has"),
        (lambda whole: b"<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title>", "is a web page"),
        (lambda whole: b"", "is empty"),
    ],
)
def test_a_damaged_zip_is_diagnosed(tmp_path, damage, reason):
    archive = write_zip(tmp_path)
    archive.write_bytes(damage(archive.read_bytes()))
    text = refusal(tmp_path)
    assert f"{archive} {reason}" in text
    assert "the published img_align_celeba.zip has about 1.44 GB" in text
    assert PAGE in text


# ── Pictures ──────────────────────────────────────────────────────────────────────────────────────────────


def test_missing_and_foreign_pictures_are_warned_about(tmp_path, caplog):
    root = write_faces(tmp_path / "faces", range(1, 6))
    for name in ("202600.jpg", "000000.jpg", "7.jpg", "000007.png"):
        (root / name).write_bytes(face(0))
    (root / "readme.txt").write_text("no picture")
    assert len(prepared(root).split("train")) == 5
    assert "has 5 of CelebA's 202,599 pictures: enough for a trial, not for published scores" in caplog.text
    assert "the first missing one is 000006.jpg" in caplog.text
    assert "also has 4 other pictures, which are ignored; the first is 000000.jpg" in caplog.text


def test_other_pictures_are_not_accepted_as_celeba(tmp_path):
    root = write_faces(tmp_path / "faces", [1, 2])
    (root / "000002.jpg").write_bytes(face(2, (100, 120)))
    assert "000002.jpg is 100×120 pixels, not 178×218: this is not the aligned set" in refusal(root, unreadable="skip")
    (tmp_path / "img_align_celeba.zip").write_bytes(zip_of({"cat.jpg": face(1)}))
    assert "has none of 000001.jpg to 202599.jpg, but 1 with other names, such as cat.jpg" in refusal(tmp_path)


def zip_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def test_damaged_pictures_are_refused_or_skipped_in_labels_and_counts(tmp_path):
    root = write_faces(tmp_path / "faces")
    write_attributes(root)
    Image.open(root / "000002.jpg").save(root / "000002.jpg", "PNG")
    (root / "162771.jpg").write_bytes(face(3)[:-1])
    text = refusal(root, attribute="Smiling")
    assert "2 of 7 pictures cannot be read" in text
    assert "000002.jpg: it is not a JPEG file" in text
    found = prepared(root, attribute="Smiling", unreadable="skip", train_on="train")
    assert found.split("train").labels.tolist() == [0, 1]
    assert found.split("test").labels.tolist() == [1, 0]
    assert found.manifest()["skipped"] == 2
    assert found.manifest()["counts"] == {"train": 2, "test": 2}


# ── Labels and splits ─────────────────────────────────────────────────────────────────────────────────────


def test_the_published_split_is_by_number_or_by_the_file(tmp_path, capsys):
    root = write_faces(tmp_path / "faces")
    whole = prepared(root)
    with pytest.raises(DataError, match='no split "test"; it has train'):
        whole.split("test")
    found = prepared(root, train_on="train")
    assert np.array_equal(found.split("train").images, whole.split("train").images[:3])
    assert np.array_equal(found.split("test").images, whole.split("train").images[5:])
    assert capsys.readouterr().err.count("decoding") == 1, "both share what was decoded"
    assert found.fingerprint() != whole.fingerprint()
    rows = [f"{number:06d}.jpg {part}" for number, part in zip(NUMBERS, (2, 1, 0, 0, 2, 1, 0), strict=True)]
    (root / PARTITION).write_text("\n".join(rows) + "\n")
    found = prepared(root, train_on="train")
    assert np.array_equal(found.split("train").images, whole.split("train").images[[2, 3, 6]])
    assert np.array_equal(found.split("test").images, whole.split("train").images[[0, 4]])


@pytest.mark.parametrize("separator", [",", ", ", " "])
@pytest.mark.parametrize("absent", ["-1", "0"])
def test_the_lists_may_be_comma_separated_with_a_heading(tmp_path, separator, absent):
    root = write_faces(tmp_path / "img_align_celeba/img_align_celeba").parent.parent
    names = separator.join(["image_id", *COLUMNS.split()])
    rows = [separator.join([f"{n:06d}.jpg", absent, "1", "1" if n % 2 == 0 else absent]) for n in NUMBERS]
    (root / "list_attr_celeba.csv").write_text("\ufeff" + "\r\n".join([names, *rows, ""]), encoding="utf-8")
    parts = [
        separator.join([f"{n:06d}.jpg", str(part)]) for n, part in zip(NUMBERS, (2, 1, 0, 0, 2, 1, 0), strict=True)
    ]
    (root / "list_eval_partition.csv").write_text("\n".join([separator.join(["image_id", "partition"]), *parts]))
    found = prepared(root, train_on="train", attribute="Smiling")
    assert found.split("train").labels.tolist() == [int(NUMBERS[row] % 2 == 0) for row in (2, 3, 6)]
    assert found.split("test").labels.tolist() == [int(NUMBERS[row] % 2 == 0) for row in (0, 4)]
    write_attributes(tmp_path / "plain")
    same = prepared(write_faces(tmp_path / "plain"), attribute="Smiling")
    assert np.array_equal(prepared(root, attribute="Smiling").split("train").labels, same.split("train").labels)


def test_a_trial_set_without_test_pictures_has_no_test_split(tmp_path):
    found = prepared(write_faces(tmp_path / "faces", range(1, 4)), train_on="train")
    assert found.manifest()["counts"] == {"train": 3}
    only_test = write_faces(tmp_path / "others", [202_000])
    assert "no picture of the published training split" in refusal(only_test, train_on="train")


def test_an_unknown_attribute_gets_a_suggestion():
    with pytest.raises(ValidationError, match='did you mean "Smiling"'):
        Celeba.Settings(attribute="smilling")
    with pytest.raises(ValidationError, match="it has 5_o_Clock_Shadow, Arched_Eyebrows"):
        Celeba.Settings(attribute="???")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: "<!doctype html><p>quota", "is a web page"),
        (lambda text: "", "has no column Smiling in the line above the pictures"),
        (lambda text: text.replace(" Smiling", " Frowning"), "has no column Smiling"),
        (lambda text: text.replace("000002.jpg -1  1  1", "000002.jpg -1  1  x"), r"list_attr_celeba.txt:4 is damaged"),
        (lambda text: text.replace("000002.jpg -1  1  1", "000002.jpg -1"), r"list_attr_celeba.txt:4 is damaged"),
        (lambda text: text.replace("000002.jpg -1  1  1\n", ""), "has no line for 000002.jpg"),
    ],
)
def test_a_damaged_list_is_reported_with_its_line(tmp_path, change, reason):
    root = write_faces(tmp_path / "faces", [1, 2, 3])
    table = write_attributes(root, [1, 2, 3])
    table.write_text(change(table.read_text()))
    with pytest.raises(DataError, match=reason):
        prepared(root, attribute="Smiling")


def test_an_absent_list_is_reported(tmp_path):
    root = write_faces(tmp_path / "faces", [1])
    assert f"needs {ATTRIBUTES}, which is not with {root}" in refusal(root, attribute="Smiling")


# ── Manifest and contract ─────────────────────────────────────────────────────────────────────────────────


def test_the_manifest_says_whether_the_files_are_published(tmp_path, monkeypatch):
    archive, table = write_zip(tmp_path / "zip"), write_attributes(tmp_path / "zip")
    sums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in (archive, table)}
    manifest = prepared(archive.parent, attribute="Smiling", train_on="train").manifest()
    assert (manifest["files"], manifest["published"]) == (sums, False)
    assert manifest["transform"] == {"size": 64, "crop": 178, "crop_centre": [89, 109], "filter": "bilinear"}
    assert manifest["attribute"] == "Smiling"
    assert manifest["counts"] == {"train": 3, "test": 2}
    for name, md5 in sums.items():
        monkeypatch.setitem(PUBLISHED, name, md5)
    assert prepared(archive.parent, attribute="Smiling").manifest()["published"] is True
    table.write_text(table.read_text() + "\n")
    assert prepared(archive.parent, attribute="Smiling").manifest()["published"] is False
    assert prepared(archive.parent).manifest()["published"] is True


def test_the_published_checksums_are_those_that_torchvision_compares():
    assert PUBLISHED.items() <= {name: md5 for _, md5, name in datasets.CelebA.file_list}.items()


def test_a_complete_folder_is_neither_known_to_be_published_nor_to_be_foreign(tmp_path, monkeypatch):
    root = write_faces(tmp_path / "faces", [1, 2, 3])
    assert prepared(root).manifest()["published"] is False
    monkeypatch.setattr(faces, "COUNT", 3)
    assert prepared(root).manifest()["published"] is None


def test_it_conforms(tmp_path):
    root = write_faces(tmp_path / "faces")
    write_attributes(root)
    assert_conforms(
        "data", Celeba, settings={"root": str(root), "attribute": "Smiling", "crop_centre": [89, 121], "crop": 128}
    )
    assert Celeba.summary().startswith("CelebA: 202,599 faces")
