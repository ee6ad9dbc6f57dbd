"""Base of every variational autoencoder: a Gaussian prior, a Gaussian encoder, a likelihood of pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

import ganrun
from ganrun import Batch, DataSpec, IncompatibleError, Loss, Nets, Ports, Reading, Slot
from ganrun_vae.pixels import bernoulli_loss, best_variance, binarized, gaussian_loss

ACTIVE_VARIANCE = 0.01
"""A latent dimension whose mean varies more than this from image to image is active (arXiv:1509.00519)."""


class Posterior(NamedTuple):
    """q(z|x) = N(μ, σ² I)."""

    mean: Tensor
    """`(batch, latent_size)`"""

    log_variance: Tensor
    """`(batch, latent_size)`"""

    def sample(self, noise: Tensor) -> Tensor:
        """z = μ + σ ε, for ε `(…, batch, latent_size)`."""
        return self.mean + noise * (0.5 * self.log_variance).exp()

    def active_dimensions(self) -> Tensor:
        """Number of latent dimensions whose mean follows the image, a float scalar."""
        return (self.mean.var(0, correction=0) > ACTIVE_VARIANCE).sum().float()


class Autoencoder(Loss):
    """An encoder and a decoder; the slot `generator` is the decoder.

    The encoder returns the mean and then the log variance of q(z|x) = N(μ, σ² I); the prior is N(0, I).
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

        binarization: Literal["none", "dynamic"] = "none"
        """dynamic: in every update, each pixel is drawn again as black or white, white with its grey value as the
        probability; for bernoulli only. Black and white images are unchanged."""

        @field_validator("sigma")
        @classmethod
        def _fixed_variances_only(cls, sigma: float | None, info: ValidationInfo) -> float | None:
            likelihood = info.data.get("likelihood")
            if likelihood == "fixed-variance" and sigma is None:
                raise ValueError('likelihood = "fixed-variance" needs it; say sigma = 1.0, for example')
            if likelihood in ("bernoulli", "gaussian") and sigma is not None:
                raise ValueError(f'is for "fixed-variance", but likelihood = "{likelihood}"; leave one of them out')
            return sigma

        @field_validator("binarization")
        @classmethod
        def _black_and_white_only(cls, binarization: str, info: ValidationInfo) -> str:
            likelihood = info.data.get("likelihood", "bernoulli")
            if binarization == "dynamic" and likelihood != "bernoulli":
                raise ValueError(f'"dynamic" is for likelihood = "bernoulli", which is "{likelihood}" here')
            return binarization

    settings: Settings

    slots = {"generator": Slot("generator", averaged=True), "encoder": Slot("discriminator", averaged=True)}

    def __init__(self, settings: Settings, spec: DataSpec) -> None:
        super().__init__(settings, spec)
        if settings.likelihood == "bernoulli" and len(spec.sample_shape) != 3:
            text = f'likelihood "bernoulli" needs images, not samples of shape {spec.sample_shape}'
            raise IncompatibleError(f"{text}; say {self._for_points}")

    _for_points = '"gaussian"'

    def ports(self, slot: str) -> Ports:
        """The encoder returns means and log variances, one of each per latent dimension."""
        ports = super().ports(slot)
        return ports._replace(outputs=(2 * self.latent_size,)) if slot == "encoder" else ports

    def observed(self, images: Tensor) -> Tensor:
        """The images that an update sees: with dynamic binarisation, black and white ones."""
        return binarized(images) if self.settings.binarization == "dynamic" else images

    def pixel_loss(self, samples: Tensor, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """−log p(x|z) `(batch,)`, and facts to report. Samples and images are `(batch, *sample_shape)` in [-1, 1]."""
        if self.settings.likelihood == "bernoulli":
            return bernoulli_loss(samples, images), {}
        sigma = self.settings.sigma
        variance = best_variance(samples, images) if sigma is None else samples.new_full((), sigma**2)
        return gaussian_loss(samples, images, variance), {"sigma": variance.sqrt()}

    def log_weights(self, nets: Nets, images: Tensor, encoded: Posterior, noise: Tensor) -> Tensor:
        """log p(x, z) − log q(z|x) of z = μ + σ ε, in nats: `(count, batch)` for ε `(count, batch, latent_size)`.

        The mean of their exponentials over ε ~ N(0, I) is p(x).
        """
        latents, count = encoded.sample(noise), len(noise)
        samples = nets.generator(latents.flatten(0, 1))
        repeated = images.expand(count, *images.shape).flatten(0, 1)
        log_p = -self.pixel_loss(samples, repeated)[0].view(count, -1)
        return log_p + 0.5 * (noise.square() - latents.square() + encoded.log_variance).sum(2)

    def readings(self) -> Mapping[str, Reading]:
        """The mean of q(z|x), which is deterministic, the decoder's output for it and, if the likelihood is the same
        for every batch, one importance weight of each record."""
        found: dict[str, Reading] = {
            "encodings": lambda nets, batch: posterior(nets, batch.images).mean,
            "reconstructions": lambda nets, batch: nets.generator(posterior(nets, batch.images).mean),
        }
        if self.settings.likelihood == "gaussian":
            return found
        kind = "binary" if self.settings.likelihood == "bernoulli" else "density"
        return {**found, f"{kind}_log_weights": self._one_log_weight}

    def _one_log_weight(self, nets: Nets, batch: Batch) -> Tensor:
        encoded = posterior(nets, batch.images)
        return self.log_weights(nets, batch.images, encoded, batch.latents[None])[0]


def posterior(nets: Nets, images: Tensor) -> Posterior:
    """q(z|x) of images `(batch, *sample_shape)` in [-1, 1]."""
    return Posterior(*nets.encoder(images).chunk(2, dim=1))
