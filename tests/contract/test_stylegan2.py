"""StyleGAN2 goes through the life cycle: lazy penalties, a running mean in the network, and samples of truncated
styles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ganrun import Run

SMALL = {"width": 64, "widest": 6}
PENALTIES = [
    {"use": "r1", "weight": 0.5, "every": 2},
    {"use": "path-length", "slot": "generator", "space": "w", "every": 3},
]


PLAIN, BY_CLASS = {"use": "stylegan2", "latent_size": 5}, {"use": "conditional-stylegan2", "noise_size": 5}


@pytest.mark.parametrize(("loss", "generator"), [(PLAIN, "stylegan2"), (BY_CLASS, "stylegan2"), (BY_CLASS, "stylegan")])
def test_it_trains_with_lazy_penalties_and_remembers(
    journey: Callable[..., Run], loss: dict[str, Any], generator: str
) -> None:
    tables = {
        "loss": loss,
        "sampling": {"psi": 0.5},
        "generator": {"use": generator, "style_size": 7, "mapping_layers": 2, **SMALL},
        "discriminator": {"use": "stylegan2", "group": 2, **SMALL},
        "regularizer": PENALTIES,
    }
    run = journey(tables)
    weights = run.state.weights()
    assert weights["generator"]["style_mean"].any() and weights["regularizer.1"]["mean_length"] > 0
    assert torch.equal(weights["generator"]["style_mean"], weights["generator.averaged"]["style_mean"])
    alike = run.model.with_sampling(psi=0.0).decode(run.model.fixed_latents(2))
    torch.testing.assert_close(alike[0], alike[1])
