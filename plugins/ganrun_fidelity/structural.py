"""Structural similarity of pictures in [0, 1], at one scale and at several."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

WINDOW, SIGMA = 11, 1.5
"""Side and standard deviation, in pixels, of the Gaussian window of SSIM."""
C1, C2 = 0.01**2, 0.03**2
"""SSIM's constants (K₁ L)² and (K₂ L)² for pictures in [0, 1]."""
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the scales, the finest first: Wang et al. 2003, section 3.2."""


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Structural similarity of pictures `(batch, channels, height, width)` in [0, 1], pair by pair: `(batch,)`.

    Wang et al. 2004 (doi:10.1109/TIP.2003.819861), equation 13, over all positions where the window fits.
    """
    return _similarity(first, second)[0]


def ms_ssim(first: Tensor, second: Tensor) -> Tensor:
    """Multi-scale structural similarity of pictures in [0, 1], pair by pair: `(batch,)`, in [0, 1].

        SSIM₅^β₅ ∏ⱼ CSⱼ^βⱼ, j = 1 … 4,    CS = (2 σₓᵧ + C₂) / (σₓ² + σᵧ² + C₂)

    Wang et al. 2003 (doi:10.1109/ACSSC.2003.1292216), equation 7, where contrast and structure are one factor as their
    exponents are equal. Between scales, each 2×2 pixels become their mean. A negative factor counts as 0. Where a scale
    is smaller than the window, the window is the picture, and its σ shrinks in proportion: as in the code of
    progressive growing (Karras et al. 2018, arXiv:1710.10196).

    Args:
        first: `(batch, channels, height, width)`; both sides can be halved four times.
        second: Likewise.
    """
    product = first.new_ones(len(first))
    for weight in WEIGHTS[:-1]:
        product = product * _similarity(first, second)[1].clamp(min=0) ** weight
        first, second = (F.avg_pool2d(each, 2) for each in (first, second))
    return product * _similarity(first, second)[0].clamp(min=0) ** WEIGHTS[-1]


def _similarity(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM, and its factor of contrast and structure alone, both averaged over positions and channels: `(batch,)`."""
    side = min(WINDOW, *first.shape[2:])
    means = mean_1, mean_2 = _windowed(first, side), _windowed(second, side)
    variance_1, variance_2 = (
        _windowed(each * each, side) - mean**2 for each, mean in zip((first, second), means, strict=True)
    )
    covariance = _windowed(first * second, side) - mean_1 * mean_2
    luminance = (2 * mean_1 * mean_2 + C1) / (mean_1**2 + mean_2**2 + C1)
    structure = (2 * covariance + C2) / (variance_1 + variance_2 + C2)
    return (luminance * structure).flatten(1).mean(1), structure.flatten(1).mean(1)


def _windowed(pictures: Tensor, side: int) -> Tensor:
    """The Gaussian-weighted mean of every window."""
    places = torch.arange(side, dtype=pictures.dtype, device=pictures.device) - (side - 1) / 2
    weights = torch.exp(-(places**2) / (2 * (SIGMA * side / WINDOW) ** 2))
    weights = weights / weights.sum()
    planes = pictures.flatten(0, 1)[:, None]
    blurred = F.conv2d(F.conv2d(planes, weights[None, None, :, None]), weights[None, None, None, :])
    return blurred.view(*pictures.shape[:2], *blurred.shape[2:])
