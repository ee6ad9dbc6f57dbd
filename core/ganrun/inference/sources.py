"""Sources of an evaluation's rows, read batch by batch: what they have in common, and the splits of the data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from math import ceil
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ganrun.base.errors import ContractError, IncompatibleError, NonFiniteError
from ganrun.base.launched import Ranks
from ganrun.base.randomness import derived_seed
from ganrun.contracts.data import Data, Split, to_uint8, to_unit_range
from ganrun.contracts.evaluation import EvaluatedModel
from ganrun.contracts.extractors import Extractor
from ganrun.contracts.specs import DataSpec

T = TypeVar("T")

ALONE = Ranks()
"""A single process."""

SAMPLES_PER_BATCH = 256
"""Fixed, because every batch of latents has its own seed: sample i is the same for any number of samples."""


IMAGE_OUTPUTS = ("images", "labels")
"""Outputs that every data set has; a field must have another name."""


class NonFiniteRowsError(NonFiniteError):
    """An output of a batch holds NaN or infinity."""

    ends_run = True

    def __init__(self, output: str) -> None:
        super().__init__(output)
        self.output = output


class Rows(ABC):
    """One batch of a source. Most outputs are attributes; expensive ones are computed when first read.

    Args:
        ranks: The rank of each row, int64 `(batch,)`: a metric that asks for `count` rows gets those of lower rank.
    """

    def __init__(self, ranks: Tensor) -> None:
        self.ranks = ranks

    def output(self, name: str) -> Tensor:
        """One of the source's outputs: `(batch, …)`."""
        value: Tensor = getattr(self, name)
        return value

    @property
    @abstractmethod
    def pictures(self) -> Tensor:
        """The input of extractors: `(batch, …)`, in the data set's format."""


class Source(ABC):
    """A source of rows for one pass."""

    @property
    @abstractmethod
    def outputs(self) -> tuple[str, ...]:
        """The names of its rows' outputs."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Its name in progress reports."""

    @property
    def available(self) -> int | None:
        """Number of rows; None if there is no limit."""
        return None

    limited_by: ClassVar[str] = ""
    """Why there is a limit, for messages, if it is not obvious."""

    def check_outputs(self, wanted: Sequence[str], extractor: Extractor | None) -> None:
        """Check that these outputs exist, of the rows or of an extractor.

        Raises:
            IncompatibleError: naming the first that is missing.
        """
        known = {*self.outputs, *(extractor.outputs if extractor else ())}
        for output in wanted:
            if output not in known:
                there = ", ".join(sorted(known))
                raise IncompatibleError(f'it asks for "{output}" of the {self.name}, and there are only {there}')

    @abstractmethod
    def batches(self, count: int, at: Ranks = ALONE) -> Iterator[Rows]:
        """The rows of rank below `count`, in batches of `SAMPLES_PER_BATCH`; several processes get batches in turn."""


# ── Real images ───────────────────────────────────────────────────────────────────────────────────────────


class RealRows(Rows):
    """Real records of a split; their outputs are computed when first read.

    Args:
        ranks: As in `Rows`.
        split: Holds the records.
        places: Their indices in it.
        device: Of the outputs.
        model: Reads the records; None where there is no model.
        spec: The facts of the data.
        number: The batch's number.
    """

    def __init__(
        self,
        ranks: Tensor,
        split: Split,
        places: npt.NDArray[np.int64],
        device: torch.device,
        model: EvaluatedModel | None,
        spec: DataSpec,
        number: int,
    ) -> None:
        super().__init__(ranks)
        self._split = split
        self._places = places
        self._device = device
        self._model = model
        self._spec = spec
        self._number = number
        self._read: dict[str, Tensor] = {}

    def output(self, name: str) -> Tensor:
        """`images` or `labels`, a field, or a reading of the model."""
        if name in IMAGE_OUTPUTS:
            return super().output(name)
        return self.beside(name) if name in self._spec.fields else self.reading(name)

    @cached_property
    def images(self) -> Tensor:
        """`(batch, *sample_shape)` in the data set's format."""
        return in_data_format(self._stored)

    @property
    def pictures(self) -> Tensor:
        """The images."""
        return self.images

    @cached_property
    def labels(self) -> Tensor:
        """int64 `(batch,)`"""
        return rows_of(required(self._split.labels, "labels"), self._places).to(self._device)

    def beside(self, name: str) -> Tensor:
        """The field of that name `(batch, *spec.fields[name])`, in the data set's format."""
        return in_data_format(self._field(name))

    def reading(self, name: str) -> Tensor:
        """A reading of the model, `(batch, …)`; `reconstructions` in the format of `images`. Made once.

        Raises:
            ContractError: as `Model.read`.
            NonFiniteRowsError: if a reconstruction is infinite.
        """
        if name not in self._read:
            self._read[name] = self._made(name)
        return self._read[name]

    def _made(self, name: str) -> Tensor:
        model, labels = required(self._model, name), self._split.labels
        made = model.read(
            name,
            to_unit_range(self._stored),
            None if labels is None else self.labels,
            {field: to_unit_range(self._field(field)) for field in self._spec.fields},
            batch=self._number,
        )
        return as_data(made, self._spec, name) if name == "reconstructions" else made

    def _field(self, name: str) -> Tensor:
        """A field as the split holds it. Unpaired data may have fewer rows of it; they then repeat cyclically."""
        field = required(self._split.beside.get(name), name)
        return rows_of(field, self._places).to(self._device)

    @cached_property
    def _stored(self) -> Tensor:
        """The images as the split holds them."""
        return rows_of(self._split.images, self._places).to(self._device)


