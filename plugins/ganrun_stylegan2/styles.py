"""The common part of style-based generators: a network from latents to styles w, and the mean style."""

from __future__ import annotations

from itertools import pairwise

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import one_hot

import ganrun
from ganrun import ContractError, EqualizedLinear, Generator, NetworkSpec, full_precision, pixel_norm
from ganrun_stylegan2.layers import Widths, activated, resolutions


class StyleSettings(ganrun.Settings):
    """Settings of every style-based generator."""

    style_size: int = Field(512, ge=1)
    """Length of a style w."""

    mapping_layers: int = Field(8, ge=1)
    """Dense layers from the latents to w; 8 in the papers, 2 in StyleGAN2-ADA's configuration for CIFAR-10."""

    mapping_lr: float = Field(0.01, gt=0)
    """Factor of the mapping network's learning rate."""

    width: int = Field(32_768, ge=4)
    """A map of side r has width / r channels, at most widest."""

    widest: int = Field(512, ge=1)
    """The most channels of a map."""

    style_decay: float = Field(0.995, ge=0, lt=1)
    """Decay of the mean style w̄ per call; truncation needs w̄."""


class StyleGenerator(Generator):
    """Latents to styles, and styles to images; the second part is the subclass's `synthesis`."""

    settings: StyleSettings

    style_mean: Tensor

    def __init__(self, settings: StyleSettings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        self.channels, self.sides = resolutions(spec.outputs)
        self.widths = Widths(settings.width, settings.widest)
        self.styles = _Mapping(settings, spec)
        self.register_buffer("style_mean", torch.zeros(settings.style_size))

    @property
    def layers(self) -> int:
        """Styles that `synthesis` takes: two for each resolution."""
        return 2 * len(self.sides)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Latents `(batch, n)` to images `(batch, channels, side, side)`, in [-1, 1] in evaluation."""
        images: Tensor = self.synthesis(self.mapping(latents, labels))
        return images if self.training else images.clamp(-1, 1)

    def mapping(self, latents: Tensor, labels: Tensor | None = None, *, remembered: bool = True) -> Tensor:
        """Latents `(batch, n)` to one style for each layer, all the same: `(batch, layers, style_size)`.

        Args:
            latents: z.
            labels: int64 `(batch,)`, where the network is built for labels.
            remembered: Whether the mean style follows, in training.
        """
        with full_precision(latents):
            styles: Tensor = self.styles(latents, labels)
        if self.training and remembered:
            self.style_mean.lerp_(styles.detach().mean(0), 1 - self.settings.style_decay)
        return styles[:, None].expand(-1, self.layers, -1)

    def synthesis(self, styles: Tensor) -> Tensor:
        """Styles `(batch, layers, style_size)` to images `(batch, channels, side, side)`, not bounded."""
        raise NotImplementedError


class _Mapping(nn.Module):
    """z, and the class, to w: both scaled to unit second moment, then dense layers."""

    def __init__(self, settings: StyleSettings, spec: NetworkSpec) -> None:
        super().__init__()
        (latents,) = spec.inputs
        size, rate = settings.style_size, settings.mapping_lr
        self.embedding = Embedding(spec.classes, size) if spec.labelled else None
        sizes = [latents + (size if spec.labelled else 0)] + [size] * settings.mapping_layers
        self.dense = nn.ModuleList(EqualizedLinear(*pair, lr_multiplier=rate) for pair in pairwise(sizes))
        self._clamp = float("inf")

    def forward(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        values = pixel_norm(latents)
        if self.embedding is not None:
            values = torch.cat([values, self.embedding(labels)], dim=1)
        for layer in self.dense:
            values = activated(layer(values), self._clamp)
        return values


class Embedding(nn.Module):
    """A vector for each class, of unit second moment.

    Args:
        classes: Number of classes.
        size: Length of a vector.
    """

    def __init__(self, classes: int, size: int) -> None:
        super().__init__()
        self.classes = classes
        self.dense = EqualizedLinear(classes, size)

    def forward(self, labels: Tensor | None) -> Tensor:
        """Labels `(batch,)` to vectors `(batch, size)`.

        Raises:
            ContractError: if there are none.
        """
        if labels is None:
            raise ContractError("the network is built for labels, but the loss calls it without them")
        return pixel_norm(self.dense(one_hot(labels, self.classes).to(self.dense.weight.dtype)))
