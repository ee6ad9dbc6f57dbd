"""Scores by nearest neighbours in feature space: do samples look real, are they varied, are they new?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from pydantic import Field
from torch import Tensor

from ganrun import Data, Evaluation, Extractor, PreflightError, Problem, Score
from ganrun_fidelity.features import (
    FidelityMetric,
    FidelitySettings,
    RealFeatures,
    ReferenceMetric,
    ReferenceSettings,
    Rows,
    Value,
    count_of,
)

ROWS_AT_A_TIME = 1024

# ── The maths ─────────────────────────────────────────────────────────────────────────────────────────────


def radii(features: Tensor, neighbours: int) -> Tensor:
    """Distance of each of the features `(count, n)` to its k-th nearest other: `(count,)`."""
    parts = [near.kthvalue(neighbours + 1).values for near in _distances(features, features)]  # it is its own nearest
    return torch.cat(parts)


def _distances(first: Tensor, second: Tensor) -> Iterator[Tensor]:
    """Euclidean distances, some rows of `first` at a time: `(rows, len(second))`."""
    return (torch.cdist(part, second) for part in torch.split(first, ROWS_AT_A_TIME))


def share_within(features: Tensor, centres: Tensor, radius: Tensor) -> float:
    """Share of features `(count, n)` in at least one of the balls around `centres` `(m, n)` of `radius` `(m,)`."""
    inside = [(near <= radius).any(1) for near in _distances(features, centres)]
    return float(torch.cat(inside).double().mean())


def density(features: Tensor, centres: Tensor, radius: Tensor, neighbours: int) -> float:
    """In how many of the balls one of the features lies on average, over the k that a centre itself lies in."""
    inside = sum(int((near <= radius).sum()) for near in _distances(features, centres))
    return inside / (neighbours * len(features))


def coverage(features: Tensor, centres: Tensor, radius: Tensor) -> float:
    """Share of the balls that hold at least one of the features."""
    nearest = torch.cat([near.min(1).values for near in _distances(centres, features)])
    return float((nearest <= radius).double().mean())


def nearest_distance(features: Tensor, others: Tensor) -> Tensor:
    """Distance of each of the features to the nearest of the others: `(count,)`."""
    return torch.cat([near.min(1).values for near in _distances(features, others)])


def share_error(share: float, count: int) -> float:
    """Standard error of a share of `count` independent samples."""
    return float((max(share * (1 - share), 0.0) / count) ** 0.5)


# ── The metrics ───────────────────────────────────────────────────────────────────────────────────────────


class NeighbourSettings(ReferenceSettings):
    """What metrics by neighbourhoods take."""

    real_samples: int | None = Field(None, ge=2)
    """Real images, always the same ones; without it, as many as samples, or all of the split where it has fewer."""

    neighbours: int = Field(3, ge=1)
    """k, the neighbour whose distance is a ball's radius."""


class NeighbourMetric(ReferenceMetric[Rows]):
    """A metric by the neighbourhoods of features. Keeps all features in memory."""

    settings: NeighbourSettings
    summary_of_real = Rows

    def __init__(self, settings: NeighbourSettings, problem: Problem, extractor: Extractor) -> None:
        super().__init__(settings, problem, extractor)
        self.protocol = {"neighbours": settings.neighbours}
        self.least = settings.neighbours + 1

    def usual_count(self, available: int) -> int:
        """As many as samples, as in the papers."""
        return min(self.settings.samples, available)

    def gather(self, count: int) -> Rows:
        """All features."""
        return Rows()


class PrecisionRecall(NeighbourMetric):
    """Improved precision and recall: do samples look real, and do they reach all that is real? Higher is better.

    Kynkäänniemi et al. 2019 (arXiv:1904.06991), equations 1 and 2: `precision` is the share of samples that lie within
    the k-th neighbour's distance of a real image, `recall` the share of real images that lie so near a sample. Both
    depend on both numbers of pictures. Keeps all features in memory; time grows with the square of their number.
    """

    class Settings(NeighbourSettings):
        pass

    settings: Settings

    def values(self, gathered: Rows) -> Sequence[Value]:
        """`precision` and `recall`"""
        generated, real = gathered.state()["features"], self.real.state()["features"]
        precision = share_within(generated, real, radii(real, self.settings.neighbours))
        recall = share_within(real, generated, radii(generated, self.settings.neighbours))
        return [
            Value("precision", precision, True, share_error(precision, len(generated))),
            Value("recall", recall, True, share_error(recall, len(real))),
        ]


