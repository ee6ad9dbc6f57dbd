"""Penalties on the gradient of a discriminator with respect to its input.

They are computed per sample, so the discriminator must have no batch norm; layer norm is allowed.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

import ganrun
from ganrun import (
    Batch,
    Nets,
    Regularizer,
    RegularizerSettings,
    Scheduled,
    distance_from_one,
    gradient_norms,
    interpolates,
    squared_gradient_norms,
)
from ganrun_regularizers.judging import logits

# ── R1 and R2: Mescheder et al. 2018, arXiv:1801.04406 ────────────────────────────────────────────────────


class R1(Regularizer):
    """R1: the squared gradient norm at real images, which makes GAN training converge locally.

    Mescheder et al. 2018 (arXiv:1801.04406), equation 9. StyleGAN2 applies it every 16 steps (arXiv:1912.04958,
    appendix B).
    """

    per_sample = True

    class Settings(RegularizerSettings):
        weight: Scheduled = Field(Scheduled(start=10.0), ge=0)
        """γ; the penalty has the paper's factor ½."""

    def penalty(self, nets: Nets, batch: Batch, slot: str) -> Tensor:
        """½ · E[‖∇D(x)‖²]."""
        real = self.loss.real_inputs(slot, batch)
        return _half_squared_norm(nets, slot, real)


class R2(Regularizer):
    """R2: the squared gradient norm at generated samples.

    Mescheder et al. 2018 (arXiv:1801.04406), equation 10.
    """

    reads_images = False

    per_sample = True

    class Settings(RegularizerSettings):
        weight: Scheduled = Field(Scheduled(start=10.0), ge=0)
        """γ; the penalty has the paper's factor ½."""

    def penalty(self, nets: Nets, batch: Batch, slot: str) -> Tensor:
        """½ · E[‖∇D(G(z))‖²]."""
        return _half_squared_norm(nets, slot, self.loss.generated_inputs(slot, nets, batch))


def _half_squared_norm(nets: Nets, slot: str, at: ganrun.Inputs) -> Tensor:
    return squared_gradient_norms(logits(getattr(nets, slot), at.conditions), at.inputs).mean() / 2


# ── WGAN-GP: Gulrajani et al. 2017, arXiv:1704.00028 ──────────────────────────────────────────────────────


class GradientPenalty(Regularizer):
    """The gradient penalty of WGAN-GP: gradients of norm 1 between real images and samples.

    Gulrajani et al. 2017 (arXiv:1704.00028), equation 3. The loss `wgan-gp` has this penalty already.
    """

    per_sample = True

    class Settings(RegularizerSettings):
        weight: Scheduled = Field(Scheduled(start=10.0), ge=0)
        """λ."""

        sided: Literal["two", "one"] = "two"
        """Whether the penalty pulls the gradient's norm to 1 from both sides, or only from above."""

    settings: Settings

    def penalty(self, nets: Nets, batch: Batch, slot: str) -> Tensor:
        """E[(‖∇D(x̂)‖ − 1)²], x̂ between a real image and a sample, under the conditions of the real image."""
        real, fake = self.loss.real_inputs(slot, batch), self.loss.generated_inputs(slot, nets, batch)
        points = interpolates(real.inputs, fake.inputs)
        norms = gradient_norms(logits(getattr(nets, slot), real.conditions), points)
        return distance_from_one(norms, self.settings.sided)


# ── DRAGAN: Kodali et al. 2017, arXiv:1705.07215 ──────────────────────────────────────────────────────────


class Dragan(Regularizer):
    """DRAGAN: gradients of fixed norm, only around the real images.

    Kodali et al. 2017 (arXiv:1705.07215), algorithm 1.
    """

    per_sample = True

    class Settings(RegularizerSettings):
        weight: Scheduled = Field(Scheduled(start=10.0), ge=0)
        """λ."""

        variance: float = Field(0.1, gt=0)
        """c, the variance of the noise that is added to each pixel in [-1, 1]."""

        norm: float = Field(1.0, ge=0)
        """k, the norm that gradients are pulled to."""

    settings: Settings

    def penalty(self, nets: Nets, batch: Batch, slot: str) -> Tensor:
        """E[(‖∇D(x + δ)‖ − k)²], δ ~ N(0, c·I)."""
        real = self.loss.real_inputs(slot, batch)
        noise = torch.randn_like(real.inputs) * self.settings.variance**0.5
        norms = gradient_norms(logits(getattr(nets, slot), real.conditions), real.inputs + noise)
        return (norms - self.settings.norm).square().mean()
