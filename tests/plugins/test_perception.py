"""Perceptual path length, sliced Wasserstein distance and MS-SSIM: against scipy, torch-fidelity and closed forms."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import tomli_w
import torch
from scipy import ndimage, stats
from torch import Tensor, nn

from ganrun import (
    Data,
    DataSpec,
    Evaluation,
    Extractor,
    Factor,
    IncompatibleError,
    ModelSpec,
    NonFiniteError,
    PreflightError,
    RequestError,
    Score,
    Split,
    unknown_split,
)
from ganrun.contracts.settings import parse_settings
from ganrun.discovery.registry import load_registry
from ganrun.inference.evaluation import measured
from ganrun.inference.given import GivenRecords
from ganrun.recipe.reader import load_recipe
from ganrun.testing import assert_conforms, build, evaluation_on
from ganrun_fidelity import ganrun_extractors, ganrun_metrics, lpips, sliced_wasserstein
from ganrun_fidelity.path_length import trimmed_mean
from ganrun_fidelity.sliced_wasserstein import laplacian_pyramid, normalised, pyramid_sides, sliced_distance
from ganrun_fidelity.structural import ms_ssim

CPU = torch.device("cpu")
METRICS, EXTRACTORS = ganrun_metrics(), ganrun_extractors()


@pytest.fixture(autouse=True)
def quiet_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty cache and torch hub for each test, and one thread."""
    monkeypatch.setenv("GANRUN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Arrays(Data):
    """Pictures given as arrays."""

    def __init__(self, train: np.ndarray, test: np.ndarray | None = None, classes: int = 0) -> None:
        super().__init__(None)
        given = {"train": train} if test is None else {"train": train, "test": test}
        self.splits = {
            name: Split(images, np.arange(len(images)) % classes if classes else None) for name, images in given.items()
        }
        self.classes = classes

    def spec(self) -> DataSpec:
        return DataSpec(self.splits["train"].images.shape[1:], self.classes)

    def prepare(self) -> None:
        return None

    def split(self, name: str) -> Split:
        if name not in self.splits:
            raise unknown_split(name, self.splits)
        return self.splits[name]


def pictures(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    """Smooth pictures, with some noise."""
    random = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(random.standard_normal((count, *shape)), (0, 0, 2, 2)) * 300
    return np.clip(128 + smooth + 9 * random.standard_normal(smooth.shape), 0, 255).astype(np.uint8)


def scored(name: str, data: Data, generated: np.ndarray, **settings: object) -> dict[str, Score]:
    metric = METRICS[name](parse_settings(METRICS[name].Settings, settings), ModelSpec.from_facts(data.spec().facts()))
    metric.prepare(data, CPU)
    return {score.name: score for score in measured([metric], evaluation(data, generated))}


def evaluation(data: Data, generated: np.ndarray) -> Evaluation:
    """An evaluation whose generator returns these pictures, over and over."""
    samples = torch.from_numpy(generated).float() / 127.5 - 1
    numbers = itertools.count()

    def draw(count: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(count, 1), samples[[next(numbers) % len(samples) for _ in range(count)]]

    return evaluation_on(data, draw, step=1)


# ── MS-SSIM ───────────────────────────────────────────────────────────────────────────────────────────────


def by_definition(x: np.ndarray, y: np.ndarray) -> float:
    """MS-SSIM of pictures `(channels, height, width)` in 0 … 255, window by window."""
    weights, product = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333], 1.0
    for scale, weight in enumerate(weights):
        side = min(11, *x.shape[1:])
        places = np.arange(side) - (side - 1) / 2
        window = np.exp(-(places[:, None] ** 2 + places**2) / (2 * (1.5 * side / 11) ** 2))
        window /= window.sum()
        values = []
        for channel, row, column in np.ndindex(len(x), x.shape[1] - side + 1, x.shape[2] - side + 1):
            a, b = (each[channel, row : row + side, column : column + side] for each in (x, y))
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            covariance = (window * (a - mean_a) * (b - mean_b)).sum()
            variances = (window * (a - mean_a) ** 2).sum() + (window * (b - mean_b) ** 2).sum()
            contrast = (2 * covariance + 58.5225) / (variances + 58.5225)
            luminance = (2 * mean_a * mean_b + 6.5025) / (mean_a**2 + mean_b**2 + 6.5025)
            values.append((luminance * contrast if scale == 4 else 1) * (contrast if scale < 4 else 1))
        product *= max(np.mean(values), 0) ** weight
        x, y = (sum(each[:, i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4 for each in (x, y))
    return float(product)


def test_ms_ssim_is_its_definition_also_where_the_window_shrinks() -> None:
    first = pictures(2, 2, 48, 32).astype(float)
    second = np.clip(first + np.random.default_rng(1).normal(0, 40, first.shape), 0, 255)
    found = ms_ssim(*(torch.from_numpy(each) / 255 for each in (first, second)))
    assert found.tolist() == pytest.approx([by_definition(*pair) for pair in zip(first, second, strict=True)], rel=1e-9)
    assert found.min() > 0.1 and found.max() < 0.95
    assert ms_ssim(*(torch.from_numpy(first[:1]) / 255,) * 2).item() == pytest.approx(1)


def test_ms_ssim_pairs_neighbours_and_finds_collapse() -> None:
    data = Arrays(pictures(10, 1, 32, 32), pictures(12, 1, 32, 32, seed=1))
    generated = pictures(300, 1, 32, 32, seed=2)
    varied = scored("ms-ssim", data, generated, samples=300)["ms_ssim"]
    pairs = torch.from_numpy(generated).double() / 255
    each = ms_ssim(pairs[0::2], pairs[1::2])
    assert varied.value == pytest.approx(float(each.mean())) and not varied.higher_is_better
    assert varied.error == pytest.approx(float(each.std()) / 150**0.5)
    held_out = torch.from_numpy(data.split("test").images).double() / 255
    assert varied.floor == pytest.approx(float(ms_ssim(held_out[0::2], held_out[1::2]).mean())), "of all there are"
    assert varied.protocol["pairs"] == "any two samples" and varied.protocol["generated"] == 300
    assert scored("ms-ssim", data, generated[:1], samples=4)["ms_ssim"].value == pytest.approx(1)


def test_ms_ssim_within_a_class_compares_samples_of_one_class() -> None:
    images = pictures(3, 1, 32, 32)
    data = Arrays(pictures(8, 1, 32, 32, seed=1), pictures(9, 1, 32, 32, seed=1), classes=3)
    spec = ModelSpec((1, 32, 32), 3, {}, 5, (Factor("noise", 2, "noise"), Factor("class", 3, "categorical")))

    def draw(count: int) -> tuple[Tensor, Tensor]:
        classes = torch.randint(3, (count,))
        latents = torch.cat([torch.randn(count, 2), nn.functional.one_hot(classes, 3)], 1)
        return latents, torch.from_numpy(images).float()[classes] / 127.5 - 1

    values = {}
    for pairs in ("any", "class"):
        metric = METRICS["ms-ssim"](parse_settings(METRICS["ms-ssim"].Settings, {"samples": 600, "pairs": pairs}), spec)
        metric.prepare(data, CPU)
        (values[pairs],) = measured([metric], evaluation_on(data, draw, spec=spec))
    within = values["class"]
    assert within.name == "ms_ssim_within_class" and within.value == pytest.approx(1)
    assert values["any"].value < 0.9 and values["any"].floor != pytest.approx(within.floor)
    held_out = torch.from_numpy(data.split("test").images).double() / 255
    assert within.floor == pytest.approx(float(ms_ssim(held_out[:3], held_out[3:6]).mean())), "0 and 3, 1 and 4, …"
    assert within.protocol["pairs"] == "two samples of one class"


@pytest.mark.parametrize(
    ("settings", "spec", "reason"),
    [
        ({}, ModelSpec((1, 28, 28)), "multiples of 16 and at least 32 pixels, and these images are 28×28"),
        ({}, ModelSpec((1, 16, 16)), "at least 32"),
        ({}, ModelSpec((2,)), "images"),
        ({"pairs": "class"}, ModelSpec((1, 32, 32), 10), "knows no classes"),
        (
            {"pairs": "class", "samples": 10},
            ModelSpec((1, 32, 32), 10, {}, 10, (Factor("class", 10, "categorical"),)),
            "10 samples may be of one class each",
        ),
    ],
)
def test_ms_ssim_refuses_what_makes_no_sense(settings: dict[str, object], spec: ModelSpec, reason: str) -> None:
    metric = METRICS["ms-ssim"]
    with pytest.raises(IncompatibleError, match=reason):
        metric(parse_settings(metric.Settings, settings), spec)


# ── Sliced Wasserstein ────────────────────────────────────────────────────────────────────────────────────

WEIGHTS = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256


def smaller(picture: np.ndarray) -> np.ndarray:
    return ndimage.convolve(picture, WEIGHTS, mode="mirror")[::2, ::2]


def larger(picture: np.ndarray) -> np.ndarray:
    return ndimage.convolve(np.kron(picture, [[1, 0], [0, 0]]), 4 * WEIGHTS, mode="mirror")


def test_the_pyramid_is_scipys_and_adds_up_to_the_pictures() -> None:
    images = torch.from_numpy(pictures(2, 2, 64, 96)).double()
    levels = [each.numpy() for each in laplacian_pyramid(images, 3)]
    picture = images[1, 1].numpy()
    half = smaller(picture)
    np.testing.assert_allclose(levels[0][1, 1], picture - larger(half), atol=1e-9)
    np.testing.assert_allclose(levels[1][1, 1], half - larger(smaller(half)), atol=1e-9)
    np.testing.assert_allclose(levels[2][1, 1], smaller(half), atol=1e-9)
    assert [each.shape[2:] for each in levels] == pyramid_sides(64, 96) == [(64, 96), (32, 48), (16, 24)]


def test_the_distance_of_projections_is_scipys() -> None:
    random = np.random.default_rng(0)
    first, second = random.standard_normal((50, 6)), random.standard_normal((50, 6)) + 0.5
    directions = random.standard_normal((6, 21))
    directions /= np.linalg.norm(directions, axis=0)
    expected = np.mean([stats.wasserstein_distance(first @ each, second @ each) for each in directions.T])
    found = sliced_distance(*(torch.from_numpy(each) for each in (first, second, directions)))
    assert found == pytest.approx(expected, rel=1e-9)


def test_patches_are_normalised_by_channel() -> None:
    patches = torch.randn(50, 3, 7, 7, dtype=torch.float64) * 5 + 3
    expected = np.stack([stats.zscore(patches[:, channel].numpy(), None) for channel in range(3)], 1)
    np.testing.assert_allclose(normalised(patches).numpy(), expected.reshape(50, -1), atol=1e-12)
    assert normalised(torch.ones(4, 3, 7, 7)).abs().max() == 0, "black pictures have no variance"


def test_sliced_wasserstein_says_at_which_scale_pictures_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sliced_wasserstein, "DIRECTIONS", 64)
    images = pictures(80, 1, 32, 32)
    data = Arrays(images[:40], images[40:])
    real = scored("sliced-wasserstein", data, images[40:], samples=40)
    assert list(real) == ["swd", "swd_32", "swd_16"]
    assert all(score.value == pytest.approx(score.floor) for score in real.values()), "held-out images are the floor"
    assert real["swd"].value == pytest.approx((real["swd_32"].value + real["swd_16"].value) / 2)
    brighter = scored("sliced-wasserstein", data, images[40:] // 2 + 60, samples=40)
    assert brighter["swd"].value < 1.5 * real["swd"].value, "brightness and contrast do not count"
    blurred = ndimage.gaussian_filter(images[40:].astype(float), (0, 0, 1.5, 1.5)).astype(np.uint8)
    blurry = scored("sliced-wasserstein", data, blurred, samples=40)
    assert blurry["swd_32"].value > 3 * real["swd_32"].value and blurry["swd_16"].value < 1.5 * real["swd_16"].value
    protocol = blurry["swd"].protocol
    assert protocol["patches"] == "128 of 7×7" and protocol["scale"] == 1000
    assert (protocol["generated"], protocol["real"], protocol["split"]) == (40, 40, "train")


def test_sliced_wasserstein_refuses_what_makes_no_sense() -> None:
    metric = METRICS["sliced-wasserstein"]
    for shape, reason in {
        (3, 8, 8): "ends at 16 pixels, and the images are 8×8",
        (3, 218, 178): "of 218×178 the level of 109×89 cannot be halved",
        (2,): "images",
    }.items():
        with pytest.raises(IncompatibleError, match=reason):
            metric(metric.Settings(), ModelSpec(shape))
    assert pyramid_sides(28, 28) == [(28, 28)]
    with pytest.raises(PreflightError, match='split "train" has 20; say samples = 20'):
        scored("sliced-wasserstein", Arrays(pictures(20, 1, 16, 16)), pictures(2, 1, 16, 16))


# ── Perceptual path length ────────────────────────────────────────────────────────────────────────────────


class Pixels(Extractor):
    """Features that are the pixels."""

    suffix, takes_floats, key = "pixels", True, "pixels"
    protocol: ClassVar[Mapping[str, str | int | float | bool]] = {"extractor": "pixels"}

    def __call__(self, images: Tensor) -> Mapping[str, Tensor]:
        return {"features": images.flatten(1)}


def path_length(
    spec: ModelSpec,
    decode: Callable[[Tensor], Tensor],
    latents: Callable[[int], Tensor],
    features: type[Extractor] = Pixels,
    **settings: object,
) -> Score:
    metric = METRICS["perceptual-path-length"](
        parse_settings(METRICS["perceptual-path-length"].Settings, settings), spec, features(None, spec)
    )
    data = Arrays(pictures(2, *spec.sample_shape))
    metric.prepare(data, CPU)
    moment = evaluation_on(data, lambda count: (drawn := latents(count), decode(drawn)), spec=spec, decode=decode)
    (score,) = measured([metric], moment)
    return score


def linear(*factors: Factor) -> tuple[ModelSpec, Tensor, Callable[[Tensor], Tensor]]:
    """A linear generator: its matrix, and its samples of 1×2×4 pixels."""
    size = sum(factor.size for factor in factors)
    matrix = torch.randn(size, 8, generator=torch.Generator().manual_seed(1))
    return ModelSpec((1, 2, 4), 0, {}, size, factors), matrix, lambda latents: (latents @ matrix).view(-1, 1, 2, 4)


@pytest.mark.parametrize("sampling", ["full", "end"])
def test_the_path_length_of_a_linear_generator_is_that_of_its_arcs(sampling: str) -> None:
    spec, matrix, decode = linear(Factor("noise", 6, "noise"))
    kept: list[Tensor] = []

    def latents(count: int) -> Tensor:
        kept.append(nn.functional.normalize(torch.randn(count, 6, dtype=torch.float64)).float())
        return kept[-1]

    score = path_length(spec, decode, latents, samples=300, sampling=sampling)
    first, second = torch.cat(kept).double()[:600].unflatten(0, (-1, 2)).unbind(1)
    angle = (first * second).sum(1, keepdim=True).acos()
    across = nn.functional.normalize(second - (first * second).sum(1, keepdim=True) * first)
    t = np.random.RandomState(2019).uniform(size=(300, 1)) if sampling == "full" else np.zeros((300, 1))
    at = torch.from_numpy(t) * angle
    speed = angle * (across * at.cos() - first * at.sin())  # the derivative of cos(tΩ) u + sin(tΩ) v
    each = (speed @ matrix.double()).square().sum(1).sort().values
    assert score.value == pytest.approx(float(each[2:-2].mean()), rel=2e-3)
    assert score.name == f"ppl_z_{sampling}_pixels" and not score.higher_is_better
    assert (score.protocol["paths"], score.protocol["epsilon"], score.protocol["space"]) == (300, 1e-4, "z")
    assert score.error == pytest.approx(float(each.std()) / 300**0.5, rel=0.2)


def test_classes_stay_and_uniform_noise_and_codes_go_straight() -> None:
    factors = (Factor("noise", 5, "noise"), Factor("class", 3, "categorical"), Factor("code", 2, "continuous"))
    spec, matrix, decode = linear(*factors)

    def latents(count: int) -> Tensor:
        classes = nn.functional.one_hot(torch.randint(3, (count,)), 3)
        return torch.cat([torch.rand(count, 5) * 2 - 1, classes, torch.rand(count, 2) * 2 - 1], 1)

    class_places = torch.tensor([5, 6, 7])
    score = path_length(spec, lambda z: decode(z.index_fill(1, class_places, 0)), latents, samples=2000)
    moving = matrix[[0, 1, 2, 3, 4, 8, 9]].double()
    assert score.value == pytest.approx(2 / 3 * float(moving.square().sum()), rel=0.1), "E|u − v|² = 2/3 each"
    fixed = path_length(
        spec, lambda z: decode(z.index_fill(1, torch.tensor([0, 1, 2, 3, 4, 8, 9]), 0)), latents, samples=9
    )
    assert fixed.value == 0


def test_values_are_trimmed_as_numpy_defines_percentiles() -> None:
    values = np.random.default_rng(0).exponential(size=1003)
    mean, error = trimmed_mean(values)
    assert mean == pytest.approx(np.sort(values)[10:-10].mean())
    assert mean == pytest.approx(stats.trim_mean(values, 10 / 1003))
    others = [trimmed_mean(np.random.default_rng(seed).exponential(size=1003))[0] for seed in range(1, 200)]
    assert error == pytest.approx(np.std(others), rel=0.2)


def test_what_has_no_path_is_refused() -> None:
    with pytest.raises(IncompatibleError, match="pictures have no latents"):
        path_length(ModelSpec((1, 2, 4)), lambda z: z, lambda count: torch.zeros(count, 8))
    spec, _, decode = linear(Factor("class", 3, "categorical"))
    with pytest.raises(IncompatibleError, match="there are no paths"):
        path_length(spec, decode, lambda count: torch.zeros(count, 3))
    spec, _, decode = linear(Factor("noise", 3, "noise"))
    with pytest.raises(IncompatibleError, match=r'Rounded takes pictures of 8 bits.*say features = "lpips"'):
        path_length(spec, decode, lambda count: torch.zeros(count, 3), Rounded)
    with pytest.raises(IncompatibleError, match='no w; say space = "z"'):
        path_length(spec, decode, lambda count: torch.zeros(count, 3), space="w")
    with pytest.raises(NonFiniteError, match="are not finite"):
        path_length(spec, lambda z: decode(z) / (z[:, :1, None, None] > 0), lambda count: torch.randn(count, 3))


class Rounded(Pixels):
    """Features of pictures of 8 bits."""

    takes_floats = False


STYLES = {
    "data": {"use": "digits", "size": 8},
    "loss": {"use": "conditional-stylegan2", "noise_size": 6, "mixing": 0.5},
    "generator": {"use": "stylegan2", "width": 32, "style_size": 5, "mapping_layers": 2},
    "discriminator": {"use": "stylegan2", "width": 32},
    "mlflow": False,
    "samples": False,
}


@pytest.mark.parametrize("loss", [STYLES["loss"], {"use": "clustered-gan", "noise_size": 6, "clusters": 5}])
def test_a_path_through_styles_is_straight_and_keeps_the_class(loss: dict[str, Any], tmp_path: Path) -> None:
    run = build({**STYLES, "loss": loss, "train": {"steps": 1, "batch_size": 8, "device": "cpu"}}, tmp_path / "run")
    spec, network = run.model.spec, run.model.networks["generator"]
    settings = parse_settings(
        METRICS["perceptual-path-length"].Settings, {"samples": 5, "space": "w", "sampling": "end"}
    )
    metric = METRICS["perceptual-path-length"](settings, spec, Pixels(None, spec))
    network.train()
    (score,) = measured([metric], run.evaluation())
    assert network.training, "the mode is what it was"
    network.eval()
    latents = torch.cat([latents for latents, _ in run.model.batches(10)])
    labels = latents[0::2, 6:].argmax(1)
    with torch.no_grad():
        first, second = (network.mapping(latents[place::2, :6], labels).double() for place in (0, 1))
        near = [network.synthesis(torch.lerp(first, second, share).float()).clamp(-1, 1) for share in (0, 1e-4)]
    each = (near[0] - near[1]).square().flatten(1).sum(1) / 1e-8
    assert score.value == pytest.approx(float(each.mean()), rel=1e-3) and score.value > 0
    assert score.name == "ppl_w_end_pixels"
    if loss != STYLES["loss"]:
        return
    assert score.protocol["sampling.psi"] == 1
    truncated = run.model.with_sampling(psi=0.5)
    with pytest.raises(IncompatibleError, match=r"leave \[sampling\] out"):
        metric.watch(evaluation_on(run.data, lambda _: (), model=truncated))


@pytest.mark.parametrize(("differ", "allowed"), [({"space": "w"}, True), ({"samples": 7}, False)])
def test_a_recipe_may_measure_several_paths(differ: dict[str, object], allowed: bool, tmp_path: Path) -> None:
    metric = {"use": "perceptual-path-length", "features": "classifier"}
    tables = {**STYLES, "train": {"steps": 1}, "metric": [metric, {**metric, **differ}]}
    path = tmp_path / "recipe.toml"
    path.write_text(tomli_w.dumps(tables))
    reason = "perceptual-path-length on classifier again"
    with nullcontext() if allowed else pytest.raises(RequestError, match=reason):
        assert len(load_recipe(path, load_registry()).metrics) == 2


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Random weights of LPIPS in the published formats, without VGG-16's classifier."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("lpips")
    shapes = weight_shapes()
    tensors = {name: torch.randn(shape) * (2 / max(1, shape[1:].numel())) ** 0.5 for name, shape in shapes.items()}
    torch.save(tensors, folder / "vgg.pth")
    linear = {f"lin{stage}.model.1.weight": torch.rand(1, width, 1, 1) for stage, width in enumerate(lpips.WIDTHS)}
    torch.save(linear, folder / "linear.pth")
    return {"weights": str(folder / "vgg.pth"), "linear": str(folder / "linear.pth")}


def weight_shapes() -> dict[str, torch.Size]:
    """Of VGG-16's convolutions, as torchvision names them."""
    from torchvision.models import vgg16

    with torch.device("meta"):
        empty = vgg16(init_weights=False).state_dict()
    return {name: each.shape for name, each in empty.items() if name.startswith("features.")}


def reference(weights: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """torch-fidelity's LPIPS with these weights, also where torch-fidelity makes it."""
    from torch_fidelity import sample_similarity_lpips as theirs
    from torchvision.models import vgg16

    with torch.device("meta"):
        network = vgg16(init_weights=False)
    network.load_state_dict(torch.load(weights["weights"]), assign=True, strict=False)
    monkeypatch.setattr(theirs, "torchvision_load_pretrained_vgg16", lambda: network)
    monkeypatch.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: torch.load(weights["linear"]))
    return theirs.SampleSimilarityLPIPS("lpips-vgg16")


def test_lpips_is_torch_fidelitys(weights: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    extractor = prepared_lpips(weights, ModelSpec((3, 40, 36)))
    first, second = torch.from_numpy(pictures(4, 3, 40, 36)).chunk(2)
    expected = reference(weights, monkeypatch)(first, second).flatten()
    found = [extractor(each)["perceptual"] for each in (first, second)]
    assert (found[0] - found[1]).square().sum(1).tolist() == pytest.approx(expected.tolist(), rel=1e-4)
    assert extractor.protocol["resize"] == "none"


def prepared_lpips(weights: Mapping[str, str], spec: ModelSpec) -> Extractor:
    component = EXTRACTORS["lpips"]
    extractor = component(component.Settings(**weights), spec)
    extractor.prepare(None, CPU)  # type: ignore[arg-type]
    return extractor


def test_large_pictures_are_averaged_down(weights: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lpips, "MOST_SIDE", 16)
    extractor = prepared_lpips(weights, ModelSpec((1, 40, 33)))
    grey = torch.from_numpy(pictures(1, 1, 40, 33))
    small = grey[:, :, :40, :32].float().unflatten(3, (16, 2)).unflatten(2, (20, 2)).mean((3, 5)) / 127.5 - 1
    monkeypatch.undo()
    expected = prepared_lpips(weights, ModelSpec((3, 20, 16)))(small.repeat(1, 3, 1, 1))["perceptual"]
    torch.testing.assert_close(extractor(grey)["perceptual"], expected, rtol=1e-4, atol=1e-6)
    assert extractor.protocol["resize"] == "mean of 2×2 pixels"


def test_the_path_length_is_torch_fidelitys(weights: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    from torch_fidelity.generative_model_modulewrapper import GenerativeModelModuleWrapper
    from torch_fidelity.metric_ppl import calculate_ppl
    from torch_fidelity.noise import random_unit

    torch.manual_seed(3)
    layers = nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 768), nn.Tanh(), nn.Unflatten(1, (3, 16, 16))
    generator = nn.Sequential(*layers)
    levels = nn.Sequential(generator, Levels())
    reference(weights, monkeypatch)
    theirs = calculate_ppl(
        1,
        input1=GenerativeModelModuleWrapper(levels, 4, "unit", 0),
        input1_model_num_samples=6,
        ppl_z_interp_mode="slerp_any",
        ppl_sample_similarity_resize=None,
        ppl_sample_similarity_dtype="float32",
        ppl_discard_percentile_lower=None,
        ppl_discard_percentile_higher=None,
        cuda=False,
        verbose=False,
    )
    random = np.random.RandomState(2020)
    starts, ends = random_unit(random, (6, 4)), random_unit(random, (6, 4))
    latents = torch.stack([starts, ends], 1).flatten(0, 1).repeat(22, 1)
    spec = ModelSpec((3, 16, 16), 0, {}, 4, (Factor("noise", 4, "noise"),))
    metric = METRICS["perceptual-path-length"](
        parse_settings(METRICS["perceptual-path-length"].Settings, {"samples": 6, "sampling": "end"}),
        spec,
        prepared_lpips(weights, spec),
    )
    moment = evaluation_on(
        Arrays(pictures(2, 3, 16, 16)),
        lambda count: (latents[:count], torch.zeros(count, 3, 16, 16)),
        spec=spec,
        decode=generator,
    )
    (score,) = measured([metric], moment)
    assert score.value == pytest.approx(theirs["perceptual_path_length_mean"], rel=5e-3) and score.value > 0
    assert score.name == "ppl_z_end_lpips" and score.protocol["distance"] == "perceptual"


class Levels(nn.Module):
    """From [-1, 1] to [0, 255]."""

    def forward(self, images: Tensor) -> Tensor:
        return (images + 1) * 127.5


def test_lpips_conforms(weights: dict[str, str]) -> None:
    assert_conforms("extractor", EXTRACTORS["lpips"], weights)


# ── Between samples and their targets ─────────────────────────────────────────────────────────────────────

FIELDS = {"source": (3, 40, 36)}
TRANSLATOR = ModelSpec((3, 40, 36), fields=FIELDS, factors=(Factor("source", 4320, "given"),), latent_size=4320)


def paired_lpips(weights: Mapping[str, str], first: np.ndarray, second: np.ndarray, crop: int) -> Score:
    """The score of a model that makes the first pictures where it was to make the second ones."""
    data = Arrays(second)
    data.splits["train"] = Split(second, None, {"source": first})
    settings = parse_settings(METRICS["paired"].Settings, {"features": "lpips", "crop": crop})
    metric = METRICS["paired"](settings, TRANSLATOR, prepared_lpips(weights, TRANSLATOR))
    metric.prepare(data, CPU)
    given = GivenRecords(data, TRANSLATOR, CPU)
    moment = evaluation_on(data, lambda count: (torch.zeros(count, 1), given.rows("source", 0, count)), spec=TRANSLATOR)
    return {score.name: score for score in measured([metric], moment)}["lpips"]


@pytest.mark.parametrize("crop", [0, 4])
def test_paired_lpips_is_torch_fidelitys(weights: dict[str, str], crop: int, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = np.split(pictures(6, 3, 40, 36), 2)
    cut = [torch.from_numpy(each[:, :, crop : 40 - crop, crop : 36 - crop].copy()) for each in (first, second)]
    expected = reference(weights, monkeypatch)(*cut).flatten().double()
    score = paired_lpips(weights, first, second, crop)
    assert score.value == pytest.approx(float(expected.mean()), rel=1e-4) and not score.higher_is_better
    assert score.error == pytest.approx(float(expected.std(correction=0) / 3**0.5), rel=1e-3)
    assert score.protocol.items() >= {"extractor": "lpips-vgg16", "crop": crop, "colours": "RGB"}.items()


def test_paired_lpips_is_that_of_the_package_lpips(tmp_path: Path) -> None:
    theirs = pytest.importorskip("lpips", reason="the package lpips is not installed").LPIPS(
        net="vgg", pnet_rand=True, verbose=False
    )
    torch.save(dict(zip(weight_shapes(), theirs.net.state_dict().values(), strict=True)), tmp_path / "vgg.pth")
    linear = {f"lin{stage}.model.1.weight": layer.model[-1].weight.data for stage, layer in enumerate(theirs.lins)}
    torch.save(linear, tmp_path / "linear.pth")
    first, second = np.split(pictures(6, 3, 40, 36), 2)
    with torch.no_grad():
        expected = theirs(*(torch.from_numpy(each).float() / 127.5 - 1 for each in (first, second)))
    files = {"weights": str(tmp_path / "vgg.pth"), "linear": str(tmp_path / "linear.pth")}
    assert paired_lpips(files, first, second, 0).value == pytest.approx(float(expected.mean()), rel=1e-4)
