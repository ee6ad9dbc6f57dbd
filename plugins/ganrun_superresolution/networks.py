"""SRResNet and SRGAN's discriminator: Ledig et al. 2017, arXiv:1609.04802, figure 4."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import interpolate

import ganrun
from ganrun import Discriminator, IncompatibleError, Network, NetworkSpec, image_shape

LEAK = 0.2
"""Slope of the discriminator's leaky ReLUs for negative inputs (section 2.1)."""

Norm = Literal["batch", "none"]

Convolution = Callable[..., nn.Conv2d]
"""`convolution(fan_in, fan_out, kernel_size, padding=…)`, with the way of padding that all of a network have."""

LARGEST = 8
"""Times that the network enlarges at most."""

STAGES = 4
"""Pairs of layers in the discriminator: of the same size, then halving it."""


class SrResNet(Network):
    """SRResNet: residual blocks at the size of the source, then pixels rearranged into a larger image.

    9×9 convolution and PReLU; residual blocks of two 3×3 convolutions, with a skip connection around all of them;
    for each doubling of the size a 3×3 convolution to 4 times the channels, pixel shuffle and PReLU; 9×9 convolution.
    How much it enlarges follows from the data: 1, 2, 4 or 8 times. Nothing follows the last layer, so images are not
    bounded in training; samples are cut off at ±1. Each PReLU has one slope. Takes sources of any size.
    """

    class Settings(ganrun.Settings):
        feature_maps: int = Field(64, ge=1)
        """Channels of all hidden layers."""

        blocks: int = Field(16, ge=1)
        """Residual blocks."""

        norm: Norm = "batch"
        """Batch norm in the residual blocks, as published, or none, as in later networks."""

        skip: Literal["none", "bicubic"] = "none"
        """bicubic: the enlarged source is added to the output, so that the network learns what interpolation lacks (Kim
        et al. 2016, arXiv:1511.04587). Training starts from it: the last convolution starts at 0. Not in the paper; it
        saves the many steps in which the network learns to copy the source."""

        padding: Literal["zeros", "replicate"] = "zeros"
        """Padding of convolutions: 0, the middle grey, as is usual; or the border's pixels, which leaves
        fewer traces on small crops."""

    settings: Settings

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        doublings, width = doublings_between(spec), settings.feature_maps
        convolution = partial(nn.Conv2d, padding_mode=settings.padding)
        self.first = nn.Sequential(convolution(spec.inputs[0], width, 9, padding=4), nn.PReLU())
        blocks = (ResidualBlock(convolution, width, settings.norm) for _ in range(settings.blocks))
        self.blocks = nn.Sequential(*blocks, *_normed(convolution, width, settings.norm))
        self.enlarging = nn.Sequential(*(layer for _ in range(doublings) for layer in _doubling(convolution, width)))
        self.last = convolution(width, image_shape(spec.outputs)[0], 9, padding=4)
        if settings.skip == "bicubic":
            self._start_from_interpolation()

    def forward(self, sources: Tensor) -> Tensor:
        """Images `(batch, *spec.inputs)` to images `(batch, *spec.outputs)`."""
        maps = self.first(sources)
        images: Tensor = self.last(self.enlarging(maps + self.blocks(maps)))
        if self.settings.skip == "none":
            return images.float()
        given = sources[:, : images.shape[1]].float()
        return images.float() + interpolate(given, images.shape[2:], mode="bicubic")

    def _start_from_interpolation(self) -> None:
        given, channels = self.spec.inputs[0], self.last.out_channels
        if given not in (channels, channels + 1):
            text = f'skip = "bicubic" adds the source to the image, so both have as many channels, not {given}'
            raise IncompatibleError(f"{text} and {channels}")
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]


