"""The generators of conditional SNGAN, SAGAN and BigGAN: residual blocks that double a map, normed by the class."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod, sqrt
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import relu

import ganrun
from ganrun import Generator, IncompatibleError, NetworkSpec, float32_tanh, halved_shape
from ganrun_sagan.blocks import PLAIN, SPECTRAL, Norm, UpBlock, initialise
from ganrun_sagan.layout import AttentionSize, Initialisation, MapWidths, attentions
from ganrun_sagan.norms import ClassBatchNorm2d, VectorBatchNorm2d


class SnganGenerator(Generator):
    """SNGAN's residual generator, with a scale and a shift of batch norm for each class.

    A dense layer gives the first map, each residual block doubles its size, and norm, ReLU, a 3×3 convolution and tanh
    give the image. Miyato et al. 2018 (arXiv:1802.05957), appendix B; Miyato and Koyama 2018 (arXiv:1802.05637). Where
    the loss gives no labels, its norms are plain.
    """

    class Settings(ganrun.Settings):
        widths: MapWidths = (256, 256, 256, 256)
        """Channels of the first map, then of each block. The default is the paper's for 32×32, from 4×4."""

        spectral: bool = False
        """Whether every layer has spectral norm."""

        attention_size: AttentionSize = 0

        init: Initialisation = "glorot"

    settings: Settings

    residual_gain: ClassVar[float] = sqrt(2)
    """Of the convolutions in blocks, for `init = "glorot"`."""

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        classes = spec.classes if spec.labelled else 0
        self.body = Body(settings, spec, prod(spec.inputs), lambda channels: ClassBatchNorm2d(channels, classes))
        initialise(self, settings.init, self.residual_gain)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Latents `(batch, latent_size)` to images `(batch, channels, height, width)` in [-1, 1]."""
        return self.body(latents, [labels] * len(self.body.blocks))  # type: ignore[no-any-return]


class SaganGenerator(SnganGenerator):
    """SAGAN's generator: SNGAN's, with spectral norm in every layer and self-attention at one size.

    Zhang et al. 2018 (arXiv:1805.08318). Where the loss gives no labels, its norms are plain.
    """

    class Settings(SnganGenerator.Settings):
        widths: MapWidths = (256, 256, 256, 256)
        """Channels of the first map, then of each block. The default is SNGAN's for 32×32, from 4×4; the authors' for
        128×128 is [1024, 1024, 512, 256, 128, 64]."""

        spectral: bool = True
        """Whether every layer has spectral norm. Attention always has."""

        attention_size: AttentionSize = 16

    residual_gain = 1.0


class BigganGenerator(Generator):
    """BigGAN's generator: the latents enter in parts, one in the first layer and one in the norms of each block.

    Brock et al. 2018 (arXiv:1809.11096), appendix B: norms whose scale and shift are linear in the block's part and in
    a vector of the class that all blocks share; spectral norm in every layer. Where the loss gives no labels, the norms
    follow the latents alone.
    """

    class Settings(ganrun.Settings):
        widths: MapWidths = (256, 256, 256, 256)
        """Channels of the first map, then of each block. The default is the authors' for CIFAR-10, from 4×4."""

        class_size: int = Field(128, ge=1)
        """Length of the vector that is learned for each class."""

        attention_size: AttentionSize = 0

        init: Initialisation = "orthogonal"

        spectral: bool = True
        """Whether every layer has spectral norm. The norms and attention always have."""

    settings: Settings

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        self._part = _part_size(prod(spec.inputs), len(settings.widths))
        self.classes = nn.Embedding(spec.classes, settings.class_size) if spec.labelled else None
        features = self._part + (settings.class_size if spec.labelled else 0)
        self.body = Body(settings, spec, self._part, lambda channels: VectorBatchNorm2d(channels, features))
        initialise(self, settings.init, 1.0)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Latents `(batch, latent_size)` to images `(batch, channels, height, width)` in [-1, 1]."""
        first, *parts = torch.split(latents.flatten(1), self._part, dim=1)
        if self.classes is not None:
            vectors = self.classes(labels)
            parts = [torch.cat([vectors, part], dim=1) for part in parts]
        return self.body(first, parts)  # type: ignore[no-any-return]


class Body(nn.Module):
    """All layers from the first dense one to the image.

    Args:
        settings: `widths`, `spectral` and `attention_size` of the generator.
        spec: What the generator is built for.
        features: Inputs of the dense layer.
        norm: The norm of the blocks.
    """

    def __init__(
        self, settings: SnganGenerator.Settings | BigganGenerator.Settings, spec: NetworkSpec, features: int, norm: Norm
    ) -> None:
        super().__init__()
        widths, layers = settings.widths, SPECTRAL if settings.spectral else PLAIN
        advice = "use fewer widths or change the size in [data]"
        channels, height, width = halved_shape(spec.outputs, len(widths) - 1, f"{len(widths)} widths", advice)
        maps = [(each, height << doublings, width << doublings) for doublings, each in enumerate(widths)]
        self._start = maps[0]
        self.project = layers.dense(features, prod(self._start))
        self.blocks = nn.ModuleList(UpBlock(*pair, layers.conv, norm) for pair in pairwise(widths))
        self.attentions = attentions(settings.attention_size, maps[1:])
        self.norm = nn.BatchNorm2d(widths[-1])
        self.output = layers.conv(widths[-1], channels, 3, padding=1)

    def forward(self, inputs: Tensor, conditions: Sequence[Tensor | None]) -> Tensor:
        """Inputs `(batch, features)`, and what each block's norms take, to images in [-1, 1]."""
        maps = self.project(inputs).unflatten(1, self._start)
        for block, attention, condition in zip(self.blocks, self.attentions, conditions, strict=True):
            maps = attention(block(maps, condition))
        return float32_tanh(self.output(relu(self.norm(maps))))


def _part_size(latents: int, parts: int) -> int:
    """Latents of each part: one part for the first layer, one for each block.

    Raises:
        IncompatibleError: if the parts are not equal.
    """
    if latents % parts:
        raise IncompatibleError(
            f"divides its {latents} latents into {parts} equal parts, for the first layer and each block; "
            f"take a multiple of {parts} in [loss], as noise_size or latent_size"
        )
    return latents // parts
