"""The first style-based generator: styles set the mean and the deviation of every map (Karras et al. 2019)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from math import sqrt

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from ganrun import EqualizedConv2d, NetworkSpec, full_precision
from ganrun_stylegan2.layers import LEAK, AdaptiveInstanceNorm, Doubled, Noisy
from ganrun_stylegan2.styles import StyleGenerator, StyleSettings


class StyleGanGenerator(StyleGenerator):
    """StyleGAN's generator: adaptive instance norm in every layer, and one conversion to an image at the end.

    Karras et al. 2019 (arXiv:1812.04948), figure 1b, without progressive growing: all sizes are trained at once. Its
    mapping network, and its noise and pixels in evaluation, are those of the generator `stylegan2`. Images are squares
    of 8, 16, 32, … pixels.
    """

    class Settings(StyleSettings):
        width: int = Field(16_384, ge=4)
        """A map of side r has width / r channels, at most widest."""

    settings: Settings

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        self.start = nn.Parameter(torch.ones(self.widths[4], 4, 4))
        sides = (side for side in self.sides for _ in range(2))
        self.steps = nn.ModuleList(
            _Layer(settings.style_size, conv, self.widths[side], side)
            for conv, side in zip(self._convolutions(), sides, strict=True)
        )
        self.to_image = EqualizedConv2d(self.widths[self.sides[-1]], self.channels, 1)

    def _convolutions(self) -> Iterator[nn.Module]:
        """The operations before each layer's noise; the first layer takes the constant unchanged."""
        yield nn.Identity()
        yield _conv(self.widths[4], self.widths[4])
        for below, side in pairwise(self.sides):
            yield nn.Sequential(Doubled(), _conv(self.widths[below], self.widths[side]))
            yield _conv(self.widths[side], self.widths[side])

    def synthesis(self, styles: Tensor) -> Tensor:
        """Styles `(batch, layers, style_size)` to images `(batch, channels, side, side)`, not bounded."""
        maps: Tensor = self.start.expand(len(styles), -1, -1, -1)
        for step, style in zip(self.steps, styles.unbind(1), strict=True):
            maps = step(maps, style)
        with full_precision(maps):
            return self.to_image(maps.to(styles.dtype))  # type: ignore[no-any-return]


class _Layer(Noisy):
    """A convolution, noise with a strength for each channel, a bias, leaky ReLU and adaptive instance norm."""

    def __init__(self, style_size: int, conv: nn.Module, channels: int, side: int) -> None:
        super().__init__(channels, side, (channels, 1, 1))
        self.conv = conv
        self.norm = AdaptiveInstanceNorm(style_size, channels)

    def forward(self, maps: Tensor, style: Tensor) -> Tensor:
        return self.norm(leaky_relu(self.noised(self.conv(maps)), LEAK), style)  # type: ignore[no-any-return]


def _conv(fan_in: int, fan_out: int) -> nn.Module:
    return EqualizedConv2d(fan_in, fan_out, 3, padding=1, gain=sqrt(2), bias=None)
