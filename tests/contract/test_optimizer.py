"""Optimisers of a plugin: Lion (arXiv:2302.06675), and optimistic Adam, which extrapolates from the past
(arXiv:1711.00141). The extragradient of a loss is in its objective (arXiv:1802.10551)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from pydantic import Field
from torch import nn

from ganrun import Batch, Loss, Nets, Optimizer, OptimizerSettings, Run, Terms, View, hookimpl
from ganrun.testing import assert_conforms
from ganrun_vanilla.losses import NonSaturatingGan

MLP = {"use": "mlp", "hidden": [8]}


class _Lion(torch.optim.Optimizer):
    """w ← w − lr · sign(β₁ m + (1 − β₁) g), m ← β₂ m + (1 − β₂) g."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            first, second = group["betas"]
            for weight in group["params"]:
                if weight.grad is not None:
                    mean = self.state[weight].setdefault("mean", torch.zeros_like(weight))
                    weight.add_(mean.lerp(weight.grad, 1 - first).sign(), alpha=-group["lr"])
                    mean.lerp_(weight.grad, 1 - second)


class Lion(Optimizer):
    """Sign of a momentum."""

    class Settings(OptimizerSettings):
        betas: tuple[float, float] = (0.9, 0.99)
        """β₁ and β₂."""

    def build(self, parameters: Iterable[nn.Parameter], device: torch.device) -> torch.optim.Optimizer:
        return _Lion(parameters, {"lr": self.settings.lr, "betas": self.settings.betas})


class _OptimisticAdam(torch.optim.Adam):
    """Twice this step of Adam, less the last one."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        weights = [weight for group in self.param_groups for weight in group["params"] if weight.grad is not None]
        before = [weight.clone() for weight in weights]
        super().step()
        for weight, old in zip(weights, before, strict=True):
            move = weight - old
            weight.add_(move).sub_(self.state[weight].get("last_move", torch.zeros_like(move)))
            self.state[weight]["last_move"] = move


class OptimisticAdam(Optimizer):
    """Adam for games."""

    class Settings(OptimizerSettings):
        betas: tuple[float, float] = (0.5, 0.9)
        """β₁ and β₂."""

    def build(self, parameters: Iterable[nn.Parameter], device: torch.device) -> torch.optim.Optimizer:
        return _OptimisticAdam(parameters, lr=self.settings.lr, betas=self.settings.betas)


class ExtragradientGan(NonSaturatingGan):
    """A GAN whose generator meets the discriminator of one step ahead."""

    class Settings(NonSaturatingGan.Settings):
        ahead: float = Field(0.1, gt=0)
        """Length of the step."""

    def generator(self, nets: Nets, batch: Batch) -> Terms:
        weights = {name: each.detach().requires_grad_() for name, each in nets.discriminator.weights().items()}
        with torch.enable_grad():
            samples = nets.generator(batch.latents).detach()
            fooled = -self.generator_loss(nets.discriminator.given(weights)(samples))
            gradients = torch.autograd.grad(fooled, list(weights.values()))
        moved = {n: w - self.settings.ahead * g for (n, w), g in zip(weights.items(), gradients, strict=True)}
        ahead: View = nets.discriminator.given({name: each.detach() for name, each in moved.items()})
        return Terms({"fake": self.generator_loss(ahead(nets.generator(batch.latents)))})


class Plugin:
    @hookimpl
    def ganrun_optimizers(self) -> dict[str, type[Optimizer]]:
        return {"lion": Lion, "optimistic-adam": OptimisticAdam}

    @hookimpl
    def ganrun_losses(self) -> dict[str, type[Loss]]:
        return {"extragradient": ExtragradientGan}


@pytest.mark.parametrize("use", ["lion", "optimistic-adam"])
def test_an_optimiser_of_a_plugin_trains_both_networks(journey: Callable[..., Run], use: str) -> None:
    tables = {
        "loss": {"use": "gan", "latent_size": 4},
        "generator": MLP,
        "discriminator": MLP,
        "optimizer": {"use": use, "lr": 0.01, "discriminator": {"clip_norm": 1.0}},
    }
    run = journey(tables, Plugin())
    kept = {key for slot in run.state.slots.values() for state in slot.optimizer.state.values() for key in state}
    assert kept == ({"mean"} if use == "lion" else {"step", "exp_avg", "exp_avg_sq", "last_move"})


def test_an_extragradient_is_an_objective_on_given_weights(journey: Callable[..., Run]) -> None:
    tables = {"loss": {"use": "extragradient", "latent_size": 4}, "generator": MLP, "discriminator": MLP}
    run = journey(tables, Plugin())
    assert run.step == run.steps


@pytest.mark.parametrize("component", [Lion, OptimisticAdam])
def test_they_conform(component: type[Optimizer]) -> None:
    assert_conforms("optimizer", component)
