"""Latents for a grid in which each row is one value of a code."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ganrun import Factor

MAX_ROWS = 32
"""Codes with more values would make the picture too large."""


def row_by_row(latents: Tensor, factors: tuple[Factor, ...], columns: int) -> Tensor | None:
    """Latents `(values · columns, latent_size)`: one row for each value of the first categorical factor; the other
    factors are equal within a column. None if there is no such factor, or if all are codes, as in a VQ-VAE: a row would
    then show one image.

    Args:
        latents: At least `columns` of them.
        factors: The factors of a latent vector.
        columns: Samples in a row.
    """
    if len(factors) > 1 and all(factor.kind == "categorical" for factor in factors):
        return None
    start = 0
    for factor in factors:
        if factor.kind == "categorical" and factor.size <= MAX_ROWS:
            rows = latents[:columns].repeat(factor.size, 1)
            values = torch.arange(factor.size, device=latents.device).repeat_interleave(columns)
            rows[:, start : start + factor.size] = one_hot(values, factor.size).to(rows.dtype)
            return rows
        start += factor.size
    return None
