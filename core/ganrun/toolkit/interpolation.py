"""Latents between two others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ganrun.contracts.specs import Factor, ModelSpec

SMALLEST_SINE = 1e-7
"""Below it two directions count as parallel or opposite."""


def slerp(start: Tensor, end: Tensor, share: Tensor | float) -> Tensor:
    """Spherical interpolation (Shoemake 1985): the direction moves along the great circle at a constant speed.

        [sin((1 - t) Ω) u + sin(t Ω) v] / sin Ω,   Ω the angle between the directions u and v,

    times a length that changes linearly from that of `start` to that of `end`. So vectors between two draws from
    N(0, I) are as long as the draws, whereas a straight path would lead through lengths that are never drawn. Where
    there is no unique great circle, for parallel, opposite and zero vectors, the path is straight.

    Args:
        start: `(…, n)`, on the CPU.
        end: Likewise.
        share: t, in [0, 1]: 0 gives `start`, 1 gives `end`, both exactly. A tensor `(…, 1)` for several.
    """
    first, last = start.double(), end.double()
    length, last_length = first.norm(dim=-1, keepdim=True), last.norm(dim=-1, keepdim=True)
    u, v = first / length, last / last_length
    # The arc tangent keeps digits that the arc cosine of a product near 1 loses.
    angle = 2 * torch.atan2((u - v).norm(dim=-1, keepdim=True), (u + v).norm(dim=-1, keepdim=True))
    share = torch.as_tensor(share, dtype=torch.float64)
    direction = (((1 - share) * angle).sin() * u + (share * angle).sin() * v) / angle.sin()
    arc = torch.lerp(length, last_length, share) * direction
    return torch.where(angle.sin() > SMALLEST_SINE, arc, torch.lerp(first, last, share)).to(start.dtype)


def interpolated_latents(starts: Tensor, ends: Tensor, share: Tensor, spec: ModelSpec, draws: Tensor) -> Tensor:
    """Latents between pairs of latents: `(…, latent_size)`.

    Normal noise moves by `slerp`. Uniform noise and continuous codes move linearly: all points of a cube are equally
    likely, and a great circle would leave the cube. Categorical codes and given records keep their values at the start:
    nothing between two of them was trained. Where there are only categorical codes, as in a VQ-VAE, one after the other
    changes from start to end.

    Args:
        starts: `(…, latent_size)`, on the CPU.
        ends: Likewise.
        share: In [0, 1], `(…, 1)`: 0 gives the starts, 1 gives the ends.
        spec: Of the model.
        draws: Latents of the model, `(count, latent_size)`, some hundreds: they show which noise is uniform.
    """
    if all(factor.kind == "categorical" for factor in spec.factors):
        return _one_after_another(starts, ends, share, spec.factors)
    parts = []
    for factor in spec.factors:
        place = spec.place(factor)
        start, end = starts[..., place], ends[..., place]
        if factor.kind in ("categorical", "given"):
            parts.append(_straight(start, start, share))
        elif factor.kind == "continuous" or _is_uniform(draws[..., place]):
            parts.append(_straight(start, end, share))
        else:
            parts.append(slerp(start, end, share))
    return torch.cat(parts, -1)


def _straight(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    return torch.lerp(start.double(), end.double(), share.double()).to(start.dtype)


def _one_after_another(start: Tensor, end: Tensor, share: Tensor, factors: Sequence[Factor]) -> Tensor:
    """At a share of the way, that share of the factors has changed: the first ones."""
    sizes = torch.tensor([factor.size for factor in factors])
    numbers = torch.arange(len(factors)).repeat_interleave(sizes)
    return torch.where(numbers < share * len(factors), end, start)


def _is_uniform(drawn: Tensor) -> bool:
    """Whether all draws lie within two standard deviations, as uniform ones do (√3); of normal ones, 5 % do not."""
    return bool(drawn.abs().max() < 2 * drawn.std())
