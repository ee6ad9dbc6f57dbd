"""StyleGAN2's discriminator: residual or plain blocks that halve the size, and the minibatch's standard deviation."""

from __future__ import annotations

from itertools import pairwise
from math import sqrt

from pydantic import Field
from torch import Tensor, nn

import ganrun
from ganrun import (
    Discriminator,
    EqualizedConv2d,
    EqualizedLinear,
    MinibatchDeviation,
    NetworkSpec,
    full_precision,
)
from ganrun_stylegan2.layers import HalvingConv2d, Widths, activated, resolutions
from ganrun_stylegan2.styles import Embedding


class StyleGan2Discriminator(Discriminator):
    """StyleGAN2's residual discriminator.

    Karras et al. 2020 (arXiv:1912.04958), figure 7c; the class enters by projection, as in Karras et al. 2020 (arXiv:
    2006.06676). Images are squares of 8, 16, 32, … pixels.
    """

    class Settings(ganrun.Settings):
        residual: bool = True
        """Whether blocks have a skip. The successor's configuration for CIFAR-10 has none."""

        width: int = Field(32_768, ge=4)
        """A map of side r has width / r channels, at most widest. 16,384 at 256×256 in the successor's configuration
        paper256."""

        widest: int = Field(512, ge=1)
        """The most channels of a map."""

        group: int = Field(4, ge=1)
        """Samples whose standard deviation is taken, at most; the largest number up to it that divides the batch."""

        mapping_layers: int = Field(8, ge=1)
        """Dense layers from the class to the vector that features are compared with, if the loss gives labels."""

        mapping_lr: float = Field(0.01, gt=0)
        """Factor of these layers' learning rate."""

        clamp: float = Field(256.0, gt=0)
        """Bound on the absolute value of activations, which keeps them finite at low precision."""

    settings: Settings

    compares_samples = True

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        channels, sides = resolutions(spec.inputs)
        widths = Widths(settings.width, settings.widest)
        last = widths[4]
        self.from_image = EqualizedConv2d(channels, widths[sides[-1]], 1)
        self.blocks = nn.ModuleList(
            _Block(settings, widths[side], widths[half]) for side, half in pairwise(sides[::-1])
        )
        self.deviation = MinibatchDeviation(settings.group)
        self.conv = EqualizedConv2d(last + 1, last, 3, padding=1)
        self.dense = EqualizedLinear(last * 16, last)
        self.classes = _Classes(settings, spec, last) if spec.labelled else None
        self.out = EqualizedLinear(last, spec.out_features * (last if spec.labelled else 1))

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images `(batch, channels, side, side)` in [-1, 1] to logits `(batch, out_features)`."""
        clamp = self.settings.clamp
        maps = activated(self.from_image(images), clamp)
        for block in self.blocks:
            maps = block(maps)
        maps = activated(self.conv(self.deviation(maps)), clamp)
        with full_precision(maps):
            features: Tensor = self.out(activated(self.dense(maps.flatten(1).to(images.dtype)), clamp))
            return features if self.classes is None else self.classes(features, labels)


class _Block(nn.Module):
    """Two convolutions, the second of which halves the size; with a skip, (f(x) + s(x)) / √2."""

    def __init__(self, settings: StyleGan2Discriminator.Settings, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.first = EqualizedConv2d(fan_in, fan_in, 3, padding=1)
        self.second = HalvingConv2d(fan_in, fan_out, 3)
        self.skip = HalvingConv2d(fan_in, fan_out, 1, bias=None) if settings.residual else None
        self._clamp = settings.clamp

    def forward(self, maps: Tensor) -> Tensor:
        inner: Tensor = activated(self.first(maps), self._clamp)
        if self.skip is None:
            return activated(self.second(inner), self._clamp)
        skip: Tensor = self.skip(maps) * sqrt(0.5)
        return activated(self.second(inner), self._clamp, gain=sqrt(0.5)) + skip


class _Classes(nn.Module):
    """Σ x·c / √n: features compared with those of the class."""

    def __init__(self, settings: StyleGan2Discriminator.Settings, spec: NetworkSpec, size: int) -> None:
        super().__init__()
        self.embedding = Embedding(spec.classes, size)
        rate = settings.mapping_lr
        self.dense = nn.ModuleList(
            EqualizedLinear(size, size, lr_multiplier=rate) for _ in range(settings.mapping_layers)
        )
        self._size = size

    def forward(self, features: Tensor, labels: Tensor | None) -> Tensor:
        wanted = self.embedding(labels)
        for layer in self.dense:
            wanted = activated(layer(wanted), float("inf"))
        products: Tensor = features.view(len(features), -1, self._size) * wanted[:, None]
        return products.sum(2) / sqrt(self._size)
