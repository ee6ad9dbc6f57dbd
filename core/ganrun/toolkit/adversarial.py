"""Adversarial losses: the slots and phases that all of them have, and the logistic terms that many share.

With D(x) = σ(logit):  log D = −softplus(−logit),  log(1 − D) = −softplus(logit).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import softplus

from ganrun.contracts.losses import Batch, Loss, Nets, Phase, Terms
from ganrun.contracts.slots import Slot


class AdversarialLoss(Loss):
    """A generator against a discriminator: in each step the discriminator is updated, then the generator.

    Subclasses write the two objectives. To rename the discriminator's phase or set another of its options, override
    `discriminator_phase`:

        def discriminator_phase(self):
            return dataclasses.replace(super().discriminator_phase(), name="critic")

    `[train] repeat = { discriminator = 5 }` repeats its updates; a loss whose paper does says so in `repeat`.
    """

    slots = {
        "generator": Slot("generator", averaged=True),
        "discriminator": Slot("discriminator", augmented=True),
    }

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


# ── Goodfellow et al. 2014, arXiv:1406.2661, on logits ────────────────────────────────────────────────────


def logistic_terms(real: Tensor, fake: Tensor) -> dict[str, Tensor]:
    """−E[log D(x)] as `real` and −E[log(1 − D(G(z)))] as `fake`: equation 1 and algorithm 1, negated to be minimised.

    Args:
        real: The discriminator's logits for real images, any shape.
        fake: Its logits for samples, any shape.
    """
    return {"real": softplus(-real).mean(), "fake": softplus(fake).mean()}


def non_saturating_loss(fake: Tensor) -> Tensor:
    """−E[log D(G(z))]: what the generator minimises in practice (section 3, last paragraph); a scalar.

    Args:
        fake: The discriminator's logits for samples, any shape.
    """
    return softplus(-fake).mean()
