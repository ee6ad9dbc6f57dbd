"""Residual blocks of SNGAN (Miyato et al. 2018, arXiv:1802.05957, appendix B) and how their weights start.

A 1×1 convolution commutes with average pooling and with nearest-neighbour upsampling, so each skip convolves the
smaller of its two maps. ReLUs are never in place: the skip needs their input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, relu

from ganrun import SpectralConv2d, SpectralEmbedding, SpectralLinear

Initialisation = Literal["glorot", "orthogonal", "normal"]


class Layers(NamedTuple):
    """The classes of layers of a network: all with spectral norm, or all without."""

    conv: type[nn.Conv2d]
    dense: type[nn.Linear]
    table: type[nn.Embedding]


PLAIN = Layers(nn.Conv2d, nn.Linear, nn.Embedding)

SPECTRAL = Layers(SpectralConv2d, SpectralLinear, SpectralEmbedding)

Norm = Callable[[int], nn.Module]
"""A norm of this many channels, called on maps and a condition."""


class UpBlock(nn.Module):
    """Norm, ReLU, ×2, 3×3 convolution, norm, ReLU, 3×3 convolution; beside them ×2 and a 1×1 convolution."""

    def __init__(self, fan_in: int, fan_out: int, conv: type[nn.Conv2d], norm: Norm) -> None:
        super().__init__()
        self.norm_in, self.norm_out = norm(fan_in), norm(fan_out)
        self.conv_in = conv(fan_in, fan_out, 3, padding=1)
        self.conv_out = conv(fan_out, fan_out, 3, padding=1)
        self.skip = conv(fan_in, fan_out, 1)

    def forward(self, maps: Tensor, condition: Tensor | None) -> Tensor:
        """Maps `(batch, fan_in, height, width)` to `(batch, fan_out, 2 · height, 2 · width)`."""
        branch = self.conv_in(doubled(relu(self.norm_in(maps, condition))))
        branch = self.conv_out(relu(self.norm_out(branch, condition)))
        return branch + doubled(self.skip(maps))  # type: ignore[no-any-return]


class DownBlock(nn.Module):
    """ReLU, 3×3 convolution, ReLU, 3×3 convolution, average pooling; beside them a 1×1 convolution and pooling.

    Args:
        fan_in: Channels of the map.
        fan_out: Channels of the result, and between the convolutions.
        first: Whether it acts on pixels, which no ReLU may cut.
        halves: Whether it pools. One that does not, of equal channels, adds the unchanged map.
        conv: The class of its convolutions.
    """

    def __init__(
        self, fan_in: int, fan_out: int, conv: type[nn.Conv2d], *, first: bool = False, halves: bool = True
    ) -> None:
        super().__init__()
        self._first, self._halves = first, halves
        self.conv_in = conv(fan_in, fan_out, 3, padding=1)
        self.conv_out = conv(fan_out, fan_out, 3, padding=1)
        self.skip = conv(fan_in, fan_out, 1) if halves or fan_in != fan_out else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        """Maps `(batch, fan_in, height, width)` to `(batch, fan_out, …)`, of half the sides where it halves."""
        branch = self.conv_out(relu(self.conv_in(maps if self._first else relu(maps))))
        return self._pooled(branch) + self.skip(self._pooled(maps))  # type: ignore[no-any-return]

    def _pooled(self, maps: Tensor) -> Tensor:
        return avg_pool2d(maps, 2) if self._halves else maps


def doubled(maps: Tensor) -> Tensor:
    """Nearest-neighbour upsampling by 2."""
    return interpolate(maps, scale_factor=2)


def initialise(network: nn.Module, how: Initialisation, residual_gain: float) -> None:
    """Set the weights of every convolution, dense layer and table of classes, and their biases to 0.

    Args:
        network: Its layers are visited in the order of `Module.modules`.
        how: glorot is U(±gain · √(6 / (fan in + fan out))), orthogonal has orthonormal rows or columns, and normal is
            N(0, 0.02).
        residual_gain: The gain of `glorot` for the 3×3 convolutions of blocks; that of all other layers is 1.
    """
    residual = {
        id(layer)
        for block in network.modules()
        if isinstance(block, UpBlock | DownBlock)
        for layer in (block.conv_in, block.conv_out)
    }
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding):
            _fill(layer.weight, how, residual_gain if id(layer) in residual else 1.0)
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)


def _fill(weight: Tensor, how: Initialisation, gain: float) -> None:
    if how == "glorot":
        nn.init.xavier_uniform_(weight, gain)
    elif how == "orthogonal":
        nn.init.orthogonal_(weight)
    else:
        nn.init.normal_(weight, 0.0, 0.02)
