"""LAPGAN: its pyramid against convolutions, its levels by hand, and what does not fit."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve1d
from torch import Tensor, nn
from torch.nn.functional import softplus

import ganrun_regularizers
from ganrun import Batch, DataSpec, IncompatibleError, Nets, NetworkSpec, RequestError, View
from ganrun.testing import assert_conforms, build, train
from ganrun_lapgan.losses import LapGan
from ganrun_lapgan.networks import DetailGenerator
from ganrun_lapgan.pyramid import downsampled, gaussian_pyramid, upsampled

FILTER = np.array([1, 4, 6, 4, 1]) / 16
SPEC = DataSpec((1, 8, 8))


# ── The pyramid ───────────────────────────────────────────────────────────────────────────────────────────


def blurred(images: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return convolve1d(convolve1d(images, weights, axis=2, mode="nearest"), weights, axis=3, mode="nearest")


def test_downsampling_blurs_and_takes_every_second_pixel() -> None:
    images = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    expected = blurred(images.numpy(), FILTER)[:, :, ::2, ::2]
    np.testing.assert_allclose(downsampled(images).numpy(), expected, rtol=1e-12, atol=1e-15)


def test_upsampling_is_the_filter_on_pixels_with_zeros_between_them() -> None:
    """At the border, pixels are repeated before zeros are put between them."""
    images = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    bordered = np.pad(images.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    spread = np.zeros((2, 3, 12, 16))
    spread[:, :, ::2, ::2] = bordered
    expected = blurred(spread, 2 * FILTER)[:, :, 2:-2, 2:-2]
    np.testing.assert_allclose(upsampled(images).numpy(), expected, rtol=1e-12, atol=1e-15)


def test_both_keep_a_plain_picture_and_the_bounds_and_details_restore_every_level() -> None:
    plain = torch.full((1, 2, 8, 8), 0.3, dtype=torch.float64)
    torch.testing.assert_close(upsampled(downsampled(plain)), plain)
    images = torch.rand(3, 1, 16, 16, dtype=torch.float64) * 2 - 1
    levels = gaussian_pyramid(images, 3)
    assert [level.shape[-1] for level in levels] == [16, 8, 4] and all(level.abs().max() <= 1 for level in levels)
    details = [fine - upsampled(coarse) for fine, coarse in pairwise(levels)]
    found = levels[-1]
    for detail in reversed(details):
        found = upsampled(found) + detail
    torch.testing.assert_close(found, images)


# ── The loss ──────────────────────────────────────────────────────────────────────────────────────────────


class Half(nn.Module):
    """Half of the image that it is given as details, plus the noise's first number."""

    def forward(self, noise: Tensor, coarse: Tensor) -> Tensor:
        return coarse / 2 + noise[:, :, :1, :1]


class Flat(nn.Module):
    """Pictures of one value: the first of the latents."""

    def forward(self, latents: Tensor) -> Tensor:
        return latents[:, :1, None, None].expand(-1, 1, 2, 2)


class Mean(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1).mean(1, keepdim=True)


def nets() -> Nets:
    makers = {"generator_2": View(Flat()), "generator_1": View(Half()), "generator_0": View(Half())}
    return Nets({**makers, **{f"discriminator_{level}": View(Mean()) for level in range(3)}})


def test_samples_go_from_the_coarsest_level_to_the_finest() -> None:
    loss = LapGan(LapGan.Settings(noise_size=3), SPEC)
    assert loss.latent_size == 3 + 16 + 64 and [each.name for each in loss.factors()] == [
        "noise_2",
        "noise_1",
        "noise_0",
    ]
    latents = torch.zeros(2, 83)
    latents[:, 0], latents[:, 3], latents[:, 19] = torch.tensor([0.2, 0.8]), 0.1, -0.05
    samples = loss.generate(nets(), latents, loss.Sampling())
    values = 1.5 * (1.5 * torch.tensor([0.2, 0.8]) + 0.1) - 0.05
    torch.testing.assert_close(samples, values.clamp(-1, 1)[:, None, None, None].expand(-1, 1, 8, 8))
    at_1 = loss.generated_inputs("discriminator_1", nets(), Batch(latents)).inputs
    torch.testing.assert_close(at_1[:, 0, 0, 0], 1.5 * torch.tensor([0.2, 0.8]) + 0.1)
    taken = loss.generated_inputs("generator_1", nets(), Batch(latents))
    assert taken.inputs.shape == (2, 1, 4, 4) and taken.conditions["coarse"][1, 0, 0, 0] == pytest.approx(0.8)


