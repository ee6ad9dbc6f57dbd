"""A GAN without labels: clusters of the training images take the place of classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ganrun import Batch, DataSpec, IncompatibleError, Inputs, Nets, Split, Terms, full_precision, to_unit_range
from ganrun_conditional.losses import ConditionalGan

SIDE = 16
"""Height and width, in pixels, to which images are averaged before they are compared."""

EXAMPLES = 20_000
"""Maximum number of images for k-means; a random subset of more."""

AT_ONCE = 4_096
"""Images compared at a time."""


class ClusteredGan(ConditionalGan):
    """A GAN without labels, whose two networks take the cluster that an image belongs to: a clustered GAN.

    Sage, Agustsson, Timofte and Van Gool 2018 (arXiv:1712.04407): before training, k-means divides the training images
    into clusters, and these are the classes of a conditional GAN. Samples are drawn of each cluster as often as it
    occurs in the data, so together they are samples of the whole data set, and the generator must cover each of its
    clusters. In the paper, images are compared by the features of an autoencoder or a classifier; here by their pixels,
    averaged down to at most 16×16, so that no other network is needed.

    A real image belongs to the cluster with the nearest mean, also if `[train]` has mirrored or cropped it.
    """

    label_factor = "cluster"

    class Settings(ConditionalGan.Settings):
        clusters: int = Field(30, ge=2, le=10_000)
        """Number of clusters. More clusters have more similar images, but fewer each to learn from."""

        draw_classes: Literal["equally", "as-data"] = "as-data"
        """Frequency of each cluster among samples: as-data, as among the records that the run trains on; or equally,
        which is not the distribution of the data."""

    settings: Settings

    def __init__(self, settings: Settings, spec: DataSpec) -> None:
        super().__init__(settings, spec)
        size = _described(torch.zeros(1, *spec.sample_shape)).shape[1]
        self.memory.register_buffer("means", torch.zeros(settings.clusters, size))

    @property
    def classes(self) -> int:
        """The clusters."""
        return self.settings.clusters

    def prepare(self, training: Split) -> None:
        """Find the clusters by k-means, and count their images.

        Raises:
            IncompatibleError: if there are fewer different images than clusters.
        """
        self.memory.means.copy_(self._means(training.images))
        labels = torch.cat([self.clusters_of(part) for part in _parts(training.images)])
        super().prepare(replace(training, labels=labels.numpy()))

    def discriminator(self, nets: Nets, batch: Batch) -> Terms:
        """As `cgan`, with the clusters of the real images as their labels."""
        return super().discriminator(nets, self._with_clusters(batch))

    def real_inputs(self, slot: str, batch: Batch) -> Inputs:
        """The images, with their clusters."""
        return super().real_inputs(slot, self._with_clusters(batch))

    def clusters_of(self, images: Tensor) -> Tensor:
        """The nearest mean to each of the images `(size, *sample_shape)` in [-1, 1]: int64 `(size,)`."""
        means = self.memory.means
        with full_precision(images):
            return (means.square().sum(1) - 2 * _described(images) @ means.T).argmin(dim=1)

    def _with_clusters(self, batch: Batch) -> Batch:
        return replace(batch, real_labels=self.clusters_of(batch.images))

    def _means(self, images: npt.NDArray[Any]) -> Tensor:
        """The means of the clusters, `(clusters, features)`."""
        from sklearn.cluster import KMeans

        random = np.random.RandomState(int(torch.randint(2**31, ())))
        seen = images[np.sort(random.permutation(len(images))[:EXAMPLES])]
        described = torch.cat([_described(part) for part in _parts(seen)]).numpy()
        different = len(np.unique(described, axis=0))
        if different < self.settings.clusters:
            text = f"clusters = {self.settings.clusters} are more than the {different} different images"
            raise IncompatibleError(f"{text}; set fewer")
        return torch.from_numpy(KMeans(self.settings.clusters, random_state=random).fit(described).cluster_centers_)


def _described(images: Tensor) -> Tensor:
    """The features by which images in [-1, 1] are compared: `(size, features)`, float32; all numbers of samples that
    are not images."""
    images = images.float()
    if images.ndim == 4:
        height, width = (min(side, SIDE) for side in images.shape[2:])
        images = adaptive_avg_pool2d(images, (height, width))
    return images.flatten(1)


def _parts(images: npt.NDArray[Any]) -> Iterator[Tensor]:
    """The images in [-1, 1], some at a time."""
    for begin in range(0, len(images), AT_ONCE):
        yield to_unit_range(torch.from_numpy(np.ascontiguousarray(images[begin : begin + AT_ONCE])))
