"""VAE-GAN: an autoencoder whose likelihood is that of a discriminator's features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor

import ganrun
from ganrun import (
    Batch,
    Loss,
    Nets,
    Phase,
    Ports,
    Reading,
    Slot,
    Terms,
    logistic_terms,
    non_saturating_loss,
)


class VaeGan(Loss):
    """VAE-GAN: a variational autoencoder that measures errors by a GAN's discriminator, which its decoder must deceive.

    Larsen et al. 2015 (arXiv:1512.09300), algorithm 1, with z ~ q(z|x) = N(μ, σ² I), z_p ~ N(0, I) and Dis_l a layer of
    the discriminator:

        L_prior = KL(q(z|x) ‖ N(0, I)),   L_llike = ½ E‖Dis_l(x) − Dis_l(Dec(z))‖² + a constant
        L_GAN   = log Dis(x) + log(1 − Dis(Dec(z))) + log(1 − Dis(Dec(z_p)))

    The encoder minimises L_prior + L_llike, the decoder γ L_llike + its part of the GAN, the discriminator −L_GAN. The
    decoder maximises log Dis instead of minimising log(1 − Dis), as GANs do in practice.
    """

    class Settings(ganrun.Settings):
        latent_size: int = Field(64, ge=1)
        """Length of a latent vector; the prior is N(0, I)."""

        gamma: float = Field(0.01, ge=0)
        """γ: weight of the likelihood for the decoder, whose error is a sum over the features."""

    slots = {
        "generator": Slot("generator", averaged=True),
        "encoder": Slot("discriminator", averaged=True),
        "discriminator": Slot("discriminator", augmented=True, boundary=0.0, methods=("features",)),
    }

    settings: Settings

    def ports(self, slot: str) -> Ports:
        """The encoder returns means and log variances, one of each per latent dimension."""
        ports = super().ports(slot)
        return ports._replace(outputs=(2 * self.latent_size,)) if slot == "encoder" else ports

    def phases(self) -> Sequence[Phase]:
        """One for each network, in the order of algorithm 1."""
        return (
            Phase("encoder", self.encoder, trains=("encoder",)),
            Phase("generator", self.generator, trains=("generator",)),
            Phase("discriminator", self.discriminator, trains=("discriminator",)),
        )

    def encoder(self, nets: Nets, batch: Batch) -> Terms:
        """L_prior + L_llike, in nats."""
        mean, log_variance = posterior(nets, batch.images)
        samples = nets.generator(drawn(mean, log_variance))
        prior = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
        return Terms({"prior": prior, "likelihood": feature_error(nets, batch.images, samples)})

    def generator(self, nets: Nets, batch: Batch) -> Terms:
        """γ L_llike − E[log Dis(Dec(z))] − E[log Dis(Dec(z_p))]."""
        samples = nets.generator(drawn(*posterior(nets, batch.images)))
        likelihood = self.settings.gamma * feature_error(nets, batch.images, samples)
        fakes = {"reconstructed": samples, "fake": nets.generator(batch.latents)}
        losses = {name: non_saturating_loss(nets.discriminator(each)) for name, each in fakes.items()}
        return Terms({"likelihood": likelihood, **losses})

    def discriminator(self, nets: Nets, batch: Batch) -> Terms:
        """−L_GAN. Each of the three batches is normalised by itself where the network has batch norm."""
        samples = nets.generator(drawn(*posterior(nets, batch.images)))
        real, reconstructed = nets.discriminator(batch.images), nets.discriminator(samples)
        of_prior = nets.discriminator(nets.generator(batch.latents))
        terms = logistic_terms(real, of_prior)
        return Terms({**terms, "reconstructed": logistic_terms(real, reconstructed)["fake"]})

    def readings(self) -> Mapping[str, Reading]:
        """The mean of q(z|x), and the decoder's output for it."""
        return {
            "encodings": lambda nets, batch: posterior(nets, batch.images)[0],
            "reconstructions": lambda nets, batch: nets.generator(posterior(nets, batch.images)[0]),
        }


def posterior(nets: Nets, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log variance of q(z|x), each `(batch, latent_size)`."""
    mean, log_variance = nets.encoder(images).chunk(2, dim=1)
    return mean, log_variance


def drawn(mean: Tensor, log_variance: Tensor) -> Tensor:
    """z = μ + σ ε, ε ~ N(0, I)."""
    return mean + torch.randn_like(mean) * (0.5 * log_variance).exp()


def feature_error(nets: Nets, images: Tensor, samples: Tensor) -> Tensor:
    """L_llike without its constant: half the squared distance of features, summed over them; a mean over the batch."""
    errors: Tensor = nets.discriminator.features(images) - nets.discriminator.features(samples)
    return 0.5 * errors.square().flatten(1).sum(1).mean()