class ResidualBlock(nn.Module):
    """3×3 convolution, norm, PReLU, 3×3 convolution, norm, added to the map."""

    def __init__(self, convolution: Convolution, width: int, norm: Norm) -> None:
        super().__init__()
        first, second = (_normed(convolution, width, norm) for _ in range(2))
        self.layers = nn.Sequential(*first, nn.PReLU(), *second)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps `(batch, width, …)` to maps of the same shape."""
        return maps + self.layers(maps)  # type: ignore[no-any-return]


def doublings_between(spec: NetworkSpec) -> int:
    """How often both sides of the source double to those of the image.

    Raises:
        IncompatibleError: if they do not, or more than 8 times.
    """
    (_, *small), (_, *large) = image_shape(spec.inputs), image_shape(spec.outputs)
    doublings = max(large[0] // small[0], 1).bit_length() - 1
    if [side << doublings for side in small] != large or 1 << doublings > LARGEST:
        found = f"not {small[0]}×{small[1]} to {large[0]}×{large[1]}"
        raise IncompatibleError(f"makes images of the source's size, or 2, 4 or 8 times as large; {found}")
    return doublings


def _normed(convolution: Convolution, width: int, norm: Norm) -> Iterator[nn.Module]:
    yield convolution(width, width, 3, padding=1)
    if norm == "batch":
        yield nn.BatchNorm2d(width)


def _doubling(convolution: Convolution, width: int) -> Iterator[nn.Module]:
    """The sub-pixel convolution of Shi et al. 2016 (arXiv:1609.05158), and PReLU."""
    yield convolution(width, 4 * width, 3, padding=1)
    yield nn.PixelShuffle(2)
    yield nn.PReLU()


class SrGanDiscriminator(Discriminator):
    """SRGAN's discriminator: eight 3×3 convolutions, every second of stride 2, and two dense layers.

    Leaky ReLU after all layers but the last, batch norm after all convolutions but the first. Takes images of any one
    size from 9 pixels on: that of the data, on which the dense layer depends.
    """

    class Settings(ganrun.Settings):
        feature_maps: int = Field(64, ge=1)
        """Channels of the first two convolutions; each further pair has twice as many."""

        hidden: int = Field(1024, ge=1)
        """Units of the first dense layer."""

        norm: Norm = "batch"
        """Batch norm, as published, or none."""

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        if spec.conditions:
            raise IncompatibleError(f"takes images alone, not {', '.join(spec.conditions)}")
        channels, height, width = image_shape(spec.inputs)
        _check_halves(height, width)
        widths = [channels, *(settings.feature_maps << stage // 2 for stage in range(2 * STAGES))]
        small = (-(-side // 2**STAGES) for side in (height, width))
        self.trunk = nn.Sequential(*_stages(widths, settings.norm))
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(widths[-1] * next(small) * next(small), settings.hidden),
            nn.LeakyReLU(LEAK),
            nn.Linear(settings.hidden, spec.out_features),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images `(batch, *spec.inputs)` to logits `(batch, out_features)`."""
        return self.head(self.trunk(images)).float()  # type: ignore[no-any-return]


def _check_halves(height: int, width: int) -> None:
    """Refuse sizes of which one pixel would be left before the last halving.

    Such a map is halved to itself; and on CPUs, torch 2.14 then gives gradients in bf16 that are partly uninitialised.
    """
    least = 2 ** (STAGES - 1) + 1
    if min(height, width) < least:
        found = f"takes images of {least}×{least} pixels or more, not {height}×{width}"
        raise IncompatibleError(f"halves the size {STAGES} times, so it {found}")


def _stages(widths: list[int], norm: Norm) -> Iterator[nn.Module]:
    for number, (fan_in, fan_out) in enumerate(pairwise(widths)):
        is_normed = norm == "batch" and number > 0
        yield nn.Conv2d(fan_in, fan_out, 3, stride=1 + number % 2, padding=1, bias=not is_normed)
        if is_normed:
            yield nn.BatchNorm2d(fan_out)
        yield nn.LeakyReLU(LEAK)
