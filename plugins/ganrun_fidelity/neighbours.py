"""Scores by nearest neighbours in feature space: how real, how varied and how new samples are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from ganrun import Data, Evaluation, PreflightError
from ganrun_fidelity.doubles import in_float64
from ganrun_fidelity.features import FidelityMetric, FidelitySettings, ReferenceMetric, ReferenceSettings
from ganrun_fidelity.floors import Reference, ScoreProtocol, Value
from ganrun_fidelity.real_images import Pending, RealFeatures, Rows, count_of

ROWS_AT_A_TIME = 1024

# ── The maths ─────────────────────────────────────────────────────────────────────────────────────────────


def radii(features: Tensor, neighbours: int) -> Tensor:
    """Distance of each of the features `(count, n)` to its k-th nearest other: `(count,)`."""
    nearest = neighbours + 1  # the first is the feature itself
    return torch.cat([near.kthvalue(nearest).values for near in _distances(features, features)])


def _distances(first: Tensor, second: Tensor) -> Iterator[Tensor]:
    """Euclidean distances, some rows of `first` at a time: `(rows, len(second))`."""
    # cdist subtracts squares, which costs digits where features lie far from their mean, and most where two are equal.
    first, second = in_float64(first), in_float64(second)
    centre = second.mean(0)
    centred = second - centre
    return (torch.cdist(part - centre, centred) for part in torch.split(first, ROWS_AT_A_TIME))


def share_within(features: Tensor, centres: Tensor, radius: Tensor) -> float:
    """Share of features `(count, n)` in at least one of the balls around `centres` `(m, n)` of `radius` `(m,)`."""
    inside = [(near <= radius).any(1).cpu() for near in _distances(features, centres)]
    return float(torch.cat(inside).double().mean())


def density(features: Tensor, centres: Tensor, radius: Tensor, neighbours: int) -> float:
    """Number of balls around one of the features, on average, divided by k."""
    inside = sum(int((near <= radius).sum()) for near in _distances(features, centres))
    return inside / (neighbours * len(features))


def coverage(features: Tensor, centres: Tensor, radius: Tensor) -> float:
    """Share of the balls that contain at least one of the features."""
    return float((nearest_distance(centres, features) <= radius).cpu().double().mean())


def nearest_distance(features: Tensor, others: Tensor) -> Tensor:
    """Distance of each of the features to the nearest of the others: `(count,)`."""
    return torch.cat([near.min(1).values for near in _distances(features, others)])


def share_farther(values: Tensor, others: Tensor) -> Tensor:
    """For each of the values `(count,)`, the share of the others that are larger; equal ones count one half."""
    ordered = others.sort().values
    below, up_to = (torch.searchsorted(ordered, values, right=right) for right in (False, True))
    return 1 - (below + up_to) / (2 * len(others))


def share_error(share: float, count: int) -> float:
    """Standard error of a share of `count` independent samples."""
    return float((max(share * (1 - share), 0.0) / count) ** 0.5)


def mean_error(values: Tensor) -> float:
    """Standard error of the mean of independent values `(count,)`."""
    return float(values.std() / len(values) ** 0.5)


# ── The metrics ───────────────────────────────────────────────────────────────────────────────────────────


class NeighbourSettings(ReferenceSettings):
    """Settings of metrics by neighbourhoods."""

    real_samples: int | None = Field(None, ge=2)
    """Real images, the same ones in every run; unless given, as many as samples, or all of the split if that is
    fewer."""

    neighbours: int = Field(3, ge=1, validate_default=True)
    """k: the radius of a ball is the distance to the k-th nearest neighbour."""

    @field_validator("neighbours")
    @classmethod
    def _enough_samples(cls, neighbours: int, info: ValidationInfo) -> int:
        if neighbours >= (samples := info.data.get("samples", neighbours + 1)):
            raise ValueError(f"{samples} samples have fewer than {neighbours} neighbours each; raise samples")
        return neighbours


class NeighbourMetric(ReferenceMetric[Tensor]):
    """A metric by the neighbourhoods of features. Keeps all features in memory."""

    settings: NeighbourSettings
    summary_class = Rows

    @property
    def least(self) -> int:
        """A picture and its neighbours."""
        return self.settings.neighbours + 1

    @property
    def protocol(self) -> ScoreProtocol:
        """Number of neighbours."""
        return {"neighbours": self.settings.neighbours}

    def usual_count(self, available: int) -> int:
        """As many as samples, as in the papers."""
        return min(self.settings.samples, available)


class PrecisionRecall(NeighbourMetric):
    """Improved precision and recall: how many samples look real, how many real images they reach; higher is better.

    Kynkäänniemi et al. 2019 (arXiv:1904.06991), equations 1 and 2: `precision` is the share of samples within the ball
    of a real image, whose radius is the distance to its k-th nearest neighbour; `recall` is the share of real images
    within the ball of a sample. Both depend on the number of samples and of real images. Keeps all features in memory;
    time grows with the square of their number.
    """

    Settings = NeighbourSettings

    def compare(self, samples: Tensor, real: Tensor) -> Sequence[Value]:
        """`precision` and `recall`"""
        samples, real = samples.to(self.device), real.to(self.device)
        precision = share_within(samples, real, radii(real, self.settings.neighbours))
        recall = share_within(real, samples, radii(samples, self.settings.neighbours))
        return [
            Value("precision", precision, True, share_error(precision, len(samples))),
            Value("recall", recall, True),
        ]


class DensityCoverage(NeighbourMetric):
    """Density and coverage: precision and recall that are robust against outliers; higher is better.

    Naeem et al. 2020 (arXiv:2002.09797), equations 2 and 3: `density` is the mean number of real images' balls around a
    sample, divided by k; it may exceed 1. `coverage` is the share of real images whose ball contains a sample.
    """

    class Settings(NeighbourSettings):
        neighbours: int = Field(5, ge=1, validate_default=True)
        """k: the radius of a ball is the distance to the k-th nearest neighbour."""

    settings: Settings

    def compare(self, samples: Tensor, real: Tensor) -> Sequence[Value]:
        """`density` and `coverage`"""
        samples, real = samples.to(self.device), real.to(self.device)
        radius = radii(real, self.settings.neighbours)
        return [
            Value("density", density(samples, real, radius, self.settings.neighbours), True),
            Value("coverage", coverage(samples, real, radius), True),
        ]


class TrainingImages(NamedTuple):
    """The images with which samples are compared to find copies."""

    features: Tensor
    """`(count, n)`"""

    unseen_distances: Tensor
    """The distance of each held-out image to its nearest training image: `(held_out,)` in float64."""


class NearestNeighbours(FidelityMetric[Rows, TrainingImages]):
    """Memorisation: whether samples are closer to training images than held-out real images are.

    `memorised` is the probability that a sample is closer to its nearest training image than a held-out image is to its
    own: 0.5 for samples as new as held-out images, 1 for copies. It is the statistic of Meehan et al. 2020
    (arXiv:2004.05675, section 3). `nearest_distance` is the mean distance of samples to their nearest training image,
    divided by that of held-out images: 1 for new samples, 0 for copies. Neither measures quality: noise is new, too.
    Keeps all features in memory.
    """

    class Settings(FidelitySettings):
        real_samples: int | None = Field(None, ge=1)
        """Training images to compare with; all unless given. Copies of other training images go unnoticed."""

    settings: Settings

    def reference(self, data: Data) -> Reference[TrainingImages]:
        """Training images, and all held-out ones.

        Raises:
            PreflightError: if no images are held out, or there are fewer training images than the recipe asks for.
        """
        held_out, available, wanted = count_of(data, "test"), count_of(data, "train"), self.settings.real_samples
        if held_out < 2:
            raise PreflightError("it compares training images with held-out ones, and this data has no test split")
        if wanted is not None and wanted > available:
            raise PreflightError(f"real_samples = {wanted}, but there are {available} training images")
        count = wanted or available
        train = RealFeatures(Rows, self.extractor, data, "train", count)
        test = RealFeatures(Rows, self.extractor, data, "test", held_out)

        def watch(evaluation: Evaluation) -> Pending[TrainingImages]:
            pending, unseen = train.watch(evaluation), test.watch(evaluation)

            def training_images() -> TrainingImages:
                features = pending()
                return TrainingImages(features, self._to_nearest(unseen(), features))

            return training_images

        prints = {"real_digest": data.fingerprint("train"), "held_out_digest": data.fingerprint("test")}
        return Reference(watch, None, {"real": count, "held_out": held_out, **prints})

    def collector(self, count: int) -> Rows:
        """All features."""
        return Rows()

    def values(self, samples: Rows, real: TrainingImages) -> Sequence[Value]:
        """`memorised` and `nearest_distance`"""
        distances = self._to_nearest(Rows.read(samples.state()), real.features)
        farther = share_farther(distances, real.unseen_distances)
        unseen = real.unseen_distances.mean().clamp_min(1e-12)
        return [
            Value("memorised", float(farther.mean()), False, mean_error(farther)),
            Value("nearest_distance", float(distances.mean() / unseen), True, mean_error(distances / unseen)),
        ]

    def _to_nearest(self, features: Tensor, training: Tensor) -> Tensor:
        """The distance of each to the nearest training image: `(count,)` in float64."""
        return nearest_distance(features.to(self.device), training.to(self.device)).cpu().double()
