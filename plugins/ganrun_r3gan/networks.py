"""R3GAN's two networks: residual stages without normalisation (Huang et al. 2025, arXiv:2501.05441, section 4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from types import EllipsisType
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

import ganrun
from ganrun import Discriminator, Generator, IncompatibleError, NetworkSpec, full_precision, image_shape
from ganrun_r3gan.layers import Block, Downsample, Upsample, block_gain, conv, linear

Widths = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]

SMALLEST = 4
"""Sides of the smallest map."""


class R3ganSettings(ganrun.Settings):
    """Settings of both networks."""

    widths: Widths = (768, 768, 768, 768)
    """Channels of each stage from 4×4 on, each twice as large as the last: four for images of 32×32. The default is the
    paper's for CIFAR-10."""

    blocks: int = Field(2, ge=1)
    """Residual blocks in each stage."""

    expansion: int = Field(2, ge=1)
    """Channels inside a block, as a multiple of the stage's."""

    cardinality: int = Field(96, ge=1)
    """Groups of the convolution inside a block; must divide its channels."""

    kernel_size: int = Field(3, ge=1)
    """Size of the convolution inside a block, odd."""

    embedding_size: int = Field(64, ge=1)
    """Length of the vector learned for each class, where the loss gives labels."""

    @model_validator(mode="after")
    def _fits_together(self) -> R3ganSettings:
        for width in self.widths:
            if width * self.expansion % self.cardinality:
                inside = f"{width} · {self.expansion} = {width * self.expansion} channels inside a block"
                raise ValueError(f"cardinality = {self.cardinality} does not divide {inside}")
        if self.kernel_size % 2 == 0:
            raise ValueError("kernel_size must be odd")
        return self


class R3ganGenerator(Generator):
    """R3GAN's generator: a learned 4×4 basis, then stages of residual blocks, each twice as large as the last.

    The latents, with a vector learned for their class, weight the basis: a number for each channel. Initialised so that
    every block is the identity. In training its samples have no bounds, as published; in evaluation they are clipped to
    [-1, 1]. The 4×4 stage is in float32 at any precision of the run.
    """

    Settings = R3ganSettings

    def __init__(self, settings: R3ganSettings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        channels, widths = _channels(spec.outputs, settings.widths), settings.widths
        blocks = _Blocks(settings)
        self.embedding = nn.Embedding(spec.classes, settings.embedding_size) if spec.labelled else None
        self.weights = linear(spec.inputs[0] + (settings.embedding_size if spec.labelled else 0), widths[0])
        self.basis = nn.Parameter(torch.randn(widths[0], SMALLEST, SMALLEST))
        self.smallest = nn.Sequential(*blocks(widths[0]))
        self.larger = nn.Sequential(
            *(nn.Sequential(*_widened(*pair), Upsample(), *blocks(pair[1])) for pair in pairwise(widths)),
            conv(widths[-1], channels),
        )

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Latents `(batch, n)`, and labels `(batch,)`, to images `(batch, channels, size, size)`."""
        with full_precision(latents):
            if self.embedding is not None:
                latents = torch.cat([latents, self.embedding(labels)], dim=1)
            maps = self.smallest(self.weights(latents)[:, :, None, None] * self.basis)
        images: Tensor = self.larger(_in_run_precision(maps)).float()
        return images if self.training else images.clamp(-1, 1)


class R3ganDiscriminator(Discriminator):
    """R3GAN's discriminator: the generator's stages in reverse, then a 4×4 filter for each channel, and a dense layer.

    For labels, the dense layer gives a vector x, and the output is Σ x · e(y), e(y) learned for each class (Miyato and
    Koyama 2018, arXiv:1802.05637). The 4×4 stage is in float32 at any precision of the run.
    """

    Settings = R3ganSettings

    def __init__(self, settings: R3ganSettings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        channels, widths = _channels(spec.inputs, settings.widths), settings.widths[::-1]
        blocks = _Blocks(settings)
        self.embedding = _projection(spec, settings.embedding_size)
        self.larger = nn.Sequential(
            conv(channels, widths[0]),
            *(nn.Sequential(*blocks(pair[0]), Downsample(), *_widened(*pair)) for pair in pairwise(widths)),
        )
        self.smallest = nn.Sequential(
            *blocks(widths[-1]),
            conv(widths[-1], widths[-1], SMALLEST, groups=widths[-1]),
            nn.Flatten(),
            linear(widths[-1], spec.out_features * (settings.embedding_size if spec.labelled else 1)),
        )

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images `(batch, channels, size, size)`, and labels `(batch,)`, to logits `(batch, out_features)`."""
        maps = self.larger(images)
        with full_precision(maps):
            vectors: Tensor = self.smallest(maps.to(images.dtype))
            return vectors if self.embedding is None else self._products(vectors, self.embedding(labels))

    def _products(self, vectors: Tensor, embedded: Tensor) -> Tensor:
        return (vectors.view(len(vectors), self.spec.out_features, -1) * embedded[:, None]).sum(2)


class _Blocks:
    """Makes the blocks of a stage by its width."""

    def __init__(self, settings: R3ganSettings) -> None:
        self._settings = settings
        self._gain = block_gain(settings.blocks * len(settings.widths))

    def __call__(self, width: int) -> Iterator[Block]:
        own = self._settings
        for _ in range(own.blocks):
            yield Block(width, width * own.expansion, own.cardinality, own.kernel_size, self._gain)


def _in_run_precision(maps: Tensor) -> Tensor:
    """Maps in the run's precision, as convolutions return them; then the sums in blocks are in it, too."""
    kind = maps.device.type
    if torch.compiler.is_exporting() or kind == "meta" or not torch.is_autocast_enabled(kind):
        return maps
    return maps.to(torch.get_autocast_dtype(kind))


def _widened(fan_in: int, fan_out: int) -> Sequence[nn.Module]:
    """Changes the number of channels between two stages."""
    return [] if fan_in == fan_out else [conv(fan_in, fan_out)]


def _projection(spec: NetworkSpec, size: int) -> nn.Embedding | None:
    """e(y), from N(0, 1 / size)."""
    if not spec.labelled:
        return None
    table = nn.Embedding(spec.classes, size)
    nn.init.normal_(table.weight, 0.0, size**-0.5)
    return table


def _channels(shape: tuple[int | EllipsisType, ...], widths: Widths) -> int:
    """The images' channels.

    Raises:
        IncompatibleError: if they do not have the size that the stages come to.
    """
    channels, height, width = image_shape(shape)
    size = SMALLEST * 2 ** (len(widths) - 1)
    if (height, width) != (size, size):
        advice = "change the number of widths, or the size in [data]"
        raise IncompatibleError(f"with {len(widths)} widths it takes {size}×{size}, not {height}×{width}; {advice}")
    return channels
