"""The layers of networks that depend on a time: its embedding, residual blocks, and self-attention."""

from __future__ import annotations

from collections.abc import Callable
from math import gcd, log
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

from ganrun import IncompatibleError, NetworkSpec

L = TypeVar("L", nn.Conv2d, nn.Linear)

TIME_UNITS = 1000
"""Factor of time in [0, 1]: sinusoids were designed for integer positions."""

LONGEST = 10_000
"""Period of the slowest sinusoid over that of the fastest."""


class TimeEmbedding(nn.Module):
    """Vectors of time, and of classes if there are any: sinusoids, and two dense layers with SiLU after each.

    Args:
        spec: With the condition `time` and, maybe, `classes`.
        sinusoids: How many, even.
        features: Length of a vector.
    """

    def __init__(self, spec: NetworkSpec, sinusoids: int, features: int) -> None:
        super().__init__()
        if spec.conditions.get("time") != ():
            raise IncompatibleError("takes the time of its input, and this loss has none")
        self._sinusoids = sinusoids
        self.first = nn.Linear(sinusoids, features)
        classes = sum(spec.conditions.get("classes", ()))
        self.classes = nn.Linear(classes, features, bias=False) if classes else None
        self.second = nn.Linear(features, features)

    def forward(self, time: Tensor, classes: Tensor | None = None) -> Tensor:
        """Times `(batch,)` in [0, 1], and classes `(batch, n)`, one-hot or 0, to vectors `(batch, features)`."""
        vectors = self.first(sinusoids_of(TIME_UNITS * time, self._sinusoids))
        if self.classes is not None:
            vectors = vectors + self.classes(classes)
        return silu(self.second(silu(vectors)))


def sinusoids_of(positions: Tensor, count: int) -> Tensor:
    """cos(ω p) and sin(ω p) for count / 2 frequencies ω from 1 down to 1 / 10,000: `(batch, count)`.

    Vaswani et al. 2017 (arXiv:1706.03762), section 3.5, with the cosines first.
    """
    half = count // 2
    shares = torch.arange(half, device=positions.device, dtype=positions.dtype) / max(half - 1, 1)
    angles = positions[:, None] * torch.exp(-log(LONGEST) * shares)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class Block(nn.Module):
    """x + f(x, e), f two 3×3 convolutions behind group norm and SiLU, where the embedding e scales and shifts the
    second norm (Dhariwal and Nichol 2021, arXiv:2105.05233, section 3.1). f is 0 at first.

    Args:
        fan_in: Channels of x; a 1×1 convolution adjusts them if they differ from the width.
        width: Channels of the result.
        features: Length of e.
        dropout: Share of the inner features that is dropped in training.
        attends: Whether self-attention follows.
    """

    def __init__(self, fan_in: int, width: int, features: int, dropout: float, attends: bool) -> None:
        super().__init__()
        self.norms = nn.ModuleList((group_norm(fan_in), group_norm(width)))
        self.first = nn.Conv2d(fan_in, width, 3, padding=1)
        self.modulation = nn.Linear(features, 2 * width)
        self.dropout = nn.Dropout(dropout)
        self.second = zeroed(nn.Conv2d(width, width, 3, padding=1))
        self.skip = nn.Identity() if fan_in == width else nn.Conv2d(fan_in, width, 1)
        self.attention = SelfAttention(width) if attends else nn.Identity()

    def forward(self, maps: Tensor, embedding: Tensor) -> Tensor:
        """Maps `(batch, fan_in, height, width)` and embeddings `(batch, features)` to maps of `width` channels."""
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        inner = self.norms[1](self.first(silu(self.norms[0](maps)))) * (1 + scale) + shift
        return self.attention(self.skip(maps) + self.second(self.dropout(silu(inner))))  # type: ignore[no-any-return]


class Stage(nn.Module):
    """The blocks of one size, one after the other.

    Args:
        fan_in: Channels of the maps that enter.
        width: Channels within.
        skipped: Channels of the maps that each block takes besides; 0 for none.
        count: Number of blocks.
        block: Makes a block of its fan-in and width.
    """

    def __init__(self, fan_in: int, width: int, skipped: int, count: int, block: Callable[[int, int], Block]) -> None:
        super().__init__()
        fan_ins = (fan_in, *[width] * (count - 1))
        self.blocks = nn.ModuleList(block(each + skipped, width) for each in fan_ins)

    def forward(self, maps: Tensor, embedding: Tensor, skips: list[Tensor] | None = None) -> list[Tensor]:
        """The maps after each block. Each block removes the last of the skips, and concatenates it to its input."""
        found = []
        for block in self.blocks:
            maps = block(maps if skips is None else torch.cat([maps, skips.pop()], dim=1), embedding)
            found.append(maps)
        return found


class SelfAttention(nn.Module):
    """x + W softmax(qᵀk / √C) v over all places of a map, behind group norm; W is 0 at first.

    With one head, as in DDPM (Ho et al. 2020, arXiv:2006.11239, appendix B).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = group_norm(width)
        self.inputs = nn.Conv2d(width, 3 * width, 1)
        self.output = zeroed(nn.Conv2d(width, width, 1))

    def forward(self, maps: Tensor) -> Tensor:
        """Maps to maps of the same shape."""
        queries, keys, values = self.inputs(self.norm(maps)).flatten(2).transpose(1, 2).chunk(3, dim=2)
        found = scaled_dot_product_attention(queries, keys, values)
        return maps + self.output(found.transpose(1, 2).reshape(maps.shape))  # type: ignore[no-any-return]


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm of 32 groups or, where channels are few, of groups of at least 4 channels."""
    return nn.GroupNorm(gcd(32, max(1, channels // 4)), channels)


def zeroed(layer: L) -> L:
    """The layer, with weights and biases of 0."""
    for each in layer.parameters():
        nn.init.zeros_(each)
    return layer
