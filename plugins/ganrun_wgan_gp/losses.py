"""Losses on a critic's raw output: Wasserstein distance, by gradient penalty or weight clipping, and hinge."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

import ganrun
from ganrun import Batch, Loss, Nets, Phase, Slot, Terms
from ganrun_wgan_gp.penalties import distance_from_one, gradient_norms, interpolates


class _CriticGan(Loss):
    """What these losses share: several critic updates, then a generator that raises D(G(z))."""

    class Settings(ganrun.Settings):
        latent_size: int = Field(128, ge=1)
        """Length of a latent vector, drawn from N(0, I)."""

        n_critic: int = Field(5, ge=1)
        """Critic updates per generator update, each on fresh images and latents."""

    settings: Settings

    slots = {"generator": Slot("generator", averaged=True), "discriminator": Slot("discriminator")}

    def phases(self) -> Sequence[Phase]:
        return (
            self.critic_phase(),
            Phase("generator", self.generator, trains=("generator",), reads_images=False),
        )

    @abstractmethod
    def critic_phase(self) -> Phase:
        """The critic's `n_critic` updates."""

    def generator(self, nets: Nets, batch: Batch) -> Terms:
        """−E[D(G(z))], on fresh latents: WGAN's algorithm 1, line 10, and SNGAN's equation 17."""
        return Terms(minimise={"fake": -nets.discriminator(nets.generator(batch.latents)).mean()})


class PenalisedWassersteinGan(_CriticGan):
    """WGAN-GP: the Wasserstein distance, by a critic whose gradient is held at norm 1.

    Gulrajani et al. 2017 (arXiv:1704.00028), equation 3 and algorithm 1. The critic must have no batch norm, for its
    penalty is meant sample by sample; layer norm is allowed.
    """

    slots = {"generator": Slot("generator", averaged=True), "discriminator": Slot("discriminator", per_sample=True)}

    class Settings(_CriticGan.Settings):
        penalty_weight: float = Field(10.0, ge=0)
        """λ, the weight of the gradient penalty."""

        sided: Literal["two", "one"] = "two"
        """Whether the penalty draws the gradient's norm to 1 from both sides, or only from above."""

    settings: Settings

    def critic_phase(self) -> Phase:
        return Phase("critic", self.critic, trains=("discriminator",), repeat=self.settings.n_critic, second_order=True)

    def critic(self, nets: Nets, batch: Batch) -> Terms:
        """E[D(G(z))] − E[D(x)] + λ·E[(‖∇D(x̂)‖₂ − 1)²]: equation 3, as one sum."""
        fake = nets.generator(batch.latents)
        terms, estimate = _wasserstein(nets.discriminator(batch.images), nets.discriminator(fake))
        norms = gradient_norms(nets.discriminator, interpolates(batch.images, fake))
        penalty = self.settings.penalty_weight * distance_from_one(norms, self.settings.sided)
        return Terms(
            minimise={**terms, "penalty": penalty}, report={"wasserstein": estimate, "gradient_norm": norms.mean()}
        )


class ClippedWassersteinGan(_CriticGan):
    """WGAN: the Wasserstein distance, up to a factor, by a critic whose weights are clipped.

    Arjovsky et al. 2017 (arXiv:1701.07875), algorithm 1. Meant for RMSprop at 5e-5: the paper finds that momentum
    makes the clipped critic unstable.
    """

    class Settings(_CriticGan.Settings):
        clip: float = Field(0.01, gt=0)
        """Largest absolute value of any of the critic's parameters, forced after each of its updates."""

    settings: Settings

    def critic_phase(self) -> Phase:
        return Phase(
            "critic", self.critic, trains=("discriminator",), repeat=self.settings.n_critic, project=self.clip_weights
        )

    def critic(self, nets: Nets, batch: Batch) -> Terms:
        """E[D(G(z))] − E[D(x)]: algorithm 1, line 5, with its sign turned."""
        real, fake = nets.discriminator(batch.images), nets.discriminator(nets.generator(batch.latents))
        terms, estimate = _wasserstein(real, fake)
        return Terms(minimise=terms, report={"wasserstein": estimate})

    def clip_weights(self, critic: nn.Module) -> None:
        """w ← clip(w, −c, c): algorithm 1, line 7."""
        for parameter in critic.parameters():
            parameter.clamp_(-self.settings.clip, self.settings.clip)


class HingeGan(_CriticGan):
    """The hinge loss: the critic stops pushing samples that are beyond the margin already.

    Lim and Ye 2017 (arXiv:1705.02894); Miyato et al. 2018 (arXiv:1802.05957), equations 16 and 17. It does not bound
    the critic by itself: give it one with spectral norm.
    """

    def critic_phase(self) -> Phase:
        return Phase("critic", self.critic, trains=("discriminator",), repeat=self.settings.n_critic)

    def critic(self, nets: Nets, batch: Batch) -> Terms:
        """E[max(0, 1 − D(x))] + E[max(0, 1 + D(G(z)))]: SNGAN's equation 16, with its sign turned."""
        real, fake = nets.discriminator(batch.images), nets.discriminator(nets.generator(batch.latents))
        return Terms(minimise={"real": (1 - real).relu().mean(), "fake": (1 + fake).relu().mean()})


def _wasserstein(real: Tensor, fake: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """What the critic minimises, and the estimate E[D(x)] − E[D(G(z))] of the distance that comes with it."""
    real_mean, fake_mean = real.mean(), fake.mean()
    return {"real": -real_mean, "fake": fake_mean}, real_mean - fake_mean
