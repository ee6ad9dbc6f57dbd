"""Penalties on the gradient of a critic with respect to its input.

All of them differentiate a gradient, so a phase that uses one has `second_order=True`. They are computed per sample,
which requires a critic without batch norm: an output must not depend on other samples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Network = Callable[[Tensor], Tensor]
"""Samples `(batch, …)` to one number each, `(batch, 1)`."""

EPSILON = 1e-12
"""Added under the root: the slope of √s is infinite at s = 0, and infinity times zero is NaN."""


# ── Norms ─────────────────────────────────────────────────────────────────────────────────────────────────


def gradient_norms(critic: Network, points: Tensor) -> Tensor:
    """‖∇ₓD(x)‖₂ at every point, over all its channels and pixels: `(batch,)`, differentiable.

    Args:
        critic: D. The gradient has the points' type, at any precision inside.
        points: x, float32 `(batch, …)`. No gradient flows back to their source.
    """
    return (squared_gradient_norms(critic, points) + EPSILON).sqrt()


def squared_gradient_norms(critic: Network, points: Tensor) -> Tensor:
    """‖∇ₓD(x)‖₂² at every point; see `gradient_norms`."""
    with torch.enable_grad():
        points = points.detach().requires_grad_()
        (gradients,) = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
    return gradients.square().flatten(1).sum(1)


# ── WGAN-GP: Gulrajani et al. 2017, arXiv:1704.00028 ──────────────────────────────────────────────────────


def interpolates(real: Tensor, fake: Tensor) -> Tensor:
    """α·x + (1 − α)·G(z) with one α ~ U(0, 1) per pair: algorithm 1, lines 4 to 6.

    Args:
        real: x, `(batch, …)`.
        fake: G(z), of the same shape.
    """
    alpha = torch.rand(len(real), *[1] * (real.dim() - 1), device=real.device, dtype=real.dtype)
    return torch.lerp(fake, real, alpha)


def distance_from_one(norms: Tensor, sided: Literal["two", "one"] = "two") -> Tensor:
    """E[(‖g‖ − 1)²] of equation 3, or the one-sided E[max(0, ‖g‖ − 1)²] discussed in section 4.

    Args:
        norms: ‖g‖, `(batch,)`.
        sided: Whether norms under 1 are penalised (two) or allowed (one).
    """
    excess = norms - 1
    return (excess if sided == "two" else excess.relu()).square().mean()


# ── DRAGAN: Kodali et al. 2017, arXiv:1705.07215 ──────────────────────────────────────────────────────────


def dragan(critic: Network, real: Tensor, variance: float, norm: float = 1.0) -> Tensor:
    """E[(‖∇D(x + δ)‖ − k)²] with δ ~ N(0, c·I): a penalty around the real samples alone.

    Args:
        critic: D, before any sigmoid.
        real: x, `(batch, …)`.
        variance: c; choose it for images in [-1, 1].
        norm: k.
    """
    noise = torch.randn_like(real) * variance**0.5
    return (gradient_norms(critic, real + noise) - norm).square().mean()


# ── R1 and R2: Mescheder et al. 2018, arXiv:1801.04406 ────────────────────────────────────────────────────


def r1(critic: Network, real: Tensor, gamma: float) -> Tensor:
    """γ/2 · E[‖∇D(x)‖²] at the real samples: section 4.1. Without a root it needs no epsilon."""
    return gamma / 2 * squared_gradient_norms(critic, real).mean()


def r2(critic: Network, fake: Tensor, gamma: float) -> Tensor:
    """γ/2 · E[‖∇D(G(z))‖²] at the generated samples: section 4.1."""
    return gamma / 2 * squared_gradient_norms(critic, fake).mean()