@dataclass(frozen=True)
class RealImages(Source):
    """A split of the data.

    Args:
        data: Prepared.
        split: `train` or `test`.
        device: Device of the rows.
        model: Reads the records; None where there is no model.
    """

    data: Data
    split: str
    device: torch.device
    model: EvaluatedModel | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        """Images, labels where the split has them, the data's fields, and the model's readings."""
        readings = () if self.model is None else self.model.spec.readings
        labels = () if self.data.split(self.split).labels is None else ("labels",)
        return "images", *labels, *self.data.spec().fields, *readings

    @property
    def name(self) -> str:
        """`train images`"""
        return f"{self.split} images"

    def batches(self, count: int, at: Ranks = ALONE) -> Iterator[Rows]:
        """A fixed random choice of `count`, in order."""
        whole, spec = self.data.split(self.split), self.data.spec()
        chosen = enumerate(chosen_batches(len(whole), self.split, count))
        for number, (places, ranks) in islice(chosen, at.number, None, at.total):
            yield RealRows(ranks.to(self.device), whole, places, self.device, self.model, spec, number)


def real_images(data: Data, count: int, split: str = "train", field: str = "images") -> Tensor:
    """`count` real images of a split, on the CPU: uint8, or points unchanged; the same for every model and metric.

    Args:
        data: Prepared.
        count: Number of images; all images if there are fewer.
        split: `train` or `test`.
        field: A field of the data, for that part of the same records in place of the images.
    """
    whole = data.split(split)
    array = whole.images if field == "images" else whole.beside[field]
    batches = chosen_batches(len(whole), split, count)
    return torch.cat([in_data_format(rows_of(array, places)) for places, _ in batches])


def chosen_batches(available: int, source: str, count: int) -> Iterator[tuple[npt.NDArray[np.int64], Tensor]]:
    """The indices of `count` of the available images, in order, batch by batch; and the rank of each.

    Ranks are a fixed random permutation, the same in every run, and the choice is the images of rank below `count`. So
    data that is sorted by class yields images of all classes, and a smaller choice is a subset of a larger one.
    """
    ranks = np.argsort(fixed_order(available, source))
    chosen = np.flatnonzero(ranks < count)
    for places in np.array_split(chosen, ceil(len(chosen) / SAMPLES_PER_BATCH)):
        yield places, torch.from_numpy(ranks[places])


def fixed_order(available: int, source: str) -> npt.NDArray[np.int64]:
    """The place of each rank, int64 `(available,)`: a random permutation that is the same in every run."""
    # numpy promises never to change RandomState's stream.
    return np.random.RandomState(derived_seed(0, "real", source) % 2**32).permutation(available).astype(np.int64)


def as_data(samples: Tensor, spec: DataSpec, name: str) -> Tensor:
    """Samples in [-1, 1] in the data set's format: images as uint8, points unchanged.

    Raises:
        NonFiniteRowsError: with `name`, if a value is NaN or infinite: conversion to uint8 would hide it.
    """
    if not samples.isfinite().all():
        raise NonFiniteRowsError(name)
    return to_uint8(samples) if len(spec.sample_shape) == 3 else samples


def in_data_format(stored: Tensor) -> Tensor:
    """Stored rows in the data set's format: images `(batch, channels, height, width)` as uint8, other rows unchanged.

    Images that a data set holds as float32 and the same images as uint8 are thus the same to metrics and extractors.
    """
    return to_uint8(stored) if stored.dim() == 4 and stored.dtype != torch.uint8 else stored


def rows_of(array: npt.NDArray[Any], places: npt.NDArray[np.int64]) -> Tensor:
    """The rows of an array at these places, on the CPU; places beyond its end continue at its start."""
    return torch.from_numpy(np.ascontiguousarray(array[places % len(array)]))


def required(value: T | None, name: str) -> T:
    """An output that must exist.

    Raises:
        ContractError: if there is none.
    """
    if value is None:
        raise ContractError(f"there are no {name}; a metric checks the spec before it asks for them")
    return value
