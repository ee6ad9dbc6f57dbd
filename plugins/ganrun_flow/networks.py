"""Networks that map a sample and a time to a sample: a U-Net of images, and dense layers."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from math import prod
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, silu

import ganrun
from ganrun import IncompatibleError, Network, NetworkSpec, image_shape
from ganrun_flow.layers import Block, Stage, TimeEmbedding, group_norm, zeroed

Width = Annotated[int, Field(ge=1)]
Widths = Annotated[tuple[Width, ...], Field(min_length=1)]

SINUSOIDS = 64
"""Of the time of a dense network."""


class TimeUNet(Network):
    """A U-Net of images and a time: residual blocks at sizes that halve and double, joined across by concatenation.

    After DDPM's (Ho et al. 2020, arXiv:2006.11239, appendix B), smaller: as many blocks upwards as downwards, and
    resampling by means and by copies of pixels. Takes images of any size that can be halved that often, and `classes`
    if the loss has them. Its initial output is 0.
    """

    class Settings(ganrun.Settings):
        widths: Widths = (64, 128, 128)
        """Channels of the maps, from the largest down. Each further one halves height and width."""

        blocks: int = Field(1, ge=1)
        """Residual blocks at each size on the way down, as many in the middle, and at each size on the way up."""

        attention: int = Field(8, ge=0)
        """Greatest height of maps with self-attention after each of their blocks; 0 for no attention."""

        dropout: float = Field(0.0, ge=0, lt=1)
        """Share of the features within a block that is dropped in training."""

    settings: Settings

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        heights, widths = self._heights(), settings.widths
        features, lowest = 4 * widths[0], len(widths) - 1
        self.embedding = TimeEmbedding(spec, 2 * widths[0], features)

        def stage(level: int, fan_in: int, skipped: int = 0) -> Stage:
            attends = heights[level] <= settings.attention
            block = partial(Block, features=features, dropout=settings.dropout, attends=attends)
            return Stage(fan_in, widths[level], skipped, settings.blocks, block)

        self.first = nn.Conv2d(spec.inputs[0], widths[0], 3, padding=1)
        self.down = nn.ModuleList(stage(level, widths[max(level - 1, 0)]) for level in range(lowest + 1))
        self.middle = stage(lowest, widths[lowest])
        self.up = nn.ModuleList(
            stage(level, widths[min(level + 1, lowest)], widths[level]) for level in range(lowest, -1, -1)
        )
        last = nn.Conv2d(widths[0], spec.out_features, 3, padding=1)
        self.last = nn.Sequential(group_norm(widths[0]), nn.SiLU(), zeroed(last))

    def forward(self, images: Tensor, time: Tensor, classes: Tensor | None = None) -> Tensor:
        """Images `(batch, channels, height, width)`, times `(batch,)` in [0, 1], and classes `(batch, n)`, one-hot or
        0, to images `(batch, *spec.outputs)`."""
        embedding = self.embedding(time, classes)
        maps = self.first(images)
        skips: list[Tensor] = []
        for number, stage in enumerate(self.down):
            skips += stage(avg_pool2d(maps, 2) if number else maps, embedding)
            maps = skips[-1]
        maps = self.middle(maps, embedding)[-1]
        for number, stage in enumerate(self.up):
            maps = stage(interpolate(maps, scale_factor=2.0) if number else maps, embedding, skips)[-1]
        return self.last(maps).float()  # type: ignore[no-any-return]

    def _heights(self) -> list[int]:
        """Of the maps, from the largest down.

        Raises:
            IncompatibleError: if the images do not halve that often, or what is expected has another size.
        """
        own, (_, height, width) = self.settings, image_shape(self.spec.inputs)
        if self.spec.output_shape[1:] != (height, width):
            raise IncompatibleError(f"makes images of the size of its input, {height}×{width}")
        divisor = 2 ** (len(own.widths) - 1)
        if height % divisor or width % divisor:
            found = f"with {len(own.widths)} widths it takes sizes divisible by {divisor}, not {height}×{width}"
            raise IncompatibleError(f"{found}; take fewer widths, or another size in [data]")
        return [height // 2**level for level in range(len(own.widths))]


class TimeMlp(Network):
    """Dense layers from a sample of any shape, and a time, to a sample; SiLU between them. Its initial output is 0."""

    class Settings(ganrun.Settings):
        hidden: Widths = (256, 256, 256)
        """Units of the hidden layers."""

    settings: Settings

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        hidden = settings.hidden
        self.embedding = TimeEmbedding(spec, SINUSOIDS, hidden[0])
        self.first = nn.Linear(prod(spec.inputs), hidden[0])
        self.further = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(hidden))
        self.last = zeroed(nn.Linear(hidden[-1], prod(spec.output_shape)))

    def forward(self, samples: Tensor, time: Tensor, classes: Tensor | None = None) -> Tensor:
        """Samples `(batch, *spec.inputs)`, times `(batch,)` in [0, 1], and classes `(batch, n)`, one-hot or 0, to
        samples `(batch, *spec.outputs)`."""
        hidden = silu(self.first(samples.flatten(1)) + self.embedding(time, classes))
        for layer in self.further:
            hidden = silu(layer(hidden))
        return self.last(hidden).float().unflatten(1, self.spec.output_shape)  # type: ignore[no-any-return]
