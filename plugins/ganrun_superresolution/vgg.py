"""VGG-19 up to one of its convolutions: SRGAN's perceptual network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ganrun import IncompatibleError, NetworkSpec, image_shape
from ganrun_superresolution.perceptual import Pretrained, colour

URL, SIZE = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth", "548 MB"

STAGES = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))
"""Channels and convolutions of each stage (Simonyan and Zisserman 2014, arXiv:1409.1556, table 1, column E)."""

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of each channel of ImageNet's pictures in [0, 1], as torchvision normalises them."""

Layer = Literal[
    "conv1_1",
    "conv1_2",
    "conv2_1",
    "conv2_2",
    "conv3_1",
    "conv3_2",
    "conv3_3",
    "conv3_4",
    "conv4_1",
    "conv4_2",
    "conv4_3",
    "conv4_4",
    "conv5_1",
    "conv5_2",
    "conv5_3",
    "conv5_4",
]


class Vgg19(Pretrained):
    """VGG-19's convolutions up to `layer`, with torchvision's weights for ImageNet: a perceptual network.

    SRGAN compares the features of conv5_4 after its ReLU (Ledig et al. 2017, arXiv:1609.04802, equation 5). The file,
    548 MB, is in no package: it is downloaded by hand, once.
    """

    class Settings(Pretrained.Settings):
        layer: Layer = "conv5_4"
        """The convolution whose features are compared. The first number is the stage: maps of stage n have 1 / 2ⁿ⁻¹ of
        the image's sides."""

        activated: bool = True
        """Whether its ReLU is applied."""

    settings: Settings
    name = "VGG-19"
    sha256 = "dcbb9e9d"
    mean: Tensor
    deviation: Tensor

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        stage, last = map(int, settings.layer.removeprefix("conv").split("_"))
        _, *sides = image_shape(spec.inputs)
        if min(sides) >> stage - 1 < 1:
            least = 1 << stage - 1
            raise IncompatibleError(f"{settings.layer} takes images of {least}×{least} pixels or more, not {sides}")
        self.layers = nn.Sequential(*_convolutions(stage, last, settings.activated))
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None])
        self.register_buffer("deviation", torch.tensor(DEVIATION)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """Images `(batch, 1 or 3, height, width)` to features `(batch, channels, height / 2ⁿ⁻¹, width / 2ⁿ⁻¹)`."""
        normalised = ((colour(images) + 1) / 2 - self.mean) / self.deviation
        return self.layers(normalised)  # type: ignore[no-any-return]

    def published(self) -> Path:
        """The file in torch's hub folder."""
        return Path(torch.hub.get_dir()) / "checkpoints" / URL.rpartition("/")[2]

    def missing(self, path: Path | None) -> str:
        """The file to download, and where to put it."""
        folder = self.published().parent
        return (
            f"{self.name}'s weights are not there: no file {path}. Nothing is downloaded during a run; either\n"
            f"  - download {URL} ({SIZE})\n    into {folder}, under its own name\n"
            '  - or, if you have it elsewhere, say weights = "…/file" in this table\n'
            '  - or say use = "efficientnet-lite0", whose weights are in a package'
        )

    def renamed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """torchvision numbers its layers as these are numbered."""
        return {name: state[f"features.{name}"] for name in self.layers.state_dict() if f"features.{name}" in state}


def _convolutions(stages: int, last: int, activated: bool) -> Iterator[nn.Module]:
    """Convolutions with ReLUs and, between stages, pooling, up to convolution `last` of the last stage."""
    fan_in = 3
    for stage, (width, count) in enumerate(STAGES[:stages], 1):
        for layer in range(1, (last if stage == stages else count) + 1):
            yield nn.Conv2d(fan_in, width, 3, padding=1)
            if activated or (stage, layer) != (stages, last):
                yield nn.ReLU()
            fan_in = width
        if stage < stages:
            yield nn.MaxPool2d(2)
