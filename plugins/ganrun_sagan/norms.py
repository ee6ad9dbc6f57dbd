"""Batch norms whose scale and shift depend on a condition: the class, or BigGAN's vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from ganrun import ContractError, SpectralLinear


class ClassBatchNorm2d(nn.Module):
    """Batch norm with a scale and a shift for each class; without classes, plain batch norm.

    Conditional batch norm (Dumoulin et al. 2016, arXiv:1610.07629; for GANs, Miyato and Koyama 2018,
    arXiv:1802.05637): the statistics are those of the whole batch. Scales start at 1, shifts at 0.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=not classes)
        self.scale = nn.Parameter(torch.ones(classes, channels)) if classes else None
        self.shift = nn.Parameter(torch.zeros(classes, channels)) if classes else None

    def forward(self, maps: Tensor, labels: Tensor | None) -> Tensor:
        """Maps `(batch, channels, height, width)` with int64 labels `(batch,)`.

        Raises:
            ContractError: if there are classes and no labels.
        """
        normed: Tensor = self.norm(maps)
        if self.scale is None or self.shift is None:
            return normed
        if labels is None:
            raise ContractError("the network is built for labels, but the loss calls it without them")
        return _changed(normed, embedding(labels, self.scale), embedding(labels, self.shift))


class VectorBatchNorm2d(nn.Module):
    """BigGAN's: scale and shift are linear in a vector (Brock et al. 2018, arXiv:1809.11096, appendix B).

    The scale is 1 + a spectrally normalised linear map without bias, the shift another such map.
    """

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.scale = SpectralLinear(features, channels, bias=False)
        self.shift = SpectralLinear(features, channels, bias=False)

    def forward(self, maps: Tensor, condition: Tensor) -> Tensor:
        """Maps `(batch, channels, height, width)` with conditions `(batch, features)`."""
        return _changed(self.norm(maps), 1 + self.scale(condition), self.shift(condition))


def _changed(maps: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return maps * scale[:, :, None, None].to(maps.dtype) + shift[:, :, None, None].to(maps.dtype)
