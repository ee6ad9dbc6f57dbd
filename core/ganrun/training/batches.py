"""Real records in batches: shuffled, flipped and scaled, from the device's memory if they fit there.

There are no worker processes: indexed reads of a uint8 array in memory are much faster.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from ganrun.base.randomness import derived_seed
from ganrun.contracts.data import Split, to_unit_range

RESIDENT_SHARE = 0.4
"""Largest share of an accelerator's free memory that the data may take."""


class Shuffle:
    """An endless stream of indices: one seeded permutation of all images after another.

    Args:
        count: Number of images.
        seed: The run's seed.
        device: Device of the indices; each permutation is moved there once.
    """

    def __init__(self, count: int, seed: int, device: torch.device | None = None) -> None:
        self.count = count
        self._seed = seed
        self._device = device
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def indices(self, start: int, size: int) -> Tensor:
        """Positions `start` to `start + size` of the stream: int64 `(size,)`. Every image once per epoch."""
        parts = []
        while size > 0:
            epoch, offset = divmod(start, self.count)
            part = self._permutation(epoch)[offset : offset + size]
            parts.append(part)
            start, size = start + len(part), size - len(part)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _permutation(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(derived_seed(self._seed, "epoch", epoch))
            self._order = _moved(torch.randperm(self.count, generator=generator), self._device)
            self._epoch = epoch
        return self._order


class Rows(NamedTuple):
    """Some records of a split as they are stored, mostly as uint8, on the device."""

    images: Tensor
    """`(size, *sample_shape)`."""

    labels: Tensor | None
    """int64 `(size,)`, or None for data without labels."""

    fields: Mapping[str, Tensor]
    """Each `(size, *spec.fields[name])`."""

    def tensors(self) -> list[Tensor]:
        """All of them, in a fixed order."""
        return [self.images, *([] if self.labels is None else [self.labels]), *self.fields.values()]

    def copied(self) -> Rows:
        """A copy of the rows."""
        labels = None if self.labels is None else self.labels.clone()
        return Rows(self.images.clone(), labels, {name: each.clone() for name, each in self.fields.items()})

    def fill(self, rows: Rows) -> None:
        """Take the values of other rows."""
        for own, new in zip(self.tensors(), rows.tensors(), strict=True):
            own.copy_(new, non_blocking=True)


class Records(NamedTuple):
    """Some records of a split, ready for an objective."""

    images: Tensor
    """`(size, *sample_shape)` in [-1, 1]; images have their channels last in memory."""

    labels: Tensor | None
    """int64 `(size,)`, or None for data without labels."""

    beside: Mapping[str, Tensor]
    """The fields, each `(size, *spec.fields[name])` in [-1, 1]."""


class Moves(NamedTuple):
    """How the images of some records are flipped and shifted."""

    mirrored: Tensor | None
    """Which images are mirrored: bool `(size, 1, 1, 1)`."""

    jitter: int = 0
    """Pixels by which they are enlarged."""

    places: Tensor | None = None
    """int64 `(2, size)`: the first row and column that is kept of each, after the enlargement."""

    def applied(self, rows: Tensor) -> Tensor:
        """Rows in [-1, 1], of which those that are images are moved."""
        if rows.dim() != 4:
            return rows
        cut = rows if self.places is None else _cut(rows, self.jitter, self.places)
        return cut if self.mirrored is None else torch.where(self.mirrored, cut.flip(3), cut)


class RealBatches:
    """The training split, as batches in [-1, 1] on the device.

    Args:
        split: The images, labels and fields.
        device: Device of the batches.
        seed: Decides the order.
        horizontal_flip: Whether each record is mirrored with probability ½, drawn from the global random stream: its
            image, and the fields that are images.
        jitter: Pixels by which each record is enlarged before a part of its size is cut out, at a place drawn from the
            same stream: its image, and the fields that are images, which must then be of that size.
        paired: Whether row i of a field belongs to image i. If not, images (with labels) and each field are shuffled,
            mirrored and cut separately.
    """

    def __init__(
        self,
        split: Split,
        device: torch.device,
        seed: int,
        *,
        horizontal_flip: bool = False,
        jitter: int = 0,
        paired: bool = True,
    ) -> None:
        self._device = device
        self._flip = horizontal_flip
        self._jitter = jitter
        self._paired = paired
        self._home = device if _fits(split, device) else torch.device("cpu")
        self._images = self._at_home(split.images)
        self._labels = None if split.labels is None else self._at_home(split.labels)
        self._fields = {name: self._at_home(array) for name, array in split.beside.items()}
        self._shuffle = Shuffle(len(split), seed, self._home)
        self._shuffles = {
            name: self._shuffle if paired else Shuffle(len(field), derived_seed(seed, "field", name), self._home)
            for name, field in self._fields.items()
        }

    def take(self, start: int, size: int) -> Records:
        """The records at position `start` of the stream."""
        return self.make(self.fetch(start, size))

    def fetch(self, start: int, size: int) -> Rows:
        """The rows at position `start` of the stream: the host's part, which draws no random number."""
        index = self._shuffle.indices(start, size)
        own = {name: index if self._paired else self._shuffles[name].indices(start, size) for name in self._fields}
        return Rows(
            self._rows(self._images, index),
            None if self._labels is None else self._rows(self._labels, index),
            {name: self._rows(field, own[name]) for name, field in self._fields.items()},
        )

    def make(self, rows: Rows) -> Records:
        """Records from rows, scaled, mirrored and cropped: entirely on the device."""
        drawn = self._moves(len(rows.images))
        beside = {}
        for name, field in rows.fields.items():
            own = drawn if self._paired else self._moves(len(field))
            beside[name] = own.applied(_units(field))
        return Records(drawn.applied(_units(rows.images)), rows.labels, beside)

    def _moves(self, size: int) -> Moves:
        """The random draws for this many records."""
        mirrored = torch.rand(size, 1, 1, 1, device=self._device) < 0.5 if self._flip else None
        if not self._jitter:
            return Moves(mirrored)
        places = torch.randint(self._jitter + 1, (2, size), device=self._device)
        return Moves(mirrored, self._jitter, places)

    def _rows(self, array: Tensor, index: Tensor) -> Tensor:
        return _moved(array.index_select(0, index), self._device)

    def _at_home(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self._home)


def _moved(rows: Tensor, device: torch.device | None) -> Tensor:
    """The host's rows on a device; copied asynchronously to a GPU."""
    if device is None or device.type != "cuda":
        return rows.to(device)
    return rows if rows.device == device else rows.pin_memory().to(device, non_blocking=True)


def _units(rows: Tensor) -> Tensor:
    if rows.dim() == 4:
        rows = rows.contiguous(memory_format=torch.channels_last)
    return to_unit_range(rows)


def _cut(images: Tensor, jitter: int, places: Tensor) -> Tensor:
    """Images enlarged by Pillow's bicubic filter, in float32, each cropped at its offset.

    Where Pillow would round to 8 bits, values are only clipped to [-1, 1].
    """
    height, width = images.shape[2:]
    large = functional.interpolate(images, (height + jitter, width + jitter), mode="bicubic", antialias=True)
    rows = places[0, :, None] + torch.arange(height, device=images.device)
    columns = places[1, :, None] + torch.arange(width, device=images.device)
    each = torch.arange(len(images), device=images.device)[:, None, None]
    cut = large.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]]
    return cut.clamp_(-1, 1).permute(0, 3, 1, 2)  # channels last in memory


def _fits(split: Split, device: torch.device) -> bool:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return split.images.nbytes + sum(array.nbytes for array in split.beside.values()) < RESIDENT_SHARE * free
    return True
