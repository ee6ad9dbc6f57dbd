"""Indicators of trouble, computed from one small batch or from an optimiser's state. None depends on the loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def separation(of_real: Tensor, of_samples: Tensor) -> Tensor:
    """How well a discriminator separates real records from samples, in standard deviations: a scalar.

    The sensitivity index d′ of signal detection, (μ₁ − μ₂) / √((σ₁² + σ₂²) / 2), Green and Swets 1966: the same after
    any shift and any scaling of the outputs, so it means the same for logits, critics and relativistic losses.

    Args:
        of_real: Outputs for real records `(count,)`.
        of_samples: Outputs for samples `(count,)`.
    """
    spread = ((of_real.var() + of_samples.var()) / 2).sqrt()
    return (of_real.mean() - of_samples.mean()) / spread


def diversity(samples: Tensor, real: Tensor) -> Tensor:
    """The diversity of samples relative to that of real records: a scalar, at most 1.

    The smaller of two ratios of distances: over all pairs, which shows a collapse to one sample, and between nearest
    neighbours, which shows a collapse to a few. Arora, Risteski and Zhang 2018 (ICLR, "Do GANs learn the distribution?
    Some theory and empirics") find collapse by near-duplicates in a batch, Odena et al. 2016 (arXiv:1610.09585) by the
    mean similarity of pairs.

    Args:
        samples: `(count, …)`.
        real: As many real records.
    """
    pairs = zip(_distances(samples), _distances(real), strict=True)
    return torch.stack([own / of_real for own, of_real in pairs]).nan_to_num(nan=1.0).amin().clamp(max=1.0)


def gradient_norm(optimizer: torch.optim.Optimizer) -> Tensor | None:
    """The root mean square of a network's gradient norm over the optimiser's averaging window, from Adam's second
    moment: a scalar. None for an optimiser without such a moment, or before its first step.

    Kingma and Ba 2014 (arXiv:1412.6980), algorithm 1, with its correction of the first steps.
    """
    means = [mean for group in optimizer.param_groups if (mean := _mean_square(optimizer, group)) is not None]
    return torch.stack(means).sum().sqrt() if means else None


def _mean_square(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> Tensor | None:
    """The corrected running mean of a group's squared gradients, summed over its weights."""
    states = [optimizer.state[weight] for weight in group["params"] if weight in optimizer.state]
    for name, decay in _MOMENTS.items():
        moments = [state[name] for state in states if name in state and "step" in state]
        if moments and decay in group:
            kept = group[decay][1] if decay == "betas" else group[decay]
            total: Tensor = torch.stack([each.sum() for each in moments]).sum() / (1 - kept ** states[0]["step"])
            return total
    return None


_MOMENTS = {"exp_avg_sq": "betas", "square_avg": "alpha"}
"""Names under which torch's optimisers keep the running mean of squared gradients, and its decay: Adam and its
variants, RMSprop."""


def _distances(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The mean distance of all pairs of rows, and of each row to its nearest."""
    flat = rows.flatten(1).float()
    distances = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
    own = torch.eye(len(flat), dtype=torch.bool, device=flat.device)
    return distances[~own].mean(), distances.masked_fill(own, torch.inf).amin(1).mean()
