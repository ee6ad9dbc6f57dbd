"""Clauses on one array of a split: its type, layout, unit and memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from ganrun.base.errors import DataError

ROWS = 1024
"""Rows of a large array whose values are read."""

BYTES = 1 << 28
"""An array above this size (256 MiB) is large: at most this much of it is read."""

ROUNDING = 1e-4
"""How far a value may lie outside [-1, 1]."""


@dataclass(frozen=True)
class Column:
    """One array of a split, and what the data's spec says of it."""

    name: str
    """Such as `its train images`."""

    array: Any
    """The data set's result; a NumPy array if it keeps the contract."""

    shape: tuple[int, ...]
    """Shape of one row, by the spec."""

    is_field: bool = False
    """Whether it is a record field, and not the samples."""

    @property
    def is_image(self) -> bool:
        """Whether its rows are images, (channels, height, width)."""
        return len(self.shape) == 3


def check_column(column: Column) -> None:
    """Check an array against the spec, clause by clause.

    Values are read only of float32 arrays: of one beyond `BYTES`, up to `ROWS` rows that are spread evenly over it.

    Raises:
        DataError: for the first clause that is broken: what was found, and what to return instead.
    """
    for clause in CLAUSES:
        clause(column)


def check_memory(name: str, array: npt.NDArray[Any]) -> None:
    """Check that torch can share an array's memory.

    Raises:
        DataError: if it is read-only, or its strides are negative or uneven.
    """
    if not array.flags.writeable:
        raise DataError(f'{name} are read-only; open a memory map with mmap_mode="c", or return array.copy()')
    if any(stride < 0 or stride % array.itemsize for stride in array.strides):
        raise DataError(f"{name} are a view that torch cannot take, such as a reversed one; return array.copy()")


def check_is_array(name: str, array: Any) -> None:
    """Check that it is a NumPy array.

    Raises:
        DataError: if it is a tensor, a list or another object.
    """
    if isinstance(array, np.ndarray):
        return
    found = f"{type(array).__module__}.{type(array).__qualname__}".removeprefix("builtins.")
    is_tensor = found.startswith("torch.")
    advice = "return tensor.cpu().numpy()" if is_tensor else "return a NumPy array, as numpy.stack makes one"
    raise DataError(f"{name} are of type {found}; {advice}")


# ── The clauses, in order: each may rely on those before it ────────────────────────────────────────────────


def _is_array(column: Column) -> None:
    check_is_array(column.name, column.array)


def _has_type(column: Column) -> None:
    found, wanted = column.array.dtype, "uint8 or float32"
    if not column.is_field and not column.is_image:
        wanted = "float32"
    if found.name in wanted.split(" or ") and found.isnative:
        return
    raise DataError(f"{column.name} are {found}, not {wanted}; {_type_advice(found, column.shape)}")


def _type_advice(found: np.dtype[Any], shape: tuple[int, ...]) -> str:
    if found == np.uint8:
        return f"only images are uint8, and they have three dimensions: (channels, height, width), not {shape}"
    if found.kind == "O":
        return "an array of objects holds rows of different shapes or types: resize them all, and use numpy.stack"
    if found.kind == "b":
        return "return array.astype(numpy.uint8) * 255"
    if found.kind in "iu":
        return "return array.astype(numpy.uint8) if the values are 0…255"
    return "return array.astype(numpy.float32)"


def _has_rows(column: Column) -> None:
    if not column.array.ndim or not len(column.array):
        raise DataError(f"{column.name} are empty: their shape is {column.array.shape}; return at least one row")


def _has_shape(column: Column) -> None:
    found = column.array.shape
    if found[1:] != column.shape:
        wanted = ", ".join(["count", *map(str, column.shape)])
        raise DataError(f"{column.name} are {found}, not ({wanted}) as its spec says; {_shape_advice(column)}")


def _shape_advice(column: Column) -> str:
    found, wanted = column.array.shape[1:], column.shape
    if column.is_image and found == (*wanted[1:], wanted[0]):
        return "their channels are last (NHWC): return array.transpose(0, 3, 1, 2).copy()"
    if column.is_image and found == wanted[1:] and wanted[0] == 1:
        return "their channel is missing: return array[:, numpy.newaxis]"
    if prod(found) == prod(wanted):
        return f"return array.reshape({', '.join(map(str, (-1, *wanted)))}), if their values are in that order"
    return "return that shape, or correct the spec"


def _shares_memory(column: Column) -> None:
    check_memory(column.name, column.array)


def _is_finite(column: Column) -> None:
    for rows, values in _floats(column.array):
        bad = ~np.isfinite(values.reshape(len(rows), -1)).all(axis=1)
        if bad.any():
            row = rows[bad][0]
            raise DataError(f"{column.name} are NaN or infinite in row {row:,}; repair that row, or leave it out")


def _has_unit(column: Column) -> None:
    if not column.is_image and not column.is_field:
        return  # the unit of points is the author's choice
    limits = [(values.min(), values.max()) for _, values in _floats(column.array)]
    if not limits:
        return
    low, high = min(low for low, _ in limits), max(high for _, high in limits)
    is_half = column.is_image and low >= 0
    if is_half or low < -1 - ROUNDING or high > 1 + ROUNDING:
        found = f"{column.name} are float32 from {low:.4g} to {high:.4g}"
        raise DataError(f"{found}, {_unit_advice(low, high) if is_half else WIDE}")


WIDE = "not in [-1, 1]; scale them: a generator's samples end at -1 and 1"


def _unit_advice(low: float, high: float) -> str:
    if high <= 1 + ROUNDING:
        return "the upper half of [-1, 1] alone; return 2 * x - 1, or uint8 from 0 to 255"
    return "not in [-1, 1]; return uint8 from 0 to 255, or x / 127.5 - 1" if high <= 255 else WIDE


CLAUSES: tuple[Callable[[Column], None], ...] = (
    _is_array,
    _has_type,
    _has_rows,
    _has_shape,
    _shares_memory,
    _is_finite,
    _has_unit,
)


def _floats(array: npt.NDArray[Any]) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[Any]]]:
    """The rows of a float32 array that are read, in parts: their numbers and their values. No rows of uint8."""
    if array.dtype != np.float32:
        return
    bytes_per_row = array.nbytes // len(array)
    most = len(array) if array.nbytes <= BYTES else max(1, min(ROWS, BYTES // bytes_per_row))
    rows = np.unique(np.linspace(0, len(array) - 1, most).astype(np.int64))
    for part in np.array_split(rows, -(-len(rows) * bytes_per_row // (1 << 24))):
        yield part, array[part]
