"""Where an evaluation's rows come from: a model, a folder of pictures, or a split of the data; batch by batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import ClassVar, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ganrun.base.errors import NonFiniteError
from ganrun.base.randomness import derived_seed, isolated_random
from ganrun.contracts.data import Data, Split, to_uint8, to_unit_range
from ganrun.contracts.specs import DataSpec

T = TypeVar("T")

SAMPLES_PER_BATCH = 256
"""Fixed, because each batch of latents has a seed of its own: sample i is the same however many are asked for."""


class ReadsImages(Protocol):
    """What reads latents off images and reconstructs them, as a model does."""

    def encode(self, images: Tensor) -> Tensor | None:
        """Latents of images in [-1, 1], or None."""

    def reconstruct(self, images: Tensor) -> Tensor | None:
        """Reconstructions of images in [-1, 1], or None."""


class Rows(ABC):
    """One batch of a source. Its outputs are attributes; those that cost something are computed when first read.

    Args:
        ranks: Of each row: a metric that asks for `count` gets the rows of rank below it. int64 `(batch,)`
    """

    def __init__(self, ranks: Tensor) -> None:
        self.ranks = ranks

    @property
    @abstractmethod
    def pictures(self) -> Tensor:
        """What extractors look at: `(batch, …)`, in the form in which the data set holds its own."""


class Source(ABC):
    """A source of rows for one pass."""

    outputs: ClassVar[tuple[str, ...]]
    """What its rows have."""

    name: str
    """As progress is reported."""

    @property
    def available(self) -> int | None:
        """How many rows there are; None where any number can be drawn."""
        return None

    @abstractmethod
    def batches(self, count: int) -> Iterator[Rows]:
        """The rows of rank below `count`, batch by batch."""


# ── Samples ───────────────────────────────────────────────────────────────────────────────────────────────


class SampleRows(Rows):
    """Generated samples `(batch, …)`, with the latents `(batch, latent_size)` that they were made from."""

    def __init__(self, ranks: Tensor, samples: Tensor, latents: Tensor | None = None) -> None:
        super().__init__(ranks)
        self.samples = samples
        self._latents = latents

    @property
    def latents(self) -> Tensor:
        """The latents; a picture that was found has none."""
        return _given(self._latents, "latents")

    @property
    def pictures(self) -> Tensor:
        """The samples."""
        return self.samples


@dataclass(frozen=True)
class GeneratedSamples(Source):
    """The samples of a model, drawn under seeds that make sample i the same in every evaluation.

    Args:
        draw: `draw(count)` gives `count` fresh latents from the current random stream, and their samples in [-1, 1].
        spec: The facts of the data.
        device: Where the model computes.
        seed: The run's seed.
    """

    outputs = ("samples", "latents")
    name = "samples"

    draw: Callable[[int], tuple[Tensor, Tensor]]
    spec: DataSpec
    device: torch.device
    seed: int

    def batches(self, count: int) -> Iterator[Rows]:
        """Always whole batches, whose seeds are numbered."""
        for number, start in enumerate(range(0, count, SAMPLES_PER_BATCH)):
            with isolated_random(self.device, derived_seed(self.seed, "evaluation", number)):
                latents, drawn = self.draw(SAMPLES_PER_BATCH)
            samples = as_data(drawn, self.spec)
            yield SampleRows(torch.arange(start, start + len(samples), device=self.device), samples, latents)


@dataclass(frozen=True)
class FoundSamples(Source):
    """Pictures that were found and not drawn, as the data set would hold them: `(count, …)`."""

    outputs = ("samples", "latents")
    name = "samples"

    found: Tensor
    device: torch.device

    @property
    def available(self) -> int:
        """As many as were found."""
        return len(self.found)

    def batches(self, count: int) -> Iterator[Rows]:
        """Those that are chosen, in order."""
        for places, ranks in chosen_batches(len(self.found), "pictures", count):
            yield SampleRows(ranks.to(self.device), self.found[torch.from_numpy(places)].to(self.device))


# ── Real images ───────────────────────────────────────────────────────────────────────────────────────────


class RealRows(Rows):
    """Real images as the data set holds them; their labels, encodings and reconstructions are made when asked for."""

    def __init__(
        self,
        ranks: Tensor,
        images: Tensor,
        labels: npt.NDArray[np.int64] | None,
        model: ReadsImages | None,
        spec: DataSpec,
    ) -> None:
        super().__init__(ranks)
        self.images = images
        self._labels = labels
        self._model = model
        self._spec = spec

    @property
    def pictures(self) -> Tensor:
        """The images."""
        return self.images

    @cached_property
    def labels(self) -> Tensor:
        """int64 `(batch,)`"""
        return torch.from_numpy(np.asarray(_given(self._labels, "labels"))).to(self.images.device)

    @cached_property
    def encodings(self) -> Tensor:
        """Latents `(batch, latent_size)`"""
        return _given(_given(self._model, "encodings").encode(to_unit_range(self.images)), "encodings")

    @cached_property
    def reconstructions(self) -> Tensor:
        """Like `images`."""
        made = _given(self._model, "reconstructions").reconstruct(to_unit_range(self.images))
        return as_data(_given(made, "reconstructions"), self._spec)


@dataclass(frozen=True)
class RealImages(Source):
    """A split of the data.

    Args:
        data: Prepared.
        split: `train` or `test`.
        device: Where the rows go.
        model: What encodes and reconstructs them, if anything does.
    """

    outputs = ("images", "labels", "encodings", "reconstructions")

    data: Data
    split: str
    device: torch.device
    model: ReadsImages | None = None

    @property
    def name(self) -> str:  # type: ignore[override]
        """`train images`"""
        return f"{self.split} images"

    def batches(self, count: int) -> Iterator[Rows]:
        """Those that are chosen, in order."""
        whole, spec = self.data.split(self.split), self.data.spec()
        for places, ranks in chosen_batches(len(whole), self.split, count):
            labels = None if whole.labels is None else whole.labels[places]
            yield RealRows(ranks.to(self.device), _rows_of(whole, places).to(self.device), labels, self.model, spec)


def real_images(data: Data, count: int, split: str = "train") -> Tensor:
    """`count` real images of a split as the data set holds them, on the CPU: the same ones for every model and metric.

    Args:
        data: Prepared.
        count: How many; all of them where there are fewer.
        split: `train` or `test`.
    """
    whole = data.split(split)
    return torch.cat([_rows_of(whole, places) for places, _ in chosen_batches(len(whole), split, count)])


def chosen_batches(available: int, source: str, count: int) -> Iterator[tuple[npt.NDArray[np.int64], Tensor]]:
    """The places of `count` of the available images, in order, batch by batch; and the rank of each.

    Which ones is drawn once, for all runs: `count` images are always those of rank below `count`. So images that lie
    class by class are not taken class by class, and fewer are a subset of more.
    """
    # RandomState's stream is the one that numpy promises never to change.
    random = np.random.RandomState(derived_seed(0, "real", source) % 2**32)
    ranks = np.argsort(random.permutation(available))
    chosen = np.flatnonzero(ranks < count)
    for places in np.array_split(chosen, ceil(len(chosen) / SAMPLES_PER_BATCH)):
        yield places, torch.from_numpy(ranks[places])


def as_data(samples: Tensor, spec: DataSpec) -> Tensor:
    """Samples in [-1, 1] in the form in which the data set holds its own: images as uint8, points as they are.

    Raises:
        NonFiniteError: if a value is NaN or infinite, which as a picture would be black.
    """
    if not samples.isfinite().all():
        raise NonFiniteError("the samples are not finite, so they cannot be scored")
    return to_uint8(samples) if len(spec.sample_shape) == 3 else samples


def _rows_of(split: Split, places: npt.NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(split.images[places]))


def _given(value: T | None, name: str) -> T:
    if value is None:
        raise ValueError(f"there are no {name}: look at the spec before asking for them")
    return value
