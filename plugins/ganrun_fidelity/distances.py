"""The maths of the scores: from features to a number, in float64."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

ROWS_AT_A_TIME = 8192
SHUFFLE_SEED = 2020
"""torch-fidelity's default: parts of one set of samples are then its parts."""


# ── Fréchet distance (Dowson & Landau 1982; as FID: Heusel et al. 2017, arXiv:1706.08500, eq. 6) ──────────────


@dataclass(frozen=True)
class Gaussian:
    """Mean and covariance of features, in float64 on the CPU."""

    mean: Tensor
    """`(features,)`"""

    covariance: Tensor
    """`(features, features)`, the unbiased estimate: divided by n - 1."""

    @classmethod
    def fitted(cls, features: Tensor) -> Gaussian:
        """The Gaussian of features `(n, features)`, n at least 2."""
        mean = features.mean(0, dtype=torch.float64)
        covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64)
        for start in range(0, len(features), ROWS_AT_A_TIME):
            centred = features[start : start + ROWS_AT_A_TIME].double() - mean
            covariance.addmm_(centred.T, centred)
        return cls(mean, covariance / (len(features) - 1))

    @cached_property
    def root(self) -> Tensor:
        """R `(features, rank)` with R Rᵀ = covariance."""
        values, vectors = torch.linalg.eigh(self.covariance)
        # What rounding leaves of a zero eigenvalue, ε, would enter the distance as √ε.
        kept = values > values[-1] * len(values) * torch.finfo(torch.float64).eps
        root: Tensor = vectors[:, kept] * values[kept].sqrt()
        return root


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """Squared 2-Wasserstein distance of two Gaussians, at least 0.

        d² = |m₁ − m₂|² + tr C₁ + tr C₂ − 2 tr (C₁ C₂)^½

    C₁ C₂ is not symmetric, but for C₁ = R Rᵀ it has the eigenvalues of the symmetric Rᵀ C₂ R, those that are zero
    apart; so the last trace is the sum of their roots, which needs no general matrix root.
    """
    overlap = torch.linalg.eigvalsh(first.root.T @ second.covariance @ first.root).clamp(min=0).sqrt().sum()
    shift = (first.mean - second.mean).square().sum()
    distance = shift + first.covariance.trace() + second.covariance.trace() - 2 * overlap
    return max(float(distance), 0.0)


# ── Inception Score (Salimans et al. 2016, arXiv:1606.03498, section 4) ──────────────────────────────────────


def inception_score(logits: Tensor, splits: int) -> float:
    """exp E KL(p(y|x) ‖ p(y)), between 1 and the number of classes: the mean over `splits` parts of the samples.

    The samples are shuffled and parted as torch-fidelity does by default.

    Args:
        logits: `(n, classes)`, n at least `splits`.
        splits: Number of parts; p(y) is each part's own.
    """
    count = len(logits)
    order = np.random.RandomState(SHUFFLE_SEED).permutation(count)
    log_p = logits[torch.from_numpy(order)].double().log_softmax(1)
    bounds = [part * count // splits for part in range(splits + 1)]
    return float(np.mean([_part_score(log_p[low:high]) for low, high in pairwise(bounds)]))


def _part_score(log_p: Tensor) -> float:
    log_marginal = log_p.logsumexp(0) - np.log(len(log_p))
    return float((log_p.exp() * (log_p - log_marginal)).sum(1).mean().exp())
