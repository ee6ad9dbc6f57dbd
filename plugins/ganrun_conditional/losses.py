"""Objectives that use labels. A latent vector is noise, and then the class, one-hot and with equal probabilities."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot, softplus

import ganrun
from ganrun import Batch, Factor, Loss, Nets, Phase, Slot, Terms


class _LabelledGan(Loss):
    """What both share: latents, phases, and a generator that is told the class."""

    class Settings(ganrun.Settings):
        noise_size: int = Field(100, ge=1)
        """Latents from N(0, I); the class stands after them."""

    settings: Settings

    @property
    def latent_size(self) -> int:
        """Noise and one-hot class together."""
        return self.settings.noise_size + self.spec.classes

    def factors(self) -> Sequence[Factor]:
        """The noise and the data's classes."""
        noise = Factor("noise", self.settings.noise_size, "noise")
        return noise, Factor("class", self.spec.classes, "categorical")

    def in_features(self, slot: str) -> int:
        """The generator takes the noise; the class reaches it as a label."""
        return self.settings.noise_size

    def latents(self, size: int, device: torch.device) -> Tensor:
        """Noise and classes, drawn independently: `(size, latent_size)`."""
        noise = torch.randn(size, self.settings.noise_size, device=device)
        classes = torch.randint(self.spec.classes, (size,), device=device)
        return torch.cat([noise, one_hot(classes, self.spec.classes).float()], dim=1)

    def generate(self, nets: Nets, latents: Tensor) -> Tensor:
        """A sample of the class that the latents say."""
        return nets.generator(*self.parted(latents))

    def parted(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """The noise `(size, noise_size)` and the classes `(size,)`, int64, of these latents."""
        noise, code = torch.split(latents, [self.settings.noise_size, self.spec.classes], dim=1)
        return noise, code.argmax(dim=1)

    def phases(self) -> Sequence[Phase]:
        return (
            Phase("discriminator", self.discriminator, trains=("discriminator",)),
            Phase("generator", self.generator, trains=("generator",), reads_images=False),
        )

    @abstractmethod
    def discriminator(self, nets: Nets, batch: Batch) -> Terms:
        """The discriminator's objective."""

    @abstractmethod
    def generator(self, nets: Nets, batch: Batch) -> Terms:
        """The generator's objective, on fresh latents."""


class ConditionalGan(_LabelledGan):
    """A GAN whose two networks are both told the class, so that samples can be asked for by class.

    Mirza and Osindero 2014 (arXiv:1411.1784), equation 2, with the non-saturating generator. How the class enters is
    each network's setting `labels`.
    """

    slots = {
        "generator": Slot("generator", averaged=True, labelled=True),
        "discriminator": Slot("discriminator", labelled=True),
    }

    def discriminator(self, nets: Nets, batch: Batch) -> Terms:
        """−E[log D(x|y)] − E[log(1 − D(G(z|y)|y))]: real images with their labels, samples with theirs."""
        noise, classes = self.parted(batch.latents)
        real = nets.discriminator(batch.images, batch.labels)
        fake = nets.discriminator(nets.generator(noise, classes), classes)
        return Terms(minimise={"real": softplus(-real).mean(), "fake": softplus(fake).mean()})

    def generator(self, nets: Nets, batch: Batch) -> Terms:
        """−E[log D(G(z|y)|y)]."""
        noise, classes = self.parted(batch.latents)
        fake = nets.discriminator(nets.generator(noise, classes), classes)
        return Terms(minimise={"fake": softplus(-fake).mean()})


class AuxiliaryClassifierGan(_LabelledGan):
    """AC-GAN: a discriminator that also classifies, and a generator that wants its class recognised.

    Odena, Olah and Shlens 2016 (arXiv:1610.09585), equations 2 and 3. The first of the discriminator's outputs is the
    logit of being real; the others are the classes' logits.
    """

    class Settings(_LabelledGan.Settings):
        class_weight: float = Field(1.0, ge=0)
        """Weight of the classes' likelihood L_C beside the source's L_S; 1 in the paper."""

    settings: Settings

    slots = {
        "generator": Slot("generator", averaged=True, labelled=True),
        "discriminator": Slot("discriminator"),
    }

    def out_features(self, slot: str) -> int:
        """One logit for real, one for each class."""
        return 1 + self.spec.classes

    def discriminator(self, nets: Nets, batch: Batch) -> Terms:
        """−L_S − L_C, both over real images and samples."""
        noise, classes = self.parted(batch.latents)
        real, fake = nets.discriminator(batch.images), nets.discriminator(nets.generator(noise, classes))
        likelihood = {
            "class_real": self._class_loss(real, batch.labels),
            "class_fake": self._class_loss(fake, classes),
        }
        return Terms(
            minimise={"real": softplus(-real[:, 0]).mean(), "fake": softplus(fake[:, 0]).mean(), **likelihood},
            report={"accuracy_real": _accuracy(real, batch.labels), "accuracy_fake": _accuracy(fake, classes)},
        )

    def generator(self, nets: Nets, batch: Batch) -> Terms:
        """L_S − L_C over samples, with −log of being real for L_S: the non-saturating form."""
        noise, classes = self.parted(batch.latents)
        fake = nets.discriminator(nets.generator(noise, classes))
        return Terms(
            minimise={"fake": softplus(-fake[:, 0]).mean(), "class": self._class_loss(fake, classes)},
            report={"accuracy": _accuracy(fake, classes)},
        )

    def encode(self, nets: Nets, images: Tensor) -> Tensor:
        """Probabilities of the classes, after zeros for the noise, which the discriminator does not read."""
        probabilities = nets.discriminator(images)[:, 1:].softmax(dim=1)
        return torch.cat([probabilities.new_zeros(len(images), self.settings.noise_size), probabilities], dim=1)

    def _class_loss(self, outputs: Tensor, labels: Tensor | None) -> Tensor:
        """−E[log P(C = c | X)] in nats, weighted."""
        return self.settings.class_weight * cross_entropy(outputs[:, 1:], _given(labels))


def _accuracy(outputs: Tensor, labels: Tensor | None) -> Tensor:
    return (outputs[:, 1:].argmax(dim=1) == _given(labels)).float().mean()


def _given(labels: Tensor | None) -> Tensor:
    if labels is None:
        raise ganrun.ContractError("the data says that it has classes, but gives no labels")
    return labels
