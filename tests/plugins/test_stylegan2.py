"""StyleGAN2: every layer against an independent reference in float64, the objectives by hand, and runs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d
from torch import Tensor, nn
from torch.nn.functional import conv2d, softplus

from ganrun import Batch, DataSpec, IncompatibleError, MinibatchDeviation, Nets, NetworkSpec, Phase, Terms, View
from ganrun.discovery.registry import load_registry
from ganrun.recipe.reader import load_recipe
from ganrun.recipe.shipped import shipped_recipes
from ganrun.testing import assert_conforms, build
from ganrun.training.measurements import Measurements
from ganrun.training.run import Run
from ganrun.training.step import build_step
from ganrun_stylegan2.discriminator import StyleGan2Discriminator
from ganrun_stylegan2.generator import StyleGan2Generator
from ganrun_stylegan2.layers import Doubled, Filter, HalvingConv2d, ModulatedConv2d
from ganrun_stylegan2.losses import ConditionalStyleGan2, StyleGan2

SMALL = {"width": 64, "widest": 6}
FILTER = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def generator(side: int = 8, latents: int = 5, classes: int = 0, **settings: Any) -> StyleGan2Generator:
    spec = NetworkSpec((latents,), (3, side, side), {"labels": ()} if classes else {}, classes)
    return StyleGan2Generator(StyleGan2Generator.Settings(**settings), spec)


def discriminator(side: int = 8, classes: int = 0, **settings: Any) -> StyleGan2Discriminator:
    spec = NetworkSpec((3, side, side), (1, ...), {"labels": ()} if classes else {}, classes)
    return StyleGan2Discriminator(StyleGan2Discriminator.Settings(**settings), spec)


# ── The contract ──────────────────────────────────────────────────────────────────────────────────────────


class SmallGenerator(StyleGan2Generator):
    class Settings(StyleGan2Generator.Settings):
        style_size: int = 8
        width: int = 64
        widest: int = 6


@pytest.mark.parametrize("loss", [StyleGan2, ConditionalStyleGan2])
def test_the_losses_conform(loss: type[StyleGan2]) -> None:
    assert_conforms("loss", loss, {"mixing": 0.5}, networks={"generator": SmallGenerator})


def test_the_networks_conform() -> None:
    assert_conforms("generator", StyleGan2Generator, {**SMALL, "style_size": 8, "mapping_layers": 2})
    for residual in (True, False):
        assert_conforms("discriminator", StyleGan2Discriminator, {**SMALL, "residual": residual})


MISFIT = r"works on images|set size in \[data\] to a power of two"


@pytest.mark.parametrize("shape", [(3, 28, 28), (3, 4, 4), (3, 16, 32), (2,)])
def test_images_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(IncompatibleError, match=MISFIT):
        StyleGan2Generator(StyleGan2Generator.Settings(**SMALL), NetworkSpec((4,), shape))
    with pytest.raises(IncompatibleError, match=MISFIT):
        StyleGan2Discriminator(StyleGan2Discriminator.Settings(**SMALL), NetworkSpec(shape, (1, ...)))


# ── Layers ────────────────────────────────────────────────────────────────────────────────────────────────


def stuffed(plane: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A plane with zeros between its pixels."""
    found = np.zeros([2 * side - 1 for side in plane.shape])
    found[::2, ::2] = plane
    return found


