"""The variational autoencoder's objective: the evidence lower bound (ELBO), with its sign turned.

Everything is in nats per image: sums over pixels and over latent dimensions, means over the batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

import ganrun
from ganrun import Batch, DataSpec, IncompatibleError, Loss, Nets, Phase, Ports, Reading, Slot, Terms

SMALLEST_GAP = 2.0**-24
"""Distance from 1 to the next smaller float32: a sample closer to ±1 has been rounded to ±1."""

SMALLEST_SIGMA = 2 / 255 / math.sqrt(12)
"""Standard deviation of rounding to 8 bits, in units of [-1, 1]: no decoder can predict a pixel better."""

ACTIVE_VARIANCE = 0.01
"""A latent dimension whose mean varies more than this from image to image is active (arXiv:1509.00519)."""


class VariationalAutoencoder(Loss):
    """The variational autoencoder: an encoder and a decoder that maximise the evidence lower bound.

    Kingma and Welling 2013 (arXiv:1312.6114), equation 10, with one sample of z per image. The slot `generator` is
    the decoder; the encoder returns the mean and then the log variance of q(z|x) = N(μ, σ² I).
    """

    class Settings(ganrun.Settings):
        latent_size: int = Field(32, ge=1)
        """Length of a latent vector; the prior is N(0, I)."""

        likelihood: Literal["bernoulli", "gaussian", "fixed-variance"] = "gaussian"
        """Distribution of a pixel around the decoder's output, its mean. bernoulli: of pixels mapped to [0, 1], for
        nearly black and white pictures; gaussian: one variance for all pixels, the most likely one for each batch;
        fixed-variance: the Gaussian whose standard deviation is sigma."""

        sigma: float | None = Field(None, gt=0, validate_default=True)
        """Standard deviation of a pixel in units of [-1, 1], for fixed-variance only. Unit variance on pixels in
        [0, 1] is sigma = 2."""

        beta: float = Field(1.0, ge=0)
        """Weight of the KL divergence (β-VAE, Higgins et al. 2017); 1 is the evidence lower bound."""

        warmup_steps: int = Field(0, ge=0)
        """Steps over which that weight rises linearly from 0 to beta (arXiv:1602.02282)."""

        @field_validator("sigma")
        @classmethod
        def _fixed_variances_only(cls, sigma: float | None, info: ValidationInfo) -> float | None:
            likelihood = info.data.get("likelihood")
            if likelihood == "fixed-variance" and sigma is None:
                raise ValueError('likelihood = "fixed-variance" needs it; say sigma = 1.0, for example')
            if likelihood in ("bernoulli", "gaussian") and sigma is not None:
                raise ValueError(f'is for "fixed-variance", but likelihood = "{likelihood}"; leave one of them out')
            return sigma

    settings: Settings

    slots = {"generator": Slot("generator", averaged=True), "encoder": Slot("discriminator", averaged=True)}

    def __init__(self, settings: Settings, spec: DataSpec) -> None:
        super().__init__(settings, spec)
        if settings.likelihood == "bernoulli" and len(spec.sample_shape) != 3:
            raise IncompatibleError(
                f'likelihood "bernoulli" needs images, not samples of shape {spec.sample_shape}; say "gaussian"'
            )

    def ports(self, slot: str) -> Ports:
        """The encoder returns means and log variances, one of each per latent dimension."""
        ports = super().ports(slot)
        return ports._replace(outputs=(2 * self.latent_size,)) if slot == "encoder" else ports

    def phases(self) -> Sequence[Phase]:
        """One phase, which trains both networks by the same gradient."""
        return (Phase("vae", self.objective, trains=("generator", "encoder")),)

    def objective(self, nets: Nets, batch: Batch) -> Terms:
        """−E[log p(x|z)] + β KL(q(z|x) ‖ p(z)), z = μ + σ ε: equation 10, with batch.latents as ε.

        Also reported: the unweighted KL divergence, the lower bound itself, the number of active latent dimensions,
        and the standard deviation of a Gaussian likelihood.
        """
        mean, log_variance = posterior(nets, batch.images)
        samples = nets.generator(mean + batch.latents * (0.5 * log_variance).exp())
        reconstruction, facts = self.reconstruction_loss(samples, batch.images)
        kl = kl_divergence(mean, log_variance).mean()
        active = (mean.var(0, correction=0) > ACTIVE_VARIANCE).sum().float()
        return Terms(
            minimise={"reconstruction": reconstruction, "weighted_kl": self.kl_weight(batch) * kl},
            report={"kl": kl, "elbo": -(reconstruction + kl), "active_dimensions": active, **facts},
        )

    def reconstruction_loss(self, samples: Tensor, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """−log p(x|z), and facts to report. Samples and images are `(batch, *sample_shape)` in [-1, 1]."""
        if self.settings.likelihood == "bernoulli":
            return bernoulli_loss(samples, images).mean(), {}
        sigma = self.settings.sigma
        variance = best_variance(samples, images) if sigma is None else samples.new_full((), sigma**2)
        return gaussian_loss(samples, images, variance).mean(), {"sigma": variance.sqrt()}

    def kl_weight(self, batch: Batch) -> Tensor | float:
        """β · min(1, steps done / warmup_steps)."""
        beta, steps = self.settings.beta, self.settings.warmup_steps
        return beta * (batch.step / steps).clamp(max=1) if steps else beta

    def readings(self) -> Mapping[str, Reading]:
        """The mean of q(z|x), which is deterministic, and the decoder's output for it."""
        return {
            "encodings": lambda nets, batch: posterior(nets, batch.images)[0],
            "reconstructions": lambda nets, batch: nets.generator(posterior(nets, batch.images)[0]),
        }


