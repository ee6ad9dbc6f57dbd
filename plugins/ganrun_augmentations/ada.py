"""ADA: Karras et al. 2020, arXiv:2006.06676."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

import ganrun
from ganrun_augmentations import matrices
from ganrun_augmentations.chance import Chance
from ganrun_augmentations.pixels import cut_out
from ganrun_augmentations.resampling import Resampler

Strength = Annotated[float, Field(ge=0)]


class AdaSettings(ganrun.Settings):
    """Settings of `ada`. Those of the transforms are factors of p: 0 disables one."""

    p: Annotated[ganrun.Scheduled, Field(ge=0)] | Literal["adaptive"] = "adaptive"
    """Probability of each transform, independently for each image. adaptive: it starts at 0 and is adjusted to the
    overfitting. A number stays constant, and a schedule is followed: p = { schedule = "cosine", start = 0.0, end = 0.55
    } is R3GAN's for CIFAR-10. From 1 on, every image is transformed, and only transforms of a strength below 1 become
    more frequent."""

    target: float = Field(0.6, ge=-1, le=1)
    """For an adaptive p: the target mean sign of the discriminator's outputs for real images."""

    images: int = Field(500_000, ge=1)
    """For an adaptive p: minimum number of real images for it to rise from 0 to 1. Fine-tuning uses 100_000."""

    xflip: Strength = 1.0
    """Mirrored, or not, with equal chances."""

    rotate90: Strength = 1.0
    """0 to 3 quarter turns."""

    xint: Strength = 1.0
    """Shifted in whole pixels, by up to an eighth of each side."""

    scale: Strength = 1.0
    """Enlarged by 2^N(0, 0.2²)."""

    rotate: Strength = 1.0
    """Rotated by any angle."""

    aniso: Strength = 1.0
    """Stretched by 2^N(0, 0.2²) along one direction, and compressed by the same along the other."""

    xfrac: Strength = 1.0
    """Shifted by N(0, 0.125²) of each side."""

    brightness: Strength = 1.0
    """N(0, 0.2²) is added."""

    contrast: Strength = 1.0
    """Multiplied by 2^N(0, 0.5²)."""

    lumaflip: Strength = 1.0
    """Light and dark swapped, or not, with equal chances."""

    hue: Strength = 1.0
    """Colours rotated around the grey axis by any angle; grey images stay."""

    saturation: Strength = 1.0
    """The distance from the grey axis is multiplied by 2^N(0, 1); grey images stay."""

    noise: Strength = 0.0
    """Normal noise is added, of a standard deviation |N(0, 0.1²)|."""

    cutout: Strength = 0.0
    """A rectangle of half the sides around any place becomes 0."""


COLOURS = ("brightness", "contrast", "lumaflip", "hue", "saturation")
GEOMETRY = ("xflip", "rotate90", "xint", "scale", "rotate", "aniso", "xfrac")


class Ada(ganrun.Augmentation):
    """ADA: images are moved, turned, stretched and recoloured, with a probability that follows the overfitting.

    Karras et al. 2020 (arXiv:2006.06676), section 3 and appendix B; unless set otherwise, the transforms of the paper's
    pipeline `bgc`: pixel blitting, geometry, colour. An adaptive p is adjusted every 4 steps by
    sign(r_t − `target`) · images seen since / `images`, where r_t = E[sign(D(x))] over training images; it is ≥ 0, and
    may pass 1. D(x) is relative to the loss's boundary between real and generated. A Wasserstein or a relativistic loss
    has none, and needs a fixed p. p and r_t are logged.
    """

    Settings: ClassVar[type[AdaSettings]] = AdaSettings
    settings: AdaSettings
    p: Tensor
    r_t: Tensor
    resampler: Resampler

    def __init__(self, settings: AdaSettings, spec: ganrun.DataSpec) -> None:
        super().__init__(settings, spec)
        channels, height, width = spec.image_shape
        self._is_recoloured, self._is_moved = (_any(settings, names) for names in (COLOURS, GEOMETRY))
        if self._is_recoloured and channels not in (1, 3):
            raise ganrun.IncompatibleError(
                f"its colours are those of 1 or 3 channels, not of {channels}; set {', '.join(COLOURS)} to 0"
            )
        if self._is_moved:
            self.resampler = Resampler(height, width)
        if self.every:
            self.register_buffer("p", torch.zeros(()))
            self.register_buffer("r_t", torch.full((), math.nan))  # until it is first adjusted

    @property
    def every(self) -> int:  # type: ignore[override]
        """4 for an adaptive p, else 0."""
        return 4 if self.settings.p == "adaptive" else 0

    def forward(self, images: Tensor) -> Tensor:
        """Geometry, then colours, then corruption."""
        chance = Chance(len(images), self.p if self.every else self.now["p"], images.device)
        if self._is_moved:
            images = self._moved(images, chance)
        if self._is_recoloured:
            images = matrices.recoloured(images, colours(chance, self.settings))
        return self._corrupted(images, chance)

    def adjust(self, outputs: Tensor, images: int) -> None:
        """p += sign(r_t − target) · images / `settings.images`, and never below 0; r_t = E[sign(D(x))]."""
        self.r_t.copy_(outputs.sign().mean())
        direction = (self.r_t - self.settings.target).sign()
        self.p.add_(direction * (images / self.settings.images)).clamp_(min=0)

    def report(self) -> Mapping[str, Tensor]:
        """An adaptive p with the r_t of its last adjustment, or a p that follows a schedule."""
        if self.settings.p == "adaptive":
            return {"p": self.p, "r_t": self.r_t}
        return {} if self.settings.p.end is None else {"p": self.now["p"]}

    def _moved(self, images: Tensor, chance: Chance) -> Tensor:
        size = images.shape[3], images.shape[2]
        moved: Tensor = self.resampler(images, blits(chance, self.settings, *size), warps(chance, self.settings, *size))
        return moved

    def _corrupted(self, images: Tensor, chance: Chance) -> Tensor:
        settings = self.settings
        if settings.noise:
            (deviation,) = chance.picked(settings.noise, 0.0, chance.normal(0.1).abs())
            images = images + deviation[:, None, None, None] * torch.randn_like(images)
        return _cut(images, chance, settings.cutout) if settings.cutout else images


