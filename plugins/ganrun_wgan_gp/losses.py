"""Losses on a critic's raw output: Wasserstein distance, by gradient penalty or weight clipping, and hinge."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from ganrun import (
    AdversarialLoss,
    Batch,
    Nets,
    Phase,
    Slot,
    Terms,
    distance_from_one,
    gradient_norms,
    interpolates,
)


class _CriticGan(AdversarialLoss):
    """Five critic updates per generator update unless the recipe says otherwise; a generator that raises D(G(z))."""

    class Settings(AdversarialLoss.Settings):
        latent_size: int = Field(128, ge=1)
        """Length of a latent vector."""

    settings: Settings

    repeat = {"discriminator": 5}

    moved = {"n_critic": "train.repeat.discriminator"}

    def discriminator_phase(self) -> Phase:
        """Logged as the critic's."""
        return replace(super().discriminator_phase(), name="critic")

    def generator(self, nets: Nets, batch: Batch) -> Terms:
        """−E[D(G(z))]: WGAN's algorithm 1, line 10, and SNGAN's equation 17."""
        return Terms(minimise={"fake": -nets.discriminator(nets.generator(batch.latents)).mean()})


class PenalisedWassersteinGan(_CriticGan):
    """WGAN-GP: the Wasserstein distance, estimated by a critic whose gradient norm is kept near 1.

    Gulrajani et al. 2017 (arXiv:1704.00028), equation 3 and algorithm 1. The penalty is computed per sample, so the
    critic must have no batch norm; layer norm is allowed.
    """

    slots = {**AdversarialLoss.slots, "discriminator": Slot("discriminator", augmented=True, per_sample=True)}

    class Settings(_CriticGan.Settings):
        penalty_weight: float = Field(10.0, ge=0)
        """λ, the weight of the gradient penalty."""

        sided: Literal["two", "one"] = "two"
        """Whether the penalty pulls the gradient's norm to 1 from both sides, or only from above."""

        drift_weight: float = Field(0.0, ge=0)
        """ε_drift, the weight of E[D(x)²], which keeps the critic's values near 0; Karras et al. 2017
        (arXiv:1710.10196), appendix A.1, take 0.001."""

    settings: Settings

    def discriminator_phase(self) -> Phase:
        """The penalty differentiates a gradient."""
        return replace(super().discriminator_phase(), second_order=True)

    def discriminator(self, nets: Nets, batch: Batch) -> Terms:
        """E[D(G(z))] − E[D(x)] + λ·E[(‖∇D(x̂)‖₂ − 1)²]: equation 3, as one sum; and ε_drift·E[D(x)²]."""
        fake = nets.generator(batch.latents)
        of_real = nets.discriminator(batch.images)
        terms, estimate = _wasserstein(of_real, nets.discriminator(fake))
        norms = gradient_norms(nets.discriminator, interpolates(batch.images, fake))
        terms["penalty"] = self.settings.penalty_weight * distance_from_one(norms, self.settings.sided)
        if self.settings.drift_weight:
            terms["drift"] = self.settings.drift_weight * of_real.square().mean()
        return Terms(minimise=terms, report={"wasserstein": estimate, "gradient_norm": norms.mean()})


class ClippedWassersteinGan(_CriticGan):
    """WGAN: the Wasserstein distance up to a factor, estimated by a critic whose weights are clipped.

    Arjovsky et al. 2017 (arXiv:1701.07875), algorithm 1. Use RMSprop at 5e-5: the paper finds that momentum makes the
    clipped critic unstable.
    """

    class Settings(_CriticGan.Settings):
        clip: float = Field(0.01, gt=0)
        """Bound on the absolute value of each of the critic's parameters, enforced after each of its updates."""

    settings: Settings

    def discriminator_phase(self) -> Phase:
        """Weights are clipped after each update."""
        return replace(super().discriminator_phase(), project=self.clip_weights)

    def discriminator(self, nets: Nets, batch: Batch) -> Terms:
        """E[D(G(z))] − E[D(x)]: algorithm 1, line 5, with its sign turned."""
        real, fake = nets.discriminator(batch.images), nets.discriminator(nets.generator(batch.latents))
        terms, estimate = _wasserstein(real, fake)
        return Terms(minimise=terms, report={"wasserstein": estimate})

    def clip_weights(self, critic: nn.Module) -> None:
        """w ← clip(w, −c, c): algorithm 1, line 7."""
        for parameter in critic.parameters():
            parameter.clamp_(-self.settings.clip, self.settings.clip)


class HingeGan(_CriticGan):
    """The hinge loss: the critic ignores samples that are already beyond the margin.

    Lim and Ye 2017 (arXiv:1705.02894); Miyato et al. 2018 (arXiv:1802.05957), equations 16 and 17. The loss does not
    bound the critic: use one with spectral norm.
    """

    slots = {**AdversarialLoss.slots, "discriminator": Slot("discriminator", augmented=True, boundary=0.0)}

    def discriminator(self, nets: Nets, batch: Batch) -> Terms:
        """E[max(0, 1 − D(x))] + E[max(0, 1 + D(G(z)))]: SNGAN's equation 16, with its sign turned."""
        real, fake = nets.discriminator(batch.images), nets.discriminator(nets.generator(batch.latents))
        return Terms(minimise={"real": (1 - real).relu().mean(), "fake": (1 + fake).relu().mean()})


def _wasserstein(real: Tensor, fake: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The terms that the critic minimises, and the estimate E[D(x)] − E[D(G(z))] of the distance."""
    real_mean, fake_mean = real.mean(), fake.mean()
    return {"real": -real_mean, "fake": fake_mean}, real_mean - fake_mean
