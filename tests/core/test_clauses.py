"""Clauses of the rehearsal that whole runs rarely meet, each broken once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ganrun import (
    AdversarialLoss,
    Batch,
    ContractError,
    DataSpec,
    IncompatibleError,
    Inputs,
    Nets,
    NetworkSpec,
    Optimizer,
    Phase,
    Settings,
    Slot,
    Terms,
    Tracker,
    hookimpl,
)
from ganrun.discovery.named import NamedTracker
from ganrun.rehearsal.losses import check_regularized, check_repeats, check_samples
from ganrun.rehearsal.networks import NetworkTrial, check_network
from ganrun.rehearsal.state import check_state
from ganrun.testing import build, train
from ganrun.training.averaging import Average
from ganrun.training.measurements import Measurements, total_of

CPU = torch.device("cpu")
IMAGES = DataSpec((1, 4, 4))


class Both(AdversarialLoss):
    """Has a slot that no phase trains."""

    slots = {**AdversarialLoss.slots, "spare": Slot("discriminator"), "kept": Slot("discriminator", frozen=True)}

    class Settings(Settings):
        latent_size: int = 2
        """Length of a latent vector."""

    def discriminator(self, nets: Nets, batch: Batch) -> Terms:
        return Terms({"real": nets.discriminator(batch.images).mean()})

    def generator(self, nets: Nets, batch: Batch) -> Terms:
        return Terms({"fake": nets.discriminator(nets.generator(batch.latents)).mean()})


LOSS = Both(Both.Settings(), IMAGES)

# ── Losses ────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_acts_on_a_slot_that_nothing_trains_is_refused() -> None:
    with pytest.raises(IncompatibleError, match="repeat names the spare, which no phase trains"):
        check_repeats(LOSS.phases(), {"spare": 2})
    with pytest.raises(IncompatibleError, match="acts on the spare, which no phase of the loss trains"):
        check_regularized(LOSS, "spare")
    with pytest.raises(IncompatibleError, match="acts on the kept, which is frozen"):
        check_regularized(LOSS, "kept")
    check_regularized(LOSS, "discriminator")
    check_repeats(LOSS.phases(), {"discriminator": 2})


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        ([1, 2], "samples of list where"),
        (torch.zeros(2, 4, 4), r"samples of \(4, 4\) where \(1, 4, 4\)"),
        (torch.full((2, 1, 4, 4), torch.nan), "NaN or infinity"),
        (torch.full((2, 1, 4, 4), 1.5), "images that reach 1.5"),
    ],
)
def test_samples_that_the_spec_does_not_allow_are_refused(samples: Any, reason: str) -> None:
    with pytest.raises(IncompatibleError, match=reason):
        check_samples(samples, IMAGES)
    check_samples(torch.full((2, 3), 7.0), DataSpec((3,)))  # points have no range


def test_a_term_elsewhere_than_the_others_is_named() -> None:
    terms = Terms({"here": torch.ones((), requires_grad=True), "there": torch.ones((), device="meta")})
    with pytest.raises(ContractError, match='the term "there" of phase "fit" is on meta, and the others are on cpu'):
        total_of("fit", terms)
    with pytest.raises(KeyError):
        Measurements().count("never added")


# ── Networks ──────────────────────────────────────────────────────────────────────────────────────────────


class Grown(nn.Module):
    """Answers with NaN in the last quarter of a run, in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)
        self.ended = False

    def begin(self, step: int, steps: int) -> bool:
        self.ended = 4 * step > 3 * steps
        return self.ended

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs) * (torch.nan if self.ended and not self.training else 1)


def test_a_network_is_tried_at_later_steps_too() -> None:
    trial = NetworkTrial(Grown, NetworkSpec(inputs=(2,), outputs=(3,)), CPU, steps=100)
    with pytest.raises(IncompatibleError, match=r"returns NaN or infinity at step \d+"):
        check_network(trial)


class Explosive(nn.Linear):
    """Works with weights that are trained, and not with their average."""

    def __init__(self, fault: str) -> None:
        super().__init__(2, 2)
        self.fault = fault

    def forward(self, inputs: Tensor) -> Tensor:
        if self.fault == "average" and not self.weight.requires_grad:
            raise ArithmeticError("only trained weights")
        if self.fault == "finite" and not self.weight.requires_grad:
            return super().forward(inputs) / 0
        return super().forward(inputs)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("average", r"no average of it can be kept: ArithmeticError: only trained weights; \[ema\]"),
        ("finite", r"an average of it gives outputs that are not finite; \[ema\]"),
    ],
)
def test_a_network_whose_average_cannot_be_used_is_refused(fault: str, reason: str) -> None:
    def make() -> nn.Module:
        return Explosive(fault)

    def begin(module: nn.Module) -> Average:
        return Average(module, 0.5)

    with pytest.raises(IncompatibleError, match=reason):
        check_state(make(), make, lambda network: network(torch.ones(2, 2)), CPU, begin)


