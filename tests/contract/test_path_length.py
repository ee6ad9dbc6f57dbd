"""StyleGAN2's path-length regularisation, with style mixing and truncation (Karras et al. 2020, arXiv:1912.04958)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor, nn

import ganrun
from ganrun import (
    AdversarialLoss,
    Batch,
    DataSpec,
    Factor,
    Generator,
    Loss,
    Nets,
    NetworkSpec,
    Phase,
    Ports,
    Run,
    Settings,
    Slot,
    Terms,
    View,
    logistic_terms,
    mean_over_ranks,
    non_saturating_loss,
    random_one_hot,
    split_latents,
)
from ganrun.testing import assert_conforms

DIGITS = DataSpec((1, 8, 8), classes=10)
LAYERS = 3
"""Styles that the synthesis network takes."""


class PathLengths(AdversarialLoss):
    """E[(‖J_wᵀ y‖₂ − a)²], J_w = ∂g(w) / ∂w, y ~ N(0, I), a the running mean of the lengths: equation 4.

    Style mixing (Karras et al. 2019, section 3.1): layers up to the crossover take their styles from the first z, all
    others from the second. Scores and pictures are made of the first alone, as in the authors' code, by truncated
    styles w̄ + ψ (w − w̄), w̄ the running mean of styles (2019, section B).
    """

    class Settings(ganrun.Settings):
        z_size: int = Field(4, ge=1)
        """Length of z, and of a style w."""

        path_weight: float = Field(2.0, ge=0)
        """Weight of the penalty."""

        path_every: int = Field(2, ge=1)
        """Steps between two penalties, each of which counts that many times over (section 3.1)."""

        decay: float = Field(0.01, gt=0, le=1)
        """Weight of new lengths, and of new styles, in their running means."""

    class Sampling(ganrun.Settings):
        psi: float = Field(1.0, ge=0)
        """ψ: 1 leaves styles as they are, 0 makes the mean style of all."""

    slots = {
        "generator": Slot("generator", averaged=True, methods=("mapping", "synthesis")),
        "discriminator": Slot("discriminator", augmented=True),
    }

    def __init__(self, settings: Settings, spec: DataSpec) -> None:
        super().__init__(settings, spec)
        self.memory.register_buffer("path_mean", torch.zeros(()))
        self.memory.register_buffer("style_mean", torch.zeros(settings.z_size))

    @property
    def latent_size(self) -> int:
        return sum(factor.size for factor in self.factors())

    def factors(self) -> tuple[Factor, ...]:
        size = self.settings.z_size
        return Factor("z", size, "noise"), Factor("mixed", size, "noise"), Factor("crossover", LAYERS, "categorical")

    def ports(self, slot: str) -> Ports:
        ports = super().ports(slot)
        return ports._replace(inputs=(self.settings.z_size,)) if slot == "generator" else ports

    def latents(self, size: int, device: torch.device) -> Tensor:
        noise = torch.randn(size, 2 * self.settings.z_size, device=device)
        return torch.cat([noise, random_one_hot(size, LAYERS, device)], dim=1)

    def phases(self) -> tuple[Phase, ...]:
        every = self.settings.path_every
        lazy = Phase("path", self.path, ("generator",), every=every, reads_images=False, second_order=True)
        return (*super().phases(), lazy)

    def styles(self, nets: Nets, latents: Tensor) -> Tensor:
        parts = split_latents(latents, self.factors())
        after = parts["crossover"].cumsum(1).roll(1, dims=1)[..., None]
        after[:, 0] = 0  # the first layer always has the first style
        first, second = (nets.generator.mapping(parts[name]) for name in ("z", "mixed"))
        self.remember("style_mean", first.mean(0))
        return torch.lerp(first[:, None], second[:, None], after)

    def remember(self, name: str, value: Tensor) -> None:
        getattr(self.memory, name).lerp_(mean_over_ranks(value.detach()), self.settings.decay)

    def discriminator(self, nets: Nets, batch: Batch) -> Terms:
        samples = nets.generator.synthesis(self.styles(nets, batch.latents))
        return Terms(logistic_terms(nets.discriminator(batch.images), nets.discriminator(samples)))

    def generator(self, nets: Nets, batch: Batch) -> Terms:
        samples = nets.generator.synthesis(self.styles(nets, batch.latents))
        return Terms({"adversarial": non_saturating_loss(nets.discriminator(samples))})

    def path(self, nets: Nets, batch: Batch) -> Terms:
        styles = self.styles(nets, batch.latents)
        samples = nets.generator.synthesis(styles)
        noise = torch.randn_like(samples) / samples[0, 0].numel() ** 0.5
        (slopes,) = torch.autograd.grad((samples * noise).sum(), styles, create_graph=True)
        lengths = slopes.square().sum(2).mean(1).sqrt()
        self.remember("path_mean", lengths.mean())
        penalty = (lengths - self.memory.path_mean).square().mean()
        weight = self.settings.path_weight * self.settings.path_every
        return Terms({"penalty": weight * penalty}, {"length": lengths.mean()})

    def generate(self, nets: Nets, latents: Tensor, sampling: Sampling) -> Tensor:
        styles = nets.generator.mapping(split_latents(latents, self.factors())["z"])
        truncated = torch.lerp(self.memory.style_mean, styles, sampling.psi)
        return nets.generator.synthesis(truncated[:, None].expand(-1, LAYERS, -1))


class StyleGenerator(Generator):
    """A mapping network, and layers that each add a function of their style."""

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        (size,) = spec.inputs
        self.map = nn.Sequential(nn.Linear(size, size), nn.LeakyReLU(0.2))
        self.layers = nn.ModuleList(nn.Linear(size, 16) for _ in range(LAYERS))
        self.to_sample = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Unflatten(1, spec.outputs))

    def forward(self, latents: Tensor) -> Tensor:
        return self.synthesis(self.mapping(latents)[:, None].expand(-1, LAYERS, -1))

    def mapping(self, latents: Tensor) -> Tensor:
        """z to w, each `(batch, z_size)`."""
        return self.map(latents)

    def synthesis(self, styles: Tensor) -> Tensor:
        """`(batch, LAYERS, z_size)` to samples."""
        parts = [layer(style) for layer, style in zip(self.layers, styles.unbind(1), strict=True)]
        return self.to_sample(torch.stack(parts).sum(0).tanh()).float()


class Plugin:
    @ganrun.hookimpl
    def ganrun_losses(self) -> dict[str, type[Loss]]:
        return {"path-lengths": PathLengths}

    @ganrun.hookimpl
    def ganrun_generators(self) -> dict[str, type[Generator]]:
        return {"style": StyleGenerator}


def test_a_lazy_penalty_with_a_running_mean_trains_and_is_remembered(journey: Callable[..., Run]) -> None:
    tables = {
        "loss": {"use": "path-lengths"},
        "sampling": {"psi": 0.5},
        "generator": {"use": "style"},
        "discriminator": {"use": "mlp", "hidden": [8]},
    }
    run = journey(tables, Plugin())
    assert run.model.loss.memory.path_mean > 0
    alike = run.model.with_sampling(psi=0.0).decode(run.model.fixed_latents(2))
    torch.testing.assert_close(alike[0], alike[1])


class Linear(nn.Module):
    """g(w) = A w, summed over layers: its path lengths have a closed form."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix)
        self.shift = nn.Parameter(torch.zeros(()))

    def mapping(self, latents: Tensor) -> Tensor:
        return latents + self.shift

    def synthesis(self, styles: Tensor) -> Tensor:
        return (styles.sum(1) @ self.matrix.T).unflatten(1, (1, 8, 8))


