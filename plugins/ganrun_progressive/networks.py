"""The two networks of progressive growing, for images of 8, 16, 32, … pixels.

Karras et al. 2017 (arXiv:1710.10196), section 2, figure 2 and table 2. The generator always makes images of the whole
size, and the discriminator takes them: at a smaller level, each of its pixels becomes a square of equal pixels. So
data, scores and pictures are independent of growing.
"""

from __future__ import annotations

from collections.abc import Hashable
from itertools import pairwise
from types import EllipsisType
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from ganrun import (
    Discriminator,
    EqualizedConv2d,
    EqualizedLinear,
    Generator,
    IncompatibleError,
    MinibatchDeviation,
    NetworkSpec,
    image_shape,
    pixel_norm,
)
from ganrun_progressive.growth import SMALLEST, GrowingSettings, Growth, growth_of, widths_of
from ganrun_progressive.layers import GAIN, LEAK, LatentsToMap, PixelNorm, enlarged, reduced


class Growing(nn.Module):
    """Base of both networks: a level, and α while it is faded in. Before `begin`, the last level."""

    fade: Tensor
    """α: the weight of the current level relative to the previous one."""

    def _grow(self, settings: GrowingSettings, spec: NetworkSpec, shape: tuple[int | EllipsisType, ...]) -> None:
        """Prepare to grow to images of a shape."""
        if spec.conditions:
            raise IncompatibleError(f"takes no {next(iter(spec.conditions))}; take a loss without classes")
        self.growth: Growth = growth_of(settings, shape)
        self.widths = widths_of(settings, self.growth)
        self.level, self.is_fading = self.growth.levels - 1, False
        self.register_buffer("fade", torch.ones(()), persistent=False)

    @property
    def pixel_size(self) -> int:
        """Side of the square of equal pixels for one pixel of the current level."""
        return self.growth.size // self.growth.size_of(self.level)

    def begin(self, step: int, steps: int) -> Hashable:
        """Set the level and the α of a step; returns such as `16×16`, or `8×8 to 16×16` during a fade-in."""
        self.level, fade = self.growth.at(step, steps)
        self.is_fading = fade < 1
        self.fade.fill_(fade)
        first = self.level - 1 if self.is_fading else self.level
        return " to ".join(map(self.growth.size_text, range(first, self.level + 1)))

    def _blended(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """(1 − α)·coarse + α·fine."""
        return torch.lerp(coarse.to(self.fade.dtype), fine.to(self.fade.dtype), self.fade)


class ProgressiveGenerator(Growing, Generator):
    """Progressive growing's generator: from 4×4 pixels on, each level doubles the size and is faded in.

    Karras et al. 2017 (arXiv:1710.10196), table 2: two 3×3 convolutions in each level, leaky ReLU, pixel norm, and
    equalised learning rate. Latents are normalised to a sphere first. A 1×1 convolution for each level makes pixels.
    """

    class Settings(GrowingSettings):
        pass

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        self._grow(settings, spec, spec.outputs)
        channels = image_shape(spec.outputs)[0]
        first = self.widths[0]
        start = [LatentsToMap(spec.inputs[0], first, SMALLEST), *_after(), _conv(first, first, 3), *_after()]
        self.blocks = nn.ModuleList([nn.Sequential(*start), *(_up(*pair) for pair in pairwise(self.widths))])
        self.to_pixels = nn.ModuleList(EqualizedConv2d(width, channels, 1) for width in self.widths)

    def forward(self, latents: Tensor) -> Tensor:
        """Latents `(batch, latent_size)` to images `(batch, channels, size, size)`.

        In [-1, 1] in evaluation mode. In training they are not clipped, so that the discriminator can penalise values
        outside.
        """
        maps = pixel_norm(latents)
        for block in self.blocks[: self.level]:
            maps = block(maps)
        pixels = self.to_pixels[self.level](self.blocks[self.level](maps))
        if self.is_fading:
            pixels = self._blended(enlarged(self.to_pixels[self.level - 1](maps), 2), pixels)
        images = enlarged(pixels.to(self.fade.dtype), self.pixel_size)
        return images if self.training else images.clamp(-1, 1)


class ProgressiveDiscriminator(Growing, Discriminator):
    """Progressive growing's discriminator: the generator's mirror image, with minibatch standard deviation.

    Karras et al. 2017 (arXiv:1710.10196), table 2: each level halves the size after two 3×3 convolutions with leaky
    ReLU; at 4×4 the standard deviation over the minibatch is appended as a channel. Equalised learning rate, no norm.
    """

    compares_samples = True

    class Settings(GrowingSettings):
        group_size: int = Field(4, ge=1)
        """Samples over which the standard deviation is taken; 1 leaves that channel out."""

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        self._grow(settings, spec, spec.inputs)
        channels = image_shape(spec.inputs)[0]
        self.from_pixels = nn.ModuleList(_active(channels, width, 1) for width in self.widths)
        self.blocks = nn.ModuleList(_down(wide, narrow) for narrow, wide in pairwise(self.widths))
        self.head = _head(self.widths[0], spec.out_features, settings.group_size)

    def forward(self, images: Tensor) -> Tensor:
        """Images `(batch, channels, size, size)`, real ones by `faded`, to values `(batch, out_features)`."""
        pixels = reduced(images, self.pixel_size)
        maps = self.from_pixels[self.level](pixels)
        if self.level:
            maps = self.blocks[self.level - 1](maps)
        if self.is_fading:
            maps = self._blended(self.from_pixels[self.level - 1](reduced(pixels, 2)), maps)
        for level in range(self.level - 2, -1, -1):
            maps = self.blocks[level](maps)
        return self.head(maps)  # type: ignore[no-any-return]

    def faded(self, images: Tensor) -> Tensor:
        """Real images `(batch, channels, size, size)` as the generator's are while a level is faded in (section 2).

        At the resolution of the level before, blended with themselves by α.
        """
        if not self.is_fading:
            return images
        factor = 2 * self.pixel_size
        return self._blended(enlarged(reduced(images, factor), factor), images)


def _after() -> list[nn.Module]:
    """The operations after each of the generator's convolutions."""
    return [nn.LeakyReLU(LEAK), PixelNorm()]


def _up(fan_in: int, fan_out: int) -> nn.Module:
    first, second = _conv(fan_in, fan_out, 3), _conv(fan_out, fan_out, 3)
    return nn.Sequential(nn.Upsample(scale_factor=2), first, *_after(), second, *_after())


def _down(fan_in: int, fan_out: int) -> nn.Module:
    return nn.Sequential(_active(fan_in, fan_in, 3), _active(fan_in, fan_out, 3), nn.AvgPool2d(2))


def _head(width: int, outputs: int, group: int) -> nn.Module:
    deviation: list[Any] = [MinibatchDeviation(group)] if group > 1 else []
    return nn.Sequential(
        *deviation,
        _active(width + len(deviation), width, 3),
        _active(width, width, SMALLEST),
        nn.Flatten(),
        EqualizedLinear(width, outputs),
    )


def _active(fan_in: int, fan_out: int, kernel: int) -> nn.Module:
    return nn.Sequential(_conv(fan_in, fan_out, kernel), nn.LeakyReLU(LEAK))


def _conv(fan_in: int, fan_out: int, kernel: int) -> nn.Module:
    """A convolution before a leaky ReLU. An odd kernel keeps the size of the map; an even one is not padded."""
    return EqualizedConv2d(fan_in, fan_out, kernel, padding=kernel // 2 if kernel % 2 else 0, gain=GAIN)
