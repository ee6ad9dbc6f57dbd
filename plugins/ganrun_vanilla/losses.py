"""The losses of the first GAN, on logits, and that of least squares, on the discriminator's raw output.

With D(x) = σ(logit):  log D = −softplus(−logit),  log(1 − D) = −softplus(logit).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from pydantic import Field
from torch import Tensor
from torch.nn.functional import softplus

import ganrun
from ganrun import Batch, Loss, Nets, Phase, Slot, Terms


class _Gan(Loss):
    """What the losses share: slots, phases, and the first GAN's discriminator."""

    class Settings(ganrun.Settings):
        latent_size: int = Field(64, ge=1)
        """Length of a latent vector, drawn from N(0, I)."""

        n_discriminator: int = Field(1, ge=1)
        """Discriminator updates per generator update, each on fresh images and latents: k of algorithm 1."""

    settings: Settings

    slots = {"generator": Slot("generator", averaged=True), "discriminator": Slot("discriminator")}

    def phases(self) -> Sequence[Phase]:
        return (
            Phase("discriminator", self.discriminator, trains=("discriminator",), repeat=self.settings.n_discriminator),
            Phase("generator", self.generator, trains=("generator",), reads_images=False),
        )

    def discriminator(self, nets: Nets, batch: Batch) -> Terms:
        """−E[log D(x)] − E[log(1 − D(G(z)))]: algorithm 1, the ascent on D, with its sign turned.

        Real and generated images pass as two batches, so batch norm sees each kind apart. The generator is frozen
        here, so its samples carry no graph.
        """
        real = nets.discriminator(batch.images)
        fake = nets.discriminator(nets.generator(batch.latents))
        return Terms(minimise={"real": softplus(-real).mean(), "fake": softplus(fake).mean()})

    def generator(self, nets: Nets, batch: Batch) -> Terms:
        """The generator's own objective, on fresh latents."""
        return Terms(minimise={"fake": self.generator_loss(nets.discriminator(nets.generator(batch.latents)))})

    @abstractmethod
    def generator_loss(self, fake: Tensor) -> Tensor:
        """From the discriminator's output for samples `(batch, 1)` to a scalar."""


class NonSaturatingGan(_Gan):
    """The GAN that is used in practice: the generator maximises log D(G(z)).

    Goodfellow et al. 2014 (arXiv:1406.2661), end of section 3: same fixed point as the minimax game, with stronger
    gradients while the discriminator wins.
    """

    def generator_loss(self, fake: Tensor) -> Tensor:
        """−E[log D(G(z))]."""
        return softplus(-fake).mean()


class MinimaxGan(_Gan):
    """The GAN as a zero-sum game: the generator minimises log(1 − D(G(z))).

    Goodfellow et al. 2014 (arXiv:1406.2661), equation 1 and algorithm 1. Its gradient fades where the discriminator
    wins; it is here to be compared with.
    """

    def generator_loss(self, fake: Tensor) -> Tensor:
        """E[log(1 − D(G(z)))]."""
        return -softplus(fake).mean()


class LeastSquaresGan(_Gan):
    """LSGAN: least squares instead of cross-entropy, so that samples far from the decision boundary still pull.

    Mao et al. 2016 (arXiv:1611.04076), equation 9: labels a = 0 for samples, b = 1 for real images, and c = 1 for what
    the generator wants of its samples. D is the network's raw output; a sigmoid would flatten the squares.
    """

    def discriminator(self, nets: Nets, batch: Batch) -> Terms:
        """½ E[(D(x) − 1)²] + ½ E[D(G(z))²]."""
        real = nets.discriminator(batch.images)
        fake = nets.discriminator(nets.generator(batch.latents))
        return Terms(minimise={"real": (real - 1).square().mean() / 2, "fake": fake.square().mean() / 2})

    def generator_loss(self, fake: Tensor) -> Tensor:
        """½ E[(D(G(z)) − 1)²]."""
        return (fake - 1).square().mean() / 2
