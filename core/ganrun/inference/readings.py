"""Readings of real records, computed by a loss and checked."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ganrun.base.errors import ContractError, IncompatibleError
from ganrun.contracts.losses import Batch, Loss, Nets
from ganrun.contracts.views import in_float32


def reading_of(loss: Loss, name: str, nets: Nets, batch: Batch) -> Tensor:
    """One of a loss's readings: a row for each record, `(size, …)`.

    Raises:
        IncompatibleError: if the loss has no such reading.
        ContractError: as `checked_rows`.
    """
    readings = loss.readings()
    if name not in readings:
        there = f"it has {', '.join(readings)}" if readings else "it has none"
        raise IncompatibleError(f'the model has no reading "{name}"; {there}')
    return checked_rows(readings[name](nets, batch), f'reading "{name}" of loss {type(loss).__name__}', batch.size)


def checked_rows(found: Any, reading: str, count: int) -> Tensor:
    """The result of a reading, in float32 if it is floating-point.

    Args:
        found: The result.
        reading: The reading, as messages name it.
        count: Number of records.

    Raises:
        ContractError: if it is not a tensor, has the wrong number of rows, or holds NaN.
    """
    if not isinstance(found, Tensor):
        raise ContractError(f"{reading} returned {type(found).__name__} where a tensor was expected")
    if found.dim() < 1 or len(found) != count:
        raise ContractError(f"{reading} returned shape {tuple(found.shape)} for {count} records; return a row for each")
    if broken := int(found.isnan().reshape(count, -1).any(1).sum()):
        raise ContractError(f"{reading} is NaN for {broken} of {count} records")
    rows: Tensor = in_float32(found)
    return rows
