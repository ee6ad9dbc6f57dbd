"""FID: the Fréchet distance between Gaussians fitted to two sets of features.

Heusel et al. 2017 (arXiv:1706.08500), equation 6; Dowson and Landau 1982.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from pydantic import ValidationInfo, field_validator
from torch import Tensor

from ganrun import Data, LocalPath
from ganrun_fidelity.doubles import in_float64
from ganrun_fidelity.features import ReferenceMetric, ReferenceSettings
from ganrun_fidelity.floors import Reference, ScoreProtocol, Value
from ganrun_fidelity.real_images import Summary
from ganrun_fidelity.statistics import check_features, read_statistics

# ── The maths ─────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Gaussian:
    """Mean and covariance of features, in float64 on the CPU."""

    mean: Tensor
    """`(features,)`"""

    covariance: Tensor
    """`(features, features)`, the unbiased estimate: divided by n - 1."""

    @cached_property
    def root(self) -> Tensor:
        """R `(features, rank)` with R Rᵀ = covariance."""
        values, vectors = torch.linalg.eigh(self.covariance)
        # Rounding turns a zero eigenvalue into some ε, which would enter the distance as √ε.
        kept = values > values[-1] * len(values) * torch.finfo(torch.float64).eps
        root: Tensor = vectors[:, kept] * values[kept].sqrt()
        return root


class Moments(Summary[Gaussian]):
    """Mean and covariance of features, batch by batch: memory does not grow with their number.

    The sums are float64, of differences from the first batch's mean: a large mean costs no digits.
    """

    def __init__(self) -> None:
        self._count = 0
        self._centre = self._sum = torch.zeros(0)
        self._products = torch.zeros(0, 0)

    def add(self, *batch: Tensor) -> None:
        """Take features `(batch, n)`."""
        features = in_float64(batch[0])
        if not self._count:
            self._centre = features.mean(0)
            self._sum = torch.zeros_like(self._centre)
            self._products = features.new_zeros(features.shape[1], features.shape[1])
        centred = features - self._centre
        self._count += len(features)
        self._sum += centred.sum(0)
        self._products.addmm_(centred.T, centred)

    def state(self) -> dict[str, Tensor]:
        """`mean` `(n,)` and `covariance` `(n, n)` of at least two rows."""
        shift = self._sum / self._count
        covariance = (self._products - self._count * torch.outer(shift, shift)) / (self._count - 1)
        return {"mean": (self._centre + shift).cpu(), "covariance": covariance.cpu()}

    @staticmethod
    def read(state: Mapping[str, Tensor]) -> Gaussian:
        """The Gaussian of this mean and covariance."""
        return Gaussian(**state)


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """Squared 2-Wasserstein distance of two Gaussians, at least 0.

        d² = |m₁ − m₂|² + tr C₁ + tr C₂ − 2 tr (C₁ C₂)^½

    C₁ C₂ is not symmetric, but for C₁ = R Rᵀ its non-zero eigenvalues are those of the symmetric Rᵀ C₂ R. So the last
    trace is the sum of their roots, and no general matrix root is needed.
    """
    overlap = torch.linalg.eigvalsh(first.root.T @ second.covariance @ first.root).clamp(min=0).sqrt().sum()
    shift = (first.mean - second.mean).square().sum()
    distance = shift + first.covariance.trace() + second.covariance.trace() - 2 * overlap
    return max(float(distance), 0.0)


# ── The metric ────────────────────────────────────────────────────────────────────────────────────────────


class FrechetInceptionDistance(ReferenceMetric[Gaussian]):
    """FID: Fréchet distance between generated and real pictures in feature space; lower is better."""

    class Settings(ReferenceSettings):
        statistics: LocalPath | None = None
        """An .npz with the mean `mu` and covariance `sigma` of real images' features, as published for a data set, in
        place of the run's own images. It must come from the same network and resizing as `features`, which nothing in
        the file shows. Scores are comparable only with those against the same file, and have no floor."""

        @field_validator("statistics")
        @classmethod
        def _no_real_images(cls, path: str | None, info: ValidationInfo) -> str | None:
            if path is not None and (info.data.get("real_samples") is not None or info.data.get("split") == "test"):
                raise ValueError("statistics take the place of real images; leave out real_samples and split")
            return path

    settings: Settings
    summary_class = Moments

    def reference(self, data: Data) -> Reference[Gaussian]:
        """The published statistics, or else images as for every metric.

        Raises:
            PreflightError: if the statistics are invalid, or another network's; or if there are too few images.
        """
        if self.settings.statistics is None:
            return super().reference(data)
        found = read_statistics(Path(self.settings.statistics))
        check_features(self.extractor, found, self.spec.image_shape, self.device)
        real = Gaussian(found.mean, found.covariance)
        protocol: ScoreProtocol = {
            "real": "not stated" if found.images is None else found.images,
            "real_statistics": found.digest,
            "real_features": len(found.mean),
        }
        return Reference(lambda _: lambda: real, None, protocol)

    def compare(self, samples: Gaussian, real: Gaussian) -> Sequence[Value]:
        """`fid`"""
        return [Value("fid", frechet_distance(real, samples), higher_is_better=False)]
