"""LAPGAN's generator of details: convolutions at one size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

import ganrun
from ganrun import Generator, IncompatibleError, NetworkSpec, dcgan_init, image_shape


class DetailGenerator(Generator):
    """Convolutions from an upsampled image, with noise as a further channel, to the details that it lacks.

    Denton et al. 2015 (arXiv:1506.05751), section 2.3. ReLU between the layers, and nothing after the last: details are
    in [-2, 2]. Weights start at N(0, 0.02), so training starts near the upsampled image.
    """

    class Settings(ganrun.Settings):
        widths: tuple[Annotated[int, Field(ge=1)], ...] = Field((64, 64), min_length=1)
        """Channels of the hidden layers."""

        kernel_size: Literal[3, 5, 7] = 5
        """Side of the kernels."""

        norm: Literal["none", "batch"] = "batch"
        """Batch norm after each hidden layer, or none."""

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        channels = image_shape(spec.outputs)[0]
        if spec.conditions.keys() != {"coarse"} or len(spec.inputs) != 3:
            raise IncompatibleError("adds details to an image that it is given, as in the loss lapgan above level 2")
        widths = (channels + spec.inputs[0], *settings.widths)
        last = nn.Conv2d(widths[-1], channels, settings.kernel_size, padding="same")
        self.layers = nn.Sequential(*_hidden(widths, settings), last)
        self.apply(dcgan_init)

    def forward(self, noise: Tensor, coarse: Tensor) -> Tensor:
        """Noise `(batch, 1, height, width)` and images `(batch, channels, height, width)` to details of their shape."""
        details: Tensor = self.layers(torch.cat([coarse, noise.to(coarse.dtype)], dim=1))
        return details.float()


def _hidden(widths: Sequence[int], settings: DetailGenerator.Settings) -> Iterator[nn.Module]:
    normed = settings.norm == "batch"
    for fan_in, fan_out in pairwise(widths):
        yield nn.Conv2d(fan_in, fan_out, settings.kernel_size, padding="same", bias=not normed)
        if normed:
            yield nn.BatchNorm2d(fan_out)
        yield nn.ReLU()