def test_lengths_are_those_of_a_linear_generator_whose_columns_are_orthogonal() -> None:
    """J = A with AᵀA = s² I: ‖Jᵀ y‖ / 8 is s / 8 times a χ of 4 degrees of freedom, whose mean is 1.88."""
    loss, scale = PathLengths(PathLengths.Settings(decay=1), DIGITS), 3.0
    basis, _ = torch.linalg.qr(torch.randn(64, 4))
    nets = Nets({"generator": View(Linear(scale * basis))})
    terms = loss.path(nets, Batch(loss.latents(20_000, torch.device("cpu"))))
    mean, variance = 1.88 * scale / 8, (4 - 1.88**2) * (scale / 8) ** 2
    torch.testing.assert_close(loss.memory.path_mean.item(), mean, rtol=0.02, atol=0)
    torch.testing.assert_close(terms.minimise["penalty"].item(), 2 * 2 * variance, rtol=0.1, atol=0)


def test_layers_up_to_the_crossover_have_the_first_style() -> None:
    loss = PathLengths(PathLengths.Settings(z_size=1), DIGITS)
    latents = torch.cat([torch.tensor([[1.0, 2.0]] * 3), torch.eye(3)], dim=1)
    styles = loss.styles(Nets({"generator": View(Linear(torch.ones(64, 1)))}), latents)
    assert styles.squeeze(2).tolist() == [[1, 2, 2], [1, 1, 2], [1, 1, 1]]


def test_the_components_keep_their_contracts() -> None:
    assert_conforms("loss", PathLengths, spec=DIGITS, networks={"generator": StyleGenerator})
    assert_conforms("generator", StyleGenerator, spec=NetworkSpec((4,), (1, 8, 8)))
