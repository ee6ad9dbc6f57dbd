"""Dense and simple convolutional networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import ceil, prod
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

import ganrun
from ganrun import (
    Discriminator,
    Generator,
    ImageConditioning,
    IncompatibleError,
    LabelledImages,
    LabelledLatents,
    LatentConditioning,
    NetworkSpec,
    dcgan_init,
    float32_tanh,
    halved_shape,
    image_shape,
)

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

        labels: LatentConditioning = "concatenation"

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        self.inputs = LabelledLatents(spec, settings.labels)
        sizes = _checked((self.inputs.features, *settings.hidden, prod(spec.output_shape)))
        self.layers = nn.Sequential(*_dense(sizes, settings.norm == "batch"))

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Latents `(batch, latent_size)` to samples `(batch, *spec.outputs)` in [-1, 1]."""
        samples = float32_tanh(self.layers(self.inputs(latents, labels)))
        return samples.unflatten(1, self.spec.output_shape)  # type: ignore[no-any-return,no-untyped-call]


class MlpDiscriminator(Discriminator):
    """Dense layers from samples of any shape to one vector each.

    Leaky ReLU between the layers, and no norm: real and generated batches differ in their statistics.
    """

    class Settings(ganrun.Settings):
        hidden: tuple[int, ...] = (512, 256)
        """Units of the hidden layers, from the image up."""

        dropout: float = Field(0.0, ge=0, lt=1)
        """Fraction of the hidden units dropped in training."""

        labels: LatentConditioning = "concatenation"

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        self.inputs = LabelledLatents(spec, settings.labels)
        sizes = _checked((self.inputs.features, *settings.hidden, spec.out_features))
        self.layers = nn.Sequential(*_dense(sizes, False, settings.dropout))

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images `(batch, *spec.inputs)` to logits `(batch, out_features)`."""
        return self.layers(self.inputs(images.flatten(1), labels))  # type: ignore[no-any-return]


class ConvGenerator(Generator):
    """Transposed convolutions that double the size, from a small dense map to the image.

    Each stage: transposed convolution of stride 2, batch norm, ReLU; tanh at the end. Weights start at N(0, 0.02) as in
    DCGAN (arXiv:1511.06434, section 4). Takes any height and width that 2 ** stages divides.
    """

    class Settings(ganrun.Settings):
        feature_maps: int = Field(32, ge=1)
        """Channels of the last hidden layer; each one before it has twice as many."""

        stages: int = Field(3, ge=1)
        """Number of doublings of the size: 3 for 4×4 to 32×32."""

        kernel_size: Literal[3, 4, 5] = 4
        """Side of the doubling kernels. With an odd side some pixels are sums of more terms than their neighbours, a
        chequered pattern that training has to undo; with 4 all are sums of equally many."""

        output: Literal["doubling", "convolution"] = "doubling"
        """The last layer. doubling: the last stage's transposed convolution gives the image. convolution: all stages
        are hidden, and a 3×3 convolution of stride 1 turns the last map, as large as the image, into its channels."""

        labels: LatentConditioning = "concatenation"

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        channels, height, width = halved_shape(spec.outputs, settings.stages, f"stages = {settings.stages}")
        hidden = settings.stages + (settings.output == "convolution")
        widths = [settings.feature_maps << k for k in reversed(range(hidden))]
        start = (widths[0], height, width)
        self.inputs = LabelledLatents(spec, settings.labels)
        self.layers = nn.Sequential(
            nn.Linear(self.inputs.features, prod(start), bias=False),
            nn.Unflatten(1, start),
            nn.BatchNorm2d(start[0]),
            nn.ReLU(),
            *_doubling(widths, settings.kernel_size),
            _output(settings, widths[-1], channels),
        )
        self.apply(dcgan_init)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Latents `(batch, latent_size)` to images `(batch, channels, height, width)` in [-1, 1]."""
        return float32_tanh(self.layers(self.inputs(latents, labels)))


