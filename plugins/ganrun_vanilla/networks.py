"""Dense and simple convolutional networks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from math import prod
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

import ganrun
from ganrun import (
    Discriminator,
    Generator,
    ImageConditioning,
    LabelledImages,
    LabelledLatents,
    LatentConditioning,
    MinibatchComparison,
    NetworkSpec,
    float32_tanh,
)
from ganrun_vanilla.layers import (
    Activation,
    Maps,
    Norm,
    Padding,
    activation_of,
    checked_sizes,
    dense,
    hidden_dense,
    hidden_features,
    initialise,
)

Width = Annotated[int, Field(ge=1)]


class MlpGenerator(Generator):
    """Dense layers from latents to samples of any shape, tanh at the end."""

    class Settings(ganrun.Settings):
        hidden: tuple[int, ...] = (256, 512)
        """Units of the hidden layers, from the latents up."""

        norm: Norm = "none"
        """Batch norm after each hidden layer, before its activation, or none."""

        activation: Activation = "leaky"
        """Of the hidden layers: ReLU, leaky ReLU with the slope 0.2, or tanh."""

        init: Literal["torch", "glorot"] = "torch"
        """The first weights. torch: uniform by fan-in, biases too; glorot: uniform by fan-in and fan-out, biases 0."""

        labels: LatentConditioning = "concatenation"

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        self.inputs = LabelledLatents(spec, settings.labels)
        sizes = checked_sizes(self.inputs.features, *settings.hidden, prod(spec.output_shape))
        self.layers = nn.Sequential(*dense(sizes, settings.activation, settings.norm))
        initialise(self, settings.init)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Latents `(batch, latent_size)` to samples `(batch, *spec.outputs)` in [-1, 1]."""
        samples = float32_tanh(self.layers(self.inputs(latents, labels)))
        return samples.unflatten(1, self.spec.output_shape)  # type: ignore[no-any-return,no-untyped-call]


class MlpDiscriminator(Discriminator):
    """Dense layers from samples of any shape to one vector each.

    No norm: real and generated batches differ in their statistics.
    """

    class Settings(ganrun.Settings):
        hidden: tuple[int, ...] = (512, 256)
        """Units of the hidden layers, from the image up."""

        activation: Activation = "leaky"
        """Of the hidden layers: ReLU, leaky ReLU with the slope 0.2, or tanh."""

        dropout: float = Field(0.0, ge=0, lt=1)
        """Fraction of the hidden units dropped in training."""

        minibatch: MinibatchComparison = "none"

        init: Literal["torch", "glorot"] = "torch"
        """The first weights, as the generator's."""

        labels: LatentConditioning = "concatenation"

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        self.inputs = LabelledLatents(spec, settings.labels)
        sizes = checked_sizes(self.inputs.features, *settings.hidden, spec.out_features)
        self.layers = nn.Sequential(*dense(sizes, settings.activation, "none", settings.dropout, settings.minibatch))
        initialise(self, settings.init)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images `(batch, *spec.inputs)` to logits `(batch, out_features)`."""
        return self.layers(self.inputs(images.flatten(1), labels))  # type: ignore[no-any-return]

    def features(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images to the last hidden layer `(batch, units)`: what feature matching matches."""
        return hidden_features(self.layers, self.inputs(images.flatten(1), labels))


class _MapSettings(ganrun.Settings):
    """Settings of both convolutional networks."""

    widths: Annotated[tuple[Width, ...], Field(min_length=1)] | None = None
    """Channels of each hidden map, in the order of computation, in place of feature_maps and stages."""

    feature_maps: int | None = Field(None, ge=1, validate_default=True)
    """Channels of the hidden map next to the image; each one further from it has twice as many. 32 unless given."""

    stages: int | None = Field(None, ge=1, validate_default=True)
    """How often the size doubles or halves: 3 between 4×4 and 32×32. 3 unless given."""

    kernel_size: int = Field(4, ge=1)
    """Side of the kernels that double or halve the size. With an odd side, a generator's pixels are sums of unequally
    many terms, a chequered pattern that training has to undo; with an even one all are sums of equally many. A
    discriminator's even kernels need sizes that 2 ** stages divides; odd ones round halves up: 28, 14, 7, 4."""

    padding: Padding = "same"
    """same: each stage exactly doubles or halves the size, with equal padding on both sides. valid: no padding; a stage
    of a discriminator goes from n to ⌊(n − kernel_size)/2⌋ + 1 pixels, one of a generator to 2n + kernel_size − 2."""

    hidden: tuple[Width, ...] = ()
    """Units of hidden dense layers: before a generator's first map, after a discriminator's last one."""

    norm: Norm = "batch"
    """Batch norm after each hidden layer, before its activation, or none. A discriminator's first one has none."""

    init: Literal["dcgan", "glorot"] = "dcgan"
    """The first weights; biases are 0. dcgan: N(0, 0.02); glorot: uniform by fan-in and fan-out, for networks without
    norm, in which 0.02 makes the signal shrink or grow from layer to layer."""

    @field_validator("feature_maps", "stages")
    @classmethod
    def _unless_widths_are_given(cls, value: int | None, info: ValidationInfo) -> int | None:
        default = {"feature_maps": 32, "stages": 3}[str(info.field_name)]
        if info.data.get("widths") is None:
            return default if value is None else value
        if value is not None:
            raise ValueError("is redundant beside widths; leave one of them out")
        return None

    def map_widths(self, beyond: int = 0, *, falling: bool = False) -> tuple[int, ...]:
        """Channels of the hidden maps in the order of computation, `beyond` more of them than stages."""
        if self.feature_maps is None or self.stages is None:
            return self.widths or ()
        rising = tuple(self.feature_maps << index for index in range(self.stages + beyond))
        return rising[::-1] if falling else rising

    def maps(self, stages: int) -> Maps:
        """Their sizes, with that many stages."""
        reason = f"stages = {stages}" if self.widths is None else f"{len(self.widths)} widths"
        return Maps(stages, self.kernel_size, self.padding, reason)


