"""PatchGAN maps under unchanged losses: a discriminator that returns a number for each patch (arXiv:1611.07004)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ganrun import Run

MLP = {"use": "mlp", "hidden": [8]}
PATCH = {"use": "patch", "layers": 1, "feature_maps": 8, "norm": "none"}


@pytest.mark.parametrize("loss", ["gan", "minimax", "lsgan", "wgan-gp", "wgan", "hinge"])
def test_a_loss_that_knows_nothing_of_maps_trains_on_them(journey: Callable[..., Run], loss: str) -> None:
    tables = {"loss": {"use": loss, "latent_size": 4}, "generator": MLP, "discriminator": PATCH}
    run = journey(tables)
    images = run.model.decode(run.model.fixed_latents(2))
    assert run.state.slots["discriminator"].module(images).shape == (2, 1, 2, 2)
