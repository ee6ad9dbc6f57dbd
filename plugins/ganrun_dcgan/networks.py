"""The two networks of DCGAN, for images of 28 pixels and of any power of two from 16.

Radford et al. 2015 (arXiv:1511.06434): strided and transposed convolutions, no pooling and no hidden dense layer. With
s = 4 (s = 7 for images of 28) and n doublings, the size is s · 2ⁿ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from types import EllipsisType
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

import ganrun
from ganrun import (
    ContractError,
    Discriminator,
    Generator,
    IncompatibleError,
    LabelledImages,
    LabelledLatents,
    LatentConditioning,
    MinibatchComparison,
    NetworkSpec,
    SpectralConv2d,
    SpectralLinear,
    dcgan_init,
    float32_tanh,
    image_shape,
    minibatch_layers,
)

LEAK = 0.2
"""Slope of leaky ReLU for negative inputs (section 4)."""

WIDEST = 8
"""The widest layer's channels, as a multiple of `feature_maps`: what the paper's 64×64 networks reach."""

Norm = Callable[[int], nn.Module]

NORMS: dict[str, Norm] = {
    "batch": nn.BatchNorm2d,
    "layer": lambda channels: nn.GroupNorm(1, channels),
    "instance": lambda channels: nn.InstanceNorm2d(channels, affine=True),
}
"""The norms that are layers, by number of channels. Layer norm is that of WGAN-GP's critics (arXiv:1704.00028,
section 4): mean and variance over channels, height and width of each sample, scale and shift per channel. That is group
norm with one group."""


class DcganGenerator(Generator):
    """DCGAN's generator: transposed convolutions from a latent to an image of 16, 28, 32, 64, … pixels.

    A transposed convolution projects the latent to 4×4 (7×7 for 28), then each 4×4 kernel of stride 2 doubles the
    size; batch norm and ReLU between them, tanh at the end. Radford et al. 2015 (arXiv:1511.06434), figure 1.
    Initialised as in section 4: weights N(0, 0.02), batch norm's scales N(1, 0.02).
    """

    class Settings(ganrun.Settings):
        feature_maps: int = Field(64, ge=1)
        """Channels of the last hidden layer; each layer before it has twice as many, up to 8 times this number. The
        network in the paper's figure 1 has 128."""

        norm: Literal["batch", "none"] = "batch"
        """Batch norm after every layer but the output, or none."""

        labels: LatentConditioning = "concatenation"

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        channels, start, doublings = _layout(spec.outputs)
        widths = _widths(settings.feature_maps, doublings)[::-1]
        norm = NORMS.get(settings.norm)
        self.inputs = LabelledLatents(spec, settings.labels)
        self.layers = nn.Sequential(
            Projection(self.inputs.features, widths[0], start, bias=norm is None),
            *_activated(widths[0], norm),
            *_doubling(widths, norm),
            nn.ConvTranspose2d(widths[-1], channels, 4, stride=2, padding=1),
        )
        self.apply(dcgan_init)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Latents `(batch, latent_size)` to images `(batch, channels, size, size)` in [-1, 1]."""
        return float32_tanh(self.layers(self.inputs(latents, labels)))


class DcganDiscriminator(Discriminator):
    """DCGAN's discriminator: strided convolutions from an image of 16, 28, 32, 64, … pixels to one vector.

    The generator's mirror image: each 4×4 kernel of stride 2 halves the size, leaky ReLU of slope 0.2 follows, and a
    last convolution turns the remaining 4×4 (7×7 for 28) into `out_features` numbers. No norm at the input or the
    output. With another norm also a critic; also an encoder.
    """

    class Settings(ganrun.Settings):
        feature_maps: int = Field(64, ge=1)
        """Channels of the first layer; each layer after it has twice as many, up to 8 times this number."""

        norm: Literal["batch", "layer", "instance", "spectral", "none"] = "batch"
        """batch is the paper's. A gradient penalty is computed per sample: take layer, instance or none. spectral
        bounds the weights of every layer, first and last included (arXiv:1802.05957), and replaces all other norms."""

        minibatch: MinibatchComparison = "none"

        labels: Literal["concatenation", "embedding", "projection"] = "concatenation"
        """How the class enters, where the loss gives labels: concatenation adds one constant channel per class,
        embedding adds one channel, learned for each class pixel by pixel, and projection adds v·h to the output, where
        h is the last map and v is learned for each class (arXiv:1802.05637, equation 4)."""

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        _, start, doublings = _layout(spec.inputs)
        widths = _widths(settings.feature_maps, doublings)
        projects = spec.labelled and settings.labels == "projection"
        self.inputs = None if settings.labels == "projection" else LabelledImages(spec, settings.labels)
        channels = spec.inputs[0] if self.inputs is None else self.inputs.shape[0]
        convolution = SpectralConv2d if settings.norm == "spectral" else nn.Conv2d
        hidden = list(_halving((channels, *widths), convolution, NORMS.get(settings.norm)))
        compared, shape = minibatch_layers(settings.minibatch, (widths[-1], start, start))
        last = _dense(settings, shape, spec.out_features * (1 + spec.classes * projects))
        self.layers = nn.Sequential(*hidden, *compared, last, nn.Flatten())
        self._hidden, self._projects = len(hidden), projects
        self.apply(dcgan_init)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images `(batch, channels, size, size)` in [-1, 1] to logits `(batch, out_features)`."""
        outputs: Tensor = self.layers(self._labelled(images, labels))
        return projected(outputs, labels, self.spec.classes) if self._projects else outputs

    def features(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images to the last hidden map `(batch, channels, 4, 4)`, 7×7 for 28 pixels: what feature matching matches."""
        maps = self._labelled(images, labels)
        for layer in list(self.layers)[: self._hidden]:
            maps = layer(maps)
        return maps

    def _labelled(self, images: Tensor, labels: Tensor | None) -> Tensor:
        return images if self.inputs is None else self.inputs(images, labels)


def projected(outputs: Tensor, labels: Tensor | None, classes: int) -> Tensor:
    """w·h + v·h `(batch, n)`, from outputs `(batch, (1 + classes) · n)`: w·h, then v·h of each class.

    Miyato and Koyama 2018 (arXiv:1802.05637), equation 4. Here h is the whole last map, and not the sum over it.

    Raises:
        ContractError: if there are no labels.
    """
    if labels is None:
        raise ContractError("the network is built for labels, but the loss calls it without them")
    by_class = outputs.view(len(outputs), 1 + classes, -1)
    return by_class[:, 0] + by_class[torch.arange(len(labels), device=labels.device), 1 + labels]


class Projection(nn.ConvTranspose2d):
    """A transposed convolution of a 1×1 map, computed as the matrix product that it is."""

    def forward(self, latents: Tensor) -> Tensor:  # type: ignore[override]
        """Latents `(batch, in_channels)` to maps `(batch, out_channels, size, size)`, channels last in memory."""
        kernels = self.weight.permute(0, 2, 3, 1)
        maps = (latents @ kernels.flatten(1)).view(-1, *kernels.shape[1:])
        return (maps if self.bias is None else maps + self.bias).permute(0, 3, 1, 2)


def _doubling(widths: Sequence[int], norm: Norm | None) -> Iterator[nn.Module]:
    """The hidden layers of the generator. A layer has a bias only where no norm follows, whose shift replaces it."""
    for fan_in, fan_out in pairwise(widths):
        yield nn.ConvTranspose2d(fan_in, fan_out, 4, stride=2, padding=1, bias=norm is None)
        yield from _activated(fan_out, norm)


def _activated(channels: int, norm: Norm | None) -> Iterator[nn.Module]:
    if norm:
        yield norm(channels)
    yield nn.ReLU()


def _halving(widths: Sequence[int], convolution: type[nn.Conv2d], norm: Norm | None) -> Iterator[nn.Module]:
    """The hidden layers of the discriminator; the first one has no norm, so that it keeps the images' scale."""
    for index, (fan_in, fan_out) in enumerate(pairwise(widths)):
        after = norm if index else None
        yield convolution(fan_in, fan_out, 4, stride=2, padding=1, bias=after is None)
        if after:
            yield after(fan_out)
        yield nn.LeakyReLU(LEAK)


def _dense(settings: DcganDiscriminator.Settings, shape: tuple[int, ...], outputs: int) -> nn.Module:
    """The last layer: a convolution of whole maps (channels, side, side), or a dense layer of vectors (features,)."""
    is_spectral = settings.norm == "spectral"
    if len(shape) == 1:
        return (SpectralLinear if is_spectral else nn.Linear)(shape[0], outputs)
    return (SpectralConv2d if is_spectral else nn.Conv2d)(shape[0], outputs, shape[1])


def _layout(shape: tuple[int | EllipsisType, ...]) -> tuple[int, int, int]:
    """(channels, size of the smallest map, doublings from there to the image).

    Raises:
        IncompatibleError: if doubling does not reach the size of the images.
    """
    channels, height, width = image_shape(shape)
    start = 7 if height == 28 else 4
    doublings = (height // start).bit_length() - 1
    if height != width or doublings < 2 or start << doublings != height:
        raise IncompatibleError(
            f"takes 16×16, 28×28, 32×32, 64×64 and further powers of two, not {height}×{width}; "
            "change the size in [data] or take another network"
        )
    return channels, start, doublings


def _widths(feature_maps: int, doublings: int) -> list[int]:
    """Channels of the hidden layers, from the image inwards."""
    return [feature_maps * min(2**k, WIDEST) for k in range(doublings)]
