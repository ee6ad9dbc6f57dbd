"""The layers of R3GAN's networks: residual blocks without normalisation, and resampling by [1, 2, 1]."""

from __future__ import annotations

from math import sqrt
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, leaky_relu, pad

L = TypeVar("L", nn.Conv2d, nn.Linear)

LEAK = 0.2
"""Slope of leaky ReLU for negative inputs."""

LAYERS = 3
"""Convolutions in the branch of a block."""


def block_gain(blocks: int) -> float:
    """Gain of the convolutions in a block: √(2 / (1 + 0.2²)) · L^(−1/(2m − 2)), for L blocks of m convolutions.

    The root keeps the variance through a leaky ReLU (He et al. 2015, arXiv:1502.01852, equation 15); the power keeps
    the update of a network of L blocks as large as that of one (Zhang et al. 2019, arXiv:1901.09321, section 3).
    """
    return float(sqrt(2 / (1 + LEAK**2)) * blocks ** (-1 / (2 * LAYERS - 2)))


def conv(fan_in: int, fan_out: int, kernel: int = 1, gain: float = 1.0, groups: int = 1, padding: int = 0) -> nn.Conv2d:
    """A convolution without bias; its weights are from N(0, gain² / fan in)."""
    layer = nn.Conv2d(fan_in, fan_out, kernel, padding=padding, groups=groups, bias=False)
    return scaled(layer, gain)


def linear(fan_in: int, fan_out: int) -> nn.Linear:
    """A dense layer without bias; its weights are from N(0, 1 / fan in)."""
    return scaled(nn.Linear(fan_in, fan_out, bias=False))


def scaled(layer: L, gain: float = 1.0) -> L:
    """The layer, with weights from N(0, gain² / fan in)."""
    nn.init.normal_(layer.weight, 0.0, gain / sqrt(layer.weight[0].numel()))
    return layer


class BiasedLeakyReLU(nn.Module):
    """leaky_relu(x + b) with a bias for each channel, in the precision of x."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps `(batch, channels, height, width)` to maps."""
        return leaky_relu(inputs + self.bias.to(inputs.dtype), LEAK)


class Block(nn.Module):
    """x + f(x), f a wider grouped convolution between two 1×1 ones. f is 0 at first, so the block is the identity.

    Args:
        width: Channels of x.
        hidden: Channels of the grouped convolution.
        groups: Its groups.
        kernel: Its size, odd.
        gain: Of the first two convolutions; see `block_gain`.
    """

    def __init__(self, width: int, hidden: int, groups: int, kernel: int, gain: float) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            conv(width, hidden, gain=gain),
            BiasedLeakyReLU(hidden),
            conv(hidden, hidden, kernel, gain, groups, padding=kernel // 2),
            BiasedLeakyReLU(hidden),
            conv(hidden, width, gain=0.0),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps to maps of the same shape."""
        return inputs + self.branch(inputs)  # type: ignore[no-any-return]


# ── Resampling ────────────────────────────────────────────────────────────────────────────────────────────


#
# [1, 2, 1] is [1, 1] twice, so both are means over 2×2 pixels: no filter for each channel is convolved.


class Downsample(nn.Module):
    """Blurs by [1, 2, 1] / 4 along both axes, and keeps every other pixel, the first included; zeros lie outside."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps `(batch, channels, height, width)` of even sides to maps of half their sides."""
        return avg_pool2d(avg_pool2d(pad(inputs, (1, 0, 1, 0)), 2, stride=1), 2)


class Upsample(nn.Module):
    """Puts zeros between pixels, and blurs by [1, 2, 1] / 2 along both axes: pixels stay, means lie between them."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps `(batch, channels, height, width)` to maps of twice their sides."""
        return avg_pool2d(pad(interpolate(inputs, scale_factor=2), (0, 1, 0, 1)), 2, stride=1)
