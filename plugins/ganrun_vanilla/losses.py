"""The first GAN's two losses, on logits, and the least-squares loss, on the discriminator's raw output."""

from __future__ import annotations

from abc import abstractmethod

from pydantic import Field
from torch import Tensor
from torch.nn.functional import softplus

import ganrun
from ganrun import AdversarialLoss, Batch, Nets, Slot, Terms, logistic_terms, non_saturating_loss


class _Gan(AdversarialLoss):
    """The first GAN's discriminator, and the settings that all three losses have.

    `[train] repeat = { discriminator = k }` is the k of algorithm 1.
    """

    class Settings(ganrun.Settings):
        latent_size: int = Field(64, ge=1)
        """Length of a latent vector, drawn from N(0, I)."""

    settings: Settings

    slots = {**AdversarialLoss.slots, "discriminator": Slot("discriminator", augmented=True, boundary=0.0)}

    moved = {"n_discriminator": "train.repeat.discriminator"}

    def discriminator(self, nets: Nets, batch: Batch) -> Terms:
        """−E[log D(x)] − E[log(1 − D(G(z)))]: algorithm 1, the ascent on D, with its sign turned."""
        real = nets.discriminator(batch.images)
        fake = nets.discriminator(nets.generator(batch.latents))
        return Terms(minimise=logistic_terms(real, fake))

    def generator(self, nets: Nets, batch: Batch) -> Terms:
        """The generator's loss."""
        return Terms(minimise={"fake": self.generator_loss(nets.discriminator(nets.generator(batch.latents)))})

    @abstractmethod
    def generator_loss(self, fake: Tensor) -> Tensor:
        """A scalar, from the discriminator's output for samples `(batch, 1)`."""


class NonSaturatingGan(_Gan):
    """The GAN that is used in practice: the generator maximises log D(G(z)).

    Goodfellow et al. 2014 (arXiv:1406.2661), end of section 3: the same fixed point as the minimax game, with stronger
    gradients while the discriminator wins.
    """

    def generator_loss(self, fake: Tensor) -> Tensor:
        """−E[log D(G(z))]."""
        return non_saturating_loss(fake)


class MinimaxGan(_Gan):
    """The GAN as a zero-sum game: the generator minimises log(1 − D(G(z))).

    Goodfellow et al. 2014 (arXiv:1406.2661), equation 1 and algorithm 1. Its gradient vanishes where the discriminator
    wins; use it for comparison.
    """

    def generator_loss(self, fake: Tensor) -> Tensor:
        """E[log(1 − D(G(z)))]."""
        return -softplus(fake).mean()


class LeastSquaresGan(_Gan):
    """LSGAN: least squares instead of cross-entropy, so that samples far from the decision boundary still pull.

    Mao et al. 2016 (arXiv:1611.04076), equation 9: labels a = 0 for samples, b = 1 for real images, and c = 1 for what
    the generator wants of its samples. D is the network's raw output; a sigmoid would flatten the squares.
    """

    slots = {**AdversarialLoss.slots, "discriminator": Slot("discriminator", augmented=True, boundary=0.5)}

    def discriminator(self, nets: Nets, batch: Batch) -> Terms:
        """½ E[(D(x) − 1)²] + ½ E[D(G(z))²]."""
        real = nets.discriminator(batch.images)
        fake = nets.discriminator(nets.generator(batch.latents))
        return Terms(minimise={"real": (real - 1).square().mean() / 2, "fake": fake.square().mean() / 2})

    def generator_loss(self, fake: Tensor) -> Tensor:
        """½ E[(D(G(z)) − 1)²]."""
        return (fake - 1).square().mean() / 2
