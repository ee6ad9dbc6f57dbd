"""Images from images, paired and unpaired: the journeys of pix2pix and CycleGAN, and what the kit finds in them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.contract.conftest import BASE, HALF, STEPS, Gauge, merged
from tests.contract.test_augmentation import Ada
from tests.pair import Pair
from torch import Tensor, nn

import ganrun
import ganrun_regularizers
from ganrun import (
    Augmentation,
    Data,
    DataSpec,
    Discriminator,
    Loss,
    NetworkSpec,
    Run,
    Settings,
    Split,
    latest_checkpoint,
    ranks,
    to_uint8,
)
from ganrun.testing import assert_conforms, build, train
from ganrun.training.measurements import Measurements
from ganrun.training.step import build_step
from ganrun_datasets.digits import Digits
from ganrun_translation.cyclegan import CycleGan


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


class WithSource(Digits):
    """Digits, each with a source of the same shape."""

    def spec(self) -> DataSpec:
        plain = super().spec()
        return replace(plain, fields={"source": plain.sample_shape})


class Edges(WithSource):
    """The source: how much each pixel differs from its right neighbour."""

    def split(self, name: str) -> Split:
        plain = super().split(name)
        steps = np.abs(np.diff(plain.images.astype(np.int16), axis=3, append=0))
        return replace(plain, beside={"source": steps.astype(np.uint8)})


class Negatives(WithSource):
    """A third of the digits, and the negatives of all others as sources: twice as many in training, and without pairs.

    Of the test split there are more images than sources.
    """

    def split(self, name: str) -> Split:
        plain = super().split(name)
        count = len(plain) // 3 if name == "train" else 2 * len(plain) // 3
        return Split(plain.images[:count], plain.labels[:count], {"source": 255 - plain.images[count:]})


class Plugin:
    """Offers what the recipes here have besides ganrun's own components."""

    @ganrun.hookimpl
    def ganrun_discriminators(self) -> dict[str, type[Discriminator]]:
        return {"brightness": Brightness}

    @ganrun.hookimpl
    def ganrun_augmentations(self) -> dict[str, type[Augmentation]]:
        return {"flips-and-shifts": Ada, "shifted": Shifted}

    @ganrun.hookimpl
    def ganrun_data(self) -> dict[str, type[Data]]:
        return {"edges": Edges, "negatives": Negatives}


PATCH = {"use": "patch", "layers": 1, "feature_maps": 4}
NORMED_PATCH = {**PATCH, "norm": "instance"}
TRANSLATOR = {"use": "translator", "feature_maps": 2, "blocks": 1}

PAIRED: dict[str, Any] = {
    "data": {"use": "edges", "size": 8},
    "loss": {"use": "pix2pix"},
    "generator": {"use": "u-net", "feature_maps": 4},
    "discriminator": PATCH,
}
UNPAIRED: dict[str, Any] = {
    "data": {"use": "negatives", "size": 8},
    "loss": {"use": "cyclegan", "pool": 6},
    **dict.fromkeys(("generator", "inverse_generator"), TRANSLATOR),
    **dict.fromkeys(("discriminator", "source_discriminator"), NORMED_PATCH),
}

SHOWN = {
    "augmentation": {"use": "flips-and-shifts", "target": -1.5, "images": 200},
    "regularizer": [{"use": "r1"}, {"use": "lecam"}],
}
"""What shows the discriminator pairs by itself, besides the loss."""


@pytest.mark.parametrize("tables", [PAIRED, PAIRED | SHOWN], ids=["alone", "regularised"])
def test_a_translator_trains_and_its_samples_are_translations_of_test_records(
    journey: Callable[..., Run], tables: dict[str, Any]
) -> None:
    run = journey(tables, Plugin(), ganrun_regularizers)
    data = Edges(Edges.Settings(size=8))
    tested = {source.tobytes() for source in data.split("test").beside["source"]}
    sources = run.model.fixed_latents(5).unflatten(1, (1, 8, 8))
    assert all(to_uint8(source).numpy().tobytes() in tested for source in sources)
    torch.testing.assert_close(run.model.decode(run.model.latents_of(source=sources)), run.model.sample(5))


def test_two_translators_train_on_images_without_pairs_and_pools_are_checkpointed(journey: Callable[..., Run]) -> None:
    run = journey(UNPAIRED, Plugin())
    pools = run.model.loss.memory
    assert pools.image_pool.is_filled.sum() >= 4 and pools.source_pool.images.abs().sum() > 0
    saved = latest_checkpoint(run.directory.path).weights["loss"]
    assert torch.equal(saved["image_pool.images"], pools.image_pool.images)


def test_a_cycle_is_read_of_images_alone_and_scored_where_sources_are_fewer(tmp_path: Path) -> None:
    tables = {
        "data": {"use": "negatives", "size": 12},
        "metric": [{"use": "reconstruction"}],
        "samples": {"columns": 4, "at_end": []},
    }
    run = train(merged(BASE, UNPAIRED | tables), tmp_path / "run", Plugin())
    images = run.model.fixed_latents(3).unflatten(1, (1, 12, 12))
    there = run.model.encode(images)
    assert there is not None
    torch.testing.assert_close(run.model.reconstruct(images), run.model.decode(there))
    assert {"mse", "psnr", "ssim"} <= run.scores.keys()
    assert (tmp_path / "run/samples/step_00000004.png").is_file()


def broken_and_whole(folder: Path) -> list[dict[str, dict[str, Tensor]]]:
    """What this rank has at the end of a run, and of another one that goes on from the half of it."""
    whole, broken = (build(merged(BASE, UNPAIRED), folder / f"{n}-{ranks().number}", Plugin(), Gauge()) for n in "wb")
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
    assert first["loss"]["image_pool.is_filled"].sum() == 6 and first["loss"]["source_pool.images"].any()
    for other in others:
        for file, tensors in first.items():
            assert not [name for name in tensors if not torch.equal(tensors[name], other[file][name])]


def test_each_discriminator_is_shown_its_own_domain_where_an_augmentation_is_adjusted(tmp_path: Path) -> None:
    """Digits are dark, and their negatives bright."""
    judged = {slot: {"use": "brightness"} for slot in ("discriminator", "source_discriminator")}
    run = train(
        merged(BASE, UNPAIRED | judged | {"augmentation": {"use": "shifted"}}), tmp_path / "run", Plugin(), Gauge()
    )
    weights = run.state.weights()
    assert weights["discriminator.augmentation"]["last"] + 0.5 < -0.2, "less the boundary"
    assert weights["source_discriminator.augmentation"]["last"] + 0.5 > 0.2


class Undeclared(CycleGan):
    """Does not say that its second discriminator is shown the other domain."""

    real_inputs, generated_inputs = Loss.real_inputs, Loss.generated_inputs


def test_the_kit_finds_a_discriminator_that_is_shown_something_else_than_the_loss_says() -> None:
    domains = DataSpec((1, 8, 8), classes=10, fields={"source": (1, 8, 8)})
    with pytest.raises(AssertionError, match=r'source_discriminator is called on, which is batch\["source"\]'):
        assert_conforms("loss", Undeclared, {"pool": 8}, domains)


def test_the_data_sets_keep_their_contracts() -> None:
    for each in (Edges, Negatives):
        assert_conforms("data", each, {"size": 8})
