"""Layers by which a discriminator compares the samples of a batch."""

from __future__ import annotations

from math import prod
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

EPSILON = 1e-8
"""Keeps the square root's gradient finite."""

GROUP = 4
"""Samples whose deviation is one number, as in progressive growing."""

MinibatchComparison = Annotated[
    Literal["none", "deviation", "discrimination"],
    Field(
        description="How the last layer compares a sample with others of its batch, to detect a generator that "
        "repeats one sample. deviation: one number for each group of 4 samples, how much they "
        "differ (arXiv:1710.10196, section 3). discrimination: 100 learned measures of how near a sample is to the "
        "others (arXiv:1606.03498, section 3.2)."
    ),
]
"""The type of a discriminator's setting for `minibatch_layers`, with its help text: `minibatch: MinibatchComparison =
"none"`."""


def minibatch_layers(
    comparison: MinibatchComparison, shape: tuple[int, ...]
) -> tuple[list[nn.Module], tuple[int, ...]]:
    """The layers of a comparison, for before a discriminator's last layer, and the shape of what they return.

    Args:
        comparison: For none, there are no layers.
        shape: Of the features of a sample: `(features,)`, or (channels, height, width), which discrimination flattens.
    """
    if comparison == "none":
        return [], shape
    if comparison == "deviation":
        return [MinibatchDeviation(GROUP)], (shape[0] + 1, *shape[1:])
    layer = MinibatchDiscrimination(prod(shape))
    return [nn.Flatten(), layer] if len(shape) > 1 else [layer], (layer.features,)


class MinibatchDeviation(nn.Module):
    """Appends a channel: how much samples of a group differ (Karras et al. 2018, arXiv:1710.10196, section 3).

    The population standard deviation over the group, averaged over all features and pixels, so that one number belongs
    to each group. In evaluation it is the running mean of these numbers, so that no output depends on other samples.

    Args:
        group: Samples per group; if it does not divide the batch, groups are smaller.
    """

    mean: Tensor

    def __init__(self, group: int) -> None:
        super().__init__()
        self._group = group
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, maps: Tensor) -> Tensor:
        """`(batch, channels, …)` to `(batch, channels + 1, …)`: maps, or vectors. Of m groups, sample i is in group i
        mod m."""
        size, _, *sides = maps.shape
        found = self._of_groups(maps) if self.training else self.mean.expand(size)
        plane = found.to(maps.dtype).view(-1, 1, *(1 for _ in sides)).expand(-1, 1, *sides)
        return torch.cat([maps, plane], dim=1)

    def _of_groups(self, maps: Tensor) -> Tensor:
        """One number for each sample, `(batch,)`."""
        size = len(maps)
        group = max(count for count in range(1, min(self._group, size) + 1) if size % count == 0)
        groups = maps.to(self.mean.dtype).reshape(group, size // group, *maps.shape[1:])
        variance = (groups - groups.mean(0)).square().mean(0)
        found: Tensor = (variance + EPSILON).sqrt().mean(tuple(range(1, maps.dim())))
        self.mean.lerp_(found.detach().mean(), 0.01)
        return found.repeat(group)


class MinibatchDiscrimination(nn.Module):
    """Appends features: how near a sample is to all samples of its batch, by learned measures (Salimans et al. 2016,
    arXiv:1606.03498, section 3.2).

    M_i = f(x_i) T, a matrix of B rows; o(x_i)_b = Σ_j exp(−‖M_ib − M_jb‖₁), over all samples j, i among them. In
    evaluation, each measure is the running mean of its values, so that no output depends on other samples. The memory
    that it takes grows with the square of the batch: B · C numbers for each pair.

    T starts from N(0, 1 / features), so that entries of M are as large as the features.

    Args:
        features: A, features of a sample.
        measures: B, the rows of M.
        length: C, numbers in a row.
    """

    mean: Tensor

    def __init__(self, features: int, measures: int = 100, length: int = 5) -> None:
        super().__init__()
        self.tensor = nn.Parameter(torch.randn(features, measures, length) / features**0.5)
        self.register_buffer("mean", torch.zeros(measures))
        self.features = features + measures
        """Features that `forward` returns."""

    def forward(self, features: Tensor) -> Tensor:
        """`(batch, features)` to `(batch, features + measures)`."""
        found = self._measured(features) if self.training else self.mean.expand(len(features), -1)
        return torch.cat([features, found.to(features.dtype)], dim=1)

    def _measured(self, features: Tensor) -> Tensor:
        """o(x_i) of each sample, `(batch, measures)`."""
        rows = (features @ self.tensor.flatten(1)).view(-1, *self.tensor.shape[1:]).to(self.mean.dtype)
        found: Tensor = torch.exp(-(rows[:, None] - rows[None]).abs().sum(-1)).sum(1)
        self.mean.lerp_(found.detach().mean(0), 0.01)
        return found
