"""pix2pix: images translated into images, from pairs (Isola et al. 2017, arXiv:1611.07004)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import Field
from tests.contract.test_augmentation import Ada
from tests.contract.test_patches import PatchDiscriminator
from torch import Tensor, nn
from torch.nn.functional import softplus

import ganrun
import ganrun_regularizers
from ganrun import (
    AdversarialLoss,
    Augmentation,
    Batch,
    Data,
    DataSpec,
    Discriminator,
    Factor,
    Generator,
    IncompatibleError,
    Inputs,
    Loss,
    Nets,
    NetworkSpec,
    Phase,
    Ports,
    Run,
    Settings,
    Slot,
    Split,
    Terms,
    View,
    float32_tanh,
    logistic_terms,
    non_saturating_loss,
    to_uint8,
)
from ganrun.testing import assert_conforms
from ganrun_datasets.digits import Digits

PAIRS = DataSpec((1, 8, 8), classes=10, fields={"source": (1, 8, 8)})


class Pix2Pix(AdversarialLoss):
    """min_G max_D E[log D(x, y)] + E[log(1 − D(x, G(x)))] + λ E‖y − G(x)‖₁: equations 1, 3 and 4.

    x is the record's source and all of its latents; the noise is dropout (section 2.2), here in training alone. The
    discriminator sees x beside y, and its objective is halved; the generator maximises log D (section 2.3).
    """

    class Settings(ganrun.Settings):
        l1_weight: float = Field(100.0, ge=0)
        """λ."""

    slots = {**AdversarialLoss.slots, "discriminator": Slot("discriminator", augmented=True, boundary=0.0)}

    def __init__(self, settings: Settings, spec: DataSpec) -> None:
        super().__init__(settings, spec)
        if spec.fields.get("source", ())[1:] != spec.sample_shape[1:]:
            raise IncompatibleError('it translates a record\'s "source", an image of the same size, which is not there')

    @property
    def latent_size(self) -> int:
        return prod(self.spec.fields["source"])

    def factors(self) -> tuple[Factor, ...]:
        return (Factor("source", self.latent_size, "given"),)

    def ports(self, slot: str) -> Ports:
        source, (channels, *size) = self.spec.fields["source"], self.spec.sample_shape
        if slot == "generator":
            return Ports(source, self.spec.sample_shape)
        return Ports((source[0] + channels, *size), (1, ...))

    def discriminator(self, nets: Nets, batch: Batch) -> Terms:
        real, fake = self.real_inputs("discriminator", batch), self.generated_inputs("discriminator", nets, batch)
        real, fake = (nets.discriminator(at.inputs) for at in (real, fake))
        return Terms({name: term / 2 for name, term in logistic_terms(real, fake).items()})

    def generator(self, nets: Nets, batch: Batch) -> Terms:
        made = nets.generator(batch["source"])
        logits = nets.discriminator(torch.cat([batch["source"], made], dim=1))
        distance = self.settings.l1_weight * (made - batch.images).abs().mean()
        return Terms({"adversarial": non_saturating_loss(logits), "l1": distance})

    def real_inputs(self, slot: str, batch: Batch) -> Inputs:
        return Inputs(torch.cat([batch["source"], batch.images], dim=1))

    def generated_inputs(self, slot: str, nets: Nets, batch: Batch) -> Inputs:
        return Inputs(torch.cat([batch["source"], nets.generator(batch["source"])], dim=1))

    def phases(self) -> tuple[Phase, ...]:
        return self.discriminator_phase(), Phase("generator", self.generator, trains=("generator",))

    def generate(self, nets: Nets, latents: Tensor, sampling: Settings) -> Tensor:
        return nets.generator(latents.unflatten(1, self.spec.fields["source"]))


class UNet(Generator):
    """Down and up once, with a skip connection around (section 2.2.1)."""

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        channels = spec.inputs[0]
        self.down = nn.Sequential(nn.Conv2d(channels, 8, 4, stride=2, padding=1), nn.LeakyReLU(0.2))
        self.up = nn.Sequential(nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1), nn.Dropout(0.5), nn.ReLU())
        self.last = nn.Conv2d(8 + channels, spec.out_features, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return float32_tanh(self.last(torch.cat([self.up(self.down(images)), images], dim=1)))


class Edges(Digits):
    """Digits, and how much each pixel differs from its right neighbour."""

    def spec(self) -> DataSpec:
        plain = super().spec()
        return replace(plain, fields={"source": plain.sample_shape})

    def split(self, name: str) -> Split:
        plain = super().split(name)
        steps = np.abs(np.diff(plain.images.astype(np.int16), axis=3, append=0))
        return replace(plain, beside={"source": steps.astype(np.uint8)})


class Plugin:
    @ganrun.hookimpl
    def ganrun_losses(self) -> dict[str, type[Loss]]:
        return {"pix2pix": Pix2Pix}

    @ganrun.hookimpl
    def ganrun_generators(self) -> dict[str, type[Generator]]:
        return {"u-net": UNet}

    @ganrun.hookimpl
    def ganrun_discriminators(self) -> dict[str, type[Discriminator]]:
        return {"patch": PatchDiscriminator}

    @ganrun.hookimpl
    def ganrun_augmentations(self) -> dict[str, type[Augmentation]]:
        return {"flips-and-shifts": Ada}

    @ganrun.hookimpl
    def ganrun_data(self) -> dict[str, type[Data]]:
        return {"edges": Edges}


TABLES = {
    "data": {"use": "edges", "size": 8},
    "loss": {"use": "pix2pix"},
    "generator": {"use": "u-net"},
    "discriminator": {"use": "patch"},
}


SHOWN = {
    "augmentation": {"use": "flips-and-shifts", "target": -1.5, "images": 200},
    "regularizer": [{"use": "r1"}, {"use": "lecam"}],
}
"""What shows the discriminator pairs by itself, besides the loss."""


@pytest.mark.parametrize("tables", [TABLES, TABLES | SHOWN], ids=["alone", "regularised"])
def test_a_translator_trains_and_its_samples_are_translations_of_test_records(
    journey: Callable[..., Run], tables: dict[str, Any]
) -> None:
    run = journey(tables, Plugin(), ganrun_regularizers)
    data = Edges(Edges.Settings(size=8))
    tested = {source.tobytes() for source in data.split("test").beside["source"]}
    sources = run.model.fixed_latents(5).unflatten(1, (1, 8, 8))
    assert all(to_uint8(source).numpy().tobytes() in tested for source in sources)
    torch.testing.assert_close(run.model.decode(run.model.latents_of(source=sources)), run.model.sample(5))


class Brighter(nn.Module):
    """Adds a quarter."""

    def forward(self, images: Tensor) -> Tensor:
        return images + 0.25


class SecondImage(nn.Module):
    """The mean of what stands beside the source."""

    def forward(self, pairs: Tensor) -> Tensor:
        return pairs[:, 1:].mean((1, 2, 3))[:, None]


def test_the_discriminator_judges_pairs_and_the_distance_is_to_the_records_own_image() -> None:
    """Sources are ½ and images 1, so translations are ¾, at a distance of ¼."""
    loss = Pix2Pix(Pix2Pix.Settings(), PAIRS)
    source, images = torch.full((3, 1, 8, 8), 0.5), torch.ones(3, 1, 8, 8)
    nets = Nets({"generator": View(Brighter()), "discriminator": View(SecondImage())})
    batch = Batch(source.flatten(1), images, None, {"source": source})
    assert loss.generator(nets, batch).minimise["l1"] == 25
    found = loss.discriminator(nets, batch).minimise
    torch.testing.assert_close(found["real"], softplus(torch.tensor(-1.0)) / 2)
    torch.testing.assert_close(found["fake"], softplus(torch.tensor(0.75)) / 2)


def test_the_components_keep_their_contracts() -> None:
    assert_conforms("loss", Pix2Pix, spec=PAIRS)
    assert_conforms("generator", UNet, spec=NetworkSpec((1, 8, 8), (1, 8, 8)))
    assert_conforms("data", Edges, {"size": 8})
