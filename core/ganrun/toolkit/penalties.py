"""Parts of gradient penalties: norms of a critic's gradient, and the points at which they are taken.

A norm differentiates a gradient, so a phase that uses one has `second_order=True`. Norms are those of each sample by
itself, which requires a critic without batch norm: an output must not depend on other samples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Critic = Callable[[Tensor], Tensor]
"""Samples `(batch, …)` to numbers, `(batch, …)`: a view, or a function around one."""

EPSILON = 1e-12
"""Added under the root: the slope of √s is infinite at s = 0, and infinity times zero is NaN."""


def gradient_norms(critic: Critic, points: Tensor) -> Tensor:
    """‖∇ₓD(x)‖₂ at every point, over all its channels and pixels: `(batch,)`, differentiable.

    Args:
        critic: D. Of several numbers for a point, the gradient is that of their sum. It has the points' type, at any
            precision inside.
        points: x, float32 `(batch, …)`. No gradient flows back to their source.
    """
    return (squared_gradient_norms(critic, points) + EPSILON).sqrt()


def squared_gradient_norms(critic: Critic, points: Tensor) -> Tensor:
    """‖∇ₓD(x)‖₂² at every point, without the root, and so without an epsilon; see `gradient_norms`."""
    with torch.enable_grad():
        points = points.detach().requires_grad_()
        (gradients,) = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
    return gradients.square().flatten(1).sum(1)


def interpolates(real: Tensor, fake: Tensor) -> Tensor:
    """α·x + (1 − α)·G(z) with one α ~ U(0, 1) per pair: WGAN-GP's algorithm 1, lines 4 to 6 (arXiv:1704.00028).

    Draws from the global random stream.

    Args:
        real: x, `(batch, …)`.
        fake: G(z), of the same shape.
    """
    alpha = torch.rand(len(real), *[1] * (real.dim() - 1), device=real.device, dtype=real.dtype)
    return torch.lerp(fake, real, alpha)


def distance_from_one(norms: Tensor, sided: Literal["two", "one"] = "two") -> Tensor:
    """E[(‖g‖ − 1)²] of WGAN-GP's equation 3, or the one-sided E[max(0, ‖g‖ − 1)²] of its section 4; a scalar.

    Args:
        norms: ‖g‖, `(batch,)`.
        sided: Whether norms under 1 are penalised (two) or allowed (one).
    """
    excess = norms - 1
    return (excess if sided == "two" else excess.relu()).square().mean()
