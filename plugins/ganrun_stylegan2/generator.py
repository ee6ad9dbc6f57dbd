"""StyleGAN2's generator: a mapping network, and a synthesis network whose layers each take a style."""

from __future__ import annotations

from itertools import pairwise

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import one_hot

import ganrun
from ganrun import ContractError, EqualizedLinear, Generator, NetworkSpec, full_precision, pixel_norm
from ganrun_stylegan2.layers import Doubled, ModulatedConv2d, Widths, activated, resolutions


class StyleGan2Generator(Generator):
    """StyleGAN2's generator with output skips.

    Karras et al. 2020 (arXiv:1912.04958), figures 2c and 7b; the class enters as in Karras et al. 2020 (arXiv:
    2006.06676). Images are squares of 8, 16, 32, … pixels. In training, noise is new in every call and images are not
    bounded, as in the paper. In evaluation the noise is fixed, so a sample is a function of its latents, and pixels are
    clamped to [-1, 1].
    """

    class Settings(ganrun.Settings):
        style_size: int = Field(512, ge=1)
        """Length of a style w."""

        mapping_layers: int = Field(8, ge=1)
        """Dense layers from the latents to w; 8 in the paper, 2 in its successor's configuration for CIFAR-10."""

        mapping_lr: float = Field(0.01, gt=0)
        """Factor of the mapping network's learning rate."""

        width: int = Field(32_768, ge=4)
        """A map of side r has width / r channels, at most widest. 16,384 at 256×256 in the successor's configuration
        paper256."""

        widest: int = Field(512, ge=1)
        """The most channels of a map."""

        style_decay: float = Field(0.995, ge=0, lt=1)
        """Share of the old mean w̄ of styles that survives a call; truncation needs w̄."""

        clamp: float = Field(256.0, gt=0)
        """Bound on the absolute value of activations, which keeps them finite at low precision."""

    settings: Settings

    style_mean: Tensor

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        channels, sides = resolutions(spec.outputs)
        widths = Widths(settings.width, settings.widest)
        self.styles = _Mapping(settings, spec)
        self.start = nn.Parameter(torch.randn(widths[4], 4, 4))
        first = _Block(settings, None, widths[4], 4, channels)
        grown = (_Block(settings, widths[below], widths[side], side, channels) for below, side in pairwise(sides))
        self.blocks = nn.ModuleList([first, *grown])
        self.enlarge = Doubled()
        self.register_buffer("style_mean", torch.zeros(settings.style_size))

    @property
    def layers(self) -> int:
        """Styles that `synthesis` takes: one for each convolution, and one for the last conversion to an image."""
        return 2 * len(self.blocks)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Latents `(batch, n)` to images `(batch, channels, side, side)`, in [-1, 1] in evaluation."""
        images: Tensor = self.synthesis(self.mapping(latents, labels))
        return images if self.training else images.clamp(-1, 1)

    def mapping(self, latents: Tensor, labels: Tensor | None = None, *, remembered: bool = True) -> Tensor:
        """Latents `(batch, n)` to one style for each layer, all the same: `(batch, layers, style_size)`.

        Args:
            latents: z.
            labels: int64 `(batch,)`, where the network is built for labels.
            remembered: Whether the mean style follows, in training.
        """
        with full_precision(latents):
            styles: Tensor = self.styles(latents, labels)
        if self.training and remembered:
            self.style_mean.lerp_(styles.detach().mean(0), 1 - self.settings.style_decay)
        return styles[:, None].expand(-1, self.layers, -1)

    def synthesis(self, styles: Tensor) -> Tensor:
        """Styles `(batch, layers, style_size)` to images `(batch, channels, side, side)`, not bounded."""
        maps: Tensor = self.start.expand(len(styles), -1, -1, -1)
        images: Tensor | None = None
        for number, block in enumerate(self.blocks):
            own = styles[:, max(0, 2 * number - 1) :]
            maps, part = block(maps, own)
            with full_precision(part):
                images = part if images is None else self.enlarge(images) + part
        assert images is not None
        return images


class _Mapping(nn.Module):
    """z, and the class, to w: both scaled to unit second moment, then dense layers."""

    def __init__(self, settings: StyleGan2Generator.Settings, spec: NetworkSpec) -> None:
        super().__init__()
        (latents,) = spec.inputs
        size, rate = settings.style_size, settings.mapping_lr
        self.embedding = Embedding(spec.classes, size) if spec.labelled else None
        sizes = [latents + (size if spec.labelled else 0)] + [size] * settings.mapping_layers
        self.dense = nn.ModuleList(EqualizedLinear(*pair, lr_multiplier=rate) for pair in pairwise(sizes))
        self._clamp = float("inf")

    def forward(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        values = pixel_norm(latents)
        if self.embedding is not None:
            values = torch.cat([values, self.embedding(labels)], dim=1)
        for layer in self.dense:
            values = activated(layer(values), self._clamp)
        return values


class Embedding(nn.Module):
    """A vector for each class, of unit second moment.

    Args:
        classes: Number of classes.
        size: Length of a vector.
    """

    def __init__(self, classes: int, size: int) -> None:
        super().__init__()
        self.classes = classes
        self.dense = EqualizedLinear(classes, size)

    def forward(self, labels: Tensor | None) -> Tensor:
        """Labels `(batch,)` to vectors `(batch, size)`.

        Raises:
            ContractError: if there are none.
        """
        if labels is None:
            raise ContractError("the network is built for labels, but the loss calls it without them")
        return pixel_norm(self.dense(one_hot(labels, self.classes).to(self.dense.weight.dtype)))


class _Block(nn.Module):
    """The layers of one resolution: to the next maps, and to a part of the image."""

    def __init__(
        self, settings: StyleGan2Generator.Settings, fan_in: int | None, fan_out: int, side: int, channels: int
    ) -> None:
        super().__init__()
        self.grow = None if fan_in is None else _Layer(settings, fan_in, fan_out, side, doubles=True)
        self.refine = _Layer(settings, fan_out, fan_out, side)
        self.to_image = ModulatedConv2d(settings.style_size, fan_out, channels, 1, demodulates=False)
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))
        self._clamp = settings.clamp

    def forward(self, maps: Tensor, styles: Tensor) -> tuple[Tensor, Tensor]:
        """Maps, and `(batch, ≥ 2 or 3, style_size)` styles from this block's first on, to maps and an image."""
        own = iter(styles.unbind(1))
        if self.grow is not None:
            maps = self.grow(maps, next(own))
        maps = self.refine(maps, next(own))
        image = (self.to_image(maps, next(own)) + self.bias).clamp(-self._clamp, self._clamp)
        return maps, image.to(styles.dtype)


class _Layer(nn.Module):
    """A modulated convolution, noise of one strength, a bias and leaky ReLU (figure 2c)."""

    noise: Tensor

    def __init__(
        self, settings: StyleGan2Generator.Settings, fan_in: int, fan_out: int, side: int, *, doubles: bool = False
    ) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(settings.style_size, fan_in, fan_out, 3, doubles=doubles)
        self.strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(fan_out, 1, 1))
        self.register_buffer("noise", torch.randn(1, 1, side, side))
        self._clamp = settings.clamp

    def forward(self, maps: Tensor, style: Tensor) -> Tensor:
        maps = self.conv(maps, style)
        noise = torch.randn_like(maps[:, :1]) if self.training else self.noise
        shift = self.strength * noise + self.bias
        return activated(maps + shift.to(maps.dtype), self._clamp)
