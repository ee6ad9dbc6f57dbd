"""DnCNN, which removes noise, and the context encoder's network, which fills in what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

import ganrun
from ganrun import IncompatibleError, Network, NetworkSpec, dcgan_init, float32_tanh, halved_shape, image_shape

LEAK = 0.2
"""Slope of the encoder's leaky ReLUs for negative inputs, as in DCGAN (arXiv:1511.06434)."""

SMALLEST = 4
"""Least side in pixels of the map that the context encoder makes a vector of."""

WIDEST = 8
"""The widest layer's channels, as a multiple of `feature_maps`."""


# ── DnCNN: Zhang et al. 2017, arXiv:1608.03981 ────────────────────────────────────────────────────────────


class DnCnn(Network):
    """DnCNN: 3×3 convolutions at full size that find the noise in a picture; the result is the picture without it.

    Zhang et al. 2017 (arXiv:1608.03981), section III: convolution and ReLU; convolutions with batch norm and ReLU; a
    last convolution. For the source y they compute the residual R(y), and the output is y − R(y), not bounded.
    Weights start as He et al. propose, N(0, 2 / (9 channels)), but those of the last convolution at 0, so that training
    starts from the source. Takes pictures of any size; a mask is a further channel.
    """

    class Settings(ganrun.Settings):
        layers: int = Field(17, ge=2)
        """Convolutions: each output depends on 2 · layers + 1 pixels in each direction. The paper has 17 for one level
        of noise, and 20 for several."""

        feature_maps: int = Field(64, ge=1)
        """Channels of all hidden layers."""

        norm: Literal["batch", "none"] = "batch"
        """Batch norm after every convolution but the first and the last, or none."""

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        channels, width = residual_channels(spec), settings.feature_maps
        self.layers = nn.Sequential(
            nn.Conv2d(spec.inputs[0], width, 3, padding=1),
            nn.ReLU(),
            *_normed(settings.layers - 2, width, settings.norm == "batch"),
            nn.Conv2d(width, channels, 3, padding=1),
        )
        self.apply(_he_init)
        nn.init.zeros_(self.layers[-1].weight)  # type: ignore[arg-type]

    def forward(self, sources: Tensor) -> Tensor:
        """Pictures `(batch, *spec.inputs)` to `(batch, *spec.outputs)`."""
        residual: Tensor = self.layers(sources)
        return sources[:, : residual.shape[1]].float() - residual.float()


def residual_channels(spec: NetworkSpec) -> int:
    """The channels of an image that is the source and a correction; the source may have a mask behind it.

    Raises:
        IncompatibleError: if source and image differ in size or channels.
    """
    (given, *source), (channels, *sides) = image_shape(spec.inputs), image_shape(spec.outputs)
    if source != sides or given not in (channels, channels + 1):
        text = f"subtracts something from the source, so source and image have one shape; not {spec.inputs} and "
        raise IncompatibleError(f"{text}{spec.output_shape}")
    return channels


def _normed(count: int, width: int, batch_norm: bool) -> Iterator[nn.Module]:
    for _ in range(count):
        yield nn.Conv2d(width, width, 3, padding=1, bias=not batch_norm)
        if batch_norm:
            yield nn.BatchNorm2d(width)
        yield nn.ReLU()


def _he_init(module: nn.Module) -> None:
    """He et al. 2015 (arXiv:1502.01852), equation 10, by the number of weights of each output; biases 0."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


# ── Context encoders: Pathak et al. 2016, arXiv:1604.07379 ────────────────────────────────────────────────


class ContextEncoderNetwork(Network):
    """The context encoder's network: a picture to one vector, and that to a picture of the same size.

    The layers of the authors' code for in-painting (Pathak et al. 2016, arXiv:1604.07379): 4×4 convolutions of stride 2
    with leaky ReLU down to 4 … 7 pixels, a convolution over the whole map to the vector, and transposed convolutions
    with ReLU back; batch norm everywhere but at both ends; tanh at the end. Their decoder for a region in the middle
    stops at half the size; this one makes the whole picture, for masks of any form.
    """

    class Settings(ganrun.Settings):
        feature_maps: int = Field(64, ge=1)
        """Channels of the first two stages; each stage after them has twice as many, up to 8 times this number."""

        bottleneck: int = Field(4000, ge=1)
        """Length of the vector."""

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        halvings, (height, width) = _smallest_map(spec)
        growth = [min(1 << max(stage - 1, 0), WIDEST) for stage in range(halvings)]
        widths = [settings.feature_maps * factor for factor in growth]
        self.encoder = nn.Sequential(
            *_halving([spec.inputs[0], *widths]),
            nn.Conv2d(widths[-1], settings.bottleneck, (height, width), bias=False),
            nn.BatchNorm2d(settings.bottleneck),
            nn.LeakyReLU(LEAK),
        )
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(settings.bottleneck, widths[-1], (height, width), bias=False),
            *_doubling(widths[::-1]),
            nn.ConvTranspose2d(widths[0], image_shape(spec.outputs)[0], 4, stride=2, padding=1),
        )
        self.apply(dcgan_init)

    def forward(self, sources: Tensor) -> Tensor:
        """Pictures `(batch, *spec.inputs)` to pictures `(batch, *spec.outputs)` in [-1, 1]."""
        return float32_tanh(self.decoder(self.encoder(sources)))


def _smallest_map(spec: NetworkSpec) -> tuple[int, tuple[int, int]]:
    """How often the sides halve until the shorter one is less than 8 pixels, and what they are then."""
    (_, *source), (_, *sides) = image_shape(spec.inputs), image_shape(spec.outputs)
    if source != sides:
        raise IncompatibleError(f"makes pictures of the source's size, not {sides} of {source}")
    halvings = (min(sides) // SMALLEST).bit_length() - 1
    if halvings < 1:
        raise IncompatibleError(f"takes sides of {2 * SMALLEST} pixels or more, not {sides}")
    _, height, width = halved_shape(spec.inputs, halvings, f"{halvings} halvings to {SMALLEST} … 7 pixels")
    return halvings, (height, width)


def _halving(widths: list[int]) -> Iterator[nn.Module]:
    for number, (fan_in, fan_out) in enumerate(pairwise(widths)):
        yield nn.Conv2d(fan_in, fan_out, 4, stride=2, padding=1, bias=number == 0)
        if number:
            yield nn.BatchNorm2d(fan_out)
        yield nn.LeakyReLU(LEAK)


def _doubling(widths: list[int]) -> Iterator[nn.Module]:
    """Norm and ReLU of each map, and the transposed convolution to the next one."""
    for number, width in enumerate(widths):
        yield nn.BatchNorm2d(width)
        yield nn.ReLU()
        if number + 1 < len(widths):
            yield nn.ConvTranspose2d(width, widths[number + 1], 4, stride=2, padding=1, bias=False)
