"""Regression to the record's image, and in-painting by a context encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import max_pool2d

import ganrun
from ganrun import (
    Batch,
    DataSpec,
    ImageToImageLoss,
    IncompatibleError,
    Inputs,
    Nets,
    Phase,
    Slot,
    Terms,
    logistic_terms,
    non_saturating_loss,
    split_latents,
)

SOURCE, MASK = "source", "mask"


# ── Regression ────────────────────────────────────────────────────────────────────────────────────────────


class Restoration(ImageToImageLoss):
    """Regression: the mean distance between the made image and the record's, pixel by pixel.

    The baseline of denoising, deblurring, colouring and super-resolution, and the first stage of SRGAN. The mean
    squared error is what PSNR measures; what is not decided by the source comes out as an average, hence blurred.
    """

    class Settings(ganrun.Settings):
        distance: Literal["l1", "l2", "charbonnier"] = "l2"
        """Mean of |d|, of d², or of √(d² + ε²), where d is the difference of two numbers in [-1, 1]. The last one is
        differentiable at 0 (Lai et al. 2017, arXiv:1704.03915)."""

        epsilon: float = Field(1e-3, gt=0)
        """ε of the distance charbonnier."""

    settings: Settings

    def phases(self) -> Sequence[Phase]:
        """One update of the generator."""
        return (Phase("generator", self.generator, trains=("generator",)),)

    def generator(self, nets: Nets, batch: Batch) -> Terms:
        """E[ρ(G(source) − x)], the mean over pixels and channels."""
        differences = self.made(nets, batch) - batch.images
        return Terms({"distance": distance(differences, self.settings.distance, self.settings.epsilon)})


def distance(differences: Tensor, kind: str, epsilon: float) -> Tensor:
    """The mean of |d|, d² or √(d² + ε²), a scalar: `l1`, `l2` or `charbonnier`."""
    if kind == "l1":
        return differences.abs().mean()
    squares = differences.square()
    return squares.mean() if kind == "l2" else (squares + epsilon**2).sqrt().mean()


# ── Context encoders: Pathak et al. 2016, arXiv:1604.07379 ────────────────────────────────────────────────


class ContextEncoder(ImageToImageLoss):
    """In-painting: the missing pixels are near the real ones, and a discriminator takes them for real.

    Pathak et al. 2016 (arXiv:1604.07379), section 3.2, with the non-saturating generator. Pixels that the source has
    are unchanged: the output is the source with the missing pixels filled in.
    """

    class Settings(ganrun.Settings):
        reconstruction_weight: float = Field(0.999, ge=0)
        """λ_rec, the weight of the squared error of the missing pixels."""

        adversarial_weight: float = Field(0.001, ge=0)
        """λ_adv, the weight of −log D."""

        overlap: int = Field(4, ge=0)
        """Width in pixels of a band around the missing pixels. The generator's squared error there counts too, so that
        what it makes continues what is known. The authors' code has 4, the paper 7, both for pictures of 128 pixels."""

        overlap_weight: float = Field(10.0, ge=0)
        """How much more an error in the band counts than one of a missing pixel."""

        judged: Literal["region", "image"] = "region"
        """The discriminator's input: the missing pixels alone, with 0 elsewhere, or the whole image. The paper shows
        it the region alone: of the whole image it would learn to find the seam."""

    settings: Settings
    slots = {**ImageToImageLoss.slots, "discriminator": Slot("discriminator", augmented=True, boundary=0.0)}

    def __init__(self, settings: Any, spec: DataSpec) -> None:
        super().__init__(settings, spec)
        if MASK not in spec.fields:
            raise IncompatibleError(f'it fills in missing pixels, which a field "{MASK}" of the data\'s records names')
        if spec.fields[SOURCE] != spec.sample_shape:
            found = f"the source is {spec.fields[SOURCE]}, and the image {spec.sample_shape}"
            raise IncompatibleError(f"it keeps the source's known pixels, so source and image have one shape; {found}")

    def phases(self) -> Sequence[Phase]:
        """The discriminator's update, then the generator's."""
        return (
            Phase("discriminator", self.discriminator, trains=("discriminator",)),
            Phase("generator", self.generator, trains=("generator",)),
        )

    def discriminator(self, nets: Nets, batch: Batch) -> Terms:
        """−E[log D(x)] − E[log(1 − D(made))], equation 2, of what is judged."""
        real, fake = self._judged(batch.images, batch), self._judged(self.made(nets, batch), batch)
        return Terms(logistic_terms(nets.discriminator(real), nets.discriminator(fake)))

    def generator(self, nets: Nets, batch: Batch) -> Terms:
        """λ_rec times the squared error, plus −λ_adv E[log D(made)]: equation 3."""
        settings, missing = self.settings, is_missing(batch[MASK])
        filled = super().made(nets, batch)
        error = masked_error(filled - batch.images, missing, settings.overlap, settings.overlap_weight)
        made = torch.where(missing, filled, batch[SOURCE])
        fake = non_saturating_loss(nets.discriminator(self._judged(made, batch)))
        return Terms(
            {
                "reconstruction": settings.reconstruction_weight * error,
                "adversarial": settings.adversarial_weight * fake,
            }
        )

    def made(self, nets: Nets, batch: Batch) -> Tensor:
        """The sources with their missing pixels filled in by the generator."""
        return torch.where(is_missing(batch[MASK]), super().made(nets, batch), batch[SOURCE])

    def generate(self, nets: Nets, latents: Tensor, sampling: Any) -> Tensor:
        """As `made`, cut off at ±1."""
        filled = super().generate(nets, latents, sampling)
        parts = split_latents(latents, self.factors())
        source, mask = (parts[name].reshape(-1, *self.spec.fields[name]) for name in (SOURCE, MASK))
        return torch.where(is_missing(mask), filled, source).clamp(-1, 1)

    def real_inputs(self, slot: str, batch: Batch) -> Inputs:
        """The discriminator's input for the records' images."""
        return Inputs(self._judged(batch.images, batch))

    def generated_inputs(self, slot: str, nets: Nets, batch: Batch) -> Inputs:
        """Sources and masks for the generator; what is judged of the made images for the discriminator."""
        inputs = super().generated_inputs(slot, nets, batch)
        return inputs if slot == "generator" else Inputs(self._judged(inputs.inputs, batch))

    def _judged(self, images: Tensor, batch: Batch) -> Tensor:
        whole = self.settings.judged == "image"
        return images if whole else images * is_missing(batch[MASK])


def is_missing(mask: Tensor) -> Tensor:
    """Where pixels are missing, bool `(batch, 1, height, width)`, by a mask in [-1, 1]."""
    return mask > 0


def masked_error(differences: Tensor, missing: Tensor, overlap: int, overlap_weight: float) -> Tensor:
    """The mean over records of the mean squared difference of missing pixels and of a band around them.

    Equation 1 in the form of the authors' code: a mean over the predicted pixels, in which those of the band are
    weighted. It is a mean for each record first, so that parts of a batch have the same mean as the whole.

    Args:
        differences: `(batch, channels, height, width)`.
        missing: bool `(batch, 1, height, width)`.
        overlap: Width of the band in pixels.
        overlap_weight: Weight of its pixels; missing pixels have 1.
    """
    inside = missing.to(differences.dtype)
    predicted = max_pool2d(inside, 2 * overlap + 1, stride=1, padding=overlap)
    weights = inside + overlap_weight * (predicted - inside)
    pixels = predicted.flatten(1).sum(1).clamp(min=1)
    return ((weights * differences.square()).mean(1).flatten(1).sum(1) / pixels).mean()
