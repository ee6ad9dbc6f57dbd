"""Tests of the generator against ganrun's contract and against the paper, and a short run.

Install the package first, so that ganrun finds it: `pip install --editable .`
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ganrun_mixture.generator import MixtureGenerator

from ganrun import IncompatibleError, NetworkSpec
from ganrun.testing import assert_conforms, train

POINTS = NetworkSpec(inputs=(3,), outputs=(2,))


@pytest.mark.parametrize("settings", [{}, {"components": 1}, {"components": 7, "width": 1.0, "hidden": 8}])
def test_it_keeps_the_contract_of_a_generator(settings: dict[str, float]) -> None:
    assert_conforms("generator", MixtureGenerator, settings)
    assert_conforms("generator", MixtureGenerator, settings, POINTS)


def test_every_component_is_drawn_equally_often() -> None:
    generator = MixtureGenerator(MixtureGenerator.Settings(components=4), POINTS)
    latents = torch.randn(40_000, 3, generator=torch.Generator().manual_seed(0))
    shares = torch.bincount(generator.component(latents), minlength=4) / 40_000
    assert shares.tolist() == pytest.approx([0.25] * 4, abs=0.01)
    assert generator.component(torch.tensor([[-99.0], [99.0]])).tolist() == [0, 3]


def test_a_sample_starts_from_its_components_mean() -> None:
    generator = MixtureGenerator(MixtureGenerator.Settings(components=2), POINTS)
    low, high = generator(torch.tensor([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))
    assert torch.allclose(torch.stack([low, high]), generator.layers(generator.means))


def test_a_latent_of_one_number_is_refused() -> None:
    with pytest.raises(IncompatibleError, match="at least 2 latents"):
        MixtureGenerator(MixtureGenerator.Settings(), NetworkSpec(inputs=(1,), outputs=(2,)))


def test_it_trains(tmp_path: Path) -> None:
    recipe = {
        "train": {"steps": 2, "batch_size": 8, "device": "cpu"},
        "data": {"use": "digits", "size": 8},
        "loss": {"use": "gan", "latent_size": 5},
        "generator": {"use": "mixture", "components": 3, "hidden": 8},
        "discriminator": {"use": "mlp", "hidden": [8]},
        "mlflow": False,
    }
    run = train(recipe, tmp_path / "run")
    assert run.step == 2
    assert run.model.decode(run.model.fixed_latents(4)).shape == (4, 1, 8, 8)
