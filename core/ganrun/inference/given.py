"""The parts of latents that records give: a source image, for example, that a generator translates."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from math import prod

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ganrun.base.errors import DataError, IncompatibleError
from ganrun.contracts.data import Data, Split, to_unit_range
from ganrun.contracts.specs import ModelSpec
from ganrun.inference.sources import fixed_order, rows_of


class GivenRecords:
    """Fills the given factors of latents from a data set, in an order that is the same in every run.

    Code that draws latents for samples passes them through `fill`, with the number of the first sample; sample i then
    has the record of rank i. `rows` reads the same records, to show a source beside its sample and its target:

        latents = given.fill(loss.latents(256, device), start=512)
        sources, targets = given.rows("source", 512, 256), given.rows("images", 512, 256)

    The records are those of the test split, or of the train split if there is no test split, in the order of the ranks
    by which metrics choose real images: the first `count` of them are those that `collect_real(…, count=count)` reads.
    The records repeat cyclically. Without given factors, nothing is read.

    Args:
        data: Prepared, and checked against its spec.
        spec: The model's, with its factors.
        device: Device of the latents.

    Raises:
        IncompatibleError: as `check_given_factors`.
    """

    def __init__(self, data: Data, spec: ModelSpec, device: torch.device) -> None:
        check_given_factors(spec)
        self._data = data
        self._spec = spec
        self.names = tuple(each.name for each in spec.given)
        """Of the given factors."""
        self._device = device
        self._orders: dict[int, npt.NDArray[np.int64]] = {}

    def fill(self, latents: Tensor, start: int) -> Tensor:
        """A copy of latents `(count, latent_size)` whose given factors are the records from rank `start` on, flattened
        and in [-1, 1]; without given factors, the latents themselves."""
        records = {name: self.rows(name, start, len(latents)) for name in self.names}
        return with_given(latents, self._spec, records)

    def rows(self, name: str, start: int, count: int) -> Tensor:
        """The images (`"images"`) or a field of the records of rank `start` to `start + count`: `(count, …)` in
        [-1, 1], on the device."""
        array = self._split.images if name == "images" else self._split.beside[name]
        places = self._order(len(array))[np.arange(start, start + count) % len(array)]
        return to_unit_range(rows_of(array, places).to(self._device))

    @property
    def count(self) -> int:
        """Number of records; they repeat cyclically."""
        return max(len(self._split.beside[name]) for name in self.names)

    @cached_property
    def _named_split(self) -> tuple[str, Split]:
        return given_split(self._data)

    @property
    def _split(self) -> Split:
        return self._named_split[1]

    def _order(self, count: int) -> npt.NDArray[np.int64]:
        """Shuffling millions of records takes longer than a batch, so it is done once."""
        if count not in self._orders:
            self._orders[count] = fixed_order(count, self._named_split[0])
        return self._orders[count]


def given_split(data: Data) -> tuple[str, Split]:
    """The split whose records samples are made from, with its name: test, or train if there is no test split.

    Args:
        data: Prepared.
    """
    try:
        return "test", data.split("test")
    except DataError:
        return "train", data.split("train")


def with_given(latents: Tensor, spec: ModelSpec, records: Mapping[str, Tensor]) -> Tensor:
    """A copy of latents `(count, latent_size)` whose given factors are these records, flattened; without given factors,
    the latents themselves.

    Args:
        latents: As the loss draws them.
        spec: The model's, with its factors.
        records: The data's fields by name, each `(count, …)` in [-1, 1].

    Raises:
        IncompatibleError: if one is missing, or is not of the factor's size.
    """
    filled = latents.clone() if spec.given else latents
    for factor in spec.given:
        if factor.name not in records:
            raise IncompatibleError(f'the latents hold the record field "{factor.name}", which is missing here')
        rows, shape = records[factor.name], (len(latents), factor.size)
        if len(rows) != shape[0] or rows.numel() != shape[0] * shape[1]:
            found = tuple(rows.shape)
            raise IncompatibleError(f'the latents hold {shape} values of the field "{factor.name}", and it is {found}')
        filled[:, spec.place(factor)] = rows.flatten(1).to(latents)
    return filled


def check_given_factors(spec: ModelSpec) -> None:
    """Check that the data has a field for each given factor, of the factor's size.

    Raises:
        IncompatibleError: if it does not; the message is about the loss.
    """
    for factor in spec.given:
        if factor.name not in spec.fields:
            known = f"its fields are {', '.join(spec.fields)}" if spec.fields else "it has none"
            raise IncompatibleError(
                f'its latents hold the record field "{factor.name}", which the data does not have; {known}'
            )
        shape = spec.fields[factor.name]
        if factor.size != prod(shape):
            raise IncompatibleError(
                f'its factor "{factor.name}" has {factor.size} latents, and the data\'s field of that name has'
                f" {prod(shape)} values per record, of shape {shape}"
            )
