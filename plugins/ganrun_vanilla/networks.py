"""Dense and simple convolutional networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import prod
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

import ganrun
from ganrun import Discriminator, Generator, MisfitError, Problem

LEAK = 0.2
"""Slope of leaky ReLU for negative inputs, as in DCGAN (arXiv:1511.06434)."""


class MlpGenerator(Generator):
    """Dense layers from latents to samples of any shape.

    Leaky ReLU between the layers, tanh at the end.
    """

    class Settings(ganrun.Settings):
        hidden: tuple[int, ...] = (256, 512)
        """Units of the hidden layers, from the latents up."""

        norm: Literal["none", "batch"] = "none"
        """Batch norm after each hidden layer, or none."""

    def __init__(self, settings: Settings, problem: Problem) -> None:
        super().__init__(settings, problem)
        sizes = _checked((problem.latent_size, *settings.hidden, prod(problem.sample_shape)))
        self.layers = nn.Sequential(*_dense(sizes, settings.norm == "batch"), nn.Tanh())

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Latents `(batch, latent_size)` to samples `(batch, *sample_shape)` in [-1, 1]."""
        return self.layers(latents).unflatten(1, self.problem.sample_shape)  # type: ignore[no-any-return]


class MlpDiscriminator(Discriminator):
    """Dense layers from samples of any shape to one vector each.

    Leaky ReLU between the layers, and no norm: real and generated batches differ in their statistics.
    """

    class Settings(ganrun.Settings):
        hidden: tuple[int, ...] = (512, 256)
        """Units of the hidden layers, from the image up."""

        dropout: float = Field(0.0, ge=0, lt=1)
        """Share of the hidden units that are dropped in training."""

    def __init__(self, settings: Settings, problem: Problem) -> None:
        super().__init__(settings, problem)
        sizes = _checked((prod(problem.sample_shape), *settings.hidden, problem.out_features))
        self.layers = nn.Sequential(nn.Flatten(), *_dense(sizes, False, settings.dropout))

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images `(batch, *sample_shape)` to logits `(batch, out_features)`."""
        return self.layers(images)  # type: ignore[no-any-return]


class ConvGenerator(Generator):
    """Transposed convolutions that double the size, from a small dense map to the image.

    Each stage: transposed convolution 4×4 of stride 2, batch norm, ReLU; tanh at the end. Weights start at
    N(0, 0.02) as in DCGAN (arXiv:1511.06434, section 4). Takes any height and width that 2 ** stages divides.
    """

    class Settings(ganrun.Settings):
        feature_maps: int = Field(32, ge=1)
        """Channels of the last hidden layer; each stage before it has twice as many."""

        stages: int = Field(3, ge=1)
        """How often the size is doubled: 3 takes 4×4 to 32×32."""

    def __init__(self, settings: Settings, problem: Problem) -> None:
        super().__init__(settings, problem)
        channels, height, width = _divisible(problem, settings.stages)
        start = (settings.feature_maps << (settings.stages - 1), height, width)
        widths = [settings.feature_maps << k for k in reversed(range(settings.stages))]
        self.layers = nn.Sequential(
            nn.Linear(problem.latent_size, prod(start), bias=False),
            nn.Unflatten(1, start),
            nn.BatchNorm2d(start[0]),
            nn.ReLU(),
            *_doubling(widths),
            nn.ConvTranspose2d(widths[-1], channels, 4, stride=2, padding=1),
            nn.Tanh(),
        )
        self.apply(_dcgan_weights)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Latents `(batch, latent_size)` to images `(batch, channels, height, width)` in [-1, 1]."""
        return self.layers(latents)  # type: ignore[no-any-return]


class ConvDiscriminator(Discriminator):
    """Convolutions that halve the size, then one dense layer.

    Each stage: convolution 4×4 of stride 2, batch norm (not in the first), leaky ReLU. The mirror image of the
    generator `conv`.
    """

    class Settings(ganrun.Settings):
        feature_maps: int = Field(32, ge=1)
        """Channels of the first layer; each stage after it has twice as many."""

        stages: int = Field(3, ge=1)
        """How often the size is halved."""

        norm: Literal["none", "batch"] = "batch"
        """Batch norm after every convolution but the first, or none."""

    def __init__(self, settings: Settings, problem: Problem) -> None:
        super().__init__(settings, problem)
        channels, height, width = _divisible(problem, settings.stages)
        widths = [channels, *(settings.feature_maps << k for k in range(settings.stages))]
        self.layers = nn.Sequential(
            *_halving(widths, settings.norm == "batch"),
            nn.Flatten(),
            nn.Linear(widths[-1] * height * width, problem.out_features),
        )
        self.apply(_dcgan_weights)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images `(batch, channels, height, width)` to logits `(batch, out_features)`."""
        return self.layers(images)  # type: ignore[no-any-return]


def _dense(sizes: Sequence[int], batch_norm: bool, dropout: float = 0.0) -> Iterator[nn.Module]:
    """Dense layers with leaky ReLU between them; the last one is bare."""
    for fan_in, fan_out in pairwise(sizes[:-1]):
        yield nn.Linear(fan_in, fan_out, bias=not batch_norm)
        if batch_norm:
            yield nn.BatchNorm1d(fan_out)
        yield nn.LeakyReLU(LEAK)
        if dropout:
            yield nn.Dropout(dropout)
    yield nn.Linear(sizes[-2], sizes[-1])


def _doubling(widths: Sequence[int]) -> Iterator[nn.Module]:
    for fan_in, fan_out in pairwise(widths):
        yield nn.ConvTranspose2d(fan_in, fan_out, 4, stride=2, padding=1, bias=False)
        yield nn.BatchNorm2d(fan_out)
        yield nn.ReLU()


def _halving(widths: Sequence[int], batch_norm: bool) -> Iterator[nn.Module]:
    for index, (fan_in, fan_out) in enumerate(pairwise(widths)):
        normed = batch_norm and index > 0
        yield nn.Conv2d(fan_in, fan_out, 4, stride=2, padding=1, bias=not normed)
        if normed:
            yield nn.BatchNorm2d(fan_out)
        yield nn.LeakyReLU(LEAK)


def _dcgan_weights(module: nn.Module) -> None:
    """Weights N(0, 0.02), batch norm's scale N(1, 0.02), biases 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
    if isinstance(module.__dict__.get("_parameters", {}).get("bias"), nn.Parameter):
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]


def _divisible(problem: Problem, stages: int) -> tuple[int, int, int]:
    """(channels, height / 2 ** stages, width / 2 ** stages).

    Raises:
        MisfitError: if they are no whole numbers.
    """
    channels, height, width = problem.image_shape
    factor = 2**stages
    if height % factor or width % factor:
        raise MisfitError(f"with stages = {stages} it takes sizes divisible by {factor}, not {height}×{width}")
    return channels, height // factor, width // factor


def _checked(sizes: tuple[int, ...]) -> tuple[int, ...]:
    if min(sizes) < 1:
        raise MisfitError(f"layers need at least 1 unit, not {min(sizes)}")
    return sizes
