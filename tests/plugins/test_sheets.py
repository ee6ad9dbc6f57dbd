"""Sheets of models that make images from images, and the other pictures and commands of such models."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.families import FAMILIES
from torch import Tensor

import ganrun
from ganrun import Factor, IncompatibleError, ModelSpec, Split, find_saved_model, to_uint8, to_unit_range
from ganrun.inference.given import GivenRecords
from ganrun.rehearsal.stand_in import StandIn
from ganrun.testing import registry_with, train
from ganrun_samples import making
from ganrun_samples.captions import Grid, captioned
from ganrun_samples.making import Maker
from ganrun_samples.sheets import _columns, image_fields, sheet
from ganrun_samples.target import Target

CPU = torch.device("cpu")
COUNT = 3
FAMILY = FAMILIES["pix2pix"]


def pixels(*shape: int, seed: int) -> Any:
    """uint8 `(3, *shape)`."""
    return np.random.default_rng(seed).integers(0, 256, (COUNT, *shape), dtype=np.uint8)


def model_of(shape: tuple[int, ...], paired: bool = True, **fields: Any) -> Any:
    """What a sheet asks of a model, whose latents hold these fields; it reads images as their negatives."""
    shapes = {name: array.shape[1:] for name, array in fields.items()}
    factors = tuple(Factor(name, int(np.prod(each)), "given") for name, each in shapes.items())
    readings = () if paired else ("encodings", "reconstructions")
    spec = ModelSpec(shape, 0, shapes, sum(each.size for each in factors), factors, readings, paired)
    data = StandIn(spec, lambda name: Split(pixels(*shape, seed=1), None, fields))

    def read(name: str, images: Tensor, beside: Any) -> Tensor:
        assert set(beside) == set(fields)
        return -images.flatten(1) if name == "encodings" else images / 2

    return SimpleNamespace(spec=spec, given=GivenRecords(data, spec, CPU), read=read)


def stored(model: Any, name: str) -> Tensor:
    """A field of the records that a sheet shows, uint8."""
    return to_uint8(model.given.rows(name, 0, COUNT))


def made_of(*shape: int) -> Tensor:
    """Samples."""
    return torch.from_numpy(pixels(*shape, seed=2))


def is_sheet(picture: Any, **columns: Tensor) -> bool:
    """Whether a picture shows these columns; what follows two underscores is no part of a title."""
    grids = [Grid(name.partition("__")[0].replace("_", " "), images, 1) for name, images in columns.items()]
    return np.array_equal(picture, captioned(grids))


def test_missing_parts_are_shown_on_the_source() -> None:
    mask = np.zeros((COUNT, 1, 16, 16), np.uint8)
    mask[:, :, 4:8, 2:12] = 255
    model = model_of((1, 16, 16), source=pixels(1, 16, 16, seed=0), mask=mask)
    made, source = made_of(1, 16, 16), stored(model, "source")
    squares = torch.tensor([255, 190], dtype=torch.uint8).repeat(8)
    for row in range(4, 8):
        source[:, 0, row, 2:12] = squares.roll(row)[2:12]
    assert is_sheet(sheet(model, made, 1), source=source, made=made, target=stored(model, "images"))


def test_a_small_source_is_enlarged_by_whole_pixels_and_by_bicubic_interpolation() -> None:
    model = model_of((3, 20, 16), source=pixels(3, 5, 4, seed=0) // 2 + 64)  # nothing is clipped
    columns = {column.title: column.images for column in _columns(model, made_of(3, 20, 16))}
    pillow = [Image.fromarray(each.permute(1, 2, 0).numpy()) for each in stored(model, "source")]
    expected = np.stack([np.asarray(each.resize((16, 20), Image.Resampling.BICUBIC)) for each in pillow])
    assert abs(columns["bicubic"].permute(0, 2, 3, 1).numpy().astype(int) - expected).max() <= 1
    columns["source"] = stored(model, "source").repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert is_sheet(sheet(model, made_of(3, 20, 16), 1), **columns) and next(iter(columns)) == "source"


def test_a_larger_source_keeps_its_pixels_and_odd_ratios_leave_a_margin() -> None:
    model, made = model_of((1, 6, 6), source=pixels(1, 15, 15, seed=0)), made_of(1, 6, 6)
    framed = {"made": made, "target": stored(model, "images")}
    for name, images in framed.items():
        framed[name] = torch.full((COUNT, 1, 15, 15), 255, dtype=torch.uint8)
        framed[name][:, :, 1:13, 1:13] = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert is_sheet(sheet(model, made, 1), source=stored(model, "source"), **framed)


def test_without_pairs_both_cycles_are_shown() -> None:
    model, made = model_of((1, 8, 8), paired=False, source=pixels(1, 8, 8, seed=0)), made_of(1, 8, 8)
    images = model.given.rows("images", 0, COUNT)
    there = {"source": stored(model, "source"), "made": made, "cycle": 255 - made, "image": to_uint8(images)}
    assert is_sheet(sheet(model, made, 1), **there, as_source=to_uint8(-images), cycle__of_images=to_uint8(images / 2))


def test_records_may_stand_side_by_side() -> None:
    model, made = model_of((1, 8, 8), source=pixels(1, 8, 8, seed=0)), made_of(1, 8, 8)
    columns = {"source": stored(model, "source"), "made": made, "target": stored(model, "images")}
    halves = {f"{name}__{rows}": each[rows] for rows in (slice(2), slice(2, 3)) for name, each in columns.items()}
    assert is_sheet(sheet(model, made, across=2), **halves)
    assert image_fields(ModelSpec((1, 8, 8), fields={"grey": (1,)}, factors=(Factor("grey", 1, "given"),))) == []


# ── A run ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ganrun.Run:
    tables = {**FAMILY.recipe(steps=2), "samples": {}, "checkpoints": {}}
    return train(tables, tmp_path_factory.mktemp("runs") / "run", *FAMILY.plugins)


@pytest.fixture
def maker(run: ganrun.Run, monkeypatch: pytest.MonkeyPatch) -> Maker:
    registry = registry_with(*FAMILY.plugins)
    monkeypatch.setattr(making, "find_saved_model", lambda path: find_saved_model(path, registry))
    return Maker(str(run.directory.path), "cpu")


def test_a_run_draws_sheets_and_only_pictures_that_make_sense(run: ganrun.Run) -> None:
    drawn = np.asarray(Image.open(run.directory / "samples/step_00000002.png"))
    assert np.array_equal(drawn, sheet(run.model, run.model.decode(run.model.fixed_latents(8)), 1))
    assert {"samples", "real-and-generated", "neighbours", "curves", "time-lapse"} <= run.last_files.keys()
    assert not {"interpolation", "traversal", "reconstructions"} & run.last_files.keys()


def test_a_folder_of_samples_holds_them_alone_and_each_record_once(
    run: ganrun.Run, maker: Maker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    maker.sample(Target(tmp_path / "folder"), 400, None, None)
    assert "the data has 360 records to make samples of, so there are not 400" in caplog.text
    found = np.stack([np.asarray(Image.open(path)) for path in sorted((tmp_path / "folder").iterdir())])
    assert np.array_equal(found, to_uint8(run.model.sample(360))[:, 0].numpy())
    maker.sample(Target(tmp_path / "one.png"), 20, 2, None)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "one.png")), sheet(run.model, run.model.sample(20), 2))


def test_records_are_not_blended(maker: Maker, tmp_path: Path) -> None:
    with pytest.raises(IncompatibleError, match="which cannot be interpolated"):
        maker.interpolate(Target(tmp_path / "one.png"), 3, 5, None, None)


def test_readings_get_the_fields_of_the_records(
    run: ganrun.Run, maker: Maker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model, seen = maker._model, []

    def read(name: str, images: Tensor, beside: Any) -> Tensor:
        seen.append((images, beside["source"]))
        return images

    spec = ganrun.ModelSpec(**{**vars(model.spec), "readings": ("reconstructions",)})
    monkeypatch.setattr(maker, "_model", SimpleNamespace(spec=spec, read=read))
    maker.reconstruct(Target(tmp_path / "one.png"), 300, None, "train")
    split = run.data.split("train")
    images, sources = (torch.cat(each) for each in zip(*seen, strict=True))
    assert len(seen) == 2 and len(images) == 300
    sources_of = {image.tobytes(): split.beside["source"][row] for row, image in enumerate(split.images)}
    for image, source in zip(images, sources, strict=True):
        assert torch.equal(source, to_unit_range(torch.from_numpy(sources_of[to_uint8(image).numpy().tobytes()])))