# ── Random transforms, in the paper's order ───────────────────────────────────────────────────────────────


def blits(chance: Chance, strengths: AdaSettings, width: int, height: int) -> Tensor:
    """Inverse matrices `(batch, 3, 3)` of transforms by whole pixels, in pixels from the centre."""
    (flip,) = chance.picked(strengths.xflip, 0.0, chance.whole(2))
    (quarters,) = chance.picked(strengths.rotate90, 0.0, chance.whole(4))
    shift = (chance.uniform(-0.125, 0.125) * side for side in (width, height))
    x, y = chance.picked(strengths.xint, 0.0, *(pixels.round() for pixels in shift))
    angle = quarters * (math.pi / 2)
    turned = matrices.turn(angle.cos().round(), angle.sin().round())
    return matrices.scaling(1 - 2 * flip, 1.0) @ turned @ matrices.translation(-x, -y)


def warps(chance: Chance, strengths: AdaSettings, width: int, height: int) -> Tensor:
    """Inverse matrices `(batch, 3, 3)` of scaling, rotation, stretching, rotation, shift; in pixels from the centre."""
    (scale,) = chance.picked(strengths.scale, 1.0, chance.lognormal(0.2))
    (before,) = chance.picked_at(chance.halved(strengths.rotate), 0.0, chance.uniform(-math.pi, math.pi))
    (stretch,) = chance.picked(strengths.aniso, 1.0, chance.lognormal(0.2))
    (after,) = chance.picked_at(chance.halved(strengths.rotate), 0.0, chance.uniform(-math.pi, math.pi))
    x, y = chance.picked(strengths.xfrac, 0.0, *(chance.normal(0.125) * side for side in (width, height)))
    stretched = matrices.scaling(1 / stretch, stretch) @ matrices.rotation(after)
    shrunk = matrices.scaling(1 / scale, 1 / scale) @ matrices.rotation(before)
    return shrunk @ stretched @ matrices.translation(-x, -y)


def colours(chance: Chance, strengths: AdaSettings) -> Tensor:
    """Matrices `(batch, 4, 4)` of colours."""
    (added,) = chance.picked(strengths.brightness, 0.0, chance.normal(0.2))
    (factor,) = chance.picked(strengths.contrast, 1.0, chance.lognormal(0.5))
    (flipped,) = chance.picked(strengths.lumaflip, 0.0, chance.whole(2))
    (angle,) = chance.picked(strengths.hue, 0.0, chance.uniform(-math.pi, math.pi))
    (vivid,) = chance.picked(strengths.saturation, 1.0, chance.lognormal(1.0))
    light = matrices.luma_flip(flipped) @ matrices.contrast(factor) @ matrices.brightness(added)
    return matrices.saturation(vivid) @ matrices.hue(angle) @ light


def _cut(images: Tensor, chance: Chance, strength: float) -> Tensor:
    height, width = images.shape[2:]
    x, y = chance.uniform(0, 1), chance.uniform(0, 1)
    (is_cut,) = chance.picked(strength, 0.0, torch.ones_like(x))
    top, left = ((y - 0.25) * height).round().long(), ((x - 0.25) * width).round().long()
    cut = cut_out(images, top, left, round(height / 2), round(width / 2))
    return torch.where(is_cut[:, None, None, None] > 0, cut, images)


def _any(settings: AdaSettings, names: tuple[str, ...]) -> bool:
    return any(getattr(settings, name) > 0 for name in names)
