"""pix2pix: a conditional GAN that translates images, learned from pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

import ganrun
from ganrun import (
    Batch,
    DataSpec,
    ImageToImageLoss,
    IncompatibleError,
    Inputs,
    Nets,
    Phase,
    Ports,
    Slot,
    Terms,
    logistic_terms,
    non_saturating_loss,
)


class Pix2Pix(ImageToImageLoss):
    """pix2pix: min_G max_D E[log D(x, y)] + E[log(1 − D(x, G(x)))] + λ E‖y − G(x)‖₁.

    Isola et al. 2017 (arXiv:1611.07004), equations 1, 3 and 4. x is the record's `source`, y its image. The
    discriminator's objective is halved, and the generator maximises log D (section 3.3). The noise of the paper is
    dropout in the generator, so there is none in the latents.
    """

    class Settings(ganrun.Settings):
        l1_weight: float = Field(100.0, ge=0)
        """λ, the weight of the mean absolute error of pixels in [-1, 1]."""

        conditional: bool = True
        """Whether the discriminator sees the source, as further channels of the image. If not, it sees the image alone,
        as in the paper's comparison in its section 4.2, and source and image may differ in size."""

    class Sampling(ganrun.Settings):
        mode: Literal["evaluation", "training"] = "evaluation"
        """How the generator computes. evaluation: without dropout, and batch norm by running statistics; a sample then
        depends on its source alone, and every network can do it. training: as published (section 3.3): dropout stays
        on, and each image is normalised by its own statistics, as batch norm in training mode does with a batch of one.
        Take it where the batch size is 1, because running statistics of such batches are poor; the network must offer
        it, as `u-net` does."""

    settings: Settings

    slots = {
        **ImageToImageLoss.slots,
        "discriminator": Slot("discriminator", augmented=True, boundary=0.0),
    }

    def __init__(self, settings: Settings, spec: DataSpec) -> None:
        super().__init__(settings, spec)
        (_, *source), (_, *image) = self.source_shape, spec.image_shape
        if settings.conditional and source != image:
            sizes = f"{source[0]}×{source[1]} and {image[0]}×{image[1]}"
            raise IncompatibleError(
                f"its discriminator sees source and image as one, and they are {sizes}; set conditional = false"
            )

    def ports(self, slot: str) -> Ports:
        """The discriminator takes the channels of source and image together, if it is conditional."""
        if slot == "generator" or not self.settings.conditional:
            return super().ports(slot)
        channels, height, width = self.spec.image_shape
        return Ports((self.source_shape[0] + channels, height, width), (1, ...))

    def phases(self) -> Sequence[Phase]:
        """The discriminator's phase, then the generator's."""
        return (
            Phase("discriminator", self.discriminator, trains=("discriminator",)),
            Phase("generator", self.generator, trains=("generator",)),
        )

    def discriminator(self, nets: Nets, batch: Batch) -> Terms:
        """−½ (E[log D(x, y)] + E[log(1 − D(x, G(x)))])."""
        images = (batch.images, self.made(nets, batch))
        real, fake = (nets.discriminator(self._judged(batch, each)) for each in images)
        return Terms({name: term / 2 for name, term in logistic_terms(real, fake).items()})

    def generator(self, nets: Nets, batch: Batch) -> Terms:
        """−E[log D(x, G(x))] + λ E‖y − G(x)‖₁."""
        made = self.made(nets, batch)
        fake = nets.discriminator(self._judged(batch, made))
        distance = (made - batch.images).abs().mean()
        return Terms({"fake": non_saturating_loss(fake), "l1": self.settings.l1_weight * distance})

    def generate(self, nets: Nets, latents: Tensor, sampling: Any) -> Tensor:
        """Translations of the sources in latents, in the mode that `sampling` says.

        Raises:
            IncompatibleError: if the generator has no method `as_in_training`, and the mode is training.
        """
        if sampling.mode == "evaluation":
            return super().generate(nets, latents, sampling)
        translate = getattr(nets.generator, "as_in_training", None)
        if translate is None:
            raise IncompatibleError(
                'the sampling mode "training" needs a generator that can compute as in training, such as u-net;'
                ' set mode = "evaluation"'
            )
        samples: Tensor = translate(latents.unflatten(1, self.source_shape))  # type: ignore[no-untyped-call]
        return samples.clamp(-1, 1)

    def real_inputs(self, slot: str, batch: Batch) -> Inputs:
        """Images, beside their sources if the discriminator is conditional."""
        return Inputs(self._judged(batch, batch.images))

    def generated_inputs(self, slot: str, nets: Nets, batch: Batch) -> Inputs:
        """Translations, beside their sources if the discriminator is conditional; sources for the generator."""
        found = super().generated_inputs(slot, nets, batch)
        return found if slot == "generator" else Inputs(self._judged(batch, found.inputs))

    def _judged(self, batch: Batch, images: Tensor) -> Tensor:
        return torch.cat([self.sources(batch), images], dim=1) if self.settings.conditional else images
