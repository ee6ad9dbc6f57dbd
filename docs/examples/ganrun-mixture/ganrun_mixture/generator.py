"""The generator of DeLiGAN: a mixture of Gaussians, then dense layers."""

from __future__ import annotations

from math import prod

import torch
from pydantic import Field
from torch import Tensor, nn

import ganrun
from ganrun import IncompatibleError, NetworkSpec


class MixtureGenerator(ganrun.Generator):
    """Dense layers fed by a learned mixture of Gaussians.

    DeLiGAN (Gurumurthy et al. 2017, arXiv:1706.02071), section 4: each sample starts from one of many Gaussians
    of equal weight, whose means and widths are trained with the network. The mixture helps with small data sets that
    consist of distinct groups. The paper's penalty, which keeps the widths near 1, belongs to the loss and is not
    implemented here.

    Expects latents from N(0, I). The first coordinate selects the component; the others are the noise within it. The
    same latent vector therefore always gives the same sample.
    """

    class Settings(ganrun.Settings):
        components: int = Field(50, ge=1)
        """Gaussians in the mixture."""

        width: float = Field(0.2, gt=0)
        """Initial standard deviation of every component, as in the paper."""

        hidden: int = Field(256, ge=1)
        """Units in each of the two hidden layers."""

    settings: Settings

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        size = spec.inputs[0] - 1
        if size < 1:
            raise IncompatibleError("needs at least 2 latents: one selects the component; raise [loss] latent_size")
        self.means = nn.Parameter(torch.empty(settings.components, size).uniform_(-1, 1))
        self.widths = nn.Parameter(torch.full((settings.components, size), settings.width))
        self.layers = nn.Sequential(
            nn.Linear(size, settings.hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(settings.hidden, settings.hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(settings.hidden, prod(spec.output_shape)),
            nn.Tanh(),
        )

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map latents `(batch, latent_size)` to samples `(batch, *spec.outputs)` in [-1, 1]."""
        component = self.component(latents)
        start = self.means[component] + self.widths[component] * latents[:, 1:]
        return self.layers(start).unflatten(1, self.spec.output_shape)

    def component(self, latents: Tensor) -> Tensor:
        """The index of each sample's Gaussian: int64 `(batch,)`, uniform in [0, components).

        Φ(z) is uniform in [0, 1] for z from N(0, 1).
        """
        quantile = torch.special.ndtr(latents[:, 0].float())
        return (quantile * self.settings.components).long().clamp_max(self.settings.components - 1)
