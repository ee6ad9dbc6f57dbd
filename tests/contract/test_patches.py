"""PatchGAN maps under unchanged losses: a discriminator that returns a number for each patch (arXiv:1611.07004)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor, nn

from ganrun import Discriminator, NetworkSpec, Run, Settings, hookimpl, image_shape

MLP = {"use": "mlp", "hidden": [8]}


class PatchDiscriminator(Discriminator):
    """Two convolutions: a number for each patch of the image."""

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        channels, _, _ = image_shape(spec.inputs)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 8, 4, stride=2, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(8, spec.out_features, 3)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images to `(batch, out_features, height / 2 - 2, width / 2 - 2)`."""
        return self.layers(images)


class Plugin:
    @hookimpl
    def ganrun_discriminators(self) -> dict[str, type[Discriminator]]:
        return {"patch": PatchDiscriminator}


@pytest.mark.parametrize("loss", ["gan", "minimax", "lsgan", "wgan-gp", "wgan", "hinge"])
def test_a_loss_that_knows_nothing_of_maps_trains_on_them(journey: Callable[..., Run], loss: str) -> None:
    tables = {"loss": {"use": loss, "latent_size": 4}, "generator": MLP, "discriminator": {"use": "patch"}}
    run = journey(tables, Plugin())
    images = run.model.decode(run.model.fixed_latents(2))
    assert run.state.slots["discriminator"].module(images).shape == (2, 1, 2, 2)
