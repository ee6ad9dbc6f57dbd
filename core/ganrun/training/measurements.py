"""Scalars summed on the device and read by the host once per logging interval."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from ganrun.base.errors import ContractError, NonFiniteError
from ganrun.base.ranks import average_over_ranks

NOTHING: Mapping[str, Tensor] = MappingProxyType({})


class Measurements:
    """Means of named scalars since the last read.

    They come in groups, such as one phase's terms; a group adds the same names every time. A sum keeps any NaN or
    infinity that went into it, so the check for non-finite values costs nothing until the read.
    """

    def __init__(self) -> None:
        self._groups: dict[str, _Group] = {}

    def add(self, name: str, terms: Mapping[str, Tensor], report: Mapping[str, Tensor] = NOTHING) -> None:
        """Add one scalar for each term of the group `name`: work of the device alone, which `count` then counts.

        They are read as `<name>`, the sum of the terms; as `<name>.<term>` where there are several terms; and as
        `<name>.<entry>` for each entry of `report`, which is no part of the sum.

        Raises:
            ContractError: if the number of terms has changed, or a value is no scalar.
        """
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = _Group(name, terms, report)
        group.add([value.detach() for value in (*terms.values(), *report.values())])

    def count(self, name: str, times: int = 1) -> None:
        """Count what `add` has added to the group `name` since."""
        self._groups[name].count += times

    def read(self) -> dict[str, float]:
        """The means since the last read, over all ranks; the sums start again at 0. Waits for the device: the loop's
        only host sync.

        Raises:
            NonFiniteError: naming every mean that is NaN or infinite.
        """
        groups = [group for group in self._groups.values() if group.count]
        sums = [value for group in groups for value in group.sums]
        stacked = torch.stack(sums) if sums else torch.zeros(0)
        average_over_ranks([stacked])
        on_host = iter(stacked.tolist())
        values = {name: value for group in groups for name, value in group.take(on_host)}
        bad = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise NonFiniteError(", ".join(bad))
        return values


class _Group:
    """Sums of one group's scalars, on their device."""

    def __init__(self, name: str, terms: Mapping[str, Tensor], report: Mapping[str, Tensor]) -> None:
        shapes = {key: tuple(value.shape) for key, value in (*terms.items(), *report.items()) if value.dim()}
        if shapes:
            raise ContractError(f"{name}: terms must be scalars, but there are {shapes}")
        self.name = name
        self.terms, self.report = list(terms), list(report)
        self.sums = [torch.zeros_like(value.detach()) for value in (*terms.values(), *report.values())]
        self.count = 0

    def add(self, values: list[Tensor]) -> None:
        if len(values) != len(self.sums):
            raise ContractError(f"{self.name}: the terms changed; at first they were {self.terms + self.report}")
        torch._foreach_add_(self.sums, values)

    def take(self, on_host: Iterator[float]) -> Iterator[tuple[str, float]]:
        """Names and means, from the next of the sums that the host has read; then the sums start again at 0."""
        means = [next(on_host) / self.count for _ in self.sums]
        named = list(zip(self.terms + self.report, means, strict=True))
        torch._foreach_zero_(self.sums)
        self.count = 0
        yield self.name, sum(means[: len(self.terms)])
        for term, mean in named if len(self.terms) > 1 else named[len(self.terms) :]:
            yield f"{self.name}.{term}", mean