# ── What others bring ─────────────────────────────────────────────────────────────────────────────────────


class Watching(Both):
    """Shows the discriminator something else than it is trained on."""

    slots = AdversarialLoss.slots

    def real_inputs(self, slot: str, batch: Batch) -> Inputs:
        return Inputs(batch.images[:, :, :2])


class Plugin:
    """Offers the loss, and an augmentation that is adjusted."""

    @hookimpl
    def ganrun_losses(self) -> dict[str, type]:
        return {"watching": Watching}

    @hookimpl
    def ganrun_augmentations(self) -> dict[str, type]:
        from ganrun import Augmentation

        class Ear(Augmentation):
            """Listens."""

            every = 1

            def forward(self, images: Tensor) -> Tensor:
                return images * 1

            def adjust(self, outputs: Tensor, images: int) -> None:
                return None

        return {"ear": Ear}


def test_a_loss_that_shows_an_adjusted_network_something_else_is_refused(tmp_path: Path) -> None:
    tables = {
        "train": {"steps": 2, "batch_size": 4, "device": "cpu"},
        "data": {"use": "digits", "size": 8},
        "loss": {"use": "watching"},
        "generator": {"use": "mlp", "hidden": [4]},
        "discriminator": {"use": "mlp", "hidden": [4]},
        "augmentation": {"use": "ear"},
        "mlflow": False,
    }
    with pytest.raises(IncompatibleError, match=r"\[augmentation\] ear .*real_inputs gives \(1, 2, 8\)"):
        build(tables, tmp_path / "run", Plugin())
    assert not (tmp_path / "run").exists()


class Liar(Tracker):
    """Gives numbers where paths and names are expected."""

    def find(self, run_id: str) -> Any:
        return 3

    def runs_of(self, experiment: str) -> Any:
        return [3]

    def experiments(self) -> Any:
        return [3]


@pytest.mark.parametrize("ask", [lambda t: t.find("a"), lambda t: t.runs_of("a"), lambda t: t.experiments()])
def test_a_tracker_that_answers_with_numbers_is_named(ask: Callable[[NamedTracker], object]) -> None:
    with pytest.raises(ContractError, match=r"tracker liar: .* returns"):
        ask(NamedTracker("tracker liar", Liar()))


def test_phases_of_one_network_say_one_number() -> None:
    phase = Phase("both", lambda nets, batch: Terms({}), trains=("generator", "discriminator"))
    check_repeats([phase], {"generator": 2, "discriminator": 2})


# ── Optimisers ────────────────────────────────────────────────────────────────────────────────────────────


class Stuck(Optimizer):
    """Fails at its second step."""

    def build(self, parameters: Any, device: torch.device) -> torch.optim.Optimizer:
        class Failing(torch.optim.SGD):
            steps = 0

            def step(self, closure: Any = None) -> Any:
                self.steps += 1
                if self.steps > 1:
                    raise ZeroDivisionError("stuck")
                return super().step(closure)

        return Failing(parameters, lr=self.settings.lr)


class Stalling:
    """Offers the optimiser."""

    @hookimpl
    def ganrun_optimizers(self) -> dict[str, type[Optimizer]]:
        return {"stuck": Stuck}


def test_an_optimiser_that_fails_in_a_run_is_named(tmp_path: Path) -> None:
    tables = {
        "train": {"steps": 2, "batch_size": 4, "device": "cpu"},
        "data": {"use": "digits", "size": 8},
        "loss": {"use": "gan"},
        "generator": {"use": "mlp", "hidden": [4]},
        "discriminator": {"use": "mlp", "hidden": [4]},
        "optimizer": {"use": "stuck"},
        "mlflow": False,
    }
    with pytest.raises(ContractError, match=r"\[optimizer\] stuck .*: step fails: ZeroDivisionError: stuck"):
        train(tables, tmp_path / "run", Stalling())


class WarmedUp(nn.Linear):
    """Works in evaluation mode only after a call in training mode, which no checkpoint knows of."""

    is_warm = False

    def forward(self, inputs: Tensor) -> Tensor:
        self.is_warm = self.is_warm or self.training
        if not self.is_warm:
            raise ArithmeticError("cold")
        return super().forward(inputs)


def test_a_network_that_a_restart_breaks_is_refused() -> None:
    with pytest.raises(IncompatibleError, match="restored from a checkpoint, its forward fails: ArithmeticError: cold"):
        check_state(WarmedUp(2, 2), lambda: WarmedUp(2, 2), lambda network: network(torch.ones(2, 2)), CPU)
