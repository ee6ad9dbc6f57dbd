"""Networks for maps of codes, and a discriminator whose features can be compared."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

import ganrun
from ganrun import (
    Discriminator,
    Generator,
    IncompatibleError,
    Network,
    NetworkSpec,
    dcgan_init,
    float32_tanh,
    halved_shape,
    image_shape,
)

LEAK = 0.2
"""Slope of leaky ReLU for negative inputs, as in DCGAN (arXiv:1511.06434)."""


# ── VQ-VAE: van den Oord et al. 2017, arXiv:1711.00937, section 4.1 ───────────────────────────────────────


class _Settings(ganrun.Settings):
    width: int = Field(256, ge=1)
    """Channels of all hidden layers."""

    blocks: int = Field(2, ge=0)
    """Residual blocks at the size of the codes."""


class VqEncoder(Network):
    """Strided convolutions, then residual blocks: VQ-VAE's encoder, from images to maps of vectors.

    4×4 convolutions of stride 2, as many as the loss's `downsampling` needs, with ReLUs between them; residual blocks;
    ReLU and a 1×1 convolution to the vectors' length.
    """

    class Settings(_Settings):
        pass

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        halvings = halvings_between(spec.inputs, spec.output_shape)
        widths = [spec.inputs[0], *[settings.width] * halvings]
        self.layers = nn.Sequential(
            *_halving(widths),
            *(ResidualBlock(widths[-1]) for _ in range(settings.blocks)),
            nn.ReLU(),
            nn.Conv2d(widths[-1], spec.out_features, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images `(batch, channels, height, width)` to `(batch, *spec.outputs)`."""
        return self.layers(images).float()  # type: ignore[no-any-return]


class VqDecoder(Generator):
    """Residual blocks, then transposed convolutions: VQ-VAE's decoder, from maps of vectors to images.

    A 3×3 convolution from the vectors; residual blocks; 4×4 transposed convolutions of stride 2, with a ReLU before
    each; tanh at the end.
    """

    class Settings(_Settings):
        pass

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        doublings = halvings_between(spec.output_shape, spec.inputs)
        widths = [*[settings.width] * doublings, spec.out_features]
        self.layers = nn.Sequential(
            nn.Conv2d(spec.inputs[0], widths[0], 3, padding=1),
            *(ResidualBlock(widths[0]) for _ in range(settings.blocks)),
            *_doubling(widths),
        )

    def forward(self, maps: Tensor, labels: Tensor | None = None) -> Tensor:
        """Maps `(batch, *spec.inputs)` to images `(batch, channels, height, width)` in [-1, 1]."""
        return float32_tanh(self.layers(maps))


class ResidualBlock(nn.Module):
    """ReLU, 3×3 convolution, ReLU, 1×1 convolution, added to the map."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 1)
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Maps `(batch, width, …)` to maps of the same shape."""
        return maps + self.layers(maps)  # type: ignore[no-any-return]


def halvings_between(image: tuple[int, ...], small: tuple[int, ...]) -> int:
    """How often an image's height and width halve to reach a smaller map's: at least once.

    Raises:
        IncompatibleError: if they do not.
    """
    (_, height, width), (_, low, narrow) = image_shape(image), image_shape(small)
    halvings = (height // low).bit_length() - 1
    if halvings < 1 or (low << halvings, narrow << halvings) != (height, width):
        found = f"images of {height}×{width} and maps of {low}×{narrow}"
        raise IncompatibleError(f"works between images and maps whose sides are a half, a quarter, …; not {found}")
    return halvings


def _halving(widths: list[int]) -> Iterator[nn.Module]:
    for number, (fan_in, fan_out) in enumerate(pairwise(widths)):
        if number:
            yield nn.ReLU()
        yield nn.Conv2d(fan_in, fan_out, 4, stride=2, padding=1)


def _doubling(widths: list[int]) -> Iterator[nn.Module]:
    for fan_in, fan_out in pairwise(widths):
        yield nn.ReLU()
        yield nn.ConvTranspose2d(fan_in, fan_out, 4, stride=2, padding=1)


# ── VAE-GAN: Larsen et al. 2015, arXiv:1512.09300 ─────────────────────────────────────────────────────────


class FeatureDiscriminator(Discriminator):
    """Convolutions that halve the size, whose last maps are the features that VAE-GAN compares; then dense layers.

    Each stage: 4×4 convolution of stride 2, batch norm (not in the first), leaky ReLU. Then a dense layer of `hidden`
    units, leaky ReLU, and the output. Takes any height and width that 2 ** stages divides.
    """

    class Settings(ganrun.Settings):
        feature_maps: int = Field(32, ge=1)
        """Channels of the first layer; each stage after it has twice as many."""

        stages: int = Field(3, ge=1)
        """Number of halvings of the size."""

        hidden: int = Field(512, ge=1)
        """Units of the dense layer."""

        norm: Literal["none", "batch"] = "batch"
        """Batch norm after every convolution but the first, or none."""

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        channels, height, width = halved_shape(spec.inputs, settings.stages, f"stages = {settings.stages}")
        widths = [channels, *(settings.feature_maps << k for k in range(settings.stages))]
        self.trunk = nn.Sequential(*_stages(widths, settings.norm == "batch"))
        self.head = nn.Sequential(
            nn.Linear(widths[-1] * height * width, settings.hidden),
            nn.LeakyReLU(LEAK),
            nn.Linear(settings.hidden, spec.out_features),
        )
        self.apply(dcgan_init)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images `(batch, channels, height, width)` to logits `(batch, out_features)`."""
        return self.head(self.features(images).flatten(1))  # type: ignore[no-any-return]

    def features(self, images: Tensor) -> Tensor:
        """Dis_l: the last maps, `(batch, channels, height, width)`."""
        return self.trunk(images)  # type: ignore[no-any-return]


def _stages(widths: list[int], batch_norm: bool) -> Iterator[nn.Module]:
    for number, (fan_in, fan_out) in enumerate(pairwise(widths)):
        is_normed = batch_norm and number > 0
        yield nn.Conv2d(fan_in, fan_out, 4, stride=2, padding=1, bias=not is_normed)
        if is_normed:
            yield nn.BatchNorm2d(fan_out)
        yield nn.LeakyReLU(LEAK)
