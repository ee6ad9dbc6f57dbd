"""Scores of samples against their targets, if a loss makes each of them from a paired record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from tests.families import FAMILIES, MLP, Family, gan
from torch import Tensor

from ganrun import (
    Buffer,
    Data,
    Extractor,
    Factor,
    IncompatibleError,
    ModelSpec,
    PreflightError,
    RequestError,
    Run,
    Score,
    Split,
    hookimpl,
    load_registry,
    to_uint8,
    to_unit_range,
)
from ganrun.contracts.settings import parse_settings
from ganrun.inference.evaluation import measured
from ganrun.inference.given import GivenRecords
from ganrun.recipe.recipe import Recipe
from ganrun.rehearsal.stand_in import StandIn
from ganrun.testing import assert_conforms, build, evaluation_on
from ganrun.trained.scoring import Request, score
from ganrun.training.assembly import check_recipe
from ganrun_fidelity.lpips import Lpips
from ganrun_fidelity.paired import Paired

CPU = torch.device("cpu")
SHAPE = (3, 20, 24)
SPEC = ModelSpec(SHAPE, fields={"source": SHAPE}, factors=(Factor("source", 1440, "given"),), latent_size=1440)


def larger(family: Family) -> Family:
    """The same on images of 16×16, which are larger than SSIM's window."""
    return family._replace(tables={**family.tables, "data": {**family.tables["data"], "size": 16}})


TRANSLATED, UNPAIRED = larger(FAMILIES["pix2pix"]), larger(FAMILIES["cyclegan"])
NOISE = Family({**gan(), **MLP, "data": {"use": "digits", "size": 16}})


def pairs() -> tuple[Any, Any]:
    """Two smooth pictures with noise, and the same with more noise: uint8."""
    random, ramp = np.random.RandomState(7), np.add.outer(np.arange(20) * 7, np.arange(24) * 5)
    first = (ramp + random.randint(0, 60, (2, *SHAPE))).clip(0, 255).astype(np.uint8)
    return first, (first.astype(int) + random.randint(-25, 26, first.shape)).clip(0, 255).astype(np.uint8)


def built(family: Family, metrics: Sequence[Mapping[str, Any]], folder: Path) -> Run:
    """A run of the family with these metrics, before its first step."""
    return build({**family.recipe(), "metric": metrics}, folder / "run", *family.plugins)


def loaded(family: Family, metric: Mapping[str, Any], folder: Path) -> Recipe:
    """Its recipe, in a file."""
    return Family({**family.tables, "metric": [metric]}, family.plugins).loaded(folder)


def unchanged(data: Data, **settings: Any) -> dict[str, Score]:
    """The scores of a model that leaves sources as they are, by name."""
    metric, given = Paired(parse_settings(Paired.Settings, settings), SPEC), GivenRecords(data, SPEC, CPU)
    metric.prepare(data, CPU)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        return given.fill(torch.zeros(count, 1440), 0), given.rows("source", 0, count)

    moment = evaluation_on(data, draw, spec=SPEC)
    return {each.name: each for each in measured([metric], moment)}


# ── Values ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("settings", "suffix", "psnr", "ssim", "l1"),
    [
        (
            {},
            "",
            (24.729806672569268, 24.896649581649616),
            (0.8016740682630784, 0.8166922841313135),
            0.0495561002178649,
        ),
        (
            {"channels": "y", "crop": 4},
            "_y",
            (29.9802191690993, 29.582414739750366),
            (0.861840959344956, 0.8835225011913367),
            0.027085041810841977,
        ),
    ],
    ids=["rgb", "y"],
)
def test_they_are_those_of_scikit_image(
    settings: dict[str, Any], suffix: str, psnr: tuple[float, ...], ssim: tuple[float, ...], l1: float
) -> None:
    """peak_signal_noise_ratio and structural_similarity of scikit-image 0.26, in float64, with data_range 255, the
    Gaussian window of σ 1.5 and use_sample_covariance=False; Y by its rgb2ycbcr."""
    first, second = pairs()
    found = unchanged(StandIn(SPEC, lambda name: Split(second, None, {"source": first})), **settings)
    expected = {"l1": l1, "psnr": np.mean(psnr), "ssim": np.mean(ssim)}
    assert {name: each.value for name, each in found.items()} == {
        f"{name}{suffix}": pytest.approx(value, rel=1e-9) for name, value in expected.items()
    }
    of_psnr = found[f"psnr{suffix}"]
    assert of_psnr.error == pytest.approx(np.std(psnr) / 2**0.5)
    assert [each.higher_is_better for each in found.values()] == [False, True, True]
    crop, colours = (4, "Y of BT.601, 16 to 235") if suffix else (0, "RGB")
    assert of_psnr.protocol.items() >= {"colours": colours, "crop": crop, "generated": 2, "split": "test"}.items()
    assert found[f"ssim{suffix}"].protocol["window"] == "Gaussian 11×11, σ 1.5"


