"""CycleGAN's generator: residual blocks at a quarter of the size."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field
from torch import Tensor, nn

import ganrun
from ganrun import IncompatibleError, Network, NetworkSpec, dcgan_init, float32_tanh, halved_shape
from ganrun_translation.layers import check_same_size

SMALLEST = 8
"""Sides in pixels: a quarter of it is what reflection around a 3×3 kernel needs."""

LARGE = 256
"""From this side on, there are nine blocks unless the recipe says otherwise, else six."""


class Translator(Network):
    """CycleGAN's generator, from images to images of the same size, in [-1, 1].

    Zhu et al. 2017 (arXiv:1703.10593), section 7.2, after Johnson et al. 2016 (arXiv:1603.08155): a 7×7 convolution,
    two that halve the size, residual blocks of two 3×3 convolutions, two transposed convolutions that double it, and a
    7×7 one, tanh at the end. Instance norm without scales and shifts, ReLU, borders by reflection. Weights start at
    N(0, 0.02). Fully convolutional: a trained one takes images of any size that 4 divides.
    """

    class Settings(ganrun.Settings):
        feature_maps: int = Field(64, ge=1)
        """Channels at full size; at half and at a quarter of it, twice and four times as many."""

        blocks: int | None = Field(None, ge=1)
        """Residual blocks; 9 for images of 256 pixels or more and 6 for smaller ones unless given, as published."""

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        source, channels, size = check_same_size(spec)
        halved_shape(spec.inputs, 2, "two halvings")
        if min(size) < SMALLEST:
            raise IncompatibleError(f"takes images of at least {SMALLEST} pixels, not {size[0]}×{size[1]}")
        width, blocks = settings.feature_maps, settings.blocks or (9 if max(size) >= LARGE else 6)
        self.layers = nn.Sequential(
            *_normed(_reflecting(source, width, 7), width),
            *_normed(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), 2 * width),
            *_normed(nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1), 4 * width),
            *(Block(4 * width) for _ in range(blocks)),
            *_normed(nn.ConvTranspose2d(4 * width, 2 * width, 3, stride=2, padding=1, output_padding=1), 2 * width),
            *_normed(nn.ConvTranspose2d(2 * width, width, 3, stride=2, padding=1, output_padding=1), width),
            _reflecting(width, channels, 7),
        )
        self.apply(dcgan_init)

    def forward(self, images: Tensor) -> Tensor:
        """Images `(batch, channels, height, width)` to images of the same size in [-1, 1]."""
        return float32_tanh(self.layers(images))


class Block(nn.Module):
    """x + f(x), f two 3×3 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        first, second = (_reflecting(channels, channels, 3) for _ in range(2))
        self.layers = nn.Sequential(*_normed(first, channels), second, nn.InstanceNorm2d(channels))

    def forward(self, maps: Tensor) -> Tensor:
        """Maps `(batch, channels, height, width)` to maps of the same shape."""
        details: Tensor = self.layers(maps)
        return maps + details


def _reflecting(fan_in: int, fan_out: int, kernel: int) -> nn.Conv2d:
    """A convolution that keeps the size."""
    return nn.Conv2d(fan_in, fan_out, kernel, padding=kernel // 2, padding_mode="reflect")


def _normed(convolution: nn.Module, channels: int) -> Iterator[nn.Module]:
    yield from (convolution, nn.InstanceNorm2d(channels), nn.ReLU())