class ConvGenerator(Generator):
    """Transposed convolutions that double the size, from a small dense map to the image.

    Each stage: transposed convolution of stride 2, batch norm, ReLU; tanh at the end. Weights start at N(0, 0.02) as in
    DCGAN (arXiv:1511.06434, section 4). Takes any height and width that 2 ** stages divides. Hidden dense layers, other
    widths and kernels, no padding, no norm and another activation are settings.
    """

    class Settings(_MapSettings):
        activation: Activation = "relu"
        """After each map but the image: ReLU, leaky ReLU with the slope 0.2, or tanh."""

        dense_activation: Activation | None = None
        """After each dense layer, the one to the first map among them; as activation unless given."""

        output: Literal["doubling", "convolution"] = "doubling"
        """The last layer. doubling: the last stage's transposed convolution gives the image. convolution: all stages
        are hidden, and a 3×3 convolution of stride 1 turns the last map, as large as the image, into its channels."""

        labels: LatentConditioning = "concatenation"

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        extra = int(settings.output == "convolution")
        widths = settings.map_widths(extra, falling=True)
        maps = settings.maps(len(widths) - extra)
        channels, height, width = maps.smallest_of_generator(spec)
        self.inputs = LabelledLatents(spec, settings.labels)
        self.layers = nn.Sequential(
            *_first_map(settings, self.inputs.features, (widths[0], height, width)),
            *_doubling(settings, maps, widths),
            nn.Conv2d(widths[-1], channels, 3, padding=1) if extra else maps.doubling(widths[-1], channels, bias=True),
        )
        initialise(self, settings.init)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Latents `(batch, latent_size)` to images `(batch, channels, height, width)` in [-1, 1]."""
        return float32_tanh(self.layers(self.inputs(latents, labels)))


class ConvDiscriminator(Discriminator):
    """Convolutions that halve the size, then one dense layer.

    Each stage: convolution of stride 2, batch norm (not in the first), leaky ReLU, dropout. The mirror image of the
    generator `conv`, and usable as an encoder. Hidden dense layers, other widths and kernels, no padding, no norm and
    another activation are settings.
    """

    class Settings(_MapSettings):
        activation: Activation = "leaky"
        """After each hidden layer: ReLU, leaky ReLU with the slope 0.2, or tanh."""

        dropout: float = Field(0.0, ge=0, lt=1)
        """Fraction of each hidden layer's outputs dropped in training."""

        minibatch: MinibatchComparison = "none"

        labels: ImageConditioning = "concatenation"

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        widths = settings.map_widths()
        maps = settings.maps(len(widths))
        height, width = maps.smallest_of_discriminator(spec)
        self.inputs = LabelledImages(spec, settings.labels)
        sizes = (widths[-1] * height * width, *settings.hidden, spec.out_features)
        self.layers = nn.Sequential(
            *_halving(settings, maps, (self.inputs.shape[0], *widths)),
            nn.Flatten(),
            *dense(sizes, settings.activation, settings.norm, settings.dropout, settings.minibatch),
        )
        initialise(self, settings.init)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images `(batch, channels, height, width)` to logits `(batch, out_features)`."""
        return self.layers(self.inputs(images, labels))  # type: ignore[no-any-return]

    def features(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images to the last hidden layer, flattened: what feature matching matches."""
        return hidden_features(self.layers, self.inputs(images, labels))


def _first_map(settings: ConvGenerator.Settings, features: int, shape: tuple[int, int, int]) -> Iterator[nn.Module]:
    """Hidden dense layers, then the dense layer to the first map."""
    activation = settings.dense_activation or settings.activation
    sizes = (features, *settings.hidden)
    yield from hidden_dense(sizes, activation, settings.norm)
    yield nn.Linear(sizes[-1], prod(shape), bias=settings.norm == "none")
    yield nn.Unflatten(1, shape)
    if settings.norm == "batch":
        yield nn.BatchNorm2d(shape[0])
    yield activation_of(activation)


def _doubling(settings: ConvGenerator.Settings, maps: Maps, widths: tuple[int, ...]) -> Iterator[nn.Module]:
    """The stages between hidden maps."""
    for fan_in, fan_out in pairwise(widths):
        yield maps.doubling(fan_in, fan_out, bias=settings.norm == "none")
        if settings.norm == "batch":
            yield nn.BatchNorm2d(fan_out)
        yield activation_of(settings.activation)


def _halving(settings: ConvDiscriminator.Settings, maps: Maps, widths: tuple[int, ...]) -> Iterator[nn.Module]:
    """All stages, from the image on."""
    for index, (fan_in, fan_out) in enumerate(pairwise(widths)):
        normed = settings.norm == "batch" and index > 0
        yield maps.halving(fan_in, fan_out, bias=not normed)
        if normed:
            yield nn.BatchNorm2d(fan_out)
        yield activation_of(settings.activation)
        if settings.dropout:
            yield nn.Dropout(settings.dropout)
