"""LAPGAN's objectives: a GAN for each level of a Laplacian pyramid, trained independently of the others.

With d and u the operators of the pyramid, I_0 the image, I_k = d(I_(k-1)) and l_k = u(I_(k+1)):

    K, the coarsest level    I_K = G_K(z_K)
    each level above         I_k = l_k + G_k(z_k, l_k)

In training, l_k comes from a real image. Samples are made starting from the coarsest level.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from ganrun import (
    Batch,
    DataSpec,
    Factor,
    Inputs,
    LogisticLoss,
    Nets,
    Phase,
    Ports,
    Slot,
    Terms,
    View,
    halved_shape,
    non_saturating_loss,
    split_latents,
)
from ganrun_lapgan.pyramid import gaussian_pyramid, upsampled

COARSEST = 2
"""K: three levels, such as 32, 16 and 8 pixels."""

LEVELS = tuple(reversed(range(COARSEST + 1)))
"""From the coarsest, in the order in which samples are made."""


class LapGan(LogisticLoss):
    """LAPGAN: a small GAN, and two that each double the size and add details, all trained at once.

    Denton et al. 2015 (arXiv:1506.05751), section 2.3, with the non-saturating generator. A discriminator sees l_k
    plus details, real or generated: the paper adds the two before the first layer. `generator_2` is any generator;
    `generator_1` and `generator_0`, of the full size, get l_k as the condition `coarse`, and a plane of noise.
    """

    class Settings(LogisticLoss.Settings):
        latents: Literal["normal", "uniform", "truncated"] = "uniform"
        """Distribution of the noise, drawn independently for each number: the uniform distribution on (-1, 1), the
        normal one N(0, 1), or the normal one truncated at ±2."""

        noise_size: int = Field(100, ge=1)
        """Length of the noise that the coarsest image is made of. Each other level has a number for each pixel."""

    settings: Settings

    slots = {
        name: slot
        for level in LEVELS
        for name, slot in {
            f"generator_{level}": Slot("generator", averaged=True),
            f"discriminator_{level}": LogisticLoss.slots["discriminator"],
        }.items()
    }

    def __init__(self, settings: Any, spec: DataSpec) -> None:
        super().__init__(settings, spec)
        self._shapes = [halved_shape(spec.sample_shape, level, "three levels") for level in range(COARSEST + 1)]

    @property
    def latent_size(self) -> int:
        """The noise of all levels together."""
        return sum(factor.size for factor in self.factors())

    def factors(self) -> Sequence[Factor]:
        """`noise_2` of the coarsest level, then `noise_1` and `noise_0`, pixel by pixel."""
        sizes = {level: height * width for level, (_, height, width) in enumerate(self._shapes)}
        sizes[COARSEST] = self.settings.noise_size
        return [Factor(f"noise_{level}", sizes[level], "noise") for level in LEVELS]

    def ports(self, slot: str) -> Ports:
        """Images of the slot's level; a generator takes noise, and above the coarsest level l_k as `coarse`."""
        level = level_of(slot)
        shape = self._shapes[level]
        if self.slots[slot].kind == "discriminator":
            return Ports(shape, (1, ...))
        if level == COARSEST:
            return Ports((self.settings.noise_size,), shape)
        return Ports((1, *shape[1:]), shape, {"coarse": shape})

    def phases(self) -> Sequence[Phase]:
        """For each level, from the coarsest: the discriminator's phase, then the generator's."""
        return [phase for level in LEVELS for phase in self._phases_of(level)]

    def _phases_of(self, level: int) -> Sequence[Phase]:
        judge, maker = f"discriminator_{level}", f"generator_{level}"
        return (
            Phase(judge, partial(self.discriminator, level=level), trains=(judge,)),
            Phase(maker, partial(self.generator, level=level), trains=(maker,), reads_images=level != COARSEST),
        )

    def discriminator(self, nets: Nets, batch: Batch, level: int = 0) -> Terms:
        """−E[log D_k(I_k)] − E[log(1 − D_k(l_k + G_k(z_k, l_k)))]."""
        judge = getattr(nets, f"discriminator_{level}")
        real = judge(gaussian_pyramid(batch.images, level + 1)[level])
        return Terms(self.logistic_terms(real, judge(self._beside_real(nets, batch, level))))

    def generator(self, nets: Nets, batch: Batch, level: int = 0) -> Terms:
        """−E[log D_k(l_k + G_k(z_k, l_k))]."""
        fake = getattr(nets, f"discriminator_{level}")(self._beside_real(nets, batch, level))
        return Terms({"fake": non_saturating_loss(fake)})

    def generate(self, nets: Nets, latents: Tensor, sampling: Any) -> Tensor:
        """From the coarsest level to the finest; the sum is cut off at ±1."""
        return self._sampled(nets, latents, 0).clamp(-1, 1)

    def real_inputs(self, slot: str, batch: Batch) -> Inputs:
        """Images of the slot's level."""
        level = level_of(slot)
        return Inputs(gaussian_pyramid(batch.images, level + 1)[level])

    def generated_inputs(self, slot: str, nets: Nets, batch: Batch) -> Inputs:
        """From latents only, so l_k comes from a sample, whereas the objectives take it from a real image."""
        level = level_of(slot)
        if self.slots[slot].kind == "discriminator":
            return Inputs(self._sampled(nets, batch.latents, level))
        noise = self._noise(batch.latents)[level]
        if level == COARSEST:
            return Inputs(noise)
        return Inputs(noise, {"coarse": upsampled(self._sampled(nets, batch.latents, level + 1))})

    def _beside_real(self, nets: Nets, batch: Batch, level: int) -> Tensor:
        """I_k with only the details generated: `(batch, *shape)` of the level, not bounded."""
        noise, maker = self._noise(batch.latents)[level], getattr(nets, f"generator_{level}")
        if level == COARSEST:
            return maker(noise)  # type: ignore[no-any-return]
        return _refined(maker, noise, gaussian_pyramid(batch.images, level + 2)[level + 1])

    def _sampled(self, nets: Nets, latents: Tensor, finest: int) -> Tensor:
        """Samples of the level `finest`, not bounded."""
        noise = self._noise(latents)
        images: Tensor = getattr(nets, f"generator_{COARSEST}")(noise[COARSEST])
        for level in range(COARSEST - 1, finest - 1, -1):
            images = _refined(getattr(nets, f"generator_{level}"), noise[level], images)
        return images

    def _noise(self, latents: Tensor) -> Mapping[int, Tensor]:
        """The noise of each level, as its generator takes it."""
        parts = split_latents(latents, self.factors())
        return {
            level: parts[f"noise_{level}"].reshape(-1, *self.ports(f"generator_{level}").inputs) for level in LEVELS
        }


def level_of(slot: str) -> int:
    """The level of a slot: 0 of `generator_0`."""
    return int(slot.rsplit("_", 1)[1])


def _refined(maker: View, noise: Tensor, images: Tensor) -> Tensor:
    """l + G(z, l) of images at half the size."""
    coarse = upsampled(images)
    return coarse + maker(noise, coarse=coarse)
