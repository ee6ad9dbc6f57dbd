"""The autoencoder without a prior, and a Gaussian that is fitted to its codes, to draw samples from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import mse_loss

import ganrun
from ganrun import Batch, DataSpec, Inputs, Loss, Nets, Phase, Ports, Reading, Slot, Terms
from ganrun_autoencoders.moving import begin_step, remember, see

JITTER = 1e-4
"""Added to each variance, as a share of their mean: where a code is unused, the covariance is singular."""


class Autoencoder(Loss):
    """The autoencoder: an encoder and a decoder that reconstruct images from short codes.

    Hinton and Salakhutdinov 2006 (doi:10.1126/science.1127647), trained as a whole. Nothing makes its codes follow a
    known distribution, so samples are drawn from a Gaussian that has the moving mean and covariance of the codes, as in
    Ghosh et al. 2019 (arXiv:1903.12436). A latent vector ε ~ N(0, I) stands for the code μ + L ε, with L Lᵀ the
    covariance.
    """

    class Settings(ganrun.Settings):
        latent_size: int = Field(32, ge=1)
        """Length of a code."""

        decay: float = Field(0.99, ge=0, lt=1)
        """γ of the moving mean and covariance of the codes, per step."""

    slots = {
        "generator": Slot("generator", averaged=True),
        "encoder": Slot("discriminator", averaged=True),
    }

    settings: Settings

    def __init__(self, settings: Settings, spec: DataSpec) -> None:
        super().__init__(settings, spec)
        size = settings.latent_size
        remember(self.memory, count=torch.ones(()), sums=torch.zeros(size), products=torch.eye(size))
        self.memory.register_buffer("mean", torch.zeros(size))
        self.memory.register_buffer("factor", torch.eye(size))
        self.memory.register_buffer("inverse", torch.eye(size))

    def ports(self, slot: str) -> Ports:
        """The encoder returns a code."""
        ports = super().ports(slot)
        return ports._replace(outputs=(self.latent_size,)) if slot == "encoder" else ports

    def phases(self) -> Sequence[Phase]:
        """One phase, which trains both networks by the same gradient."""
        return (Phase("autoencoder", self.objective, trains=("generator", "encoder")),)

    def objective(self, nets: Nets, batch: Batch) -> Terms:
        """The mean squared error over pixels in [-1, 1] and images; it is 4 times that over pixels in [0, 1]."""
        codes = nets.encoder(batch.images)
        self._fit(codes.detach(), batch.step)
        return Terms({"reconstruction": mse_loss(nets.generator(codes), batch.images)})

    def generate(self, nets: Nets, latents: Tensor, sampling: Any) -> Tensor:
        """The decoder's output for μ + L ε."""
        return nets.generator(self.codes_of(latents))

    def generated_inputs(self, slot: str, nets: Nets, batch: Batch) -> Inputs:
        """For the decoder the codes μ + L ε."""
        return Inputs(self.codes_of(batch.latents))

    def readings(self) -> Mapping[str, Reading]:
        """The ε that an image's code stands for, L⁻¹ (code − μ), and the decoder's output for the code."""
        return {
            "encodings": lambda nets, batch: self.latents_of(nets.encoder(batch.images)),
            "reconstructions": lambda nets, batch: nets.generator(nets.encoder(batch.images)),
        }

    def codes_of(self, latents: Tensor) -> Tensor:
        """μ + L ε: `(batch, latent_size)`."""
        return self.memory.mean + latents @ self.memory.factor.T

    def latents_of(self, codes: Tensor) -> Tensor:
        """L⁻¹ (code − μ): `(batch, latent_size)`."""
        return (codes - self.memory.mean) @ self.memory.inverse.T

    @torch.no_grad()
    def _fit(self, codes: Tensor, step: Tensor) -> None:
        """Set μ and L from the codes of all earlier steps, and record these."""
        memory = self.memory
        begin_step(memory, step, self.settings.decay, "count", "sums", "products")
        see(memory, step, count=memory.count.new_full((), len(codes)), sums=codes.sum(0), products=codes.T @ codes)
        memory.mean.copy_(memory.sums / memory.count)
        memory.factor.copy_(cholesky_factor(memory.products / memory.count - memory.mean.outer(memory.mean)))
        identity = torch.eye(len(memory.mean), device=memory.mean.device)
        memory.inverse.copy_(torch.linalg.solve_triangular(memory.factor, identity, upper=False))


def cholesky_factor(covariance: Tensor) -> Tensor:
    """L with L Lᵀ = covariance + `JITTER` · (its mean variance) · I, lower triangular; never waits for the device."""
    variances = covariance.diagonal()
    added = JITTER * variances.mean() + torch.finfo(covariance.dtype).tiny
    factor: Tensor = torch.linalg.cholesky_ex(covariance + torch.diag(added.expand(len(variances)))).L
    return factor