def test_each_record_is_scored_once_against_its_own_image(tmp_path: Path) -> None:
    """360 records are in two batches of an evaluation."""
    run = built(TRANSLATED, [{"use": "paired"}], tmp_path)
    scores = {each.name: each for each in measured(run.metrics, run.evaluation())}
    assert run.model.given is not None
    made, targets = (
        to_uint8(each).double() / 255 for each in (run.model.sample(360), run.model.given.rows("images", 0, 360))
    )
    errors = (made - targets).flatten(1)
    assert scores["l1"].value == pytest.approx(float(errors.abs().mean()), rel=1e-9)
    assert scores["psnr"].value == pytest.approx(float(-10 * errors.square().mean(1).log10().mean()), rel=1e-9)
    about = {"generated": 360, "split": "test", "colours": "grey", "real_digest": run.data.fingerprint("test")}
    assert scores["psnr"].protocol.items() >= about.items() and scores["psnr"].protocol["seed"] == 3
    drawn = {tuple(row) for row in targets.flatten(1).tolist()}
    assert len(drawn) > 350, "other records, and not one again and again"


def test_it_keeps_the_contract_of_metrics() -> None:
    assert_conforms("metric", Paired, {"samples": 20}, replace(SPEC, sample_shape=(3, 32, 32)))


@pytest.mark.parametrize("factor", [1, 4])
def test_the_baseline_is_the_source_enlarged_as_by_pillow(factor: int) -> None:
    images = pairs()[0] // 2 + 64  # nothing is clipped
    source = images[:, :, ::factor, ::factor].copy()
    pillow = [Image.fromarray(each.transpose(1, 2, 0)).resize((24, 20), Image.Resampling.BICUBIC) for each in source]
    errors = images / 255 - np.stack([np.asarray(each).transpose(2, 0, 1) for each in pillow]) / 255
    spec = replace(SPEC, fields={"source": source.shape[1:]}, factors=(Factor("source", source[0].size, "given"),))
    data = StandIn(spec, lambda name: Split(images, None, {"source": source}))
    metric = Paired(Paired.Settings(baseline=True, crop=4), spec)
    metric.prepare(data, CPU)
    counted = [0, 0]

    def evaluated() -> dict[str, Score]:
        made = to_unit_range(torch.from_numpy(images[:1]))
        moment = evaluation_on(data, lambda count: (torch.zeros(count, 1), made.expand(count, -1, -1, -1)), spec=spec)
        metric.watch(moment)
        counted[:] = counted[1], len(moment._passes)
        return {each.name: each for each in measured([metric], moment)}

    first, again = evaluated(), evaluated()
    assert first["l1_of_source"].value == pytest.approx(np.abs(errors[..., 4:-4, 4:-4]).mean(), abs=1 / 255)
    assert factor == 1 or first["psnr_of_source"].value == pytest.approx(
        np.mean(-10 * np.log10(np.square(errors[..., 4:-4, 4:-4]).mean((1, 2, 3)))), abs=0.05
    )
    assert counted == [2, 1], "the sources are read once"
    assert {name: again[name].value for name in first} == {name: each.value for name, each in first.items()}
    assert list(first) == ["l1", "psnr", "ssim", "l1_of_source", "psnr_of_source", "ssim_of_source"]


# ── What is refused ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("family", "metric", "reason"),
    [
        (NOISE, {}, "samples have targets where a loss makes each of them of a paired record"),
        (UNPAIRED, {}, "samples have targets where a loss makes each of them of a paired record"),
        (TRANSLATED, {"channels": "y"}, "Y needs colours, and the images have none"),
        (TRANSLATED, {"crop": 3}, "SSIM's window is 11×11 pixels, and of the images 10×10 are left"),
    ],
    ids=["noise", "unpaired", "grey", "too small"],
)
def test_what_has_no_such_score_is_refused_by_check_at_the_metrics_line(
    family: Family, metric: Mapping[str, Any], reason: str, tmp_path: Path
) -> None:
    recipe = loaded(family, {"use": "paired", **metric}, tmp_path)
    with pytest.raises(IncompatibleError, match=reason) as caught:
        check_recipe(recipe)
    assert caught.value.where is not None and caught.value.where.startswith(f"{tmp_path / 'recipe.toml'}:")


