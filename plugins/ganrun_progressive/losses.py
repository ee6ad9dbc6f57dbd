"""The loss of progressive growing: WGAN-GP with drift, on real images that are faded as the generator's are."""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field
from torch import Tensor

from ganrun import (
    AdversarialLoss,
    Batch,
    IncompatibleError,
    Nets,
    Phase,
    Terms,
    View,
    gradient_norms,
    interpolates,
)


class ProgressiveGan(AdversarialLoss):
    """Progressive growing's loss: WGAN-GP with a drift term, one critic update per step, and real images faded in.

    Karras et al. 2017 (arXiv:1710.10196), section 2 and appendix A.1. The gradient is with respect to the pixels of the
    current level. For networks that do not grow, this is WGAN-GP with drift. Regularisers see real images without
    fading.
    """

    class Settings(AdversarialLoss.Settings):
        latent_size: int = Field(512, ge=1)
        """Length of a latent vector."""

        penalty_weight: float = Field(10.0, ge=0)
        """λ, the weight of the gradient penalty."""

        gradient_norm: float = Field(1.0, gt=0)
        """γ, the target norm of the critic's gradient."""

        drift_weight: float = Field(0.001, ge=0)
        """ε_drift, the weight of E[D(x)²], which keeps the critic's values near 0."""

    settings: Settings

    def discriminator_phase(self) -> Phase:
        """Logged as the critic's. The penalty differentiates a gradient."""
        return replace(super().discriminator_phase(), name="critic", second_order=True)

    def discriminator(self, nets: Nets, batch: Batch) -> Terms:
        """E[D(G(z))] − E[D(x)] + λ·E[(‖∇D(x̂)‖₂ − γ)² / γ²] + ε_drift·E[D(x)²], x faded in."""
        _check_growth(nets)
        critic, own = nets.discriminator, self.settings
        real, fake = _faded(critic, batch.images), nets.generator(batch.latents)
        of_real, of_fake = critic(real), critic(fake)
        norms = _level_norms(critic, real, fake)
        return Terms(
            minimise={
                "real": -of_real.mean(),
                "fake": of_fake.mean(),
                "penalty": own.penalty_weight * (norms / own.gradient_norm - 1).square().mean(),
                "drift": own.drift_weight * of_real.square().mean(),
            },
            report={"wasserstein": of_real.mean() - of_fake.mean(), "gradient_norm": norms.mean()},
        )

    def generator(self, nets: Nets, batch: Batch) -> Terms:
        """−E[D(G(z))]."""
        return Terms(minimise={"fake": -nets.discriminator(nets.generator(batch.latents)).mean()})


def _faded(critic: View, images: Tensor) -> Tensor:
    """Real images, faded like the generator's if the critic grows."""
    fade = getattr(critic, "faded", None)
    return images if fade is None else fade(images)


def _level_norms(critic: View, real: Tensor, fake: Tensor) -> Tensor:
    """‖∇D(x̂)‖₂ with respect to the pixels of the present level: `(batch,)`.

    Each becomes a square of k × k pixels, and D uses their mean. So the gradient with respect to one of these is 1/k²
    as large, and the norm over all of them 1/k.
    """
    side: int = getattr(critic, "pixel_size", 1)
    return side * gradient_norms(critic, interpolates(real, fake))


def _check_growth(nets: Nets) -> None:
    made, judged = (getattr(network, "growth", None) for network in (nets.generator, nets.discriminator))
    if made != judged:
        raise IncompatibleError(
            "the generator and the discriminator do not grow at the same steps; say the same level_steps and fade in"
            " both tables, and take two networks that grow, or two that do not"
        )
