"""pix2pix's generator: down to one pixel and up again, with a skip connection at each size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import dropout, instance_norm

import ganrun
from ganrun import Network, NetworkSpec, dcgan_init, float32_tanh, halved_shape
from ganrun_translation.layers import LEAK, NORMS, Norm, check_same_size, has_bias, widths_of

DROPPED = 3
"""Stages on the way up, the first ones, that have dropout."""


class UNet(Network):
    """pix2pix's U-Net, from images to images of the same size, in [-1, 1].

    Isola et al. 2017 (arXiv:1611.07004), section 6.1.1: 4×4 kernels of stride 2, leaky ReLU on the way down and ReLU on
    the way up, each map joined to the one of its size on the way down, tanh at the end. No norm at the first map, and
    none at the innermost, as the paper's errata advise: of one image and 1×1 pixels, batch norm leaves nothing. Weights
    start at N(0, 0.02).
    """

    class Settings(ganrun.Settings):
        feature_maps: int = Field(64, ge=1)
        """Channels of the first map; each one further down has twice as many, up to 8 times this number."""

        stages: int | None = Field(None, ge=2)
        """Halvings of the size; unless given, as many as leave no remainder: 8 for 256×256, down to 1×1, as in the
        paper."""

        norm: Norm = "batch"
        """batch is the paper's. instance normalises each image by itself, with neither scales and shifts nor running
        statistics."""

        dropout: float = Field(0.5, ge=0, lt=1)
        """Probability that a number is dropped, in the three innermost maps on the way up."""

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        source, channels, size = check_same_size(spec)
        stages = settings.stages or max(2, min(_halvings(side) for side in size))
        halved_shape(spec.inputs, stages, f"stages = {stages}")
        widths = widths_of(settings.feature_maps, stages)
        self.down = nn.ModuleList(_downwards([source, *widths], settings.norm))
        self.up = nn.ModuleList(_upwards(widths[::-1], settings))
        self.last = nn.ConvTranspose2d(2 * widths[0], channels, 4, stride=2, padding=1)
        self.apply(dcgan_init)

    def forward(self, images: Tensor) -> Tensor:
        """Images `(batch, channels, height, width)` to images of the same size in [-1, 1]."""
        return self._translated(images)

    def as_in_training(self, images: Tensor) -> Tensor:
        """As `forward` in training mode with a batch of one, in any mode and for each image of the batch.

        Dropout is on, drawn from the global random stream, and each image is normalised by its own statistics. Running
        statistics are unchanged.
        """
        return self._translated(images, as_in_training=True)

    def _translated(self, images: Tensor, *, as_in_training: bool = False) -> Tensor:
        found = [images]
        for layer in self.down:
            found.append(layer(found[-1], as_in_training))
        maps = found.pop()
        for layer in self.up:
            maps = torch.cat([found.pop(), layer(maps, as_in_training)], dim=1)
        return float32_tanh(self.last(maps.relu()))


class Stage(nn.Module):
    """Activation, convolution, norm and dropout.

    Args:
        activation: None for the first one.
        convolution: Halves or doubles the size.
        norm: Of as many channels as the convolution makes.
        dropout: The probability.
    """

    def __init__(
        self, activation: nn.Module | None, convolution: nn.Module, norm: nn.Module, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.activation = activation or nn.Identity()
        self.convolution = convolution
        self.norm = norm
        self.dropout = dropout

    def forward(self, maps: Tensor, as_in_training: bool) -> Tensor:
        """Maps `(batch, channels, height, width)` to maps of half or twice the size."""
        maps = self.convolution(self.activation(maps))
        norm = self.norm
        if as_in_training and isinstance(norm, nn.BatchNorm2d):
            maps = instance_norm(maps, weight=norm.weight, bias=norm.bias, eps=norm.eps)
        else:
            maps = norm(maps)
        return dropout(maps, self.dropout, self.training or as_in_training) if self.dropout else maps


def _downwards(widths: Sequence[int], norm: Norm) -> Iterator[Stage]:
    """From the images to the innermost map. Only maps between the first and the last have a norm."""
    last = len(widths) - 2
    for number, (fan_in, fan_out) in enumerate(pairwise(widths)):
        own: Norm = norm if 0 < number < last else "none"
        convolution = nn.Conv2d(fan_in, fan_out, 4, stride=2, padding=1, bias=has_bias(own))
        yield Stage(nn.LeakyReLU(LEAK) if number else None, convolution, NORMS[own](fan_out))


def _upwards(widths: Sequence[int], settings: UNet.Settings) -> Iterator[Stage]:
    """From the innermost map to that of half the images' size."""
    for number, (fan_in, fan_out) in enumerate(pairwise(widths)):
        joined = 2 * fan_in if number else fan_in
        bias = has_bias(settings.norm)
        convolution = nn.ConvTranspose2d(joined, fan_out, 4, stride=2, padding=1, bias=bias)
        drop = settings.dropout if number < DROPPED else 0.0
        yield Stage(nn.ReLU(), convolution, NORMS[settings.norm](fan_out), drop)


def _halvings(side: int) -> int:
    """How often a side halves without a remainder."""
    return (side & -side).bit_length() - 1
