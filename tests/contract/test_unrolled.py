"""Unrolled GANs: a generator that looks ahead (Metz et al. 2017, arXiv:1611.02163)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn.functional import softplus

import ganrun
from ganrun import AdversarialLoss, Batch, DataSpec, Loss, Nets, Phase, Run, Terms, View, logistic_terms
from ganrun.testing import assert_conforms

DIGITS = DataSpec((1, 8, 8), classes=10)


class Unrolled(AdversarialLoss):
    """f_K(θ_G, θ_D) = f(θ_G, θ_D^K), θ_D^{k+1} = θ_D^k + η ∂f(θ_G, θ_D^k) / ∂θ_D: equations 7 to 10.

    f = E[log D(x)] + E[log(1 − D(G(z)))]: the generator minimises f_K, and the discriminator maximises f.
    """

    class Settings(ganrun.Settings):
        latent_size: int = Field(4, ge=1)
        """Length of a latent vector."""

        unrolled: int = Field(2, ge=0)
        """K: steps of the discriminator that the generator looks ahead."""

        ahead_lr: float = Field(0.1, gt=0)
        """η: the learning rate of these steps, by gradient ascent."""

    def phases(self) -> tuple[Phase, ...]:
        return (
            self.discriminator_phase(),
            Phase("generator", self.generator, trains=("generator",), second_order=True),
        )

    def discriminator(self, nets: Nets, batch: Batch) -> Terms:
        return Terms(
            logistic_terms(nets.discriminator(batch.images), nets.discriminator(nets.generator(batch.latents)))
        )

    def generator(self, nets: Nets, batch: Batch) -> Terms:
        samples, ahead = nets.generator(batch.latents), nets.discriminator
        weights = {name: weight.detach().requires_grad_() for name, weight in ahead.weights().items()}
        for _ in range(self.settings.unrolled):
            ahead = nets.discriminator.given(weights)
            loss = sum(logistic_terms(ahead(batch.images), ahead(samples)).values())
            slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
            weights = {
                name: weight - self.settings.ahead_lr * slope
                for (name, weight), slope in zip(weights.items(), slopes, strict=True)
            }
        ahead = nets.discriminator.given(weights)
        return Terms({"value": -sum(logistic_terms(ahead(batch.images), ahead(samples)).values())})


class Plugin:
    @ganrun.hookimpl
    def ganrun_losses(self) -> dict[str, type[Loss]]:
        return {"unrolled": Unrolled}


def test_a_generator_that_looks_ahead_trains(journey: Callable[..., Run]) -> None:
    mlp = {"use": "mlp", "hidden": [8]}
    run = journey({"loss": {"use": "unrolled"}, "generator": mlp, "discriminator": mlp}, Plugin())
    assert run.step == run.steps


def test_its_gradient_is_that_of_two_steps_written_out_by_hand() -> None:
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Unflatten(1, (1, 8, 8)))
    discriminator = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 1))
    batch = Batch(torch.randn(6, 4), torch.randn(6, 1, 8, 8).tanh())

    def value(judge: Mapping[str, Tensor], maker: Mapping[str, Tensor]) -> Tensor:
        real = functional_call(discriminator, judge, batch.images)
        fake = functional_call(discriminator, judge, functional_call(generator, maker, batch.latents))
        return -softplus(-real).mean() - softplus(fake).mean()

    def after_two_steps(maker: Mapping[str, Tensor]) -> Tensor:
        first = {name: weight.detach() for name, weight in discriminator.named_parameters()}
        second = {name: first[name] + 0.1 * slope for name, slope in grad(value)(first, maker).items()}
        third = {name: second[name] + 0.1 * slope for name, slope in grad(value)(second, maker).items()}
        return value(third, maker)

    expected = grad(after_two_steps)({name: weight.detach() for name, weight in generator.named_parameters()})
    discriminator.requires_grad_(False)  # as the runner freezes what a phase does not train
    nets = Nets({"generator": View(generator), "discriminator": View(discriminator)})
    Unrolled(Unrolled.Settings(), DIGITS).generator(nets, batch).minimise["value"].backward()
    for name, weight in generator.named_parameters():
        torch.testing.assert_close(weight.grad, expected[name])
    assert all(weight.grad is None for weight in discriminator.parameters())


def test_the_loss_keeps_its_contract() -> None:
    assert_conforms("loss", Unrolled, spec=DIGITS)
