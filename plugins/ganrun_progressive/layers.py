"""The layers of progressive growing that ganrun's toolkit does not have."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, linear

from ganrun import pixel_norm

LEAK = 0.2
"""Slope of leaky ReLU for negative inputs (appendix A.1)."""

GAIN = sqrt(2)
"""He's gain of a layer before a ReLU."""


class LatentsToMap(nn.Module):
    """Latents to the first map: the 4×4 convolution of a 1×1 map padded by 3, as the matrix product that it is.

    Its gain is √2 with the fan-in of the 16 positions of the kernel, and it has one bias for each channel.
    """

    def __init__(self, fan_in: int, fan_out: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size, size, fan_out, fan_in))
        self.bias = nn.Parameter(torch.zeros(fan_out))
        self.scale = GAIN / sqrt(fan_in * size**2)

    def forward(self, latents: Tensor) -> Tensor:
        """Latents `(batch, fan_in)` to maps `(batch, fan_out, size, size)`, channels last in memory."""
        maps = linear(latents, self.weight.flatten(0, 2) * self.scale).view(-1, *self.weight.shape[:3])
        return (maps + self.bias).permute(0, 3, 1, 2)


class PixelNorm(nn.Module):
    """`ganrun.pixel_norm` as a layer."""

    def forward(self, maps: Tensor) -> Tensor:
        """Maps `(batch, channels, height, width)` to maps of the same shape."""
        return pixel_norm(maps)


# ── Resampling ────────────────────────────────────────────────────────────────────────────────────────────


def enlarged(maps: Tensor, factor: int) -> Tensor:
    """Each pixel becomes factor × factor equal ones (nearest neighbour)."""
    return maps if factor == 1 else interpolate(maps, scale_factor=float(factor))


def reduced(maps: Tensor, factor: int) -> Tensor:
    """Each factor × factor pixels become their mean (box filter)."""
    return maps if factor == 1 else avg_pool2d(maps, factor)
