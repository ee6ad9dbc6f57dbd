"""ADA before unchanged losses (Karras et al. 2020, arXiv:2006.06676): every image that the discriminator is shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import Field
from tests.contract.conftest import BASE, Gauge, merged
from torch import Tensor

import ganrun
from ganrun import Augmentation, ContractError, DataSpec, Run, hookimpl
from ganrun.testing import assert_conforms, train

MLP = {"use": "mlp", "hidden": [8]}
CONV = {"use": "conv", "feature_maps": 4, "stages": 1}


class Ada(Augmentation):
    """Flips, shifts and brightness, each with probability p, which follows the overfitting."""

    class Settings(ganrun.Settings):
        target: float = 0.6
        """The mean sign of the outputs for real images that p is adjusted to."""

        images: int = Field(20, ge=1)
        """Images in which p can go from 0 to 1."""

    every = 2
    settings: Settings

    def __init__(self, settings: Any, spec: DataSpec) -> None:
        super().__init__(settings, spec)
        self.register_buffer("p", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        images = torch.where(self._chosen(images), images.flip(3), images)
        for side in (2, 3):
            images = torch.where(self._chosen(images), images.roll(1, side), images)
        return images + self._chosen(images) * 0.2 * torch.randn(len(images), 1, 1, 1, device=images.device)

    def _chosen(self, images: Tensor) -> Tensor:
        return torch.rand(len(images), 1, 1, 1, device=images.device) < self.p

    def adjust(self, outputs: Tensor, images: int) -> None:
        direction = (outputs.sign().mean() - self.settings.target).sign()
        self.p.add_(direction * images / self.settings.images).clamp_(0, 1)


class Plugin:
    @hookimpl
    def ganrun_augmentations(self) -> dict[str, type[Augmentation]]:
        return {"flips-and-shifts": Ada}


@pytest.mark.parametrize(
    ("loss", "networks"),
    [
        ({"use": "gan", "latent_size": 4}, MLP),
        ({"use": "wgan-gp", "latent_size": 4}, MLP),
        ({"use": "gan", "latent_size": 4}, CONV),
        ({"use": "cgan", "noise_size": 4}, MLP),
    ],
    ids=["gan", "second order", "batch norm", "labels"],
)
def test_a_loss_that_knows_nothing_of_augmentations_trains_behind_one(
    journey: Callable[..., Run], loss: dict[str, Any], networks: dict[str, Any]
) -> None:
    tables = {"loss": loss, "generator": networks, "discriminator": networks}
    run = journey({**tables, "augmentation": {"use": "flips-and-shifts", "target": -1.5, "images": 200}}, Plugin())
    p = run.state.weights()["discriminator.augmentation"]["p"]
    assert p.item() == pytest.approx(run.images_seen / 200)


class Cropping(Augmentation):
    """Keeps the shape in the first step alone, which is what is tried before a run."""

    def begin(self, step: int, steps: int) -> bool:
        self.crops = step > 0
        return self.crops

    def forward(self, images: Tensor) -> Tensor:
        return images[:, :, :4] if self.crops else images


class CroppingPlugin:
    @hookimpl
    def ganrun_augmentations(self) -> dict[str, type[Augmentation]]:
        return {"cropping": Cropping}


def test_one_that_changes_the_shape_during_a_run_is_named_and_no_network(tmp_path: Path) -> None:
    tables = {"loss": {"use": "gan", "latent_size": 4}, "generator": MLP, "discriminator": MLP}
    recipe = merged(BASE, {**tables, "augmentation": {"use": "cropping"}})
    with pytest.raises(ContractError, match=r"\[augmentation\] cropping .*returns shape \(4, 1, 4, 8\)"):
        train(recipe, tmp_path / "run", CroppingPlugin(), Gauge())


def test_it_conforms() -> None:
    assert_conforms("augmentation", Ada)
