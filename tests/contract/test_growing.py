"""Progressive growing with fade-in (Karras et al. 2018, arXiv:1710.10196): small stages are shown enlarged."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, leaky_relu

import ganrun
from ganrun import Discriminator, Generator, NetworkSpec, Run, Scheduled, find_saved_model, hookimpl, image_shape
from ganrun.testing import assert_conforms, registry_with


class Growing:
    """A network of two stages: half the resolution in the first half of the run, then all of it, faded in."""

    def begin(self, step: int, steps: int) -> Hashable:
        """Fade from 0 to 1 over the third quarter."""
        self.is_grown = 2 * step >= steps
        self.fade.fill_(min(1.0, max(0.0, 4 * step / steps - 2)))
        return self.is_grown


class GrowingGenerator(Growing, Generator):
    """Latents to images."""

    class Settings(ganrun.Settings):
        gain: Scheduled = Scheduled(schedule="linear", start=1.0, end=2.0)
        """Factor of the pixels before tanh."""

    def __init__(self, settings: Any, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        channels, height, width = image_shape(spec.outputs)
        self.half = height // 2, width // 2
        self.first = nn.Linear(*spec.inputs, 8 * self.half[0] * self.half[1])
        self.block = nn.Conv2d(8, 8, 3, padding=1)
        self.to_small, self.to_large = nn.Conv2d(8, channels, 1), nn.Conv2d(8, channels, 1)
        self.register_buffer("fade", torch.zeros(()), persistent=False)

    def forward(self, latents: Tensor) -> Tensor:
        maps = leaky_relu(self.first(latents).unflatten(1, (8, *self.half)), 0.2)
        pixels = interpolate(self.to_small(maps), scale_factor=2)
        if self.is_grown:
            finer = self.to_large(leaky_relu(self.block(interpolate(maps, scale_factor=2)), 0.2))
            pixels = pixels + self.fade * (finer - pixels)
        return (self.now["gain"] * pixels).float().tanh()


class GrowingDiscriminator(Growing, Discriminator):
    """Images to numbers, the other way round."""

    def __init__(self, settings: Any, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        channels, height, width = image_shape(spec.inputs)
        self.from_small, self.from_large = nn.Conv2d(channels, 8, 1), nn.Conv2d(channels, 8, 1)
        self.block = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Linear(2 * height * width, spec.out_features)
        self.register_buffer("fade", torch.zeros(()), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        maps = leaky_relu(self.from_small(avg_pool2d(images, 2)), 0.2)
        if self.is_grown:
            finer = avg_pool2d(leaky_relu(self.block(leaky_relu(self.from_large(images), 0.2)), 0.2), 2)
            maps = maps + self.fade * (finer - maps)
        return self.last(maps.flatten(1)).float()


class Plugin:
    @hookimpl
    def ganrun_generators(self) -> dict[str, type[Generator]]:
        return {"growing": GrowingGenerator}

    @hookimpl
    def ganrun_discriminators(self) -> dict[str, type[Discriminator]]:
        return {"growing": GrowingDiscriminator}


@pytest.mark.parametrize(("loss", "updates"), [("gan", 1), ("wgan-gp", 5)])
def test_networks_grow_under_a_loss_that_knows_nothing_of_it(
    journey: Callable[..., Run], loss: str, updates: int
) -> None:
    tables = {
        "loss": {"use": loss, "latent_size": 4},
        "generator": {"use": "growing"},
        "discriminator": {"use": "growing"},
        "stage": [{"from": 1, "batch_size": 6}, {"from": 2, "batch_size": 8, "lr": 0.01}],
    }
    run = journey(tables, Plugin())
    assert run.images_seen == updates * (4 + 6 + 8 + 8)
    generator = run.state.slots["generator"].average.module
    assert (generator.is_grown, generator.fade.item(), generator.now["gain"].item()) == (True, 1.0, 2.0)
    half = run.directory.path / "checkpoints" / "step_00000002"
    earlier = find_saved_model(half, registry_with(Plugin())).model("cpu").networks["generator"]
    assert (earlier.is_grown, earlier.fade.item(), earlier.now["gain"].item()) == (True, 0.0, 1.5)


def test_they_conform() -> None:
    assert_conforms("generator", GrowingGenerator)
    assert_conforms("discriminator", GrowingDiscriminator)
