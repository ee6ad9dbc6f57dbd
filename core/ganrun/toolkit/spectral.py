"""Layers with spectral normalisation (Miyato et al. 2018, arXiv:1802.05957)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear, normalize


class _Spectral(nn.Module):
    """Weights W, as a matrix of as many rows as W's first side, divided by their largest singular value.

    W / σ(W) with σ(W) ≈ uᵀWv: equation 8 and algorithm 1. Each forward makes one power iteration from the stored `u`,
    and stores the result in training mode. The power iteration is always in float32.
    """

    weight: Tensor
    u: Tensor

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.register_buffer("u", normalize(torch.randn(len(self.weight)), dim=0))

    def normalised_weight(self) -> Tensor:
        """W / σ(W), differentiable in W with u and v held fixed: equations 10 to 12."""
        with torch.autocast(self.weight.device.type, enabled=False):
            matrix = self.weight.flatten(1)
            u, v = self._power_iteration(matrix.detach())
            return self.weight / (u @ matrix @ v)

    def _power_iteration(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """v ← Wᵀu / ‖Wᵀu‖,  u ← Wv / ‖Wv‖."""
        v = normalize(matrix.T @ self.u, dim=0)
        u = normalize(matrix @ v, dim=0)
        if self.training:
            self.u.copy_(u)
        return u, v


class SpectralConv2d(_Spectral, nn.Conv2d):
    """A convolution of `torch.nn.Conv2d`'s arguments, whose weights have spectral norm 1.

    One power iteration in each forward, stored in training mode (arXiv:1802.05957, equation 8 and algorithm 1).
    """

    def forward(self, images: Tensor) -> Tensor:
        """Images `(batch, in_channels, height, width)` to maps `(batch, out_channels, …)`."""
        return self._conv_forward(images, self.normalised_weight(), self.bias)  # type: ignore[no-any-return]


class SpectralLinear(_Spectral, nn.Linear):
    """A dense layer of `torch.nn.Linear`'s arguments, whose weights have spectral norm 1, as `SpectralConv2d`'s."""

    def forward(self, inputs: Tensor) -> Tensor:
        """`(…, in_features)` to `(…, out_features)`."""
        return linear(inputs, self.normalised_weight(), self.bias)


class SpectralEmbedding(_Spectral, nn.Embedding):
    """A table of `torch.nn.Embedding`'s arguments with spectral norm 1, as `SpectralConv2d`'s weights."""

    def forward(self, indices: Tensor) -> Tensor:
        """int64 indices `(…)` to `(…, embedding_dim)`."""
        return embedding(indices, self.normalised_weight(), self.padding_idx)
