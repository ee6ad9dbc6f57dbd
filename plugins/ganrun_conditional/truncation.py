"""The truncation trick: normal latents bounded by a threshold, as BigGAN draws them for its samples."""

from __future__ import annotations

import math

import torch
from torch import Tensor

STEPS = 10
"""Of Halley's method; a float32 needs 8."""

ROOT = math.sqrt(2)
SLOPE = math.sqrt(2 / math.pi)
"""The derivative of erf(x / √2) at 0."""


def truncated(noise: Tensor, threshold: float) -> Tensor:
    """Numbers from N(0, 1) as numbers from the normal distribution between −t and t, of the same type and shape.

    Brock et al. 2018 (arXiv:1809.11096), section 3.1, draw values beyond ±t again. This has the same distribution, and
    is a function of the numbers, increasing and differentiable. So the same latents give the same sample, and a path of
    latents a path of samples. Φ(z') = Φ(−t) + Φ(z) (Φ(t) − Φ(−t)), that is, erf(z' / √2) = erf(z / √2) erf(t / √2).

    Args:
        noise: z, of any shape; computed in float32 where it is shorter.
        threshold: t, above 0.
    """
    exact = noise if noise.dtype == torch.float64 else noise.float()
    found = normal_of(torch.erf(exact / ROOT) * math.erf(threshold / ROOT))
    return found.clamp(-threshold, threshold).to(noise.dtype)


def normal_of(shares: Tensor) -> Tensor:
    """x with erf(x / √2) = y for each y of −1 to 1; where y rounds to ±1, an x beyond ±5.4 in float32.

    From x = 0, Halley's method goes outwards and does not pass the root. Unlike `torch.erfinv`, it is never infinite,
    and ONNX can express it.
    """
    found = shares / SLOPE  # the first of Newton's steps
    for _ in range(STEPS):
        newton = (shares - torch.erf(found / ROOT)) * torch.exp(found.square() / 2) / SLOPE
        found = found + newton / (1 - (newton * found / 2).clamp(max=0.5))  # more than ½ is a rounding error
    return found
