"""StyleGAN's generator: adaptive instance norm, and the whole network from its weights alone, in float64."""

from __future__ import annotations

from itertools import pairwise
from math import sqrt
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import conv2d, instance_norm, leaky_relu

from ganrun import DataSpec, Nets, NetworkSpec, View
from ganrun.testing import assert_conforms
from ganrun_stylegan2.layers import AdaptiveInstanceNorm
from ganrun_stylegan2.losses import StyleGan2
from ganrun_stylegan2.stylegan import StyleGanGenerator

SMALL: dict[str, Any] = {"width": 64, "widest": 6, "style_size": 5}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def generator(side: int = 16, **settings: Any) -> StyleGanGenerator:
    torch.manual_seed(0)
    return StyleGanGenerator(StyleGanGenerator.Settings(**settings), NetworkSpec((5,), (3, side, side)))


def trained() -> StyleGanGenerator:
    """In float64 and evaluation mode, with biases, strengths and a constant as training makes them."""
    made = generator(**SMALL).double().eval()
    for name, weight in made.named_parameters():
        if any(word in name for word in ("bias", "strength", "start")):
            nn.init.normal_(weight, 0.3)
    return made


def style_of(norm: AdaptiveInstanceNorm, style: Tensor) -> tuple[Tensor, Tensor]:
    """y_s and y_b of a vector w."""
    own = (layer.weight @ style / sqrt(len(style)) + layer.bias for layer in (norm.scale, norm.shift))
    scale, shift = own
    return scale, shift


# ── Adaptive instance norm ────────────────────────────────────────────────────────────────────────────────


def test_adaptive_instance_norm_is_torchs_instance_norm_scaled_and_shifted_by_the_style() -> None:
    norm, maps, styles = AdaptiveInstanceNorm(5, 3).double(), 4 + 3 * noise(2, 3, 6, 7), noise(2, 5, seed=1)
    nn.init.normal_(norm.shift.bias)
    plain = instance_norm(maps, eps=1e-8)
    expected = []
    for each, style in zip(plain, styles, strict=True):
        scale, shift = style_of(norm, style)
        expected.append(scale[:, None, None] * each + shift[:, None, None])
    torch.testing.assert_close(norm(maps, styles), torch.stack(expected))


def test_gradients_of_maps_and_styles_and_their_gradients_are_right() -> None:
    """Path length needs the second."""
    norm = AdaptiveInstanceNorm(2, 2).double()
    inputs = [noise(1, 2, 3, 2).requires_grad_(), noise(1, 2, seed=1).requires_grad_()]
    assert gradcheck(norm, inputs) and gradgradcheck(norm, inputs)


def test_every_map_of_every_layer_has_the_mean_and_the_deviation_that_its_own_style_says() -> None:
    made, styles = trained(), noise(2, 6, 5, seed=1)
    found: list[Tensor] = []
    for step in made.steps:
        step.register_forward_hook(lambda module, inputs, output: found.append(output))
    made.synthesis(styles)
    assert len(found) == 6
    for step, maps, own in zip(made.steps, found, styles.unbind(1), strict=True):
        scale, shift = map(torch.stack, zip(*(style_of(step.norm, each) for each in own), strict=True))
        torch.testing.assert_close(maps.mean((2, 3)), shift)
        torch.testing.assert_close(maps.std((2, 3), correction=0), scale.abs(), rtol=1e-5, atol=0)


# ── The whole network ─────────────────────────────────────────────────────────────────────────────────────


def bilinear(maps: Tensor) -> Tensor:
    """Each pixel four times, then [1, 2, 1] / 4 along rows and columns: the paper's appendix C."""
    channels, taps = maps.shape[1], torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64) / 4
    kernel = torch.outer(taps, taps).expand(channels, 1, 3, 3)
    return conv2d(maps.repeat_interleave(2, 2).repeat_interleave(2, 3), kernel, padding=1, groups=channels)


def reference(made: StyleGanGenerator, styles: Tensor) -> Tensor:
    """One sample in evaluation, from the weights; styles `(layers, style_size)`."""
    weights = made.state_dict()
    maps = weights["start"][None]
    for number, style in enumerate(styles):
        if number:
            grows = number > 1 and number % 2 == 0
            kernel = weights[f"steps.{number}.conv." + ("1.weight" if grows else "weight")]
            maps = bilinear(maps) if grows else maps
            maps = conv2d(maps, kernel * sqrt(2 / kernel[0].numel()), padding=1)
        part = f"steps.{number}."
        maps = maps + weights[part + "strength"] * weights[part + "noise"] + weights[part + "bias"]
        scale, shift = style_of(made.steps[number].norm, style)
        maps = instance_norm(leaky_relu(maps, 0.2), eps=1e-8) * scale[:, None, None] + shift[:, None, None]
    kernel = weights["to_image.weight"]
    return conv2d(maps, kernel / sqrt(kernel.shape[1]), weights["to_image.bias"])[0]


