"""CycleGAN: two translators that undo each other, from images without pairs (Zhu et al. 2017, arXiv:1703.10593)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
import torch
from pydantic import Field
from tests.contract.conftest import BASE, HALF, STEPS, Gauge, merged
from tests.contract.test_patches import PatchDiscriminator
from tests.pair import Pair
from torch import Tensor, nn

import ganrun
from ganrun import (
    Augmentation,
    Batch,
    Data,
    DataSpec,
    Discriminator,
    Factor,
    IncompatibleError,
    Inputs,
    Loss,
    Nets,
    Network,
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
    gathered_over_ranks,
    latest_checkpoint,
    ranks,
)
from ganrun.testing import assert_conforms, build, train
from ganrun.training.measurements import Measurements
from ganrun.training.step import build_step
from ganrun_datasets.digits import Digits

DOMAINS = DataSpec((1, 8, 8), classes=10, fields={"other": (1, 8, 8)})


class CycleGan(Loss):
    """L_GAN(G, D_Y) + L_GAN(F, D_X) + λ L_cyc(G, F): equations 1 to 3, with least squares for logarithms (section 4).

    G (`forth`) translates the field `other` into images, F (`back`) translates images into `other`. Also the identity
    loss of section 5.2, and for each discriminator a pool of earlier translations (section 4).
    """

    class Settings(ganrun.Settings):
        cycle_weight: float = Field(10.0, ge=0)
        """λ."""

        identity_weight: float = Field(0.5, ge=0)
        """Weight of the identity loss, in units of λ."""

        pool: int = Field(50, ge=1)
        """Translations that each pool holds."""

    slots = {
        "forth": Slot("network", averaged=True),
        "back": Slot("network", averaged=True),
        "discriminator": Slot("discriminator", augmented=True, boundary=0.5),
        "other_discriminator": Slot("discriminator", augmented=True, boundary=0.5),
    }
    paired = False

    def __init__(self, settings: Settings, spec: DataSpec) -> None:
        super().__init__(settings, spec)
        if spec.fields.get("other") != spec.sample_shape:
            raise IncompatibleError('it needs a field "other" of images as large as those of the data')
        self.memory.made = Pool(settings.pool, spec.sample_shape)
        self.memory.other = Pool(settings.pool, spec.sample_shape)

    @property
    def latent_size(self) -> int:
        return prod(self.spec.sample_shape)

    def factors(self) -> tuple[Factor, ...]:
        return (Factor("other", self.latent_size, "given"),)

    def ports(self, slot: str) -> Ports:
        shape = self.spec.sample_shape
        return super().ports(slot) if "discriminator" in slot else Ports(shape, shape)

    def phases(self) -> tuple[Phase, ...]:
        return (
            Phase("translators", self.translators, trains=("forth", "back")),
            Phase("discriminator", self.discriminator, trains=("discriminator",)),
            Phase("other_discriminator", self.other_discriminator, trains=("other_discriminator",)),
        )

    def translators(self, nets: Nets, batch: Batch) -> Terms:
        images, other = batch.images, batch["other"]
        made, unmade = nets.forth(other), nets.back(images)
        cycles = (nets.back(made) - other).abs().mean() + (nets.forth(unmade) - images).abs().mean()
        same = (nets.forth(images) - images).abs().mean() + (nets.back(other) - other).abs().mean()
        return Terms(
            {
                "forth": (nets.discriminator(made) - 1).square().mean(),
                "back": (nets.other_discriminator(unmade) - 1).square().mean(),
                "cycle": self.settings.cycle_weight * cycles,
                "identity": self.settings.cycle_weight * self.settings.identity_weight * same,
            }
        )

    def discriminator(self, nets: Nets, batch: Batch) -> Terms:
        made = self.memory.made.exchanged(nets.forth(batch["other"]))
        return least_squares(nets.discriminator, batch.images, made)

    def other_discriminator(self, nets: Nets, batch: Batch) -> Terms:
        made = self.memory.other.exchanged(nets.back(batch.images))
        return least_squares(nets.other_discriminator, batch["other"], made)

    def real_inputs(self, slot: str, batch: Batch) -> Inputs:
        return Inputs(batch["other"] if slot == "other_discriminator" else batch.images)

    def generated_inputs(self, slot: str, nets: Nets, batch: Batch) -> Inputs:
        return Inputs(nets.back(batch.images) if slot == "other_discriminator" else nets.forth(batch["other"]))

    def generate(self, nets: Nets, latents: Tensor, sampling: Settings) -> Tensor:
        return nets.forth(latents.unflatten(1, self.spec.fields["other"]))


def least_squares(discriminator: View, real: Tensor, made: Tensor) -> Terms:
    """½ (E[(D(y) − 1)²] + E[D(G(x))²])."""
    return Terms(
        {"real": (discriminator(real) - 1).square().mean() / 2, "fake": discriminator(made).square().mean() / 2}
    )


class Pool(nn.Module):
    """A history of generated images (Shrivastava et al. 2017, arXiv:1612.07828, section 2.3)."""

    def __init__(self, size: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("images", torch.zeros(size, *shape))
        self.register_buffer("is_filled", torch.zeros(size, dtype=torch.bool))

    def exchanged(self, images: Tensor) -> Tensor:
        """The images, each with probability ½ in exchange for one of the pool; empty places are filled first.

        Each rank draws for its own images, and all do what all have drawn, in order: so every rank has the same pool.
        """
        at, drawn = ranks(), torch.rand(1, len(self.images) + len(images), device=images.device)
        shares = gathered_over_ranks(images.detach()).chunk(at.total)
        exchanged = [self._exchanged(*each) for each in zip(shares, gathered_over_ranks(drawn), strict=True)]
        return exchanged[at.number]

    def _exchanged(self, images: Tensor, drawn: Tensor) -> Tensor:
        for_places, for_images = drawn.split([len(self.images), len(images)])
        places = (for_places + self.is_filled).argsort()[: len(images)]  # the empty ones come first
        given, rest = images.split([len(places), len(images) - len(places)])
        kept, is_kept = self.images[places], self.is_filled[places]
        is_exchanged = is_kept & (for_images[: len(places)] < 0.5)
        self.images[places] = torch.where(_rows(is_exchanged | ~is_kept), given, kept)
        self.is_filled[places] = True
        return torch.cat([torch.where(_rows(is_exchanged), kept, given), rest])


def _rows(mask: Tensor) -> Tensor:
    return mask[:, None, None, None]


class Translator(Network):
    """Two convolutions around a residual connection."""

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        channels = spec.inputs[0]
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, spec.out_features, 3, padding=1)
        )

    def forward(self, images: Tensor) -> Tensor:
        return float32_tanh(self.layers(images) + images)


class Brightness(Discriminator):
    """The mean pixel, times a factor."""

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        return (self.factor * images.mean((1, 2, 3)))[:, None].float()


class Shifted(Augmentation):
    """Shifts by a pixel at random, and records what the network last made of real images."""

    every = 1

    def __init__(self, settings: Settings, spec: DataSpec) -> None:
        super().__init__(settings, spec)
        self.register_buffer("last", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        is_shifted = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
        return torch.where(is_shifted, images.roll(1, 3), images)

    def adjust(self, outputs: Tensor, images: int) -> None:
        self.last.copy_(outputs.mean())


class Negatives(Digits):
    """Some digits, and the negatives of all others."""

    def spec(self) -> DataSpec:
        plain = super().spec()
        return replace(plain, fields={"other": plain.sample_shape})

    def split(self, name: str) -> Split:
        plain = super().split(name)
        count = len(plain) // 3
        return Split(plain.images[:count], plain.labels[:count], {"other": 255 - plain.images[count:]})


class Plugin:
    @ganrun.hookimpl
    def ganrun_losses(self) -> dict[str, type[Loss]]:
        return {"cyclegan": CycleGan}

    @ganrun.hookimpl
    def ganrun_networks(self) -> dict[str, type[Network]]:
        return {"translator": Translator}

    @ganrun.hookimpl
    def ganrun_discriminators(self) -> dict[str, type[Discriminator]]:
        return {"patch": PatchDiscriminator, "brightness": Brightness}

    @ganrun.hookimpl
    def ganrun_augmentations(self) -> dict[str, type[Augmentation]]:
        return {"shifted": Shifted}

    @ganrun.hookimpl
    def ganrun_data(self) -> dict[str, type[Data]]:
        return {"negatives": Negatives}


TABLES = {
    "data": {"use": "negatives", "size": 8},
    "loss": {"use": "cyclegan", "pool": 6},
    **{slot: {"use": "translator"} for slot in ("forth", "back")},
    **{slot: {"use": "patch"} for slot in ("discriminator", "other_discriminator")},
}


def test_two_translators_train_on_images_without_pairs_and_pools_are_checkpointed(journey: Callable[..., Run]) -> None:
    run = journey(TABLES, Plugin())
    pools = run.model.loss.memory
    assert pools.made.is_filled.sum() >= 4 and pools.other.images.abs().sum() > 0
    saved = latest_checkpoint(run.directory.path).weights["loss"]
    assert torch.equal(saved["made.images"], pools.made.images)


def broken_and_whole(folder: Path) -> list[dict[str, dict[str, Tensor]]]:
    """What this rank has at the end of a run, and of another one that goes on from the half of it."""
    whole, broken = (build(merged(BASE, TABLES), folder / f"{n}-{ranks().number}", Plugin(), Gauge()) for n in "wb")
    take_step = build_step(whole, Measurements())
    for _ in range(HALF):
        take_step()
    broken.restore(copy.deepcopy(whole.state.checkpoint()))
    for step in (take_step, build_step(broken, Measurements())):
        for _ in range(HALF, STEPS):
            step()
    return [{file: dict(each) for file, each in run.state.weights().items()} for run in (whole, broken)]


def test_ranks_have_equal_pools_and_resume_exactly(pair: Pair, tmp_path: Path) -> None:
    first, *others = [each for found in pair(broken_and_whole, tmp_path) for each in found]
    assert first["loss"]["made.is_filled"].sum() == 6 and first["loss"]["other.images"].any()
    for other in others:
        for file, tensors in first.items():
            assert not [name for name in tensors if not torch.equal(tensors[name], other[file][name])]


def test_each_discriminator_is_shown_its_own_domain_where_an_augmentation_is_adjusted(tmp_path: Path) -> None:
    """Digits are dark, and their negatives bright."""
    judged = {slot: {"use": "brightness"} for slot in ("discriminator", "other_discriminator")}
    run = train(
        merged(BASE, TABLES | judged | {"augmentation": {"use": "shifted"}}), tmp_path / "run", Plugin(), Gauge()
    )
    weights = run.state.weights()
    assert weights["discriminator.augmentation"]["last"] + 0.5 < -0.2, "less the boundary"
    assert weights["other_discriminator.augmentation"]["last"] + 0.5 > 0.2


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_a_pool_gives_half_of_the_time_an_earlier_image_and_loses_none(batch: int) -> None:
    torch.manual_seed(batch)
    pool, exchanged = Pool(8, (1, 1, 1)), 0
    for step in range(100):
        before = set(pool.images[pool.is_filled].flatten().tolist())
        images = torch.arange(1.0, 1 + batch) + step * batch
        found = set(pool.exchanged(images.reshape(-1, 1, 1, 1)).flatten().tolist())
        after = set(pool.images[pool.is_filled].flatten().tolist())
        assert len(after) == min(8, (step + 1) * batch) and len(found) == batch
        assert found | after == before | set(images.tolist())
        exchanged += len(found & before)
    assert 0.4 < exchanged / (100 * min(batch, 8) - 8) < 0.6


def test_translators_that_undo_each_other_have_no_cycle_loss() -> None:
    loss = CycleGan(CycleGan.Settings(), DOMAINS)

    class Scaled(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = factor

        def forward(self, images: Tensor) -> Tensor:
            return images * self.factor

    networks = {"forth": Scaled(-2), "back": Scaled(-0.5), "discriminator": Scaled(1), "other_discriminator": Scaled(1)}
    images, other = torch.full((3, 1, 8, 8), 0.5), torch.full((3, 1, 8, 8), 0.25)
    batch = Batch(other.flatten(1), images, None, {"other": other})
    terms = loss.translators(Nets({slot: View(network) for slot, network in networks.items()}), batch).minimise
    assert terms["cycle"] == 0
    assert terms["forth"] == 1.5**2 and terms["back"] == 1.25**2
    assert terms["identity"] == 10 * 0.5 * (1.5 + 0.375)


class Undeclared(CycleGan):
    """Does not say that its second discriminator is shown the other domain."""

    real_inputs, generated_inputs = Loss.real_inputs, Loss.generated_inputs


def test_the_kit_finds_a_discriminator_that_is_shown_something_else_than_the_loss_says() -> None:
    with pytest.raises(AssertionError, match=r'other_discriminator is called on, which is batch\["other"\]'):
        assert_conforms("loss", Undeclared, {"pool": 8}, DOMAINS)


def test_the_components_keep_their_contracts() -> None:
    assert_conforms("loss", CycleGan, {"pool": 8}, DOMAINS)
    assert_conforms("network", Translator, spec=NetworkSpec((1, 8, 8), (1, 8, 8)))
