"""Class-conditional objectives. A latent vector is noise, then the class, one-hot."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from ganrun import (
    Batch,
    ClassInLatents,
    LogisticLoss,
    Nets,
    Ports,
    Reading,
    Terms,
    join_latents,
    labels_of,
    non_saturating_loss,
)


class ConditionalGan(ClassInLatents, LogisticLoss):
    """A GAN whose two networks both take the class, so that samples can be drawn by class.

    Mirza and Osindero 2014 (arXiv:1411.1784), equation 2, with the non-saturating generator. How the class enters is
    each network's setting `labels`.
    """

    class Settings(ClassInLatents.Settings, LogisticLoss.Settings):
        pass

    settings: Settings

    def ports(self, slot: str) -> Ports:
        """Both networks get the class as labels."""
        return super().ports(slot)._replace(conditions={"labels": ()})

    def discriminator(self, nets: Nets, batch: Batch) -> Terms:
        """−E[log D(x|y)] − E[log(1 − D(G(z|y)|y))]: real images with their labels, samples with theirs."""
        noise, classes = self.noise_and_classes(batch.latents)
        real = nets.discriminator(batch.images, labels=labels_of(batch))
        fake = nets.discriminator(nets.generator(noise, labels=classes), labels=classes)
        return Terms(minimise=self.logistic_terms(real, fake))

    def generator(self, nets: Nets, batch: Batch) -> Terms:
        """−E[log D(G(z|y)|y)]."""
        noise, classes = self.noise_and_classes(batch.latents)
        fake = nets.discriminator(nets.generator(noise, labels=classes), labels=classes)
        return Terms(minimise={"fake": non_saturating_loss(fake)})


class AuxiliaryClassifierGan(ClassInLatents, LogisticLoss):
    """AC-GAN: a discriminator that also classifies, and a generator that wants its class recognised.

    Odena, Olah and Shlens 2016 (arXiv:1610.09585), equations 2 and 3. The first of the discriminator's outputs is the
    logit of being real; the others are the classes' logits.
    """

    class Settings(ClassInLatents.Settings, LogisticLoss.Settings):
        class_weight: float = Field(1.0, ge=0)
        """Weight of the classes' likelihood L_C beside the source's L_S; 1 in the paper."""

    settings: Settings

    def ports(self, slot: str) -> Ports:
        """The discriminator returns one logit for real, and one for each class."""
        ports = super().ports(slot)
        return ports._replace(outputs=(1 + self.spec.classes,)) if slot == "discriminator" else ports

    def discriminator(self, nets: Nets, batch: Batch) -> Terms:
        """−L_S − L_C, both over real images and samples."""
        labels = labels_of(batch)
        noise, classes = self.noise_and_classes(batch.latents)
        real, fake = nets.discriminator(batch.images), nets.discriminator(nets.generator(noise, labels=classes))
        likelihood = {"class_real": self._class_loss(real, labels), "class_fake": self._class_loss(fake, classes)}
        return Terms(
            minimise={**self.logistic_terms(real[:, 0], fake[:, 0]), **likelihood},
            report={"accuracy_real": _accuracy(real, labels), "accuracy_fake": _accuracy(fake, classes)},
        )

    def generator(self, nets: Nets, batch: Batch) -> Terms:
        """L_S − L_C over samples, where L_S is −log of being real: the non-saturating form."""
        noise, classes = self.noise_and_classes(batch.latents)
        fake = nets.discriminator(nets.generator(noise, labels=classes))
        return Terms(
            minimise={"fake": non_saturating_loss(fake[:, 0]), "class": self._class_loss(fake, classes)},
            report={"accuracy": _accuracy(fake, classes)},
        )

    def readings(self) -> Mapping[str, Reading]:
        """Probabilities of the classes, after zeros for the noise, which the discriminator does not read."""
        return {"encodings": self._encodings}

    def _encodings(self, nets: Nets, batch: Batch) -> Tensor:
        return join_latents({"class": nets.discriminator(batch.images)[:, 1:].softmax(dim=1)}, self.factors())

    def _class_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """−E[log P(C = c | X)] in nats, weighted."""
        return self.settings.class_weight * cross_entropy(outputs[:, 1:], labels)


def _accuracy(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs[:, 1:].argmax(dim=1) == labels).float().mean()
