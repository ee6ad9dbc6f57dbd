"""The importance-weighted autoencoder's objective: a tighter bound than the ELBO, with its sign turned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field

from ganrun import Batch, Nets, Phase, Terms
from ganrun_vae.autoencoder import Autoencoder, posterior


class ImportanceWeightedAutoencoder(Autoencoder):
    """The importance-weighted autoencoder: a VAE whose bound takes several samples of z for each image.

    Burda, Grosse and Salakhutdinov 2016 (arXiv:1509.00519), equation 8, differentiated directly. The slot `generator`
    is the decoder; the encoder returns the mean and then the log variance of q(z|x) = N(μ, σ² I).
    """

    class Settings(Autoencoder.Settings):
        likelihood: Literal["bernoulli", "fixed-variance"] = "bernoulli"
        """Distribution of a pixel around the decoder's output, its mean. bernoulli: of pixels mapped to [0, 1], for
        nearly black and white pictures; fixed-variance: the Gaussian whose standard deviation is sigma."""

        importance_samples: int = Field(5, ge=1)
        """Samples of z for each image, k. The decoder works on k times as many samples as the batch has images."""

    settings: Settings

    _for_points = '"fixed-variance", and a sigma'

    def phases(self) -> Sequence[Phase]:
        """One phase, which trains both networks by the same gradient."""
        return (Phase("iwae", self.objective, trains=("generator", "encoder")),)

    def objective(self, nets: Nets, batch: Batch) -> Terms:
        """−log 1/k Σ p(x, z) / q(z|x), z = μ + σ ε: equation 8. The first ε is batch.latents, the others are drawn.

        Also reported: the evidence lower bound by the same samples; the effective number of samples, (Σ w)² / Σ w²; and
        the number of active latent dimensions.
        """
        images = self.observed(batch.images)
        encoded = posterior(nets, images)
        log_weights = self.log_weights(nets, images, encoded, self._noise(batch))
        bound = log_weights.logsumexp(0) - math.log(len(log_weights))
        effective = 1 / log_weights.softmax(0).square().sum(0)
        facts = {"elbo": log_weights.mean(), "effective_samples": effective.mean()}
        return Terms(
            minimise={"negative_bound": -bound.mean()},
            report={**facts, "active_dimensions": encoded.active_dimensions()},
        )

    def _noise(self, batch: Batch) -> torch.Tensor:
        first = batch.latents
        others = torch.randn(self.settings.importance_samples - 1, *first.shape, device=first.device)
        return torch.cat([first[None], others])
