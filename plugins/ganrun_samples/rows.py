"""Latents for a grid whose rows are the values of a code."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ganrun import Factor

MOST_ROWS = 32
"""A code of more values would make a picture that nobody can look at."""


def row_by_row(latents: Tensor, factors: tuple[Factor, ...], columns: int) -> Tensor | None:
    """Latents `(values · columns, latent_size)`: one row for each value of the first categorical factor, and below each
    other the same latents but for that code. None where there is no such factor.

    Args:
        latents: At least `columns` of them.
        factors: What a latent vector is made of.
        columns: Samples in a row.
    """
    start = 0
    for factor in factors:
        if factor.kind == "categorical" and factor.size <= MOST_ROWS:
            rows = latents[:columns].repeat(factor.size, 1)
            values = torch.arange(factor.size, device=latents.device).repeat_interleave(columns)
            rows[:, start : start + factor.size] = one_hot(values, factor.size).to(rows.dtype)
            return rows
        start += factor.size
    return None
