"""A family that is neither a GAN nor an autoencoder: one network of kind `network`, latents as large as images, and
settings of the sampling. Its mathematics: tests/plugins/test_flow.py."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ganrun import Run

TABLES = {
    "loss": {"use": "class-conditional-flow-matching"},
    "velocity": {"use": "time-unet", "widths": [4, 4], "dropout": 0.1},
    "sampling": {"steps": 1, "solver": "euler", "guidance": 2.0},
}


def test_a_flow_trains_and_its_steps_are_settings_of_sampling(journey: Callable[..., Run]) -> None:
    run = journey(TABLES)
    model, latents = run.model, run.model.fixed_latents(4)
    samples = model.decode(latents)
    for change in ({"steps": 2}, {"solver": "heun"}, {"guidance": 1.0}):
        assert not torch.equal(samples, model.with_sampling(**change).decode(latents)), change
    (score,) = run.scores.values()
    wanted = {"sampling.steps": 1, "sampling.solver": "euler", "sampling.guidance": 2.0}
    assert wanted.items() <= score.protocol.items()