def test_the_whole_generator_is_that_of_a_loop_over_samples_and_layers() -> None:
    made, styles = trained(), noise(2, 6, 5, seed=1)
    torch.testing.assert_close(made.synthesis(styles), torch.stack([reference(made, each) for each in styles]))


def test_at_1024_it_has_the_papers_26_2_million_weights_and_18_layers() -> None:
    with torch.device("meta"):
        made = StyleGanGenerator(StyleGanGenerator.Settings(), NetworkSpec((512,), (3, 1024, 1024)))
    channels = [512, 512, 512, 512, 256, 128, 64, 32, 16]
    kernels = 9 * 512 * 512 + sum(9 * (a * b + b * b) for a, b in pairwise(channels))
    layers = sum(2 * (2 * each * 513 + 2 * each) for each in channels)  # y_s and y_b, strengths and biases
    expected = 8 * 512 * 513 + 16 * 512 + kernels + layers + (16 * 3 + 3)
    assert sum(weight.numel() for weight in made.parameters()) == expected
    assert round(expected / 1e6, 1) == 26.2 and made.layers == 18


def test_it_starts_from_a_constant_of_ones_no_noise_and_styles_around_1_and_0() -> None:
    made = generator(side=8, widest=64, style_size=64)
    assert torch.equal(made.start, torch.ones(64, 4, 4))
    for step in made.steps:
        assert not step.strength.any() and not step.bias.any()
        assert set(step.norm.scale.bias.tolist()) == {1.0} and not step.norm.shift.bias.any()


def test_the_first_step_is_finite_although_all_pixels_of_the_constant_are_equal() -> None:
    made = generator(**SMALL)
    styles = made.mapping(torch.randn(3, 5))
    images = made.synthesis(styles)
    (slopes,) = torch.autograd.grad((images * torch.randn_like(images)).sum(), styles, create_graph=True)
    (images.square().mean() + slopes.square().sum(2).mean(1).sqrt().mean()).backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in made.parameters())


def test_at_low_precision_statistics_are_taken_in_float32() -> None:
    made = generator(**SMALL).eval()
    styles = made.mapping(torch.randn(4, 5))
    with torch.autocast("cpu", torch.bfloat16):
        found = made.synthesis(styles)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, made.synthesis(styles), rtol=0.05, atol=0.05)
    offset = 100 + torch.randn(2, 6, 16, 16)  # in bf16, the mean of squares would swallow the deviation
    with torch.autocast("cpu", torch.bfloat16):
        assert made.steps[0].norm(offset, styles[:2, 0]).isfinite().all()
        low = made.steps[0].norm(offset, styles[:2, 0])
    torch.testing.assert_close(low, made.steps[0].norm(offset, styles[:2, 0]))


# ── With StyleGAN2's losses ───────────────────────────────────────────────────────────────────────────────


class Small(StyleGanGenerator):
    class Settings(StyleGanGenerator.Settings):
        style_size: int = 8
        width: int = 64
        widest: int = 6


def test_the_generator_and_the_loss_with_it_conform() -> None:
    assert_conforms("generator", StyleGanGenerator, {**SMALL, "mapping_layers": 2})
    assert_conforms("loss", StyleGan2, {"mixing": 0.5}, networks={"generator": Small})


@pytest.mark.parametrize("start", [1, 3, 5])
def test_mixed_styles_change_what_follows_their_first_layer_alone(start: int) -> None:
    made = trained()
    one, other = (made.mapping(noise(2, 5, seed=seed)) for seed in range(2))
    outputs: list[list[Tensor]] = []
    for styles in (one, torch.cat([one[:, :start], other[:, start:]], 1)):
        maps, found = made.start.expand(2, -1, -1, -1), []
        for step, style in zip(made.steps, styles.unbind(1), strict=True):
            maps = step(maps, style)
            found.append(maps)
        outputs.append(found)
    same = [torch.allclose(*pair, rtol=0, atol=1e-12) for pair in zip(*outputs, strict=True)]
    assert same == [number < start for number in range(6)]


def test_samples_are_truncated_towards_the_mean_style() -> None:
    loss, made = StyleGan2(StyleGan2.Settings(latent_size=5), DataSpec((3, 16, 16))), generator(**SMALL)
    styles = made.mapping(torch.randn(6, 5))[:, 0].mean(0)
    torch.testing.assert_close(made.style_mean, 0.005 * styles)
    made.eval()
    nets, latents = Nets({"generator": View(made)}), torch.randn(4, 5)
    with torch.no_grad():
        whole, mean = (loss.generate(nets, latents, StyleGan2.Sampling(psi=psi)) for psi in (1, 0))
        torch.testing.assert_close(whole, made(latents))
        torch.testing.assert_close(mean, made.synthesis(made.style_mean.expand(4, 6, 5)).clamp(-1, 1))
    assert not torch.equal(whole, mean)
