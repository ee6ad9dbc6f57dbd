"""Evaluations: metrics request samples, real images and features, and collect them batch by batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from ganrun.contracts.extractors import Extractor
from ganrun.contracts.losses import Nets
from ganrun.contracts.settings import Settings
from ganrun.contracts.specs import ModelSpec


class Collector(Protocol):
    """Collects the batches of a pass: into a running sum, a histogram, or a list."""

    def add(self, *batch: Tensor) -> None:
        """Take the next batch: one tensor `(batch, …)` for each requested output, on the evaluation's device."""


C = TypeVar("C", bound=Collector)


class Buffer:
    """A collector that keeps all batches, on the CPU: memory grows with the number of samples."""

    def __init__(self) -> None:
        self._batches: list[tuple[Tensor, ...]] = []

    def add(self, *batch: Tensor) -> None:
        """Keep a batch."""
        self._batches.append(tuple(each.cpu() for each in batch))

    def tensors(self) -> tuple[Tensor, ...]:
        """All rows of each output, in order."""
        self._batches = [tuple(torch.cat(parts) for parts in zip(*self._batches, strict=True))]
        return self._batches[0]


class EvaluatedModel(Protocol):
    """The model of an evaluation, for metrics that search its latents, measure paths through them or call its networks.

    It is a `ganrun.Model`: in evaluation mode, in float32, with averaged weights where the loss keeps an average.
    """

    spec: ModelSpec
    device: torch.device

    sampling: Settings
    """The settings that its samples are made by."""

    networks: Mapping[str, nn.Module]
    """By slot."""

    nets: Nets
    """Views of the networks, as objectives see them."""

    def decode(self, latents: Tensor, *, gradients: bool = False) -> Tensor:
        """As `Model.decode`."""

    def read(
        self,
        name: str,
        images: Tensor,
        labels: Tensor | None = None,
        beside: Mapping[str, Tensor] | None = None,
        *,
        batch: int = 0,
    ) -> Tensor:
        """As `Model.read`."""


class Evaluation(ABC):
    """One evaluation of a model: gives metrics samples, real images and their features.

    The samples are those of the averaged weights where the loss keeps an average, in evaluation mode, and their latents
    are the same at every evaluation. Training's random stream is not touched.

    Args:
        spec: The facts of the data and the model.
        device: Device of the extractors.
        step: Steps completed.
        seed: The run's seed.
        model: The model; None for a folder of pictures.
    """

    def __init__(
        self, *, spec: ModelSpec, device: torch.device, step: int, seed: int, model: EvaluatedModel | None = None
    ) -> None:
        self.spec = spec
        self.device = device
        self.step = step
        self.seed = seed
        self.model = model

    @abstractmethod
    def collect(self, into: C, *outputs: str, count: int, extractor: Extractor | None = None) -> C:
        """Request the first `count` generated samples, batch by batch; the pass that follows draws them.

        Args:
            into: Its `add` gets each batch.
            outputs: The tensors of a batch, in the order of `add`: `samples` (images as uint8, by `ganrun.to_uint8`;
                points unchanged), `latents` `(batch, latent_size)`, `targets` (as `samples`: the image of the record
                that each sample is made of, if `spec.has_targets`), or the extractor's outputs, such as `features`.
            count: Number of samples. Where latents hold records, sample i is made of the record of rank i of
                `ganrun.given_split`; after the last record the first follows.
            extractor: Computes features, once for all metrics that request them.

        Returns:
            `into`.

        Raises:
            IncompatibleError: if there is no such output; for a request in `watch`, before training.
            PreflightError: if there are fewer than `count` samples: pictures in a folder, or records, where latents
                hold nothing else.
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
        """Request `count` real images of a split, batch by batch: the same images in every run.

        Args:
            into: Its `add` gets each batch.
            outputs: The tensors of a batch, in the order of `add`: `images` (uint8; points unchanged), `labels` (int64,
                for labelled data), a field of `spec.fields` (as images are), a reading of `spec.readings`
                (`reconstructions` as images are, all others as the loss gives them), or the extractor's outputs.
            count: Number of images; all of the split if None.
            split: `train` or `test`.
            extractor: Computes features, once for all metrics that request them.

        Returns:
            `into`.

        Raises:
            IncompatibleError: as `collect`: for labels of data without any, or a reading that the loss does not have.
            DataError: if the data has no such split.
        """

    @abstractmethod
    def generated(self, count: int) -> Tensor:
        """The first `count` generated samples, on the CPU: `(count, *sample_shape)`.

        Draws them immediately, for this call alone; requests by `collect` share one pass.
        """

    @abstractmethod
    def real(self, count: int | None = None, split: str = "train") -> Tensor:
        """`count` real images of a split, on the CPU, all of it if `count` is None: uint8, or points unchanged."""
