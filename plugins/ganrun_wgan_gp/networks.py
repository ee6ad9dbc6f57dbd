"""The residual networks of the WGAN-GP paper (arXiv:1704.00028, appendix)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod, sqrt
from types import EllipsisType
from typing import Annotated, Literal, TypeVar

from pydantic import Field
from torch import Tensor, nn

import ganrun
from ganrun import (
    Discriminator,
    Generator,
    ImageConditioning,
    LabelledImages,
    LabelledLatents,
    LatentConditioning,
    NetworkSpec,
    float32_tanh,
    halved_shape,
)

Widths = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
Norm = Literal["none", "batch", "layer"]
L = TypeVar("L", nn.Conv2d, nn.Linear)


class ResnetGenerator(Generator):
    """The WGAN-GP paper's residual generator: nearest-neighbour upsampling, batch norm, ReLU.

    A dense layer gives the first map, each residual block doubles its size, and a 3×3 convolution with tanh gives
    the image. Takes any height and width that 2 ** (number of blocks) divides.
    """

    class Settings(ganrun.Settings):
        widths: Widths = (128, 128, 128, 128)
        """Channels of the first map, then of each block that doubles the size. The default is the paper's for 32×32,
        from 4×4; the paper's for 64×64 is [512, 512, 256, 128, 64]."""

        labels: LatentConditioning = "concatenation"

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        channels, height, width = _smallest_map(spec.outputs, settings.widths, len(settings.widths) - 1)
        start = (settings.widths[0], height, width)
        self.inputs = LabelledLatents(spec, settings.labels)
        self.layers = nn.Sequential(
            _glorot(nn.Linear(self.inputs.features, prod(start))),
            nn.Unflatten(1, start),
            *(_UpBlock(*pair) for pair in pairwise(settings.widths)),
            nn.BatchNorm2d(settings.widths[-1]),
            nn.ReLU(),
            _glorot(nn.Conv2d(settings.widths[-1], channels, 3, padding=1)),
        )

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Latents `(batch, latent_size)` to images `(batch, channels, height, width)` in [-1, 1]."""
        return float32_tanh(self.layers(self.inputs(latents, labels)))


class ResnetCritic(Discriminator):
    """The WGAN-GP paper's residual critic: average-pool downsampling, ReLU, and no batch norm.

    Residual blocks that halve the size, then blocks that keep it, then the mean over the map and a dense layer. The
    first block acts on pixels, so it begins with a convolution instead of a ReLU.
    """

    class Settings(ganrun.Settings):
        widths: Widths = (128, 128)
        """Channels of each block that halves the size. The default is the paper's for 32×32."""

        flat_blocks: int = Field(2, ge=0)
        """Blocks after those, which keep the size and the channels."""

        norm: Literal["none", "layer"] = "none"
        """Layer norm before each ReLU inside the blocks but the first, or none. Batch norm is not offered, because a
        gradient penalty is computed per sample."""

        labels: ImageConditioning = "concatenation"

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        _smallest_map(spec.inputs, settings.widths, len(settings.widths))
        first, last = settings.widths[0], settings.widths[-1]
        self.inputs = LabelledImages(spec, settings.labels)
        self.layers = nn.Sequential(
            _FirstDownBlock(self.inputs.shape[0], first),
            *(_DownBlock(*pair, settings.norm) for pair in pairwise(settings.widths)),
            *(_FlatBlock(last, settings.norm) for _ in range(settings.flat_blocks)),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            _glorot(nn.Linear(last, spec.out_features)),
        )

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images `(batch, channels, height, width)` to the critic's values `(batch, out_features)`."""
        return self.layers(self.inputs(images, labels))  # type: ignore[no-any-return]


# ── Residual blocks: arXiv:1704.00028, appendix ───────────────────────────────────────────────────────────
#
# A 1×1 convolution commutes with average pooling and with nearest-neighbour upsampling, so each skip convolves the
# smaller of its two maps: the same function as the paper's at a quarter of the work. ReLUs are never in place, because
# the skip needs their input.


class _Residual(nn.Module):
    """branch(x) + skip(x)."""

    def __init__(self, branch: Sequence[nn.Module], skip: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        self.branch = nn.Sequential(*branch)
        self.skip = nn.Sequential(*skip)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.branch(inputs) + self.skip(inputs)  # type: ignore[no-any-return]


class _UpBlock(_Residual):
    def __init__(self, fan_in: int, fan_out: int) -> None:
        first, second = _normed_relu_conv(fan_in, fan_out, "batch"), _normed_relu_conv(fan_out, fan_out, "batch")
        super().__init__(
            [*first[:-1], nn.Upsample(scale_factor=2), first[-1], *second],
            [_skip_conv(fan_in, fan_out), nn.Upsample(scale_factor=2)],
        )


class _DownBlock(_Residual):
    def __init__(self, fan_in: int, fan_out: int, norm: Norm) -> None:
        super().__init__(
            [*_normed_relu_conv(fan_in, fan_in, norm), *_normed_relu_conv(fan_in, fan_out, norm), nn.AvgPool2d(2)],
            [nn.AvgPool2d(2), _skip_conv(fan_in, fan_out)],
        )


class _FirstDownBlock(_Residual):
    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__(
            [_conv(fan_in, fan_out), nn.ReLU(), _conv(fan_out, fan_out), nn.AvgPool2d(2)],
            [nn.AvgPool2d(2), _skip_conv(fan_in, fan_out)],
        )


class _FlatBlock(_Residual):
    def __init__(self, width: int, norm: Norm) -> None:
        super().__init__([*_normed_relu_conv(width, width, norm), *_normed_relu_conv(width, width, norm)])


def _normed_relu_conv(fan_in: int, fan_out: int, norm: Norm) -> list[nn.Module]:
    norms: dict[Norm, list[nn.Module]] = {
        "none": [],
        "batch": [nn.BatchNorm2d(fan_in)],
        "layer": [nn.GroupNorm(1, fan_in)],
    }
    return [*norms[norm], nn.ReLU(), _conv(fan_in, fan_out)]


def _conv(fan_in: int, fan_out: int) -> nn.Conv2d:
    """A convolution next to a ReLU, which halves the variance: hence the gain."""
    return _glorot(nn.Conv2d(fan_in, fan_out, 3, padding=1), gain=sqrt(2))


def _skip_conv(fan_in: int, fan_out: int) -> nn.Conv2d:
    return _glorot(nn.Conv2d(fan_in, fan_out, 1))


def _glorot(layer: L, gain: float = 1.0) -> L:
    """Weights U(±gain·√(6 / (fan in + fan out))), biases 0, as in the authors' code."""
    nn.init.xavier_uniform_(layer.weight, gain)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def _smallest_map(shape: tuple[int | EllipsisType, ...], widths: Widths, halvings: int) -> tuple[int, int, int]:
    """(channels, height / 2 ** halvings, width / 2 ** halvings).

    Raises:
        IncompatibleError: if the size does not halve that often without a remainder.
    """
    return halved_shape(shape, halvings, f"{len(widths)} widths", "use fewer widths or change the size in [data]")