def posterior(nets: Nets, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log variance of q(z|x), each `(batch, latent_size)`."""
    mean, log_variance = nets.encoder(images).chunk(2, dim=1)
    return mean, log_variance


# ── The divergence from the prior: appendix B ─────────────────────────────────────────────────────────────


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(μ, σ² I) ‖ N(0, I)) = −½ Σ (1 + log σ² − μ² − σ²) over latent dimensions: `(batch,)`, in nats."""
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1)


# ── Bernoulli pixels: appendix C.1, equation 11 ───────────────────────────────────────────────────────────


def bernoulli_loss(samples: Tensor, images: Tensor) -> Tensor:
    """−Σ [t log p + (1 − t) log(1 − p)] over pixels, p = (1 + sample) / 2, t = (1 + image) / 2: `(batch,)`, in nats.

    Grey pixels count as probabilities: for them this is a cross-entropy, not a log-likelihood (arXiv:1907.06845).
    """
    # Where 1 + x or 1 − x is small, it is exact in float32; 1 − p with p = (1 + x) / 2 is not. So the gradient through
    # the decoder's tanh is 2 (p − t), as with logits, until tanh itself rounds to ±1. Only there does the clamp act: it
    # avoids log 0, and the NaN of 0 · ∞ in the backward pass.
    log_p = ((1 + samples).clamp_min(SMALLEST_GAP) / 2).log()
    log_not_p = ((1 - samples).clamp_min(SMALLEST_GAP) / 2).log()
    target = (1 + images) / 2
    return -(target * log_p + (1 - target) * log_not_p).flatten(1).sum(1)


# ── Gaussian pixels: appendix C.2, equation 12, with one variance for all pixels ──────────────────────────


def gaussian_loss(samples: Tensor, images: Tensor, variance: Tensor) -> Tensor:
    """−log N(image; sample, variance · I) = ½ Σ [error² / variance + log(2π variance)]: `(batch,)`, in nats.

    The density is over pixels in [-1, 1]; over pixels in [0, 1] the loss is log 2 lower per pixel.
    """
    errors = (samples - images).square() / variance
    return 0.5 * (errors + (2 * math.pi * variance).log()).flatten(1).sum(1)


def best_variance(samples: Tensor, images: Tensor) -> Tensor:
    """The maximum-likelihood variance of the batch: its mean squared error, over all pixels and images; a scalar.

    The optimal σ-VAE (Rybkin et al. 2020, arXiv:2006.13202). The derivative of the loss by the variance is 0 there, so
    treating the variance as a constant leaves the gradient unchanged.
    """
    return (samples - images).detach().square().mean().clamp_min(SMALLEST_SIGMA**2)
