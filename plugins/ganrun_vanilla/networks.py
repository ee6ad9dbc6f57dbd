"""Dense and simple convolutional networks.

The tanh is taken in float32 whatever the precision inside: bf16 has no number between 1 − 2⁻⁸ and 1, and likelihoods
take logarithms of that gap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from math import ceil, prod
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

import ganrun
from ganrun import Conditioning, Discriminator, Generator, IncompatibleError, LabelledImages, LabelledLatents, ModelSpec

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

        labels: Conditioning = "concatenation"
        """How the class enters, where the loss gives labels: concatenation adds one input per class, embedding adds 50
        that are learned for each class."""

    def __init__(self, settings: Settings, spec: ModelSpec) -> None:
        super().__init__(settings, spec)
        self.inputs = LabelledLatents(spec, settings.labels)
        sizes = _checked((self.inputs.features, *settings.hidden, prod(spec.sample_shape)))
        self.layers = nn.Sequential(*_dense(sizes, settings.norm == "batch"))

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Latents `(batch, latent_size)` to samples `(batch, *sample_shape)` in [-1, 1]."""
        samples = self.layers(self.inputs(latents, labels)).float().tanh()
        return samples.unflatten(1, self.spec.sample_shape)  # type: ignore[no-any-return]


class MlpDiscriminator(Discriminator):
    """Dense layers from samples of any shape to one vector each.

    Leaky ReLU between the layers, and no norm: real and generated batches differ in their statistics.
    """

    class Settings(ganrun.Settings):
        hidden: tuple[int, ...] = (512, 256)
        """Units of the hidden layers, from the image up."""

        dropout: float = Field(0.0, ge=0, lt=1)
        """Share of the hidden units that are dropped in training."""

        labels: Conditioning = "concatenation"
        """How the class enters, where the loss gives labels: concatenation adds one input per class, embedding adds 50
        that are learned for each class."""

    def __init__(self, settings: Settings, spec: ModelSpec) -> None:
        super().__init__(settings, spec)
        flat = replace(spec, latent_size=prod(spec.sample_shape))
        self.inputs = LabelledLatents(flat, settings.labels)
        sizes = _checked((self.inputs.features, *settings.hidden, spec.out_features))
        self.layers = nn.Sequential(*_dense(sizes, False, settings.dropout))

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images `(batch, *sample_shape)` to logits `(batch, out_features)`."""
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
        """How often the size is doubled: 3 takes 4×4 to 32×32."""

        kernel_size: Literal[3, 4, 5] = 4
        """Side of the doubling kernels. Where it is odd, some pixels are made of more terms than their neighbours, a
        chequered pattern that training has to undo; with 4 all are made of as many."""

        output: Literal["doubling", "convolution"] = "doubling"
        """The last layer. doubling: the last stage's transposed convolution gives the image. convolution: all stages
        are hidden, and a convolution 3×3 of stride 1 takes the last map, as large as the image, to its channels."""

        labels: Conditioning = "concatenation"
        """How the class enters, where the loss gives labels: concatenation adds one input per class, embedding adds 50
        that are learned for each class."""

    def __init__(self, settings: Settings, spec: ModelSpec) -> None:
        super().__init__(settings, spec)
        channels, height, width = _divided(spec, settings.stages)
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
        self.apply(_dcgan_weights)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Latents `(batch, latent_size)` to images `(batch, channels, height, width)` in [-1, 1]."""
        return self.layers(self.inputs(latents, labels)).float().tanh()  # type: ignore[no-any-return]


class ConvDiscriminator(Discriminator):
    """Convolutions that halve the size, then one dense layer.

    Each stage: convolution of stride 2, batch norm (not in the first), leaky ReLU, dropout. The mirror image of the
    generator `conv`; also serves as an encoder.
    """

    class Settings(ganrun.Settings):
        feature_maps: int = Field(32, ge=1)
        """Channels of the first layer; each stage after it has twice as many."""

        stages: int = Field(3, ge=1)
        """How often the size is halved."""

        kernel_size: Literal[3, 4, 5] = 4
        """Side of the kernels. 4 takes heights and widths that 2 ** stages divides; with 3 and 5, which round halves
        up, any will do: 28, 14, 7, 4."""

        norm: Literal["none", "batch"] = "batch"
        """Batch norm after every convolution but the first, or none."""

        dropout: float = Field(0.0, ge=0, lt=1)
        """Share of each stage's outputs that are dropped in training."""

        labels: Conditioning = "concatenation"
        """How the class enters, where the loss gives labels: concatenation adds one constant channel per class,
        embedding adds one channel, learned for each class pixel by pixel."""

    def __init__(self, settings: Settings, spec: ModelSpec) -> None:
        super().__init__(settings, spec)
        height, width = _halved(spec, settings.stages, settings.kernel_size)
        self.inputs = LabelledImages(spec, settings.labels)
        widths = [self.inputs.shape[0], *(settings.feature_maps << k for k in range(settings.stages))]
        self.layers = nn.Sequential(
            *_halving(widths, settings.kernel_size, settings.norm == "batch", settings.dropout),
            nn.Flatten(),
            nn.Linear(widths[-1] * height * width, spec.out_features),
        )
        self.apply(_dcgan_weights)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images `(batch, channels, height, width)` to logits `(batch, out_features)`."""
        return self.layers(self.inputs(images, labels))  # type: ignore[no-any-return]


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
    """Convolutions from size n to n/2; an odd kernel's n/2 is rounded up."""
    for index, (fan_in, fan_out) in enumerate(pairwise(widths)):
        normed = batch_norm and index > 0
        yield nn.Conv2d(fan_in, fan_out, kernel_size, stride=2, padding=(kernel_size - 1) // 2, bias=not normed)
        if normed:
            yield nn.BatchNorm2d(fan_out)
        yield nn.LeakyReLU(LEAK)
        if dropout:
            yield nn.Dropout(dropout)


def _dcgan_weights(module: nn.Module) -> None:
    """Weights N(0, 0.02), batch norm's scale N(1, 0.02), biases 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
    if isinstance(module.__dict__.get("_parameters", {}).get("bias"), nn.Parameter):
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]


def _halved(spec: ModelSpec, stages: int, kernel_size: int) -> tuple[int, int]:
    """(height, width) of what is left of an image after so many halvings.

    Raises:
        IncompatibleError: if an even kernel meets a size that is no multiple of 2 ** stages.
    """
    if kernel_size % 2 == 0:
        _, height, width = _divided(spec, stages, " (kernel_size = 3 or 5 takes any)")
        return height, width
    _, height, width = spec.image_shape
    return ceil(height / 2**stages), ceil(width / 2**stages)


def _divided(spec: ModelSpec, stages: int, advice: str = "") -> tuple[int, int, int]:
    """(channels, height / 2 ** stages, width / 2 ** stages).

    Raises:
        IncompatibleError: if they are no whole numbers.
    """
    channels, height, width = spec.image_shape
    factor = 2**stages
    if height % factor or width % factor:
        raise IncompatibleError(
            f"with stages = {stages} it takes sizes divisible by {factor}, not {height}×{width}{advice}"
        )
    return channels, height // factor, width // factor


def _checked(sizes: tuple[int, ...]) -> tuple[int, ...]:
    if min(sizes) < 1:
        raise IncompatibleError(f"layers need at least 1 unit, not {min(sizes)}")
    return sizes