class ConvDiscriminator(Discriminator):
    """Convolutions that halve the size, then one dense layer.

    Each stage: convolution of stride 2, batch norm (not in the first), leaky ReLU, dropout. The mirror image of the
    generator `conv`, and usable as an encoder.
    """

    class Settings(ganrun.Settings):
        feature_maps: int = Field(32, ge=1)
        """Channels of the first layer; each stage after it has twice as many."""

        stages: int = Field(3, ge=1)
        """Number of halvings of the size."""

        kernel_size: Literal[3, 4, 5] = 4
        """Side of the kernels. 4 takes heights and widths that 2 ** stages divides. 3 and 5 take any, and round halves
        up: 28, 14, 7, 4."""

        norm: Literal["none", "batch"] = "batch"
        """Batch norm after every convolution but the first, or none."""

        dropout: float = Field(0.0, ge=0, lt=1)
        """Fraction of each stage's outputs dropped in training."""

        labels: ImageConditioning = "concatenation"

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        height, width = _smallest_map(spec, settings.stages, settings.kernel_size)
        self.inputs = LabelledImages(spec, settings.labels)
        widths = [self.inputs.shape[0], *(settings.feature_maps << k for k in range(settings.stages))]
        self.layers = nn.Sequential(
            *_halving(widths, settings.kernel_size, settings.norm == "batch", settings.dropout),
            nn.Flatten(),
            nn.Linear(widths[-1] * height * width, spec.out_features),
        )
        self.apply(dcgan_init)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images `(batch, channels, height, width)` to logits `(batch, out_features)`."""
        return self.layers(self.inputs(images, labels))  # type: ignore[no-any-return]


def _dense(sizes: Sequence[int], batch_norm: bool, dropout: float = 0.0) -> Iterator[nn.Module]:
    """Dense layers with leaky ReLU between them; nothing follows the last."""
    for fan_in, fan_out in pairwise(sizes[:-1]):
        yield nn.Linear(fan_in, fan_out, bias=not batch_norm)
        if batch_norm:
            yield nn.BatchNorm1d(fan_out)
        yield nn.LeakyReLU(LEAK)
        if dropout:
            yield nn.Dropout(dropout)
    yield nn.Linear(sizes[-2], sizes[-1])


def _doubling(widths: Sequence[int], kernel_size: int) -> Iterator[nn.Module]:
    for fan_in, fan_out in pairwise(widths):
        yield _doubler(fan_in, fan_out, kernel_size, bias=False)
        yield nn.BatchNorm2d(fan_out)
        yield nn.ReLU()


def _output(settings: ConvGenerator.Settings, fan_in: int, channels: int) -> nn.Module:
    if settings.output == "convolution":
        return nn.Conv2d(fan_in, channels, 3, padding=1)
    return _doubler(fan_in, channels, settings.kernel_size)


def _doubler(fan_in: int, fan_out: int, kernel_size: int, bias: bool = True) -> nn.ConvTranspose2d:
    """A transposed convolution from size n to 2n: 2(n − 1) − 2 · padding + kernel_size + output_padding."""
    padding, output_padding = (kernel_size - 1) // 2, kernel_size % 2
    return nn.ConvTranspose2d(fan_in, fan_out, kernel_size, 2, padding, output_padding, bias=bias)


def _halving(widths: Sequence[int], kernel_size: int, batch_norm: bool, dropout: float) -> Iterator[nn.Module]:
    """Convolutions from size n to n/2, which an odd kernel rounds up."""
    for index, (fan_in, fan_out) in enumerate(pairwise(widths)):
        normed = batch_norm and index > 0
        yield nn.Conv2d(fan_in, fan_out, kernel_size, stride=2, padding=(kernel_size - 1) // 2, bias=not normed)
        if normed:
            yield nn.BatchNorm2d(fan_out)
        yield nn.LeakyReLU(LEAK)
        if dropout:
            yield nn.Dropout(dropout)


def _smallest_map(spec: NetworkSpec, stages: int, kernel_size: int) -> tuple[int, int]:
    """(height, width) of an image after all halvings.

    Raises:
        IncompatibleError: if the kernel is even and the size is no multiple of 2 ** stages.
    """
    if kernel_size % 2 == 0:
        return halved_shape(spec.inputs, stages, f"stages = {stages}", "kernel_size = 3 or 5 takes any size")[1:]
    _, height, width = image_shape(spec.inputs)
    return ceil(height / 2**stages), ceil(width / 2**stages)


def _checked(sizes: tuple[int, ...]) -> tuple[int, ...]:
    if min(sizes) < 1:
        raise IncompatibleError(f"layers need at least 1 unit, not {min(sizes)}")
    return sizes
