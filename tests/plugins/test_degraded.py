"""Degraded images against independent references: the same for ever, each record by itself, computed once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch.nn import functional

from ganrun import Data, DataSpec, GanrunError, RequestError, RunDirectory, Split, hookimpl, unknown_split
from ganrun.cli import main
from ganrun.commands.data import _row
from ganrun.discovery.made_with import MadeWith
from ganrun.recipe.handed_out import handed_out
from ganrun.testing import assert_conforms, build, registry_with, train
from ganrun_datasets.degraded import data as degraded
from ganrun_datasets.degraded.data import Degraded

Pixels = npt.NDArray[np.uint8]


class Album(Data):
    """Noisy gradients in colour: 20 to train on, 8 to test."""

    def __init__(self, spec: DataSpec | None = None, change: Callable[[Pixels], Any] = lambda images: images) -> None:
        super().__init__(None)
        self._spec = spec or DataSpec((3, 16, 24), classes=2)
        self._change = change

    def spec(self) -> DataSpec:
        return self._spec

    def prepare(self) -> None:
        pass

    def split(self, name: str) -> Split:
        if name not in ("train", "test"):
            raise unknown_split(name, ("train", "test"))
        count, seed = (20, 0) if name == "train" else (8, 1)
        shape = (count, *self._spec.sample_shape)
        noise = (np.arange(math.prod(shape)).reshape(shape) * 2_654_435_761 + seed) % 2**32 % 90
        images = (noise + np.arange(self._spec.sample_shape[-1]) * 7 % 166).astype(np.uint8)
        labels = np.arange(count, dtype=np.int64) % 2
        fields = {name: np.zeros((count, *shape), np.uint8) for name, shape in self._spec.fields.items()}
        return Split(self._change(images), labels if self._spec.classes else None, fields)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANRUN_CACHE", str(tmp_path / "cache"))


def made(of: Data | None = None, **settings: Any) -> Degraded:
    data = Degraded(Degraded.Settings(of="album", **settings), of=of or Album())
    data.prepare()
    return data


def source(split: str = "train", **settings: Any) -> tuple[Pixels, Pixels]:
    """Images, and what is left of them."""
    found = made(**settings).split(split)
    return found.images, np.asarray(found.beside["source"])


# ── Each degradation against a reference ──────────────────────────────────────────────────────────────────


def test_grey_is_pillows_luma() -> None:
    images, found = source(grey=True)
    pictures = [Image.fromarray(image.transpose(1, 2, 0)).convert("L") for image in images]
    assert np.array_equal(found[:, 0], np.stack([np.asarray(picture) for picture in pictures]))


@pytest.mark.parametrize("sigma", [0.6, 2.0, 5.0])
def test_a_blur_is_a_convolution_with_a_gaussian(sigma: float) -> None:
    images, found = source(blur=sigma)
    radius = math.ceil(4 * sigma)
    places = torch.arange(-radius, radius + 1, dtype=torch.float64)
    line = (-places.square() / (2 * sigma**2)).exp()
    kernel = torch.outer(line, line) / line.sum() ** 2
    padded = functional.pad(torch.from_numpy(images).double(), [radius] * 4, mode="replicate")
    exact = functional.conv2d(padded.flatten(0, 1)[:, None], kernel[None, None]).reshape(images.shape)
    difference = np.abs(found - exact.numpy())
    assert difference.max() < 0.51, "rounding, and nothing else"


@pytest.mark.parametrize("smallest", [5e-324, 1e-200, 1e-3])
def test_blur_and_noise_of_next_to_nothing_change_nothing(smallest: float) -> None:
    images, found = source(blur=smallest, noise=smallest)
    assert np.array_equal(found, images)


@pytest.mark.parametrize(("factor", "by"), [(2, "box"), (4, "bicubic"), (8, "lanczos"), (2, "bilinear")])
def test_a_smaller_source_is_pillows(factor: int, by: str) -> None:
    images, found = source(downsample=factor, filter=by)
    for image, small in zip(images, found, strict=True):
        picture = Image.fromarray(image.transpose(1, 2, 0))
        expected = picture.resize((24 // factor, 16 // factor), Image.Resampling[by.upper()])
        assert np.array_equal(small.transpose(1, 2, 0), np.asarray(expected))


@pytest.mark.parametrize("sigma", [0.3, 25.0])
def test_noise_is_a_rounded_normal_distribution(sigma: float) -> None:
    flat = Album(DataSpec((1, 64, 64)), lambda images: np.full_like(images, 128))
    noise = np.asarray(made(flat, noise=sigma).split("train").beside["source"]).astype(int) - 128
    levels, count = np.arange(-127, 128), noise.size

    def below(level: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.array([math.erf(each / sigma / math.sqrt(2)) for each in level]) / 2

    expected = count * (below(levels + 0.5) - below(levels - 0.5))
    found = np.bincount((noise + 127).ravel(), minlength=len(levels))
    usual = expected > 5
    chi_squared = ((found - expected)[usual] ** 2 / expected[usual]).sum()
    freedom = usual.sum() - 1
    assert abs(chi_squared - freedom) < 5 * math.sqrt(2 * freedom), "five standard deviations"
    assert abs(np.corrcoef(noise[:, 0, :, 1:].ravel(), noise[:, 0, :, :-1].ravel())[0, 1]) < 0.02


def test_a_sum_beyond_the_range_is_clipped() -> None:
    white = Album(DataSpec((1, 16, 16)), lambda images: np.full_like(images, 250))
    found = np.asarray(made(white, noise=100.0).split("train").beside["source"])
    assert found.max() == 255 and 0.45 < (found == 255).mean() < 0.55 and found.min() == 0


@pytest.mark.parametrize("kind", ["centre", "random", "blocks"])
def test_missing_pixels_are_grey_and_the_mask_says_where(kind: str) -> None:
    split = made(mask=kind).split("train")
    found, mask = split.beside["source"], split.beside["mask"]
    assert mask.shape == (20, 1, 16, 24) and set(np.unique(mask)) == {0, 255}
    missing = np.broadcast_to(mask == 255, found.shape)
    assert (found[missing] == 128).all() and np.array_equal(found[~missing], split.images[~missing])
    rows, columns = (mask[:, 0] > 0).any(2).sum(1), (mask[:, 0] > 0).any(1).sum(1)
    share = (mask > 0).mean((1, 2, 3))
    if kind == "centre":
        assert (mask[:, 0, 4:12, 6:18] == 255).all() and (share == 1 / 4).all()
    elif kind == "random":
        assert np.allclose(share * 16 * 24, rows * columns), "a rectangle"
        assert rows.min() >= 4 and rows.max() <= 8 and columns.min() >= 6 and columns.max() <= 12
    else:
        assert share.max() <= 1 / 4 and share.min() >= 1 / 16
    assert (kind == "centre") == (mask == mask[:1]).all(), "anywhere"


def test_the_order_is_fixed() -> None:
    whole = made(grey=True, blur=1.0, downsample=2, noise=9.0, mask="random", seed=4).split("test")
    images = Album().split("test").images
    for step in ({"grey": True}, {"blur": 1.0}, {"downsample": 2}, {"noise": 9.0}, {"mask": "random"}):
        shape, before = images.shape[1:], images
        before = made(Album(DataSpec(shape), lambda _, kept=before: kept), seed=4, **step).split("test")
        images = np.asarray(before.beside["source"])
    assert np.array_equal(whole.beside["source"], images) and whole.beside["source"].shape == (8, 1, 8, 12)


# ── The same for ever ─────────────────────────────────────────────────────────────────────────────────────


def test_the_bytes_are_those_of_every_machine() -> None:
    found = made(grey=True, blur=1.5, downsample=2, filter="lanczos", noise=12.0, mask="blocks", seed=3)
    assert found.fingerprint() == "e72e66056459c9ea" and found.fingerprint("test") == "f827358fc0413db3"


def test_noise_follows_from_the_seed_the_split_and_the_place_alone() -> None:
    few, many = (
        made(Album(change=lambda images, kept=kept: images[:kept] * 0 + 99), noise=8.0, mask="random").split("train")
        for kept in (3, 7)
    )
    assert all(np.array_equal(few.beside[name], many.beside[name][:3]) for name in ("source", "mask"))
    others = [source(noise=8.0), source(noise=8.0, seed=1)]
    assert not np.array_equal(others[0][1], others[1][1]) and not np.array_equal(others[0][1][0], others[0][1][1])
    flat = made(Album(change=lambda images: images * 0 + 99), noise=8.0)
    assert not np.array_equal(flat.split("train").beside["source"][:8], flat.split("test").beside["source"])


def test_it_is_computed_once_and_made_again_if_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = made(blur=1.0, mask="random")
    files = sorted((tmp_path / "cache").rglob("*.pixels"))
    assert len(files) == 4, "source and mask of two splits"
    with monkeypatch.context() as patch:
        patch.delattr(degraded, "blurred")
        again = made(blur=1.0, mask="random")
    assert isinstance(again.split("train").beside["source"], np.memmap)
    assert set(again.check_files()) >= set(map(str, files))
    content = files[0].read_bytes()
    files[0].write_bytes(bytes([content[0] ^ 1]) + content[1:])
    assert made(blur=1.0, mask="random").fingerprint() == first.fingerprint() and files[0].read_bytes() == content


def test_parts_make_the_same_as_the_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = made(noise=5.0, mask="blocks").fingerprint()
    monkeypatch.setattr(degraded, "PART_BYTES", 3000)
    monkeypatch.setenv("GANRUN_CACHE", str(tmp_path / "other"))
    assert made(noise=5.0, mask="blocks").fingerprint() == whole


# ── What cannot be degraded ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("of", "settings", "text"),
    [
        (Album(), {"downsample": 3}, r"downsample = 3 does not divide 16×24; choose another size"),
        (Album(DataSpec((5,))), {"noise": 1.0}, r"works on images \(channels, height, width\)"),
        (Album(DataSpec((3, 8, 8), fields={"pose": (2,)})), {"noise": 1.0}, "have fields already: pose"),
        (Album(DataSpec((1, 8, 8))), {"grey": True}, "grey = true, and the images have 1 channels"),
        (Album(DataSpec((1, 8, 8))), {"downsample": 4, "mask": "blocks"}, "fewer than 4 pixels"),
        (Album(change=lambda images: images / np.float32(255)), {"noise": 1.0}, "are float32; only those of 8 bits"),
    ],
)
def test_data_that_cannot_be_degraded_is_refused(of: Data, settings: Mapping[str, Any], text: str) -> None:
    with pytest.raises(RequestError, match=text):
        made(of, **settings)


def test_settings_that_degrade_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="nothing is degraded; say at least one of grey, blur"):
        Degraded.Settings(of="album", filter="box", seed=3)


def test_it_conforms() -> None:
    assert_conforms("data", Degraded, {"of": "digits", "downsample": 4})
    assert_conforms("data", Degraded, {"of": "digits", "grey": True, "noise": 3.0, "mask": "centre"})


# ── In a recipe ───────────────────────────────────────────────────────────────────────────────────────────


def recipe(steps: int = 1, **data: Any) -> dict[str, Any]:
    return {
        "train": {"steps": steps, "batch_size": 4, "device": "cpu"},
        "data": {"use": "degraded", **data},
        "loss": {"use": "gan", "latent_size": 2},
        "generator": {"use": "mlp", "hidden": [2]},
        "discriminator": {"use": "mlp", "hidden": [2]},
        **dict.fromkeys(("samples", "progress", "mlflow"), False),
    }


def test_a_fault_is_reported_at_the_recipes_line(tmp_path: Path) -> None:
    for data, text in (
        ({"of": {"use": "digits", "size": 9}, "downsample": 2}, r"\[data\] degraded .*does not divide 9×9"),
        ({"of": {"use": "digits", "sise": 9}, "downsample": 2}, r'\[data.of\] has no key "sise"'),
        ({"of": "digits"}, r"\[data\]: nothing is degraded"),
        ({"of": "photographs", "downsample": 5}, r"\[data\] downsample = 5"),
        ({"of": {"use": "image-folder", "root": "/nowhere"}, "noise": 1.0}, r"\[data.of\]: there is no /nowhere"),
    ):
        with pytest.raises(GanrunError, match=r"\.toml:\d+: .*" + text):
            build(recipe(**data), tmp_path / "run")


def test_files_of_the_other_data_set_may_move_and_may_not_change(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    train(recipe(of={"use": "image-folder", "root": str(folder), "size": 8}, noise=4.0), tmp_path / "run")
    facts = RunDirectory(tmp_path / "run").environment()["data"]
    assert facts["files"].keys() == {str(folder)} and facts["of"]["skipped"] == 0 and facts["transform"]["noise"] == 4.0
    given_away = handed_out(tmp_path / "run/recipe.toml", registry_with(), MadeWith())
    assert str(tmp_path) not in given_away and "noise = 4.0" in given_away
    moved = folder.rename(tmp_path / "elsewhere")
    call = ["resume", str(tmp_path / "run"), "--set", "train.steps=2"]
    refused = CliRunner().invoke(main, call)
    assert refused.exit_code == 2 and "[data.of]" in refused.output and str(folder) in refused.output
    done = CliRunner().invoke(main, [*call, "--set", f"data.of.root={moved}"])
    assert done.exit_code == 0, done.output
    Image.new("RGB", (8, 8)).save(moved / "1.png")
    changed = CliRunner().invoke(main, [*call, "--set", "train.steps=3"])
    assert changed.exit_code == 2 and "train split: fingerprint" in changed.output


class Guests:
    """Offers a data set whose part has a default."""

    @hookimpl
    def ganrun_data(self) -> dict[str, type[Data]]:
        return {"guests": Guest}


class Guest(Degraded):
    """Digits with noise."""

    class Settings(Degraded.Settings):
        of: Any = "digits"
        """Which."""
        noise: float | None = 3.0
        """σ."""


def test_a_part_with_a_default_is_built_where_data_is_listed() -> None:
    registry = registry_with(Guests())
    assert _row(registry.find("data", "guests"), registry) == ("1×32×32", "10", "needs no files")
    assert _row(registry.find("data", "degraded"), registry) == ("", "", "set by of")
