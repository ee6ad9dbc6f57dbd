"""The layers of style-based networks: noise, filtered resampling, styles as modulation or as adaptive norm."""

from __future__ import annotations

from math import sqrt
from types import EllipsisType

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, leaky_relu

from ganrun import EqualizedConv2d, EqualizedLinear, IncompatibleError, full_precision, image_shape

LEAK = 0.2
"""Slope of leaky ReLU for negative inputs."""

GAIN = sqrt(2)
"""Factor of leaky ReLU's output: about the inverse of its root mean square for inputs from N(0, 1)."""

TAPS = (1.0, 3.0, 3.0, 1.0)
"""The filter of every change of size, along rows and along columns (StyleGAN2, appendix B)."""

EPSILON = 1e-8
"""Added under each root."""


class Widths:
    """How many channels the map of each resolution has: `base` / resolution, at most `most`."""

    def __init__(self, base: int, most: int) -> None:
        self._base, self._most = base, most

    def __getitem__(self, resolution: int) -> int:
        return max(1, min(self._base // resolution, self._most))


def resolutions(shape: tuple[int | EllipsisType, ...]) -> tuple[int, list[int]]:
    """An image's channels, and the sides of the maps: 4, 8, … up to the image's.

    Raises:
        IncompatibleError: if the image is not square, or its side is not a power of two of at least 8.
    """
    channels, height, width = image_shape(shape)
    if height != width or height < 8 or height & (height - 1):
        text = f"makes or judges squares of 8, 16, 32, … pixels, and the images are {height}×{width}"
        raise IncompatibleError(f"{text}; set size in [data] to a power of two")
    return channels, [2**power for power in range(2, height.bit_length())]


def activated(values: Tensor, clamp: float, gain: float = 1.0) -> Tensor:
    """Leaky ReLU, times √2 and a further gain, clamped to ±clamp·gain."""
    bound = clamp * gain
    return (leaky_relu(values, LEAK) * (GAIN * gain)).clamp(-bound, bound)


class Noisy(nn.Module):
    """A layer that adds noise and a bias: a plane of N(0, 1), new in every call in training, and fixed in evaluation.

    Args:
        channels: Of its maps.
        side: Height and width of its maps.
        strengths: Shape of the factors of the noise, from 0 on: `()` for one, `(channels, 1, 1)` for each channel's.
    """

    noise: Tensor

    def __init__(self, channels: int, side: int, strengths: tuple[int, ...]) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.zeros(strengths))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))
        self.register_buffer("noise", torch.randn(1, 1, side, side))

    def noised(self, maps: Tensor) -> Tensor:
        """Maps `(batch, channels, side, side)`, with noise and bias."""
        noise = torch.randn_like(maps[:, :1]) if self.training else self.noise
        shift = self.strength * noise + self.bias
        return maps + shift.to(maps.dtype)


# ── Resampling: StyleGAN2, appendix B ─────────────────────────────────────────────────────────────────────


class Filter(nn.Module):
    """Convolves every channel with the filter, whose sum is 1.

    Args:
        padding: Zeros on every side; of n pixels, n + 2·padding − 3 are left.
        stride: Which of them are kept: every pixel, or every other one.
        gain: Factor of the result.
    """

    kernel: Tensor

    def __init__(self, padding: int, stride: int = 1, gain: float = 1.0) -> None:
        super().__init__()
        taps = torch.tensor(TAPS) / sum(TAPS)
        self.register_buffer("kernel", gain * torch.outer(taps, taps)[None, None], persistent=False)
        self._padding, self._stride = padding, stride

    def forward(self, maps: Tensor) -> Tensor:
        """`(batch, channels, height, width)`, in each direction by itself."""
        channels = maps.shape[1]
        kernels = self.kernel.expand(channels, 1, -1, -1)
        return conv2d(maps, kernels, stride=self._stride, padding=self._padding, groups=channels)


class Doubled(Filter):
    """Enlarges maps to twice their size: zeros between pixels, then the filter with gain 4."""

    def __init__(self) -> None:
        super().__init__(padding=1, stride=2, gain=4.0)

    def forward(self, maps: Tensor) -> Tensor:
        """`(batch, channels, height, width)` to `(batch, channels, 2·height, 2·width)`."""
        channels = maps.shape[1]
        kernels = self.kernel.expand(channels, 1, -1, -1)
        return conv_transpose2d(maps, kernels, stride=2, padding=1, groups=channels)


