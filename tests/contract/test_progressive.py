"""The plugin `progressive` end to end: a resume in the middle of a fade-in, after optimisers were reset."""

from __future__ import annotations

from collections.abc import Callable

from ganrun import Run

GROWING = {"use": "progressive", "widths": [6, 4], "level_steps": [1, 3], "fade": 1.0}


def test_growing_networks_resume_load_and_export(journey: Callable[..., Run]) -> None:
    """4×4, then 8×8 with α = 0, ⅓ (where the resumed run begins) and ⅔; full at the end."""
    tables = {
        "train": {"batch_size": 4},
        "loss": {"use": "progressive", "latent_size": 5},
        "generator": GROWING,
        "discriminator": {**GROWING, "group_size": 2},
        "optimizer": {"lr": 1e-3, "betas": [0.0, 0.99]},
        "stage": [
            {"from": 1, "batch_size": 8, "reset_optimizers": True},
            {"from": 2, "reset_optimizers": True},
            {"from": 3, "lr": 2e-3},
        ],
    }
    run = journey(tables)
    assert run.images_seen == 4 + 3 * 8
    assert (run.state.slots["generator"].average.module.level, run.state.slots["discriminator"].module.fade) == (1, 1)
    for slot in run.state.slots.values():
        assert {each["step"].item() for each in slot.optimizer.state.values()} == {2}
