"""Common layers of the networks of both papers."""

from __future__ import annotations

from typing import Literal

from torch import nn

from ganrun import IncompatibleError, NetworkSpec, image_shape

WIDEST = 8
"""Channels of the widest layer, as a multiple of those of the first."""

LEAK = 0.2
"""Slope of leaky ReLU for negative inputs."""

Norm = Literal["batch", "instance", "none"]

NORMS: dict[str, type[nn.Module]] = {"batch": nn.BatchNorm2d, "instance": nn.InstanceNorm2d, "none": nn.Identity}
"""By number of channels. Instance norm has neither scales and shifts nor running statistics."""


def check_same_size(spec: NetworkSpec) -> tuple[int, int, list[int]]:
    """The channels of sources and of images, and the height and width of both.

    Raises:
        IncompatibleError: if images have another size than their sources.
    """
    (source, *sides), (channels, *size) = image_shape(spec.inputs), image_shape(spec.outputs)
    if sides != size:
        text = f"makes images of the size that it takes, {sides[0]}×{sides[1]}, not {size[0]}×{size[1]}"
        raise IncompatibleError(text)
    return source, channels, size


def has_bias(norm: Norm) -> bool:
    """Whether a convolution before the norm has a bias. Batch norm's shift replaces it; instance norm subtracts it, and
    the published networks have it all the same."""
    return norm != "batch"


def widths_of(feature_maps: int, count: int) -> list[int]:
    """Channels of `count` layers, each with twice as many as the one before, up to `WIDEST` times the first."""
    return [feature_maps * min(2**layer, WIDEST) for layer in range(count)]
