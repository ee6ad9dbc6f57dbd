"""The variational autoencoder's objective: the evidence lower bound (ELBO), with its sign turned.

Everything is in nats per image: sums over pixels and over latent dimensions, means over the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import Tensor

from ganrun import Batch, Nets, Phase, Terms
from ganrun_vae.autoencoder import Autoencoder, posterior


class VariationalAutoencoder(Autoencoder):
    """The variational autoencoder: an encoder and a decoder that maximise the evidence lower bound.

    Kingma and Welling 2013 (arXiv:1312.6114), equation 10, with one sample of z per image. The slot `generator` is
    the decoder; the encoder returns the mean and then the log variance of q(z|x) = N(μ, σ² I).
    """

    class Settings(Autoencoder.Settings):
        beta: float = Field(1.0, ge=0)
        """Weight of the KL divergence (β-VAE, Higgins et al. 2017); 1 is the evidence lower bound."""

        warmup_steps: int = Field(0, ge=0)
        """Steps over which that weight rises linearly from 0 to beta (arXiv:1602.02282)."""

    settings: Settings

    def phases(self) -> Sequence[Phase]:
        """One phase, which trains both networks by the same gradient."""
        return (Phase("vae", self.objective, trains=("generator", "encoder")),)

    def objective(self, nets: Nets, batch: Batch) -> Terms:
        """−E[log p(x|z)] + β KL(q(z|x) ‖ p(z)), z = μ + σ ε: equation 10, with batch.latents as ε.

        Also reported: the unweighted KL divergence, the lower bound itself, the number of active latent dimensions,
        and the standard deviation of a Gaussian likelihood.
        """
        images = self.observed(batch.images)
        encoded = posterior(nets, images)
        losses, facts = self.pixel_loss(nets.generator(encoded.sample(batch.latents)), images)
        reconstruction, kl = losses.mean(), kl_divergence(*encoded).mean()
        bound = {"kl": kl, "elbo": -(reconstruction + kl), "active_dimensions": encoded.active_dimensions()}
        return Terms(
            minimise={"reconstruction": reconstruction, "weighted_kl": self.kl_weight(batch) * kl},
            report={**bound, **facts},
        )

    def kl_weight(self, batch: Batch) -> Tensor | float:
        """β · min(1, steps done / warmup_steps)."""
        beta, steps = self.settings.beta, self.settings.warmup_steps
        return beta * (batch.step / steps).clamp(max=1) if steps else beta


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(μ, σ² I) ‖ N(0, I)) = −½ Σ (1 + log σ² − μ² − σ²) over latent dimensions: `(batch,)`, in nats.

    Kingma and Welling 2013, appendix B.
    """
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1)
