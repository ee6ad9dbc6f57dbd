"""SRGAN's objectives: near in pixels and in features, and taken for real."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor

import ganrun
from ganrun import Batch, ImageToImageLoss, Nets, Phase, Ports, Slot, Terms, logistic_terms, non_saturating_loss


class SrGan(ImageToImageLoss):
    """SRGAN: the made image has the features of the record's, and a discriminator takes it for real.

    Ledig et al. 2017 (arXiv:1609.04802), equations 2 to 6. The features are those of a frozen network, such as
    `vgg19`. As published, training starts from a generator that was trained by the loss `restoration`: name that run
    in `[generator] from`. Sources may be of any size that the generator takes.
    """

    class Settings(ganrun.Settings):
        perceptual_weight: float = Field(0.006, ge=0)
        """Weight of the mean squared difference of features: the paper divides features of VGG-19 by 12.75, which is
        about 0.006 times their squares. Other networks need another weight. 0: features are not compared."""

        pixel_weight: float = Field(0.0, ge=0)
        """Weight of the distance of pixels, which the paper leaves out once it compares features."""

        pixel_distance: Literal["l1", "l2"] = "l2"
        """Mean of absolute or of squared differences, of numbers in [-1, 1]."""

        adversarial_weight: float = Field(1e-3, ge=0)
        """Weight of −log D."""

    settings: Settings
    slots = {
        **ImageToImageLoss.slots,
        "discriminator": Slot("discriminator", augmented=True, boundary=0.0),
        "features": Slot("network", frozen=True),
    }

    def ports(self, slot: str) -> Ports:
        """The perceptual network takes images and makes features of any shape."""
        return Ports(self.spec.sample_shape, (...,)) if slot == "features" else super().ports(slot)

    def phases(self) -> Sequence[Phase]:
        """The discriminator's update, then the generator's."""
        return (
            Phase("discriminator", self.discriminator, trains=("discriminator",)),
            Phase("generator", self.generator, trains=("generator",)),
        )

    def discriminator(self, nets: Nets, batch: Batch) -> Terms:
        """−E[log D(x)] − E[log(1 − D(G(source)))]: equation 2."""
        real, fake = nets.discriminator(batch.images), nets.discriminator(self.made(nets, batch))
        return Terms(logistic_terms(real, fake))

    def generator(self, nets: Nets, batch: Batch) -> Terms:
        """The content of equations 4 and 5, and −E[log D(G(source))] of equation 6, each with its weight."""
        made = self.made(nets, batch)
        fake = self.settings.adversarial_weight * non_saturating_loss(nets.discriminator(made))
        return Terms({**dict(self._content(nets, made, batch.images)), "adversarial": fake})

    def _content(self, nets: Nets, made: Tensor, images: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The terms of content whose weights are not 0."""
        settings = self.settings
        if settings.pixel_weight:
            difference = made - images
            powers = difference.abs() if settings.pixel_distance == "l1" else difference.square()
            yield "pixels", settings.pixel_weight * powers.mean()
        if settings.perceptual_weight:
            difference = nets.features(made) - nets.features(images)
            yield "features", settings.perceptual_weight * difference.square().mean()
