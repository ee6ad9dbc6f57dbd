"""The first GAN's two losses and feature matching, on logits, and least squares, on the discriminator's raw output."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace

from pydantic import Field
from torch import Tensor
from torch.nn.functional import softplus

from ganrun import (
    AdversarialLoss,
    Batch,
    LogisticLoss,
    Nets,
    Phase,
    Slot,
    Terms,
    feature_distance,
    non_saturating_loss,
)


class _Gan(AdversarialLoss):
    """Base of all losses here. `[train] repeat = { discriminator = k }` is the k of algorithm 1."""

    class Settings(AdversarialLoss.Settings):
        latent_size: int = Field(64, ge=1)
        """Length of a latent vector."""

    moved = {"n_discriminator": "train.repeat.discriminator"}

    def generator(self, nets: Nets, batch: Batch) -> Terms:
        """The generator's loss."""
        return Terms(minimise={"fake": self.generator_loss(nets.discriminator(nets.generator(batch.latents)))})

    @abstractmethod
    def generator_loss(self, fake: Tensor) -> Tensor:
        """A scalar, from the discriminator's output for samples `(batch, 1)`."""


class _LogisticGan(LogisticLoss, _Gan):
    """The first GAN's discriminator."""

    class Settings(LogisticLoss.Settings, _Gan.Settings):
        pass

    def discriminator(self, nets: Nets, batch: Batch) -> Terms:
        """−E[log D(x)] − E[log(1 − D(G(z)))]: algorithm 1, the ascent on D, with its sign turned."""
        real = nets.discriminator(batch.images)
        fake = nets.discriminator(nets.generator(batch.latents))
        return Terms(minimise=self.logistic_terms(real, fake))


class NonSaturatingGan(_LogisticGan):
    """The GAN that is used in practice: the generator maximises log D(G(z)).

    Goodfellow et al. 2014 (arXiv:1406.2661), end of section 3: the same fixed point as the minimax game, with stronger
    gradients while the discriminator wins.
    """

    def generator_loss(self, fake: Tensor) -> Tensor:
        """−E[log D(G(z))]."""
        return non_saturating_loss(fake)


class MinimaxGan(_LogisticGan):
    """The GAN as a zero-sum game: the generator minimises log(1 − D(G(z))).

    Goodfellow et al. 2014 (arXiv:1406.2661), equation 1 and algorithm 1. Its gradient vanishes where the discriminator
    wins; use it for comparison.
    """

    def generator_loss(self, fake: Tensor) -> Tensor:
        """E[log(1 − D(G(z)))]."""
        return -softplus(fake).mean()


class FeatureMatchingGan(NonSaturatingGan):
    """Feature matching: the generator matches the mean of the discriminator's features, not its output.

    Salimans et al. 2016 (arXiv:1606.03498), section 3.1: features are activations of a hidden layer. The discriminator
    is that of the first GAN. To combine it with another loss, use the regulariser `feature-matching`.
    """

    slots = {
        **LogisticLoss.slots,
        "discriminator": replace(LogisticLoss.slots["discriminator"], methods=("features",)),
    }

    def phases(self) -> Sequence[Phase]:
        """The discriminator's phase, then the generator's, which reads its own batch of real images."""
        return (self.discriminator_phase(), Phase("generator", self.generator, trains=("generator",)))

    def generator(self, nets: Nets, batch: Batch) -> Terms:
        """‖E[f(x)] − E[f(G(z))]‖₂², f the discriminator's method `features`."""
        real, fake = (nets.discriminator.features(each) for each in (batch.images, nets.generator(batch.latents)))
        return Terms(minimise={"features": feature_distance(real, fake)})


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