@pytest.mark.parametrize("source", [(1, 20, 24), (3, 40, 24)], ids=["grey", "larger"])
def test_a_baseline_has_the_channels_of_the_images_and_is_no_larger(source: tuple[int, ...]) -> None:
    spec = replace(SPEC, fields={"source": source})
    with pytest.raises(IncompatibleError, match=r"are compared with no images of \(3, 20, 24\); leave baseline out"):
        Paired(Paired.Settings(baseline=True), spec)


def test_lpips_is_not_measured_on_brightness(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"features need colours; name them in another \[\[metric\]\]"):
        loaded(TRANSLATED, {"use": "paired", "channels": "y", "features": "lpips"}, tmp_path)


def test_a_crop_leaves_as_much_as_the_extractor_asks_for() -> None:
    extractor = Lpips(Lpips.Settings(), SPEC)
    Paired(Paired.Settings(crop=2), SPEC, extractor)
    with pytest.raises(IncompatibleError, match=r"LPIPS takes 16×16 pixels or more, not \[14, 18\]"):
        Paired(Paired.Settings(crop=3), SPEC, extractor)


def test_an_extractor_without_a_perceptual_distance_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IncompatibleError, match="it reads perceptual, and its features give only features"):
        built(TRANSLATED, [{"use": "paired", "features": "classifier"}], tmp_path)


@pytest.mark.parametrize(
    ("metric", "reason"),
    [
        ({"use": "paired", "samples": 361}, 'asks for 361 samples, but split "test" has 360 records'),
        ({"use": "sliced-wasserstein", "samples": 361}, "361 samples, and there are 360, one for each record; say"),
    ],
    ids=["paired", "of the whole"],
)
def test_a_record_gives_no_second_sample(metric: Mapping[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match=reason):
        built(TRANSLATED, [metric], tmp_path)
    assert not (tmp_path / "run").exists()


def test_unpaired_samples_have_no_targets_that_a_metric_could_ask_for(tmp_path: Path) -> None:
    moment = built(UNPAIRED, [], tmp_path).evaluation()
    with pytest.raises(IncompatibleError, match=r'"targets" of the samples, and there are only latents, samples$'):
        moment.collect(Buffer(), "targets", count=3)


def test_pictures_in_files_have_no_targets(tmp_path: Path) -> None:
    np.savez(tmp_path / "drawn.npz", np.zeros((20, 16, 16, 1), np.uint8))
    request = Request(tmp_path / "drawn.npz", "digits", ["paired"], ["data.size=16"], device="cpu")
    with pytest.raises(IncompatibleError, match="pictures in files have none"):
        score(request, load_registry())


class Pixels(Extractor):
    """Features that are the pixels."""

    suffix, key = "pixels", "pixels"
    protocol: ClassVar[Mapping[str, str | int | float | bool]] = {"extractor": "pixels"}

    def __call__(self, images: Tensor) -> Mapping[str, Tensor]:
        return {"features": images.flatten(1).float()}


class Offering:
    """Offers the extractor."""

    @hookimpl
    def ganrun_extractors(self) -> dict[str, type[Extractor]]:
        return {"pixels": Pixels}


# ── Published protocols ───────────────────────────────────────────────────────────────────────────────────


def test_the_fid_of_a_translation_is_that_of_all_test_records_against_the_test_images_of_its_domain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As published ones of CycleGAN: the numbers of sources and of images differ."""
    monkeypatch.setenv("GANRUN_CACHE", str(tmp_path / "cache"))
    family = UNPAIRED._replace(plugins=(*UNPAIRED.plugins, Offering()))
    given = built(family, [], tmp_path / "data").model.given
    assert given is not None
    metric = {"use": "fid", "features": "pixels", "split": "test", "samples": given.count}
    run = built(family, [metric], tmp_path)
    (fid,) = measured(run.metrics, run.evaluation())
    images = len(run.data.split("test"))
    assert fid.name == "fid_pixels" and fid.value > 0 and images != given.count
    assert fid.protocol.items() >= {"generated": given.count, "real": images, "split": "test"}.items()
