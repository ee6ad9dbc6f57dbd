"""Adversarial losses: the slots and phases that all of them have, and the logistic terms that many share.

With D(x) = σ(logit):  log D = −softplus(−logit),  log(1 − D) = −softplus(logit).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import softplus

from ganrun.contracts import settings as base
from ganrun.contracts.losses import Batch, Loss, Nets, Phase, Terms
from ganrun.contracts.slots import Slot
from ganrun.toolkit.latents import Distribution, random_noise


class AdversarialLoss(Loss):
    """A generator against a discriminator: in each step the discriminator is updated, then the generator.

    Subclasses write the two objectives, and derive their settings from `AdversarialLoss.Settings`. To rename the
    discriminator's phase or set another of its options, override `discriminator_phase`:

        def discriminator_phase(self):
            return dataclasses.replace(super().discriminator_phase(), name="critic")

    `[train] repeat = { discriminator = 5 }` repeats its updates, and `{ generator = 2 }` the generator's: all of the
    one, then all of the other, each on a new batch. A loss whose paper repeats says so in `repeat`.
    """

    class Settings(base.Settings):
        latents: Distribution = "normal"
        """Distribution of the noise, drawn independently for each number: the normal distribution N(0, 1), the uniform
        one on (-1, 1), or the normal one truncated at ±2."""

    slots = {
        "generator": Slot("generator", averaged=True),
        "discriminator": Slot("discriminator", augmented=True),
    }

    def draw_noise(self, size: int, length: int, device: torch.device) -> Tensor:
        """As the setting `latents` says: float32 `(size, length)`."""
        settings = self.settings
        says = isinstance(settings, AdversarialLoss.Settings)
        return random_noise(size, length, settings.latents if says else "normal", device)

    def phases(self) -> Sequence[Phase]:
        """The discriminator's phase, then the generator's, which reads no images."""
        return (
            self.discriminator_phase(),
            Phase("generator", self.generator, trains=("generator",), reads_images=False),
        )

    def discriminator_phase(self) -> Phase:
        """One update of the discriminator per step, unless overridden."""
        return Phase("discriminator", self.discriminator, trains=("discriminator",))

    @abstractmethod
    def discriminator(self, nets: Nets, batch: Batch) -> Terms:
        """The discriminator's objective. The generator is frozen, so its samples carry no graph.

        Pass real images and samples as two batches: batch norm then normalises each with its own statistics.
        """

    @abstractmethod
    def generator(self, nets: Nets, batch: Batch) -> Terms:
        """The generator's objective, on latents drawn for this phase."""


class LogisticLoss(AdversarialLoss):
    """An adversarial loss on logits, whose discriminator minimises `self.logistic_terms(real, fake)`.

    It has one-sided label smoothing, and a discriminator that is undecided at 0.
    """

    class Settings(AdversarialLoss.Settings):
        label_smoothing: float = Field(0.0, ge=0, lt=0.5)
        """α of one-sided label smoothing (Salimans et al. 2016, arXiv:1606.03498, section 3.4): the discriminator's
        target is 1 − α for real images, and remains 0 for samples. The paper's example is 0.1. Real images then cost
        at least the entropy of 1 − α, 0.325 nats with 0.1."""

    slots = {**AdversarialLoss.slots, "discriminator": Slot("discriminator", augmented=True, boundary=0.0)}

    def logistic_terms(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """The function of this name, with the smoothing of the settings."""
        settings = self.settings
        says = isinstance(settings, LogisticLoss.Settings)
        return logistic_terms(real, fake, settings.label_smoothing if says else 0.0)


# ── Goodfellow et al. 2014, arXiv:1406.2661, on logits ────────────────────────────────────────────────────


def logistic_terms(real: Tensor, fake: Tensor, label_smoothing: float = 0.0) -> dict[str, Tensor]:
    """−E[log D(x)] as `real` and −E[log(1 − D(G(z)))] as `fake`: equation 1 and algorithm 1, negated to be minimised.

    With one-sided label smoothing, `real` is −E[(1 − α) log D(x) + α log(1 − D(x))], that is, α E[logit] more
    (Salimans et al. 2016, arXiv:1606.03498, section 3.4).

    Args:
        real: The discriminator's logits for real images, any shape.
        fake: Its logits for samples, any shape.
        label_smoothing: α.
    """
    of_real = softplus(-real).mean()
    smoothed = of_real + label_smoothing * real.mean() if label_smoothing else of_real
    return {"real": smoothed, "fake": softplus(fake).mean()}


def non_saturating_loss(fake: Tensor) -> Tensor:
    """−E[log D(G(z))]: what the generator minimises in practice (section 3, last paragraph); a scalar.

    Args:
        fake: The discriminator's logits for samples, any shape.
    """
    return softplus(-fake).mean()


# ── Salimans et al. 2016, arXiv:1606.03498, section 3.1 ───────────────────────────────────────────────────


def feature_distance(real: Tensor, fake: Tensor) -> Tensor:
    """‖E[f(x)] − E[f(G(z))]‖₂², what feature matching minimises: a scalar, a sum over all features.

    The means are over the tensors at hand: with `accumulate`, or over several ranks, those of a part of the batch.

    Args:
        real: f(x), features of real images `(batch, …)`.
        fake: f(G(z)), features of samples, as many of the same shape.
    """
    return (real.mean(0) - fake.mean(0)).square().sum()
