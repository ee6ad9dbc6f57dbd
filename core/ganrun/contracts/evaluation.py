"""What a metric is given: it asks for samples, real images and features, and collects them batch by batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from ganrun.contracts.extractors import Extractor
from ganrun.contracts.specs import ModelSpec


class Collector(Protocol):
    """What a metric gathers in a pass: a running sum, a histogram, or everything."""

    def add(self, *batch: Tensor) -> None:
        """Take the next batch: one tensor for each output that was asked for, `(batch, …)`, on the run's device."""


C = TypeVar("C", bound=Collector)


class Buffer:
    """A collector that keeps everything, on the CPU: memory grows with the number of samples."""

    def __init__(self) -> None:
        self._batches: list[tuple[Tensor, ...]] = []

    def add(self, *batch: Tensor) -> None:
        """Keep a batch."""
        self._batches.append(tuple(each.cpu() for each in batch))

    def tensors(self) -> tuple[Tensor, ...]:
        """All rows of each output, in order."""
        self._batches = [tuple(torch.cat(parts) for parts in zip(*self._batches, strict=True))]
        return self._batches[0]


class Evaluation(ABC):
    """What a metric is given: everything it may need of one moment of a run.

    Samples come from the averaged weights where the loss asks for an average, in evaluation mode, from latents
    that are the same at every evaluation. Nothing here touches training's random stream.

    Args:
        spec: The facts of the data and the model.
        device: Where extractors compute.
        step: Steps done.
        seed: The run's seed.
    """

    def __init__(self, *, spec: ModelSpec, device: torch.device, step: int, seed: int) -> None:
        self.spec = spec
        self.device = device
        self.step = step
        self.seed = seed

    @abstractmethod
    def collect(self, into: C, *outputs: str, count: int, extractor: Extractor | None = None) -> C:
        """Ask for the first `count` generated samples, batch by batch, as soon as they are drawn.

        Args:
            into: Is given each batch, by `add`.
            outputs: Which of its outputs, in this order: `samples` (images as uint8, by `ganrun.to_uint8`; points as
                they are), `latents` `(batch, latent_size)`, or the extractor's, such as `features`.
            count: How many samples.
            extractor: Whose features; computed once for all metrics that ask for them.

        Returns:
            `into`.

        Raises:
            PreflightError: if the samples are a folder of pictures, which holds fewer.
        """

    @abstractmethod
    def collect_real(
        self,
        into: C,
        *outputs: str,
        count: int | None = None,
        split: str = "train",
        extractor: Extractor | None = None,
    ) -> C:
        """Ask for `count` real images of a split, the same ones in every run; for all of them where `count` is None.

        Args:
            into: Is given each batch, by `add`.
            outputs: Which of its outputs, in this order: `images` as the data set holds them, `labels` (int64, where
                the data has any), `encodings` `(batch, latent_size)` and `reconstructions` (where `spec.encodes` and
                `spec.reconstructs` say that there are any), or the extractor's.
            count: How many images.
            split: `train` or `test`.
            extractor: Whose features; computed once for all metrics that ask for them.

        Returns:
            `into`.
        """

    @abstractmethod
    def generated(self, count: int) -> Tensor:
        """The first `count` generated samples, on the CPU: `(count, *sample_shape)`.

        They are drawn at once, for this call alone; what `Metric.watch` asks for by `collect` is drawn once for all
        metrics.
        """

    @abstractmethod
    def real(self, count: int | None = None, split: str = "train") -> Tensor:
        """`count` real images of a split as the data set holds them, on the CPU; all where `count` is None."""