class DensityCoverage(NeighbourMetric):
    """Density and coverage: precision and recall that one outlier cannot spoil. Higher is better.

    Naeem et al. 2020 (arXiv:2002.09797), equations 2 and 3: `density` counts in how many real images' neighbourhoods a
    sample lies, over k, and may exceed 1; `coverage` is the share of real images whose neighbourhood holds a sample.
    """

    class Settings(NeighbourSettings):
        neighbours: int = Field(5, ge=1)
        """k, the neighbour whose distance is a ball's radius."""

    settings: Settings

    def values(self, gathered: Rows) -> Sequence[Value]:
        """`density` and `coverage`"""
        generated, real = gathered.state()["features"], self.real.state()["features"]
        radius = radii(real, self.settings.neighbours)
        covered = coverage(generated, real, radius)
        return [
            Value("density", density(generated, real, radius, self.settings.neighbours), True),
            Value("coverage", covered, True, share_error(covered, len(real))),
        ]


class NearestNeighbours(FidelityMetric[Rows]):
    """Memorisation: are samples nearer to training images than unseen real images are?

    `memorised` is the share of samples whose nearest training image is nearer than their nearest held-out one, of
    equally many: one half where the model knows no more of the one than of the other, 1 where it copies.
    `nearest_distance` is the samples' mean distance to their nearest training image, over that of the held-out images:
    1 where samples are as new as unseen images, 0 where they are copies. Keeps all features in memory.
    """

    class Settings(FidelitySettings):
        real_samples: int | None = Field(None, ge=2)
        """Images of either split to look among; without it, as many as the smaller one has."""

    settings: Settings

    def prepare(self, data: Data, device: torch.device) -> None:
        """Check that images were held out, which the model has not seen.

        Raises:
            PreflightError: if there are none.
        """
        available = min(count_of(data, "train"), count_of(data, "test"))
        wanted = self.settings.real_samples
        if available < 2:
            raise PreflightError("it compares training images with held-out ones, and this data has no test split")
        if wanted is not None and wanted > available:
            raise PreflightError(f"real_samples = {wanted}, but the smaller split has {available} images")
        count = wanted or available
        self.protocol = {"real": count, "real_digest": data.fingerprint("train")}
        self._train = RealFeatures(Rows, self.extractor, data, "train", count)
        self._test = RealFeatures(Rows, self.extractor, data, "test", count)

    def watch(self, evaluation: Evaluation) -> None:
        """Ask for features of samples and of both splits."""
        count = self.settings.samples
        self._generated = evaluation.collect(Rows(), "features", count=count, extractor=self.extractor)
        self._train.watch(evaluation)
        self._test.watch(evaluation)

    def measure(self, evaluation: Evaluation) -> Sequence[Score]:
        """`memorised` and `nearest_distance`."""
        return [self._score(each, None) for each in self.values(self._generated)]

    def gather(self, count: int) -> Rows:
        """All features."""
        return Rows()

    def values(self, gathered: Rows) -> Sequence[Value]:
        """`memorised` and `nearest_distance`"""
        train, test = (side.state()["features"] for side in (self._train, self._test))
        samples = gathered.state()["features"]
        to_train, unseen = nearest_distance(samples, train), nearest_distance(test, train)
        memorised = float((to_train < nearest_distance(samples, test)).double().mean())
        ratio = float(to_train.double().mean() / unseen.double().mean().clamp_min(1e-12))
        return [
            Value("memorised", memorised, False, share_error(memorised, len(samples))),
            Value("nearest_distance", ratio, True),
        ]
