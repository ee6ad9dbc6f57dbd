"""KID: the squared maximum mean discrepancy between two sets of features, under a cubic kernel.

Bińkowski et al. 2018 (arXiv:1801.01401), section 4: k(x, y) = (xᵀy / n + 1)³ for n features, and the unbiased estimate
of MMD², averaged over random subsets. Unlike FID's, its expectation does not depend on the number of samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from ganrun_fidelity.doubles import in_float64
from ganrun_fidelity.features import ReferenceMetric, ReferenceSettings
from ganrun_fidelity.floors import ScoreProtocol, Value
from ganrun_fidelity.real_images import Rows

SUBSET_SEED = 2020
"""torch-fidelity's default: gives the same subsets."""


def squared_mmd(first: Tensor, second: Tensor) -> float:
    """Unbiased estimate of MMD² between two sets of features `(m, n)`, of equal size; may be below 0.

    Sums run over pairs of different rows within a set, and over all pairs across the sets. In float64: the estimate is
    a small difference of large sums, of which float32 leaves two digits where the features' mean is 20.
    """
    size = len(first)
    first, second = in_float64(first), in_float64(second)
    within = sum(_kernel(each, each).fill_diagonal_(0).sum() for each in (first, second)) / (size * (size - 1))
    across = _kernel(first, second).sum() / size**2
    return float(within - 2 * across)


def _kernel(first: Tensor, second: Tensor) -> Tensor:
    return (first @ second.T).div_(first.shape[1]).add_(1).pow_(3)


class KernelInceptionDistance(ReferenceMetric[Tensor]):
    """KID: squared maximum mean discrepancy between generated and real features; lower is better, 0 for equal ones.

    The mean over random subsets of `subset_size` samples and as many real images. The error follows from the variance
    over subsets, times m / (n - m) for subsets of m among n samples, which overlap. That variance includes the one over
    real images, so the error is too large rather than too small. Keeps all features in memory.
    """

    class Settings(ReferenceSettings):
        subsets: int = Field(100, ge=1)
        """Number of random subsets; the score is the mean over them."""

        subset_size: int = Field(1000, ge=2, validate_default=True)
        """Samples in a subset, and real images."""

        @field_validator("subset_size")
        @classmethod
        def _enough_samples(cls, size: int, info: ValidationInfo) -> int:
            for name in ("samples", "real_samples"):
                count = info.data.get(name)
                if count is not None and size > count:
                    raise ValueError(f"{name} = {count} are fewer than a subset; lower subset_size or raise {name}")
            return size

    settings: Settings
    summary_class = Rows

    @property
    def least(self) -> int:
        """One subset."""
        return self.settings.subset_size

    @property
    def protocol(self) -> ScoreProtocol:
        """Number and size of the subsets, and the kernel's precision, which was float32 in 0.1.0."""
        return {"subsets": self.settings.subsets, "subset_size": self.settings.subset_size, "kernel": "float64"}

    def compare(self, samples: Tensor, real: Tensor) -> Sequence[Value]:
        """`kid`"""
        random = np.random.RandomState(SUBSET_SEED)
        distances = [
            squared_mmd(self._subset(samples, random), self._subset(real, random)) for _ in range(self.settings.subsets)
        ]
        return [Value("kid", float(np.mean(distances)), higher_is_better=False, error=self._error(distances))]

    def _error(self, distances: Sequence[float]) -> float | None:
        left_out = self.settings.samples - self.settings.subset_size
        if len(distances) < 2 or not left_out:
            return None
        return float(np.std(distances, ddof=1) * (self.settings.subset_size / left_out) ** 0.5)

    def _subset(self, features: Tensor, random: np.random.RandomState) -> Tensor:
        chosen = random.choice(len(features), self.settings.subset_size, replace=False)
        return features[torch.from_numpy(chosen)].to(self.device)
