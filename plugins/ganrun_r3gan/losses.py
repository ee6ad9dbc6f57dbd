"""The relativistic pairing loss, penalised at real images and at samples: Huang et al. 2025, arXiv:2501.05441."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import softplus

from ganrun import (
    AdversarialLoss,
    Batch,
    ClassInLatents,
    Inputs,
    Nets,
    Phase,
    Ports,
    Scheduled,
    Slot,
    Terms,
    View,
    labels_of,
)

GAMMA = Scheduled(schedule="cosine", start=0.05, end=0.005)


class R3Gan(AdversarialLoss):
    """R3GAN: the discriminator compares each real image with one sample; R1 and R2 in every step.

    Huang, Gokaslan, Kuleshov and Tompkin 2025 (arXiv:2501.05441). The relativistic pairing loss is that of
    Jolicoeur-Martineau 2018 (arXiv:1807.00734), with softplus; R1 and R2 are those of Mescheder et al. 2018
    (arXiv:1801.04406), equations 9 and 10. Both are computed per sample, so the discriminator must have no batch norm.
    """

    slots = {**AdversarialLoss.slots, "discriminator": Slot("discriminator", augmented=True, per_sample=True)}

    class Settings(AdversarialLoss.Settings):
        latent_size: int = Field(64, ge=1)
        """Length of a latent vector."""

        gamma: Scheduled = Field(GAMMA, ge=0)
        """γ, the weight of R1 and R2; each has the factor ½. The default is the schedule for CIFAR-10."""

    def phases(self) -> Sequence[Phase]:
        """The discriminator's phase, then the generator's. Each draws its own batch of real images."""
        return (self.discriminator_phase(), Phase("generator", self.generator, trains=("generator",)))

    def discriminator_phase(self) -> Phase:
        """R1 and R2 differentiate a gradient."""
        return replace(super().discriminator_phase(), second_order=True)

    def discriminator(self, nets: Nets, batch: Batch) -> Terms:
        """E[softplus(−(D(x) − D(G(z))))] + γ/2 · (E[‖∇D(x)‖²] + E[‖∇D(G(z))‖²]).

        The gradients are with respect to the images before any augmentation.
        """
        of_real, r1 = judged_with_slope(nets.discriminator, self.real_inputs("discriminator", batch))
        of_fake, r2 = judged_with_slope(nets.discriminator, self.paired_samples(nets, batch))
        gap, weight = of_real - of_fake, self.now["gamma"] / 2
        return Terms(
            minimise={"pairs": softplus(-gap).mean(), "r1": weight * r1.mean(), "r2": weight * r2.mean()},
            report={"gap": gap.mean(), "r1_norm_squared": r1.mean(), "r2_norm_squared": r2.mean()},
        )

    def generator(self, nets: Nets, batch: Batch) -> Terms:
        """E[softplus(−(D(G(z)) − D(x)))]."""
        real, fake = self.real_inputs("discriminator", batch), self.paired_samples(nets, batch)
        of_real = nets.discriminator(real.inputs, **real.conditions)
        of_fake = nets.discriminator(fake.inputs, **fake.conditions)
        return Terms(minimise={"pairs": softplus(of_real - of_fake).mean()})

    def paired_samples(self, nets: Nets, batch: Batch) -> Inputs:
        """Samples for the discriminator; number i is compared with real image i."""
        return Inputs(nets.generator(batch.latents))


class ConditionalR3Gan(ClassInLatents, R3Gan):
    """R3GAN with classes: both networks take the class, and a sample has that of the real image it is compared with.

    So class frequencies in training are those of the data. Latents for scores and pictures have equally likely classes
    or, with `draw_classes`, the data's frequencies.
    """

    class Settings(ClassInLatents.Settings, AdversarialLoss.Settings):
        noise_size: int = Field(64, ge=1)
        """Length of the noise. The one-hot class follows it in a latent vector."""

        gamma: Scheduled = Field(GAMMA, ge=0)
        """γ, the weight of R1 and R2; each has the factor ½. The default is the schedule for CIFAR-10."""

    def ports(self, slot: str) -> Ports:
        """Both networks get the class as labels."""
        return super().ports(slot)._replace(conditions={"labels": ()})

    def paired_samples(self, nets: Nets, batch: Batch) -> Inputs:
        """Samples of the classes that the real images have."""
        noise, labels = self.noise_and_classes(batch.latents)[0], labels_of(batch)
        return Inputs(nets.generator(noise, labels=labels), {"labels": labels})


def judged_with_slope(critic: View, at: Inputs) -> tuple[Tensor, Tensor]:
    """D(x), and ‖∇ₓD(x)‖² for each x `(batch,)`, differentiable, from one pass: under one augmentation.

    No gradient flows back to the source of x.
    """
    points = at.inputs.detach().requires_grad_()
    outputs = critic(points, **at.conditions)
    (gradients,) = torch.autograd.grad(outputs.sum(), points, create_graph=True)
    return outputs, gradients.square().flatten(1).sum(1)
