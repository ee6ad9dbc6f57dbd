"""Layers with equalised learning rate (Karras et al. 2018, arXiv:1710.10196, section 4.1)."""

from __future__ import annotations

from math import prod, sqrt

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear


class _Equalized(nn.Module):
    """Weights that are stored from N(0, 1) and scaled in every forward: w · gain / √fan-in.

    Adam's steps do not depend on the scale of gradients. So all layers learn at the same speed, relative to the range
    of their weights. A layer of learning rate multiplier λ stores weights and bias divided by λ, and multiplies them by
    λ: its initial function is the same, and a step of a given size moves it λ times as far.
    """

    def __init__(self, shape: tuple[int, ...], gain: float, bias: float | None, lr_multiplier: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape) / lr_multiplier)
        self.bias = None if bias is None else nn.Parameter(torch.full(shape[:1], bias / lr_multiplier))
        self._gain, self._lr_multiplier = gain * lr_multiplier / sqrt(prod(shape[1:])), lr_multiplier

    def scaled_weight(self) -> Tensor:
        """The effective weights, in the shape of the stored ones."""
        return self.weight * self._gain

    def scaled_bias(self) -> Tensor | None:
        """The effective bias, `(out,)`, if there is one."""
        return None if self.bias is None else self.bias * self._lr_multiplier


class EqualizedLinear(_Equalized):
    """A dense layer with equalised learning rate (Karras et al. 2018, arXiv:1710.10196, section 4.1).

    Args:
        in_features: Inputs.
        out_features: Outputs.
        gain: Standard deviation of the outputs at first, for inputs of unit second moment: √2 before a ReLU, else 1.
        bias: Where each bias starts; None for a layer without.
        lr_multiplier: Factor of the learning rate of weights and bias (Karras et al. 2019, arXiv:1812.04948, appendix
            C: 0.01 in the mapping network).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        gain: float = 1.0,
        bias: float | None = 0.0,
        lr_multiplier: float = 1.0,
    ) -> None:
        super().__init__((out_features, in_features), gain, bias, lr_multiplier)

    def forward(self, inputs: Tensor) -> Tensor:
        """`(…, in_features)` to `(…, out_features)`."""
        return linear(inputs, self.scaled_weight(), self.scaled_bias())


class EqualizedConv2d(_Equalized):
    """A convolution with equalised learning rate; its fan-in is in_channels · kernel_size².

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Height and width of the kernel.
        stride: Of the convolution.
        padding: Zeros on every side.
        gain: As `EqualizedLinear`'s.
        bias: As `EqualizedLinear`'s.
        lr_multiplier: As `EqualizedLinear`'s.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        gain: float = 1.0,
        bias: float | None = 0.0,
        lr_multiplier: float = 1.0,
    ) -> None:
        super().__init__((out_channels, in_channels, kernel_size, kernel_size), gain, bias, lr_multiplier)
        self._stride, self._padding = stride, padding

    def forward(self, maps: Tensor) -> Tensor:
        """Maps `(batch, in_channels, height, width)` to `(batch, out_channels, …)`."""
        return conv2d(maps, self.scaled_weight(), self.scaled_bias(), self._stride, self._padding)
