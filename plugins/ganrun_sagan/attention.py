"""Self-attention over the places of a map (Zhang et al. 2018, arXiv:1805.08318)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from ganrun import IncompatibleError, SpectralConv2d


class SelfAttention(nn.Module):
    """The authors' attention block, which is not the one in their text: x + γ · W_o (softmax(θᵀφ) g).

    θ and φ have C/8 channels, g has C/2. φ and g are max-pooled 2×2, so each place asks a quarter of the places. The
    softmax is over those, and its arguments are not divided by √(C/8). All four 1×1 convolutions are spectrally
    normalised and have no bias. γ is one number, which starts at 0: the block starts as the identity.

    Args:
        shape: Of its maps: (channels, height, width).
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = shape
        if channels % 8:
            raise IncompatibleError(f"attention takes maps of 8, 16, 24, … channels, not of {channels}; change widths")
        if height % 2 or width % 2:
            raise IncompatibleError(f"attention halves its map, which is {height}×{width}; change attention_size")
        self.theta = SpectralConv2d(channels, channels // 8, 1, bias=False)
        self.phi = SpectralConv2d(channels, channels // 8, 1, bias=False)
        self.g = SpectralConv2d(channels, channels // 2, 1, bias=False)
        self.output = SpectralConv2d(channels // 2, channels, 1, bias=False)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, maps: Tensor) -> Tensor:
        """Maps `(batch, channels, height, width)` to the same shape."""
        queries = self.theta(maps).flatten(2)
        keys, values = max_pool2d(self.phi(maps), 2).flatten(2), max_pool2d(self.g(maps), 2).flatten(2)
        weights = (queries.transpose(1, 2) @ keys).softmax(dim=2)
        found = (values @ weights.transpose(1, 2)).unflatten(2, maps.shape[2:])
        return maps + self.gain * self.output(found)  # type: ignore[no-any-return]
