"""Flow matching: a velocity field that carries noise to data (Lipman et al. 2023, arXiv:2210.02747)."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import pytest
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import mse_loss

import ganrun
from ganrun import Batch, DataSpec, Loss, Nets, Network, NetworkSpec, Phase, Ports, Run, Settings, Slot, Terms, View
from ganrun.testing import assert_conforms

DIGITS = DataSpec((1, 8, 8), classes=10)


class FlowMatching(Loss):
    """E ‖v_t(ψ_t(x₀)) − (x₁ − (1 − σ) x₀)‖², ψ_t(x₀) = (1 − (1 − σ) t) x₀ + t x₁: equations 22 and 23.

    x₀ ~ N(0, I) is the latent vector, x₁ is a real image, and t ~ U(0, 1).
    """

    class Settings(ganrun.Settings):
        sigma: float = Field(1e-4, ge=0)
        """σ: standard deviation of the noise around an image at t = 1."""

    class Sampling(ganrun.Settings):
        steps: int = Field(8, ge=1)
        """Steps of Euler's method from t = 0 to t = 1."""

    slots = {"velocity": Slot("network", averaged=True)}

    @property
    def latent_size(self) -> int:
        return prod(self.spec.sample_shape)

    def ports(self, slot: str) -> Ports:
        return Ports(self.spec.sample_shape, self.spec.sample_shape, {"time": ()})

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("flow", self.objective, trains=("velocity",)),)

    def objective(self, nets: Nets, batch: Batch) -> Terms:
        noise, shrink = batch.latents.view_as(batch.images), 1 - self.settings.sigma
        time = torch.rand(batch.size, device=noise.device)
        t = time[:, None, None, None]
        velocity = nets.velocity((1 - shrink * t) * noise + t * batch.images, time=time)
        return Terms({"error": mse_loss(velocity, batch.images - shrink * noise)})

    def generate(self, nets: Nets, latents: Tensor, sampling: Sampling) -> Tensor:
        state = latents.unflatten(1, self.spec.sample_shape)
        for step in range(sampling.steps):
            time = torch.full_like(latents[:, 0], step / sampling.steps)
            state = state + nets.velocity(state, time=time) / sampling.steps
        return state.clamp(-1, 1)


class Velocity(Network):
    """A convolution of the image and of the time, with a second one behind it."""

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        channels = spec.inputs[0]
        self.layers = nn.Sequential(
            nn.Conv2d(channels + 1, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, channels, 3, padding=1)
        )

    def forward(self, images: Tensor, time: Tensor) -> Tensor:
        clock = time.to(images.dtype)[:, None, None, None].expand(-1, 1, *images.shape[2:])
        return self.layers(torch.cat([images, clock], dim=1)).float()


class Plugin:
    @ganrun.hookimpl
    def ganrun_losses(self) -> dict[str, type[Loss]]:
        return {"flow": FlowMatching}

    @ganrun.hookimpl
    def ganrun_networks(self) -> dict[str, type[Network]]:
        return {"velocity": Velocity}


def test_a_flow_trains_and_its_steps_are_settings_of_sampling(journey: Callable[..., Run]) -> None:
    tables = {"loss": {"use": "flow"}, "velocity": {"use": "velocity"}, "sampling": {"steps": 2}}
    run = journey(tables, Plugin())
    model, latents = run.model, run.model.fixed_latents(4)
    assert not torch.equal(model.decode(latents), model.with_sampling(steps=3).decode(latents))
    (score,) = run.scores.values()
    assert score.protocol["sampling.steps"] == 2


class Decay(nn.Module):
    """v_t(x) = t − x, whose flow from x₀ is x₁ = x₀ / e + 1 / e."""

    def forward(self, states: Tensor, time: Tensor) -> Tensor:
        return time[:, None, None, None] - states


@pytest.mark.parametrize("steps", [10, 1000])
def test_eulers_method_approaches_the_closed_form_of_a_linear_flow(steps: int) -> None:
    loss = FlowMatching(FlowMatching.Settings(), DIGITS)
    latents = loss.latents(4, torch.device("cpu")) / 4
    samples = loss.generate(Nets({"velocity": View(Decay())}), latents, FlowMatching.Sampling(steps=steps))
    exact = (latents + 1) / torch.e
    assert (samples.flatten(1) - exact).abs().max() < 1 / steps


def test_the_objective_is_zero_for_the_velocity_of_its_own_path() -> None:
    """Where all images are the same x₁, v_t(x) = (x₁ − (1 − σ) x) / (1 − (1 − σ) t): equation 21."""
    image, loss = torch.rand(1, 8, 8) - 0.5, FlowMatching(FlowMatching.Settings(sigma=0.1), DIGITS)

    class Exact(nn.Module):
        def forward(self, states: Tensor, time: Tensor) -> Tensor:
            return (image - 0.9 * states) / (1 - 0.9 * time[:, None, None, None])

    batch = Batch(loss.latents(6, torch.device("cpu")), image.expand(6, 1, 8, 8))
    assert loss.objective(Nets({"velocity": View(Exact())}), batch).minimise["error"] < 1e-10


def test_the_components_keep_their_contracts() -> None:
    assert_conforms("loss", FlowMatching, spec=DIGITS)
    assert_conforms("network", Velocity, spec=NetworkSpec((1, 8, 8), (1, 8, 8), {"time": ()}))