def test_each_level_is_judged_beside_the_real_image_of_the_level_below() -> None:
    loss = LapGan(LapGan.Settings(noise_size=3, label_smoothing=0.1), SPEC)
    images = torch.full((4, 1, 8, 8), 0.4)
    latents = torch.zeros(4, 83)
    latents[:, 0] = -0.6
    fakes = {2: -0.6, 1: 0.6, 0: 0.6}  # of the two upper levels, real images and half of them
    for level, fake in fakes.items():
        terms = loss.discriminator(nets(), Batch(latents, images), level).minimise
        torch.testing.assert_close(terms["real"], softplus(torch.tensor(-0.4)) + 0.1 * 0.4)
        torch.testing.assert_close(terms["fake"], softplus(torch.tensor(fake)))
        found = loss.generator(nets(), Batch(latents, images), level).minimise["fake"]
        torch.testing.assert_close(found, softplus(torch.tensor(-fake)))
        real = loss.real_inputs(f"discriminator_{level}", Batch(latents, images)).inputs
        torch.testing.assert_close(real, torch.full((4, 1, 8 >> level, 8 >> level), 0.4))


def test_the_components_keep_their_contracts() -> None:
    assert_conforms("loss", LapGan, {"noise_size": 4}, DataSpec((1, 8, 8)))
    spec = NetworkSpec((1, 8, 8), (3, 8, 8), {"coarse": (3, 8, 8)})
    for norm in ("none", "batch"):
        assert_conforms("generator", DetailGenerator, {"widths": [4], "kernel_size": 3, "norm": norm}, spec)


# ── In a recipe ───────────────────────────────────────────────────────────────────────────────────────────

DETAILS = {"use": "lapgan", "widths": [4], "kernel_size": 3}
JUDGE = {"use": "mlp", "hidden": [8]}
TABLES: dict[str, Any] = {
    "train": {"steps": 2, "batch_size": 8, "device": "cpu"},
    "data": {"use": "digits", "size": 8},
    "loss": {"use": "lapgan", "noise_size": 4},
    "generator_2": {"use": "mlp", "hidden": [8]},
    "generator_1": DETAILS,
    "generator_0": DETAILS,
    **{f"discriminator_{level}": JUDGE for level in range(3)},
    **dict.fromkeys(("mlflow", "progress", "samples", "checkpoints"), False),
}


def test_levels_are_independent_of_each_other(tmp_path: Path) -> None:
    """What one level trains does not change what the others become, but for the random numbers that it draws."""
    other = {**TABLES, "optimizer": {"lr": 1e-3}, "regularizer": [{"use": "r1", "slot": "discriminator_0"}]}
    run, again = (
        train(tables, tmp_path / name, ganrun_regularizers)
        for name, tables in (("a", TABLES | {"optimizer": {"lr": 1e-3}}), ("b", other))
    )
    weights, others = run.state.weights(), again.state.weights()
    same = {
        slot
        for slot in run.state.slots
        if all(torch.equal(weights[slot][name], others[slot][name]) for name in weights[slot])
    }
    assert {
        "generator_2",
        "generator_1",
        "discriminator_2",
        "discriminator_1",
    } <= same and "discriminator_0" not in same


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"data": {"use": "digits", "size": 10}}, "with three levels it takes sizes divisible by 4, not 10×10"),
        ({"data": {"use": "gaussians"}}, "works on images"),
        ({"generator_1": {"use": "mlp", "hidden": [8]}}, "generator_1"),
        ({"generator_2": DETAILS}, "adds details to an image that it is given"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(change: Any, fault: str, tmp_path: Path) -> None:
    with pytest.raises((RequestError, IncompatibleError), match=fault):
        build({**TABLES, **change}, tmp_path / "run")
