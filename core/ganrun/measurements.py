"""Scalars summed on the device and read by the host once per logging interval."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ganrun.errors import ContractError, NonFiniteError


class Measurements:
    """Means of named scalars since the last read.

    Each group (a phase, say) adds the same names every time. A sum keeps any NaN or infinity that went into it,
    so the check for non-finite values costs nothing until the read.
    """

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    @torch.no_grad()
    def add(self, group: str, values: Mapping[str, Tensor]) -> None:
        """Add one scalar for each name of a group.

        Raises:
            ContractError: if the names changed, or a value is no scalar.
        """
        if group not in self._sums:
            self._open(group, values)
        if len(values) != len(self._names[group]):
            raise ContractError(f"{group}: the terms changed from {self._names[group]} to {list(values)}")
        self._sums[group].add_(torch.stack(list(values.values())))
        self._counts[group] += 1

    def read(self) -> dict[str, float]:
        """The means since the last read, which start anew. Waits for the device: the one host sync of a run's loop.

        Raises:
            NonFiniteError: naming every mean that is NaN or infinite.
        """
        groups = [group for group, count in self._counts.items() if count]
        if not groups:
            return {}
        means = torch.cat([self._sums[group] / self._counts[group] for group in groups]).tolist()
        names = [name for group in groups for name in self._names[group]]
        for group in groups:
            self._sums[group].zero_()
            self._counts[group] = 0
        values = dict(zip(names, means, strict=True))
        bad = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise NonFiniteError(", ".join(bad))
        return values

    def _open(self, group: str, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            if value.dim() != 0:
                raise ContractError(f"{name}: an objective's terms are scalars, not {tuple(value.shape)}")
        first = next(iter(values.values()))
        self._names[group] = list(values)
        self._sums[group] = torch.zeros(len(values), device=first.device)
        self._counts[group] = 0
