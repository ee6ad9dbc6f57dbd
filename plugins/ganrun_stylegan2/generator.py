"""StyleGAN2's generator: modulated convolutions, and an image that every resolution adds a part to."""

from __future__ import annotations

from itertools import pairwise

import torch
from pydantic import Field
from torch import Tensor, nn

from ganrun import NetworkSpec, full_precision
from ganrun_stylegan2.layers import Doubled, ModulatedConv2d, Noisy, activated
from ganrun_stylegan2.styles import StyleGenerator, StyleSettings


class StyleGan2Generator(StyleGenerator):
    """StyleGAN2's generator with output skips.

    Karras et al. 2020 (arXiv:1912.04958), figures 2d and 7b; the class enters as in Karras et al. 2020 (arXiv:
    2006.06676). Images are squares of 8, 16, 32, … pixels. In training, noise is new in every call and images are not
    bounded, as in the paper. In evaluation the noise is fixed, so a sample is a function of its latents, and pixels are
    clamped to [-1, 1].
    """

    class Settings(StyleSettings):
        width: int = Field(32_768, ge=4)
        """A map of side r has width / r channels, at most widest. StyleGAN2-ADA's configuration paper256 has 16,384."""

        clamp: float = Field(256.0, gt=0)
        """Bound on the absolute value of activations, which keeps them finite at low precision."""

    settings: Settings

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        widths, channels = self.widths, self.channels
        self.start = nn.Parameter(torch.randn(widths[4], 4, 4))
        first = _Block(settings, None, widths[4], 4, channels)
        grown = (_Block(settings, widths[below], widths[side], side, channels) for below, side in pairwise(self.sides))
        self.blocks = nn.ModuleList([first, *grown])
        self.enlarge = Doubled()

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


class _Layer(Noisy):
    """A modulated convolution, noise of one strength, a bias and leaky ReLU (figure 2d)."""

    def __init__(
        self, settings: StyleGan2Generator.Settings, fan_in: int, fan_out: int, side: int, *, doubles: bool = False
    ) -> None:
        conv = ModulatedConv2d(settings.style_size, fan_in, fan_out, 3, doubles=doubles)
        super().__init__(fan_out, side, ())
        self.conv = conv
        self._clamp = settings.clamp

    def forward(self, maps: Tensor, style: Tensor) -> Tensor:
        return activated(self.noised(self.conv(maps, style)), self._clamp)
