"""ADA before unchanged losses (Karras et al. 2020, arXiv:2006.06676): every image that the discriminator is shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import Field
from tests.contract.conftest import BASE, Gauge, merged
from torch import Tensor

import ganrun
from ganrun import Augmentation, ContractError, DataSpec, IncompatibleError, Run, hookimpl
from ganrun.testing import assert_conforms, build, train
from ganrun.training.measurements import Measurements
from ganrun.training.step import build_step

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
    ("loss", "networks", "penalties"),
    [
        ({"use": "gan", "latent_size": 4}, MLP, []),
        ({"use": "gan", "latent_size": 4}, MLP, [{"use": "r1"}]),
        ({"use": "gan", "latent_size": 4}, CONV, []),
        ({"use": "cgan", "noise_size": 4}, MLP, []),
    ],
    ids=["gan", "second order", "batch norm", "labels"],
)
def test_a_loss_that_knows_nothing_of_augmentations_trains_behind_one(
    journey: Callable[..., Run], loss: dict[str, Any], networks: dict[str, Any], penalties: list[dict[str, Any]]
) -> None:
    tables = {"loss": loss, "generator": networks, "discriminator": networks, "regularizer": penalties}
    run = journey({**tables, "augmentation": {"use": "flips-and-shifts", "target": -1.5, "images": 200}}, Plugin())
    p = run.state.weights()["discriminator.augmentation"]["p"]
    assert p.item() == pytest.approx(run.images_seen / 200)


def adjusted_to(outputs: list[Tensor]) -> type[Augmentation]:
    """An augmentation that records the arguments of `adjust`."""

    class Told(Ada):
        def adjust(self, outputs_of_batch: Tensor, images: int) -> None:
            outputs.append(outputs_of_batch.clone())

    return Told


@pytest.mark.parametrize(("loss", "boundary"), [("gan", 0.0), ("lsgan", 0.5)])
def test_outputs_count_from_the_loss_s_boundary(tmp_path: Path, loss: str, boundary: float) -> None:
    told: list[Tensor] = []

    class ToldPlugin:
        @hookimpl
        def ganrun_augmentations(self) -> dict[str, type[Augmentation]]:
            return {"told": adjusted_to(told)}

    tables = {"loss": {"use": loss, "latent_size": 4}, "generator": MLP, "discriminator": MLP}
    recipe = merged(BASE, {**tables, "augmentation": {"use": "told"}, "train": {"steps": 2}})
    run = build(recipe, tmp_path / "run", ToldPlugin(), Gauge())
    told.clear()
    with torch.no_grad():
        for parameter in run.state.slots["discriminator"].module.parameters():
            parameter.zero_()
    for group in run.state.slots["discriminator"].optimizer.param_groups:
        group["lr"] = 0.0
    step = build_step(run, Measurements())
    step(), step()
    assert len(told) == 1 and torch.equal(told[0], torch.full((4, 1), -boundary))


@pytest.mark.parametrize("loss", ["wgan", "wgan-gp", "r3gan"])
def test_without_a_boundary_only_an_augmentation_that_is_never_adjusted_is_accepted(tmp_path: Path, loss: str) -> None:
    tables = {"loss": {"use": loss, "latent_size": 4}, "generator": MLP, "discriminator": MLP}
    recipe = merged(BASE, {**tables, "augmentation": {"use": "flips-and-shifts"}})
    with pytest.raises(
        IncompatibleError, match=r"run\.toml:\d+: \[augmentation\] .*Slot\.boundary\); take another loss"
    ):
        build(recipe, tmp_path / "run", Plugin(), Gauge())
    assert not (tmp_path / "run").exists()
    build(merged(BASE, {**tables, "augmentation": {"use": "ada", "p": 0.5}}), tmp_path / "run", Gauge())


class Cropping(Augmentation):
    """Keeps the shape in the first steps alone."""

    class Settings(ganrun.Settings):
        after: int = 0
        """Steps in which it does. In the first one it is tried before a run."""

    settings: Settings

    def begin(self, step: int, steps: int) -> bool:
        self.crops = step > self.settings.after
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


def test_one_that_changes_the_shape_is_refused_before_a_run(tmp_path: Path) -> None:
    tables = {"loss": {"use": "gan", "latent_size": 4}, "generator": MLP, "discriminator": MLP}
    recipe = merged(BASE, {**tables, "augmentation": {"use": "cropping", "after": -1}})
    with pytest.raises(IncompatibleError, match=r"\[augmentation\] cropping .*returns shape \(4, 1, 4, 8\)"):
        train(recipe, tmp_path / "run", CroppingPlugin(), Gauge())
    assert not (tmp_path / "run").exists()


class Telling(Augmentation):
    """Reports what its settings say from the third step on; before that, the step."""

    class Settings(ganrun.Settings):
        later: str = ""
        """What it reports then: a number, or a fault."""

    settings: Settings

    def __init__(self, settings: Any, spec: DataSpec) -> None:
        super().__init__(settings, spec)
        self.register_buffer("step", torch.zeros(()), persistent=False)

    def begin(self, step: int, steps: int) -> None:
        self.step.fill_(step)

    def forward(self, images: Tensor) -> Tensor:
        return images + 0.0

    def report(self) -> Any:
        if self.step < 3:
            return {"step": self.step}
        others = {"names": {"other": self.step}, "vector": {"step": self.step[None]}, "list": [self.step]}
        if self.settings.later == "raises":
            raise ValueError("no such thing")
        return others.get(self.settings.later) or {"step": self.step * float(self.settings.later or 1)}


class TellingPlugin:
    @hookimpl
    def ganrun_augmentations(self) -> dict[str, type[Augmentation]]:
        return {"telling": Telling}


def told(folder: Path, later: str = "") -> Run:
    tables = {"loss": {"use": "gan", "latent_size": 4}, "generator": MLP, "discriminator": MLP}
    recipe = merged(BASE, {**tables, "augmentation": {"use": "telling", "later": later}})
    recipe["train"] |= {"steps": 4, "log_every_steps": 1}
    return train(recipe, folder / "run", TellingPlugin(), Gauge())


CURVE = "augmentation/discriminator.step"


def test_what_it_reports_is_logged_as_it_is_after_the_step(tmp_path: Path) -> None:
    run = told(tmp_path)
    assert [record.values[CURVE] for record in run.directory.records() if CURVE in record.values] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("later", "fault"),
    [
        ("names", "at first reports step, and later other"),
        ("vector", r"reports step of the shape \(1,\)"),
        ("list", "its report gives list"),
        ("raises", "report fails: ValueError: no such thing"),
    ],
)
def test_one_that_reports_something_else_during_a_run_is_named(later: str, fault: str, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=rf"\[augmentation\] telling .*{fault}"):
        told(tmp_path, later)


@pytest.mark.parametrize("later", ["nan", "inf"])
def test_a_number_that_is_lost_is_logged_as_null_with_a_warning_and_the_run_goes_on(
    later: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = told(tmp_path, later)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line[CURVE] for line in lines if CURVE in line] == [1, 2, None, None]
    assert run.step == 4 and caplog.text.count(f"{CURVE} is {later} at step 3") == 1


def test_it_conforms() -> None:
    assert_conforms("augmentation", Ada)
