"""The layers of progressive growing: equalised learning rate, pixel norm, minibatch standard deviation."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, interpolate, linear

LEAK = 0.2
"""Slope of leaky ReLU for negative inputs (appendix A.1)."""

GAIN = sqrt(2)
"""He's gain of a layer before a ReLU."""

EPSILON = 1e-8

# ── Equalised learning rate: section 4.1 ──────────────────────────────────────────────────────────────────
#
# Weights are stored as N(0, 1) and multiplied by He's constant gain / √fan_in in every forward. Adam's steps do not
# depend on a weight's scale, so all layers learn at the same speed.


class EqualisedConv2d(nn.Conv2d):
    """A convolution with equalised learning rate, stride 1.

    Args:
        fan_in: Channels of the input.
        fan_out: Channels of the output.
        kernel: Side of the kernel; odd ones keep the size of the map, even ones are not padded.
        gain: √2 before a leaky ReLU, 1 where none follows.
    """

    def __init__(self, fan_in: int, fan_out: int, kernel: int, gain: float = GAIN) -> None:
        super().__init__(fan_in, fan_out, kernel, padding=kernel // 2 if kernel % 2 else 0)
        self.scale = gain / sqrt(fan_in * kernel**2)
        _initialise(self)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps `(batch, fan_in, height, width)` to `(batch, fan_out, …)`."""
        return conv2d(maps, self.weight * self.scale, self.bias, padding=self.padding)


class EqualisedLinear(nn.Linear):
    """A dense layer with equalised learning rate and gain 1."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__(fan_in, fan_out)
        self.scale = 1 / sqrt(fan_in)
        _initialise(self)

    def forward(self, features: Tensor) -> Tensor:
        """Features `(batch, fan_in)` to `(batch, fan_out)`."""
        return linear(features, self.weight * self.scale, self.bias)


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


def _initialise(layer: nn.Conv2d | nn.Linear) -> None:
    nn.init.normal_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


# ── Pixel norm: section 4.2 ───────────────────────────────────────────────────────────────────────────────


def pixel_norm(maps: Tensor) -> Tensor:
    """b = a / √(mean over channels of a² + 10⁻⁸), at each pixel of `(batch, channels, …)`.

    Of latents `(batch, n)`, it makes points on the sphere of radius √n.
    """
    return maps * (maps.square().mean(1, keepdim=True) + EPSILON).rsqrt()


class PixelNorm(nn.Module):
    """`pixel_norm` as a layer."""

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