def modulated(layer: ModulatedConv2d, plane: Tensor, style: Tensor) -> Tensor:
    """Equations 1 and 3 for one sample and one output channel at a time."""
    scale = layer.style.weight @ style / sqrt(len(style)) + layer.style.bias
    outputs = []
    for kernels in layer.weight:
        own = kernels * scale[:, None, None]
        own = own / ((own.square().sum() + 1e-8).sqrt() if layer._demodulates else sqrt(kernels.numel()))
        if layer.filter is None:
            outputs.append(conv2d(plane[None], own[None], padding=layer.weight.shape[-1] // 2)[0, 0])
            continue
        pairs = zip(plane.detach().numpy(), own.detach().numpy(), strict=True)
        whole = sum(convolve2d(convolve2d(stuffed(one), kernel), 4 * FILTER) for one, kernel in pairs)
        outputs.append(torch.from_numpy(whole[2:-2, 2:-2]))
    return torch.stack(outputs)


@pytest.mark.parametrize(
    "options", [{"kernel": 3}, {"kernel": 3, "doubles": True}, {"kernel": 1, "demodulates": False}]
)
def test_a_modulated_convolution_has_weights_of_its_own_for_each_sample(options: dict[str, Any]) -> None:
    layer = ModulatedConv2d(5, 4, 3, **options).double()
    nn.init.normal_(layer.style.bias)
    maps, styles = noise(2, 4, 6, 6), noise(2, 5, seed=1)
    expected = torch.stack([modulated(layer, *each) for each in zip(maps, styles, strict=True)])
    torch.testing.assert_close(layer(maps, styles), expected)


def test_demodulated_outputs_have_unit_variance_for_any_style() -> None:
    torch.manual_seed(0)
    layer = ModulatedConv2d(16, 32, 64, 3).double()
    outputs = layer(noise(256, 32, 6, 6), 5 * noise(256, 16, seed=1))[:, :, 1:-1, 1:-1]
    torch.testing.assert_close(outputs.square().mean((0, 2, 3)), torch.ones(64).double(), rtol=0.15, atol=0)
    torch.testing.assert_close(outputs.square().mean().item(), 1.0, rtol=0.02, atol=0)


def test_the_filter_is_a_convolution_of_gain_one() -> None:
    maps = noise(1, 2, 7, 5)
    found = Filter(padding=3).double()(maps)[0]
    expected = [convolve2d(plane, FILTER) for plane in maps[0].numpy()]
    torch.testing.assert_close(found, torch.from_numpy(np.stack(expected)))
    level = torch.full((1, 1, 8, 8), 3.0)
    torch.testing.assert_close(Filter(padding=0)(level), torch.full((1, 1, 5, 5), 3.0))


def test_maps_are_enlarged_by_zeros_and_the_filter_and_made_small_by_its_adjoint() -> None:
    maps, larger = noise(1, 2, 4, 4), noise(1, 2, 8, 8, seed=1)
    enlarge, halve = Doubled().double(), Filter(padding=1, stride=2).double()
    expected = [convolve2d(stuffed(plane), 4 * FILTER)[1:-1, 1:-1] for plane in maps[0].numpy()]
    torch.testing.assert_close(enlarge(maps)[0], torch.from_numpy(np.stack(expected)))
    torch.testing.assert_close((enlarge(maps) * larger).sum(), 4 * (maps * halve(larger)).sum())
    level = torch.full((1, 1, 8, 8), 3.0).double()
    torch.testing.assert_close(halve(enlarge(level))[..., 1:-1, 1:-1], level[..., 1:-1, 1:-1])


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_convolution_that_halves_filters_first_and_keeps_every_other_pixel(kernel: int) -> None:
    layer = HalvingConv2d(2, 3, kernel).double()
    maps = noise(1, 2, 8, 8)
    weights = (layer.weight.flip(2, 3) / sqrt(2 * kernel**2)).detach().numpy()
    planes = [
        sum(convolve2d(convolve2d(m, FILTER), k) for m, k in zip(maps[0].numpy(), w, strict=True)) for w in weights
    ]
    first = kernel // 2 + 2
    expected = torch.from_numpy(np.stack(planes))[:, first : first + 8 : 2, first : first + 8 : 2]
    torch.testing.assert_close(layer(maps)[0], expected)


def test_the_deviation_is_that_of_interleaved_groups_and_in_evaluation_a_running_mean() -> None:
    layer, maps = MinibatchDeviation(group=4).double(), noise(8, 3, 2, 2)
    found = layer(maps)
    for group in range(2):
        own = maps.numpy()[group::2]
        expected = np.sqrt(own.var(axis=0) + 1e-8).mean()
        assert found[group::2, 3].numpy() == pytest.approx(np.full((4, 2, 2), expected), rel=1e-6)
    assert torch.equal(found[:, :3], maps)
    assert layer.mean.item() == pytest.approx(0.01 * found[:, 3].mean().item())
    layer.eval()
    assert layer(maps[:1])[0, 3].unique().item() == pytest.approx(layer.mean.item())


@pytest.mark.parametrize(("size", "group"), [(6, 3), (7, 1), (2, 2), (1, 1)])
def test_groups_divide_the_batch(size: int, group: int) -> None:
    maps = noise(size, 1, 1, 1)
    found = MinibatchDeviation(group=4).double()(maps)[:, 1].flatten()
    own = maps.flatten().reshape(group, size // group).numpy()
    torch.testing.assert_close(found, torch.from_numpy(np.tile(np.sqrt(own.var(axis=0) + 1e-8), group)))


# ── Whole networks ────────────────────────────────────────────────────────────────────────────────────────


def counted(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


DENSE, LAYER, IMAGE = 512 * 513, 512 * 512 * 9 + 512 * 513 + 512 + 1, 3 * 512 + 512 * 513 + 3
"""Of 512 channels and styles: a dense layer; a modulated layer with its style, bias and strength; a conversion to RGB.
As in logs of the authors' program: 262,656, 2,622,465 and 264,195."""


@pytest.mark.parametrize(("classes", "sizes"), [(0, (19_947_539, 20_720_641)), (10, (20_215_315, 23_089_664))])
def test_the_configuration_for_cifar_has_its_published_layers(classes: int, sizes: tuple[int, int]) -> None:
    with torch.device("meta"):
        made = generator(32, 512, classes, mapping_layers=2)
        judge = discriminator(32, classes, residual=False, group=32)
    mapping = 2 * DENSE + (512 * 11 - 512 + 512 + 512 * 512 if classes else 0)
    assert counted(made) == mapping + 512 * 16 + 7 * LAYER + 4 * IMAGE == sizes[0]
    conv = 512 * 512 * 9 + 512
    trunk = (3 * 512 + 512) + 6 * conv + (513 * 512 * 9 + 512) + (8192 * 512 + 512)
    ends = 512 * 513 + 512 * 11 + 8 * DENSE if classes else 513
    assert counted(judge) == trunk + ends == sizes[1]


def test_the_configurations_for_faces_have_as_many_weights_as_their_logs_say() -> None:
    """At 256×256 with half the width, and at 1024×1024: per layer, as in logs of the authors' program."""
    with torch.device("meta"):
        made, judge, largest = (
            generator(256, 512, width=16_384),
            discriminator(256, width=16_384),
            (generator(1024, 512), discriminator(1024)),
        )
    channels = [512, 512, 512, 512, 256, 128, 64]

    def layer(fan_in: int, fan_out: int) -> int:
        return fan_in * fan_out * 9 + 513 * fan_in + fan_out + 1

    pairs = list(pairwise(channels))
    grown = sum(layer(a, b) + layer(b, b) for a, b in pairs) + layer(512, 512)
    images = sum(3 * c + 513 * c + 3 for c in channels)
    assert counted(made) == 8 * DENSE + 8192 + grown + images == 24_767_458
    blocks = sum(a * b + (b * b * 9 + b) + (a * b * 9 + a) for a, b in pairs)
    ends = 4 * 64 + (513 * 512 * 9 + 512) + (8192 * 512 + 512) + 513
    assert counted(judge) == blocks + ends == 24_001_089
    assert (counted(largest[0]), counted(largest[1])) == (30_370_060, 29_012_513)
    assert made.layers == 14 and largest[0].layers == 18


def reference_image(made: StyleGan2Generator, styles: Tensor) -> Tensor:
    """One sample in evaluation, by the layers' weights alone; styles `(layers, style_size)`."""
    own = iter(styles)
    maps, image, style = made.start, torch.zeros(()), next(own)
    for block in made.blocks:
        for layer in (block.grow, block.refine):
            if layer is not None:
                maps = modulated(layer.conv, maps, style) + layer.strength * layer.noise[0] + layer.bias
                maps, style = torch.where(maps > 0, maps, 0.2 * maps) * sqrt(2), next(own)
        if image.dim():
            planes = [convolve2d(stuffed(plane), 4 * FILTER)[1:-1, 1:-1] for plane in image.numpy()]
            image = torch.from_numpy(np.stack(planes))
        image = image + (modulated(block.to_image, maps, style) + block.bias).detach()
    return image


def test_the_whole_generator_is_that_of_a_loop_over_samples_and_layers() -> None:
    made = generator(16, style_size=5, **SMALL).double().eval()
    for name, weight in made.named_parameters():
        if "bias" in name or "strength" in name:
            nn.init.normal_(weight, 0.5)
    styles = noise(2, made.layers, 5)
    expected = torch.stack([reference_image(made, each) for each in styles])
    torch.testing.assert_close(made.synthesis(styles), expected)


def test_activations_keep_their_scale_through_both_networks_as_they_are_initialised() -> None:
    """About 1 for images of one colour; of maps that differ from pixel to pixel, the filter smooths a part away."""
    torch.manual_seed(0)
    made, judge = generator(32, 512, mapping_layers=8, widest=128), discriminator(32, widest=128)
    found: dict[str, float] = {}

    def note(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: found.update({name: _scale(output)})

    for name, module in nn.ModuleDict({"made": made, "judge": judge}).named_modules():
        if type(module).__name__ in ("_Layer", "_Block", "_Mapping"):
            module.register_forward_hook(note(name))
    with torch.no_grad():
        made(torch.randn(32, 512))
        judge(torch.randn(32, 3, 1, 1).expand(-1, -1, 32, 32))
    assert len(found) > 12
    least = {"made": 0.35, "judge": 0.7}
    assert all(least[name.split(".")[0]] < scale < 1.3 for name, scale in found.items()), str(found)


def _scale(output: Any) -> float:
    tensor = output[0] if isinstance(output, tuple) else output
    return float(tensor.square().mean().sqrt())


def test_latents_and_class_vectors_are_scaled_to_unit_second_moment() -> None:
    made = generator(latents=6, classes=3, style_size=4, mapping_layers=1, **SMALL).double()
    latents, labels = noise(5, 6), torch.tensor([0, 1, 2, 0, 1])
    vectors = made.styles.embedding.dense.weight.T[labels] / sqrt(3)
    parts = [each / each.square().mean(1, keepdim=True).sqrt() for each in (latents, vectors)]
    dense = made.styles.dense[0]
    hidden = torch.cat(parts, 1) @ dense.weight.T * (0.01 / sqrt(10)) + 0.01 * dense.bias
    expected = torch.where(hidden > 0, hidden, 0.2 * hidden) * sqrt(2)
    torch.testing.assert_close(made.mapping(latents, labels)[:, 3], expected)
    torch.testing.assert_close(made.mapping(7 * latents, labels), made.mapping(latents, labels))


def test_the_class_enters_the_discriminator_by_projection() -> None:
    judge = discriminator(classes=3, **SMALL).double()
    images, labels, found = noise(4, 3, 8, 8), torch.tensor([0, 1, 2, 0]), []
    judge.out.register_forward_hook(lambda module, inputs, output: found.append(output))
    vectors = judge.classes.embedding(labels)
    for layer in judge.classes.dense:
        hidden = vectors @ layer.weight.T * (0.01 / sqrt(6)) + 0.01 * layer.bias
        vectors = torch.where(hidden > 0, hidden, 0.2 * hidden) * sqrt(2)
    logits = judge(images, labels)
    torch.testing.assert_close(logits[:, 0], (found[0] * vectors).sum(1) / sqrt(6))


@pytest.mark.parametrize("residual", [True, False])
def test_a_residual_block_averages_its_branches_and_a_plain_one_has_no_skip(residual: bool) -> None:
    judge = discriminator(residual=residual, **SMALL).double()
    block, maps = judge.blocks[0], noise(2, 6, 8, 8)

    def active(values: Tensor) -> Tensor:
        return torch.where(values > 0, values, 0.2 * values) * sqrt(2)

    inner = active(block.second(active(block.first(maps))))
    expected = (inner + block.skip(maps)) / sqrt(2) if residual else inner
    torch.testing.assert_close(block(maps), expected)


def test_activations_are_clamped() -> None:
    maps = 1e4 * torch.randn(2, 3, 8, 8)
    judge = discriminator(residual=False, clamp=2.0, **SMALL)
    assert judge.blocks[0](judge.from_image(maps)).abs().max() <= 2
    made = generator(clamp=0.25, **SMALL)
    with torch.no_grad():
        assert made.blocks[0](torch.randn(2, 6, 4, 4), torch.randn(2, 2, 512))[0].abs().max() <= 0.25


# ── Styles ────────────────────────────────────────────────────────────────────────────────────────────────


class Numbered(nn.Module):
    """Styles that are the latents, for six layers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("style_mean", torch.tensor([0.5]))
        self.weight = nn.Parameter(torch.ones(()))

    def mapping(self, latents: Tensor, *, remembered: bool = True) -> Tensor:
        return latents[:, None].expand(-1, 6, -1) * self.weight

    def synthesis(self, styles: Tensor) -> Tensor:
        return styles.mean(1)


def mixed(mixing: float, draws: int) -> Iterator[Tensor]:
    """Which layers have other styles, for several batches."""
    loss = StyleGan2(StyleGan2.Settings(mixing=mixing, latent_size=1), DataSpec((1,)))
    nets = Nets({"generator": View(Numbered())})
    for _ in range(draws):
        styles = loss.mixed_styles(nets, torch.full((4, 1), 100.0))[..., 0]
        assert len(torch.unique(styles != 100, dim=0)) == 1, "one layer for the whole batch"
        assert (styles != 100).sum() in (0, len(torch.unique(styles[styles != 100])) * (styles[0] != 100).sum())
        yield styles[0] != 100


def test_styles_are_mixed_from_one_layer_on() -> None:
    torch.manual_seed(0)
    found = torch.stack(list(mixed(0.9, 600)))
    assert not found[:, 0].any() and (found[:, 1:].int().diff(dim=1) >= 0).all()
    share = found.any(1).float().mean().item()
    assert share == pytest.approx(0.9, abs=0.04)
    starts = found.int().argmax(1)[found.any(1)].bincount(minlength=6)[1:]
    assert (starts.float() / starts.sum() - 0.2).abs().max() < 0.06
    assert not torch.stack(list(mixed(0.0, 5))).any()


def test_the_mean_style_follows_in_training_alone_and_not_mixed_ones() -> None:
    made = generator(style_size=5, **SMALL)
    latents = torch.randn(6, 5)
    styles = made.mapping(latents)[:, 0].mean(0)
    torch.testing.assert_close(made.style_mean, 0.005 * styles)
    made.mapping(latents, remembered=False)
    made.mapping(latents)
    torch.testing.assert_close(made.style_mean, (1 - 0.995**2) * styles)
    made.eval().mapping(latents)
    torch.testing.assert_close(made.style_mean, (1 - 0.995**2) * styles)


def test_psi_1_leaves_samples_as_they_are_and_psi_0_makes_the_mean_image() -> None:
    loss = StyleGan2(StyleGan2.Settings(latent_size=5), DataSpec((3, 8, 8)))
    made = generator(style_size=5, **SMALL).eval()
    made.style_mean.normal_()
    nets, latents = Nets({"generator": View(made)}), torch.randn(4, 5)
    with torch.no_grad():
        whole, mean, half = (loss.generate(nets, latents, StyleGan2.Sampling(psi=psi)) for psi in (1, 0, 0.5))
        torch.testing.assert_close(whole, made(latents))
        torch.testing.assert_close(mean, made.synthesis(made.style_mean.expand(4, 4, 5)).clamp(-1, 1))
        between = made.synthesis((made.style_mean + made.mapping(latents)) / 2).clamp(-1, 1)
    torch.testing.assert_close(half, between)


# ── Runs ──────────────────────────────────────────────────────────────────────────────────────────────────

RECIPE: dict[str, Any] = {
    "train": {"steps": 2, "batch_size": 4, "device": "cpu", "seed": 3, "log_every_steps": 1},
    "data": {"use": "digits", "size": 8},
    "loss": {"use": "stylegan2", "latent_size": 5},
    "generator": {"use": "stylegan2", "style_size": 7, "mapping_layers": 2, **SMALL},
    "discriminator": {"use": "stylegan2", **SMALL},
    "regularizer": [
        {"use": "r1", "weight": 0.5, "every": 16},
        {"use": "path-length", "slot": "generator", "space": "w", "weight": 2.0, "every": 4},
    ],
    "optimizer": {
        "generator": {"use": "adam", "lr": 0.002, "betas": [0.0, 0.991992]},
        "discriminator": {"use": "adam", "lr": 0.00235, "betas": [0.0, 0.990586]},
    },
    **dict.fromkeys(("mlflow", "progress", "samples"), False),
}

CONDITIONAL = {"use": "conditional-stylegan2", "noise_size": 5}


@pytest.mark.parametrize(
    ("name", "length", "ramp"),
    [
        ("stylegan2_cifar10", 500_000, 0.05),
        ("stylegan2_ada_cifar10", 500_000, 0.05),
        ("stylegan2_ffhq256", 20_000, None),
    ],
)
def test_published_recipes_have_the_authors_average_and_corrected_optimisers(
    name: str, length: int, ramp: float | None
) -> None:
    """The half-life of n images is min(length, ramp · images so far); of penalties every k steps, c = k / (k + 1)."""
    recipe = load_recipe(shipped_recipes() / f"{name}.toml", load_registry())
    size, steps = recipe.train.batch_size, recipe.train.steps
    for step in (0, 1_000, 100_000, 156_250, 200_000):
        expected = length if ramp is None else min(length, ramp * step * size)
        assert recipe.ema.half_life.at(step, steps) * size == pytest.approx(expected)
    for slot, every in (("generator", 4), ("discriminator", 16)):
        share, settings = every / (every + 1), recipe.optimizers[slot].settings
        assert settings.lr == pytest.approx(0.0025 * share, rel=1e-5)
        assert [each.at(0, steps) for each in settings.betas] == pytest.approx([0, 0.99**share], rel=1e-6)
    intervals = {each.settings.slot: each.settings.every for each in recipe.regularizers}
    assert intervals == {"discriminator": 16} | ({} if "cifar10" in name else {"generator": 4})


class Heard:
    """The batches of a run's updates, and the random stream as each began."""

    def __init__(self, run: Run) -> None:
        self.updates: list[tuple[str, Batch, Tensor]] = []
        run.phases = tuple(replace(phase, objective=self._hearing(phase)) for phase in run.phases)

    def _hearing(self, phase: Phase) -> Callable[[Nets, Batch], Terms]:
        def objective(nets: Nets, batch: Batch) -> Terms:
            self.updates.append((phase.name, batch, torch.get_rng_state()))
            return phase.objective(nets, batch)

        return objective


class ByHand:
    """A step of StyleGAN2 with its lazy penalties, written out."""

    def __init__(self, run: Run) -> None:
        slots = run.state.slots
        self.networks = {name: copy.deepcopy(slot.module).train() for name, slot in slots.items()}
        self.means = {name: [torch.zeros_like(p) for p in each.parameters()] for name, each in self.networks.items()}
        self.updates = dict.fromkeys(self.networks, 0)
        self.length = torch.zeros(())

    def styles(self, batch: Batch) -> Tensor:
        made = self.networks["generator"]
        noise, condition = batch.latents[:, :5], self.classes(batch)
        one = made.mapping(noise, *condition)
        other = made.mapping(torch.randn_like(noise), *condition, remembered=False)
        start = torch.randint(1, 4, ())
        start = start if torch.rand(()) < 0.9 else torch.tensor(4)
        return torch.cat([one[:, :start], other[:, start:]], 1)

    def classes(self, batch: Batch) -> list[Tensor]:
        return [batch.latents[:, 5:].argmax(1)] if batch.latents.shape[1] > 5 else []

    def discriminator(self, batch: Batch) -> Tensor:
        judge, fake = self.networks["discriminator"], self.networks["generator"].synthesis(self.styles(batch)).detach()
        labels = [batch.labels] if self.classes(batch) else []
        real = judge(batch.images, *labels)
        return softplus(-real).mean() + softplus(judge(fake, *self.classes(batch))).mean()

    def generator(self, batch: Batch) -> Tensor:
        fake = self.networks["generator"].synthesis(self.styles(batch))
        return softplus(-self.networks["discriminator"](fake, *self.classes(batch))).mean()

    def r1(self, batch: Batch) -> Tensor:
        images = batch.images.clone().requires_grad_()
        labels = [batch.labels] if self.classes(batch) else []
        (slopes,) = torch.autograd.grad(
            self.networks["discriminator"](images, *labels).sum(), images, create_graph=True
        )
        return 16 * 0.5 / 2 * slopes.pow(2).sum((1, 2, 3)).mean()

    def path_length(self, batch: Batch) -> Tensor:
        made = self.networks["generator"]
        styles = made.mapping(batch.latents[:, :5], *self.classes(batch))
        images = made.synthesis(styles)
        (slopes,) = torch.autograd.grad(images, styles, torch.randn_like(images) / 8, create_graph=True)
        lengths = slopes.pow(2).sum(2).mean(1).sqrt()
        self.length = self.length + 0.01 * (lengths.mean().detach() - self.length)
        return 4 * 2.0 * (lengths - self.length).pow(2).mean()

    def adam(self, name: str, objective: Tensor, lr: float, beta: float) -> None:
        weights = list(self.networks[name].parameters())
        self.updates[name] += 1
        gradients = torch.autograd.grad(objective, weights, allow_unused=True)
        for weight, gradient, mean in zip(weights, gradients, self.means[name], strict=True):
            if gradient is not None:
                mean.mul_(beta).add_((1 - beta) * gradient**2)
                weight.data -= lr * gradient / ((mean / (1 - beta ** self.updates[name])).sqrt() + 1e-8)


@pytest.mark.parametrize("loss", [RECIPE["loss"], CONDITIONAL], ids=["unconditional", "conditional"])
def test_a_step_with_both_lazy_penalties_is_that_of_a_loop_by_hand(loss: dict[str, Any], tmp_path: Path) -> None:
    run = build({**RECIPE, "loss": loss}, tmp_path / "run")
    heard, hand = Heard(run), ByHand(run)
    build_step(run, Measurements())()
    assert [name for name, _, _ in heard.updates] == ["discriminator", "r1", "generator", "path-length"]
    for name, batch, stream in heard.updates:
        torch.set_rng_state(stream)
        objective = getattr(hand, name.replace("-", "_"))(batch)
        of_generator = name in ("generator", "path-length")
        rule = (0.002, 0.991992) if of_generator else (0.00235, 0.990586)
        hand.adam("generator" if of_generator else "discriminator", objective, *rule)
    for name, network in hand.networks.items():
        found = run.state.slots[name].module.state_dict()
        for key, value in network.state_dict().items():
            torch.testing.assert_close(found[key], value, rtol=1e-4, atol=2e-5, msg=lambda text, k=key: f"{k}: {text}")
    torch.testing.assert_close(run.state.penalties["regularizer.1"].mean_length, hand.length)


def test_nobody_is_warned_of_a_deviation_that_is_meant(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    build(RECIPE, tmp_path / "run")
    assert "looks at each sample alone" not in caplog.text
