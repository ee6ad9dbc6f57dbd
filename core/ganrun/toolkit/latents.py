"""Latent vectors: the distributions of noise, and parts by factor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ganrun.base.errors import ContractError
from ganrun.contracts.specs import Factor

Distribution = Literal["normal", "uniform", "truncated"]
"""normal: N(0, 1). uniform: on (-1, 1). truncated: N(0, 1), truncated at two standard deviations."""

BOUND = 2.0
"""Of truncated noise, in standard deviations of the normal distribution that is truncated."""


def random_noise(size: int, length: int, distribution: Distribution, device: torch.device) -> Tensor:
    """Draw noise from the global random stream, independently for each number: float32 `(size, length)`.

    Truncated noise has the distribution of normal noise with values beyond ±2 redrawn. Each value is computed from one
    uniform number y as √2 erf⁻¹(y erf(√2)).
    """
    if distribution == "normal":
        return torch.randn(size, length, device=device)
    uniform = torch.rand(size, length, device=device) * 2 - 1
    if distribution == "uniform":
        return uniform
    root = math.sqrt(2)
    return (root * torch.erfinv(uniform * math.erf(BOUND / root))).clamp(-BOUND, BOUND)


def split_latents(latents: Tensor, factors: Sequence[Factor]) -> dict[str, Tensor]:
    """Views of the latents, one for each factor, by its name: `(batch, factor.size)`.

    Args:
        latents: `(batch, latent_size)`.
        factors: A loss's `factors()`, or `spec.factors`.
    """
    parts = torch.split(latents, [factor.size for factor in factors], dim=1)
    return {factor.name: part for factor, part in zip(factors, parts, strict=True)}


def join_latents(parts: Mapping[str, Tensor], factors: Sequence[Factor]) -> Tensor:
    """Latents `(batch, latent_size)` from their parts; the inverse of `split_latents`.

    Args:
        parts: `(batch, factor.size)` by the factor's name, at least one. Factors without a part become 0, as
            the reading `encodings` reports what cannot be read from an image.
        factors: As in `split_latents`.

    Raises:
        ContractError: if a part has no factor.
    """
    unknown = parts.keys() - {factor.name for factor in factors}
    if unknown:
        raise ContractError(f"the latents have no factor {', '.join(sorted(unknown))}")
    some = next(iter(parts.values()))
    zeros = {each.name: some.new_zeros(len(some), each.size) for each in factors if each.name not in parts}
    whole = {**parts, **zeros}
    return torch.cat([whole[factor.name] for factor in factors], dim=1)


def random_one_hot(size: int, values: int, device: torch.device) -> Tensor:
    """Draw one of `values` equally likely values per row from the global random stream: float32 `(size, values)`."""
    return one_hot(torch.randint(values, (size,), device=device), values).float()
