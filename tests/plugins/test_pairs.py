"""Pairs of pictures in folders: every layout gives the same records, and what does not match is refused by name."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tomli_w
from click.testing import CliRunner
from PIL import ExifTags, Image

from ganrun import Data, DataError
from ganrun.cli import main
from ganrun.testing import assert_conforms
from ganrun_datasets.pairs.paired import PairedFolders
from ganrun_datasets.pairs.unpaired import UnpairedFolders

COUNTS = {"train": 4, "test": 2}
SIZE = 8


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANRUN_CACHE", str(tmp_path / "cache"))


def pixels(side: str, split: str, number: int, size: int = SIZE) -> npt.NDArray[np.uint8]:
    """A picture `(size, size, 3)`: all are different."""
    return np.random.default_rng([ord(side), ord(split[1]), number]).integers(0, 256, (size, size, 3), np.uint8)


def save(path: Path, picture: npt.NDArray[Any], **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, **options)


def write(root: Path, pattern: str, splits: Mapping[str, str] = {"train": "train", "test": "test"}) -> Path:
    """Pictures of both sides, such as by `{split}{side}/{number}.png`."""
    for split, side in product(splits, "AB"):
        for number in range(COUNTS[split]):
            name = pattern.format(split=splits[split], side=side, number=number)
            save(root / name, pixels(side, split, number))
    return root


def write_halves(root: Path, folders: Mapping[str, str]) -> Path:
    for split, folder in folders.items():
        for number in range(COUNTS[split]):
            both = [pixels(side, split, number) for side in "AB"]
            save(root / folder / f"{number}.png", np.concatenate(both, 1))
    return root


def read(kind: type[Data], root: Path, **settings: Any) -> Any:
    data = kind(kind.Settings(root=str(root), **{"size": SIZE, **settings}))
    data.prepare()
    return data


def paired(root: Path, **settings: Any) -> Any:
    return read(PairedFolders, root, **{"layout": "folders", **settings})


def expected(side: str, split: str) -> npt.NDArray[np.uint8]:
    return np.stack([pixels(side, split, number).transpose(2, 0, 1) for number in range(COUNTS[split])])


def assert_pairs(data: Any, splits: tuple[str, ...] = ("train", "test"), source: str = "A", image: str = "B") -> None:
    for name in splits:
        split = data.split(name)
        assert np.array_equal(split.images, expected(image, name))
        assert np.array_equal(split.beside["source"], expected(source, name))


# ── Layouts ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "pattern",
    [
        "{split}{side}/{number}.png",
        "{split}_{side}/deeper/{number}.png",
        "{split}/{side}/{number}.png",
        "{side}/{split}/{number}.png",
        "around/all/{side}/{split}/{number}.png",
    ],
)
def test_every_layout_of_two_folders_gives_the_same_records(tmp_path: Path, pattern: str) -> None:
    root = write(tmp_path / "pairs", pattern)
    data = paired(root)
    assert_pairs(data)
    assert_pairs(paired(root, direction="b-to-a"), source="B", image="A")
    assert data.spec().fields == {"source": (3, SIZE, SIZE)} and data.class_names() == ()
    unpaired = read(UnpairedFolders, root)
    assert_pairs(unpaired)
    assert unpaired.fingerprint() == data.fingerprint() and unpaired.manifest()["sources"] == COUNTS


def test_folders_without_splits_or_of_other_names(tmp_path: Path) -> None:
    root = write(tmp_path / "pairs", "{side}/{number}.png", {"train": ""})
    assert_pairs(paired(root), ("train",))
    with pytest.raises(DataError, match="has no split"):
        paired(root).split("test")
    for side, name in (("A", "Photo"), ("B", "sketch")):
        (root / side).rename(root / name)
    assert_pairs(paired(root, sides=("photo", "Sketch")), ("train",))


def test_the_first_of_several_test_splits_is_used_and_the_rest_counted(tmp_path: Path) -> None:
    root = write(tmp_path / "pairs", "{split}{side}/{number}.png")
    save(root / "valA/1.png", pixels("A", "test", 9))
    save(root / "notes/1.png", pixels("A", "test", 9))
    data = paired(root)
    assert_pairs(data)
    assert data.manifest()["unused"] == 2


@pytest.mark.parametrize("folders", [{"train": "train", "test": "val"}, {"train": "."}])
def test_halves_of_one_picture(tmp_path: Path, folders: Mapping[str, str]) -> None:
    root = write_halves(tmp_path / "halves", folders)
    assert_pairs(read(PairedFolders, root), tuple(folders))
    assert_pairs(read(PairedFolders, root, direction="b-to-a"), tuple(folders), source="B", image="A")
    assert_conforms("data", PairedFolders, {"root": str(root), "size": 16, "source_channels": 1, "crop": "none"})


def test_a_zip_is_read_in_place(tmp_path: Path) -> None:
    root = write(tmp_path / "pairs", "{split}{side}/{number}.png")
    with zipfile.ZipFile(tmp_path / "pairs.zip", "w") as archive:
        for path in root.rglob("*.png"):
            archive.write(path, Path("pairs") / path.relative_to(root))
    assert_pairs(paired(tmp_path / "pairs.zip"))
    assert_pairs(read(UnpairedFolders, tmp_path / "pairs.zip"))


def test_both_of_a_pair_are_transformed_alike(tmp_path: Path) -> None:
    """Turned by EXIF, cropped to the middle, resized; and equal files are equal pixels."""
    wide = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for side in "AB":
        save(tmp_path / side / "1.jpg", wide, exif=exif)
        save(tmp_path / side / "2.png", np.concatenate([wide, wide[..., :1]], 2))
        save(tmp_path / side / "3.png", wide[..., 0].astype(np.uint16) * 257)
    split = paired(tmp_path, filter="lanczos", size=10).split("train")
    assert np.array_equal(split.images, split.beside["source"]) and len(split) == 3
    larger = paired(tmp_path, source_size=20, source_channels=1).split("train")
    assert larger.beside["source"].shape == (3, 1, 20, 20) and larger.images.shape == (3, 3, SIZE, SIZE)


def test_unpaired_sides_may_have_different_counts(tmp_path: Path) -> None:
    root = write(tmp_path / "sets", "{split}{side}/{number}.png")
    (root / "trainB/3.png").unlink()
    (root / "testA/0.png").unlink()
    data = read(UnpairedFolders, root)
    split = data.split("train")
    assert np.array_equal(split.images, expected("B", "train")[:3])
    assert np.array_equal(split.beside["source"], expected("A", "train"))
    assert np.array_equal(data.split("test").beside["source"], expected("A", "test")[1:])
    assert_conforms("data", UnpairedFolders, {"root": str(root), "size": SIZE})
    print_before = data.fingerprint()
    save(root / "trainA/3.png", pixels("A", "train", 9))
    assert read(UnpairedFolders, root).fingerprint() != print_before, "sources are a part of the data"


# ── Bad input ─────────────────────────────────────────────────────────────────────────────────────────────


def refused(data: Any, root: Path, **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        data(root, **settings)
    return str(caught.value)


def unpaired(root: Path, **settings: Any) -> Any:
    return read(UnpairedFolders, root, **settings)


def test_pictures_without_a_partner_are_listed(tmp_path: Path) -> None:
    root = write(tmp_path / "pairs", "{split}{side}/{number}.png")
    (root / "trainB/1.png").rename(root / "trainB/one.png")
    for number in range(4, 12):
        save(root / f"testA/{number}.png", pixels("A", "test", number))
    assert refused(paired, root).splitlines() == [
        "pictures do not match:",
        "  train: 1 of 4 of A have no partner in B: trainA/1.png",
        "  train: 1 of 4 of B have no partner in A: trainB/one.png",
        "  test: 8 of 10 of A have no partner in B: testA/10.png, testA/11.png, testA/4.png, testA/5.png, testA/6.png"
        " and 3 more",
        "both of a pair have the same name, but for the ending; rename them, or remove what has no partner",
    ]
    unpaired(root)
    save(root / "trainA/2.bmp", pixels("A", "train", 2))
    assert "trainA/2.bmp and trainA/2.png differ in their endings alone" in refused(paired, root)


@pytest.mark.parametrize("data", [paired, unpaired])
def test_a_side_that_is_missing_or_empty_is_named(tmp_path: Path, data: Any) -> None:
    root = write(tmp_path / "pairs", "{split}{side}/{number}.png")
    shutil.rmtree(root / "testB")
    assert "there are no pictures of B for test, only of the other side; the folders are trainA and" in refused(
        data, root
    )
    shutil.rmtree(root / "testA")
    shutil.rmtree(root / "trainA")
    assert "there are no pictures of A for train" in refused(data, root)
    (root / "trainB").rename(root / "zebras")
    assert "has no folders of two sides, only" in refused(data, root)
    shutil.rmtree(root / "zebras")
    assert "holds no pictures" in refused(data, root)
    shutil.rmtree(root)
    assert "there is no" in refused(data, root)


def test_splits_beside_pictures_in_none_are_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "pairs", "{side}/{split}/{number}.png")
    save(root / "A/1.png", pixels("A", "train", 1))
    assert "in folders of splits (test, train), some in none" in refused(paired, root)


def test_pairs_of_different_sizes_are_refused_unless_they_are_stretched(tmp_path: Path) -> None:
    root = write(tmp_path / "pairs", "{split}{side}/{number}.png")
    save(root / "trainB/2.png", pixels("B", "train", 2, 16))
    text = refused(paired, root)
    assert "1 of 6 pairs have pictures of different sizes:\n  trainB/2.png 16×16, trainA/2.png 8×8\n" in text
    assert 'crop = "none"' in text and refused(paired, root) == text, "also where they are in the cache"
    assert len(paired(root, crop="none").split("train")) == 4
    assert "16×16 pixels, not 8×8" in refused(paired, root, crop="exact")
    small = paired(write(tmp_path / "small", "{split}{side}/{number}.png"), crop="exact", filter="box")
    assert_pairs(small)


def test_an_odd_width_has_no_halves(tmp_path: Path) -> None:
    root = write_halves(tmp_path / "halves", {"train": "train"})
    save(root / "train/9.png", np.zeros((8, 15, 3), np.uint8))
    with pytest.raises(DataError, match=r"1 of 5 .*\n  train/9.png: it is 15×8 pixels, and an odd width"):
        read(PairedFolders, root)
    data = read(PairedFolders, root, unreadable="skip")
    assert_pairs(data, ("train",))


def test_a_damaged_picture_is_named_or_skipped_with_its_partner(tmp_path: Path) -> None:
    root = write(tmp_path / "pairs", "{split}{side}/{number}.png")
    (root / "trainA/1.png").write_bytes(b"damaged")
    (root / "testB/0.png").write_bytes(b"damaged")
    assert "testB/0.png: it is not a picture" in refused(paired, root)
    data = paired(root, unreadable="skip")
    kept = data.split("train")
    assert np.array_equal(kept.images, expected("B", "train")[[0, 2, 3]])
    assert np.array_equal(kept.beside["source"], expected("A", "train")[[0, 2, 3]])
    assert len(data.split("test")) == 1 and data.manifest()["skipped"] == {"images": 1, "source": 1}
    whole = paired(write(tmp_path / "whole", "{split}{side}/{number}.png"))
    assert data.fingerprint() != whole.fingerprint()
    (root / "testB/1.png").write_bytes(b"damaged")
    assert "no picture of the test split can be read" in refused(paired, root, unreadable="skip")
    assert "no picture of the test split" in refused(unpaired, root, unreadable="skip")


def test_grey_sources_say_which_setting_to_change(tmp_path: Path) -> None:
    root = write(tmp_path / "pairs", "{split}{side}/{number}.png")
    for path in root.glob("*A/*.png"):
        Image.open(path).convert("L").save(path)
    assert "all 6 pictures are grey; set source_channels = 1" in refused(paired, root)
    assert paired(root, source_channels=1).spec().fields == {"source": (1, SIZE, SIZE)}


def test_a_loss_that_learns_from_pairs_refuses_unpaired_data_at_its_line(tmp_path: Path) -> None:
    root = write(tmp_path / "sets", "{split}{side}/{number}.png")
    recipe = {
        "train": {"steps": 1, "batch_size": 2, "device": "cpu"},
        "data": {"use": "unpaired-folders", "root": str(root), "size": SIZE},
        "loss": {"use": "gan", "latent_size": 2},
        **{slot: {"use": "mlp", "hidden": [2]} for slot in ("generator", "discriminator")},
        **dict.fromkeys(("samples", "progress", "mlflow"), False),
    }
    path = tmp_path / "run.toml"
    path.write_text(tomli_w.dumps(recipe))
    result = CliRunner().invoke(main, ["check", str(path)])
    line = path.read_text().splitlines().index("[data]") + 1
    assert result.exit_code == 2 and f"{path}:{line}: [data] unpaired-folders" in result.output, result.output
    assert "its images and their source are not pairs" in result.output
    path.write_text(path.read_text().replace("unpaired-folders", "paired-folders"))
    assert CliRunner().invoke(main, ["check", str(path)]).exit_code == 0
