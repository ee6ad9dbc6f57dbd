"""PatchGAN: a discriminator that judges each patch of an image."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from pydantic import Field
from torch import Tensor, nn

import ganrun
from ganrun import Discriminator, IncompatibleError, NetworkSpec, dcgan_init, image_shape
from ganrun_translation.layers import LEAK, NORMS, Norm, has_bias, widths_of


class PatchDiscriminator(Discriminator):
    """PatchGAN: a map of numbers, one for each of many patches that overlap; for every loss that takes maps.

    Isola et al. 2017 (arXiv:1611.07004), section 6.1.2: 4×4 convolutions and leaky ReLU, no norm at the first one and
    the last. A number depends on a patch of 16, 34, 70, 142 or 286 pixels with 1 to 5 layers, and on one pixel with 0,
    where all convolutions are 1×1. Weights start at N(0, 0.02).
    """

    class Settings(ganrun.Settings):
        layers: int = Field(3, ge=0, le=8)
        """Convolutions that halve the size; two more follow, which do not. 3 is the 70×70 one of both papers."""

        feature_maps: int = Field(64, ge=1)
        """Channels of the first layer; each one after it has twice as many, up to 8 times this number."""

        norm: Norm = "batch"
        """batch is pix2pix's, instance CycleGAN's, with neither scales and shifts nor running statistics."""

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        channels, *size = image_shape(spec.inputs)
        smallest = 3 << settings.layers if settings.layers else 1
        if min(size) < smallest:
            found = f"with layers = {settings.layers} it takes images of at least {smallest} pixels"
            raise IncompatibleError(f"{found}, not {size[0]}×{size[1]}; lower layers")
        self.layers = nn.Sequential(*_layers(settings, channels, spec.out_features))
        self.apply(dcgan_init)

    def forward(self, images: Tensor) -> Tensor:
        """Images `(batch, channels, height, width)` to a map `(batch, out_features, rows, columns)`: of 30×30 for
        256×256 and 3 layers."""
        outputs: Tensor = self.layers(images)
        return outputs


def _layers(settings: PatchDiscriminator.Settings, channels: int, outputs: int) -> Iterator[nn.Module]:
    halvings = settings.layers
    kernel, padding = (4, 1) if halvings else (1, 0)
    widths = widths_of(settings.feature_maps, max(2, halvings + 1))
    for number, (fan_in, fan_out) in enumerate(pairwise([channels, *widths])):
        norm: Norm = settings.norm if number else "none"
        stride = 2 if number < halvings else 1
        yield nn.Conv2d(fan_in, fan_out, kernel, stride, padding, bias=has_bias(norm))
        yield NORMS[norm](fan_out)
        yield nn.LeakyReLU(LEAK)
    yield nn.Conv2d(widths[-1], outputs, kernel, 1, padding)