class HalvingConv2d(EqualizedConv2d):
    """A convolution with equalised learning rate that halves the size: the filter, then every other pixel.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Height and width of the kernel, odd.
        bias: As `ganrun.EqualizedConv2d`'s.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, bias: float | None = 0.0) -> None:
        is_pointwise = kernel_size == 1  # the filter itself can then skip every other pixel
        super().__init__(in_channels, out_channels, kernel_size, stride=1 if is_pointwise else 2, bias=bias)
        self.filter = Filter(padding=1 + kernel_size // 2, stride=2 if is_pointwise else 1)

    def forward(self, maps: Tensor) -> Tensor:
        """`(batch, in_channels, height, width)` to `(batch, out_channels, height / 2, width / 2)`."""
        return super().forward(self.filter(maps))


# ── Modulation: StyleGAN2, equations 1 to 3 ───────────────────────────────────────────────────────────────


class ModulatedConv2d(nn.Module):
    """A convolution whose weights are scaled by a style, separately for each sample.

    Equation 1: w′ᵢⱼₖ = sᵢ wᵢⱼₖ. Equation 3, the demodulation: w″ᵢⱼₖ = w′ᵢⱼₖ / √(Σᵢₖ w′ᵢⱼₖ² + ε). Factors of input
    channels can be applied to the inputs, and factors of output channels to the outputs. So one convolution with shared
    weights serves the whole batch.

    Args:
        style_size: Length of a style.
        fan_in: Channels.
        fan_out: Channels of the result.
        kernel: Height and width of the kernel.
        demodulates: Whether each output channel is scaled to unit variance; if not, weights have equalised learning
            rate.
        doubles: Whether it doubles the size: a transposed convolution, then the filter.
    """

    def __init__(
        self,
        style_size: int,
        fan_in: int,
        fan_out: int,
        kernel: int,
        *,
        demodulates: bool = True,
        doubles: bool = False,
    ) -> None:
        super().__init__()
        self.style = EqualizedLinear(style_size, fan_in, bias=1.0)
        self.weight = nn.Parameter(torch.randn(fan_out, fan_in, kernel, kernel))
        self.filter = Filter(padding=1, gain=4.0) if doubles else None
        self._demodulates = demodulates
        self._gain = 1.0 if demodulates else 1 / sqrt(fan_in * kernel**2)
        self._padding = kernel // 2

    def forward(self, maps: Tensor, style: Tensor) -> Tensor:
        """Maps `(batch, fan_in, height, width)` and styles `(batch, style_size)` to `(batch, fan_out, …)`."""
        with full_precision(style):
            scale = self.style(style.float() if style.dtype == torch.bfloat16 else style) * self._gain
            norm = self._norm(scale) if self._demodulates else None
        outputs = self._convolved(maps * _planes(scale, maps))
        return outputs if norm is None else outputs * _planes(norm, outputs)

    def _norm(self, scale: Tensor) -> Tensor:
        """1 / √(Σᵢₖ (sᵢ wᵢⱼₖ)² + ε) of each sample and output channel: `(batch, fan_out)`."""
        return (scale.square() @ self.weight.square().sum((2, 3)).T + EPSILON).rsqrt()

    def _convolved(self, maps: Tensor) -> Tensor:
        if self.filter is None:
            return conv2d(maps, self.weight, padding=self._padding)
        return self.filter(conv_transpose2d(maps, self.weight.transpose(0, 1), stride=2))  # type: ignore[no-any-return]


# ── Adaptive instance norm: StyleGAN, equation 1 ──────────────────────────────────────────────────────────


class AdaptiveInstanceNorm(nn.Module):
    """Gives each map of each sample the mean and the deviation that a style specifies.

    y_s · (x − μ(x)) / √(σ²(x) + 10⁻⁸) + y_b, where μ and σ² are those of the map's pixels, and y is affine in w. At
    first the bias of y_s is 1, and that of y_b is 0.

    Args:
        style_size: Length of a style.
        channels: Of the maps.
    """

    def __init__(self, style_size: int, channels: int) -> None:
        super().__init__()
        self.scale = EqualizedLinear(style_size, channels, bias=1.0)
        self.shift = EqualizedLinear(style_size, channels)

    def forward(self, maps: Tensor, style: Tensor) -> Tensor:
        """Maps `(batch, channels, height, width)` and styles `(batch, style_size)` to maps; computed in float32."""
        with full_precision(maps):
            exact, own = (each.to(self.scale.weight.dtype) for each in (maps, style))
            variance, mean = torch.var_mean(exact, (2, 3), correction=0, keepdim=True)
            normalised = (exact - mean) * (variance + EPSILON).rsqrt()
            scale, shift = (_planes(layer(own), exact) for layer in (self.scale, self.shift))
            return (scale * normalised + shift).to(maps.dtype)


def _planes(factors: Tensor, like: Tensor) -> Tensor:
    """Factors `(batch, channels)` for every pixel of maps, in the maps' type."""
    return factors[:, :, None, None].to(like.dtype)
