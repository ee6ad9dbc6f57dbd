"""Real images in batches: shuffled, flipped and scaled, from the device's memory if they fit there.

There are no worker processes: indexed reads of a uint8 array in memory are much faster.
"""

from __future__ import annotations

import torch
from torch import Tensor

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
            self._order = torch.randperm(self.count, generator=generator).to(self._device)
            self._epoch = epoch
        return self._order


class RealBatches:
    """The training split, as batches in [-1, 1] on the device.

    Args:
        split: The images and labels.
        device: Device of the batches.
        seed: Decides the order.
        horizontal_flip: Whether each image is mirrored with probability ½, drawn from the global random stream.
    """

    def __init__(self, split: Split, device: torch.device, seed: int, *, horizontal_flip: bool = False) -> None:
        self._device = device
        self._flip = horizontal_flip
        home = device if _fits(split, device) else torch.device("cpu")
        self._shuffle = Shuffle(len(split), seed, home)
        self._images = torch.from_numpy(split.images).to(home)
        self._labels = None if split.labels is None else torch.from_numpy(split.labels).to(home)
        self._home = home

    def take(self, start: int, size: int) -> tuple[Tensor, Tensor | None]:
        """The batch at position `start` of the stream: images `(size, *sample_shape)`, channels last, and labels."""
        index = self._shuffle.indices(start, size)
        images = self._move(self._images.index_select(0, index))
        labels = None if self._labels is None else self._move(self._labels.index_select(0, index))
        if images.dim() == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        images = to_unit_range(images)
        if self._flip:
            mirrored = torch.rand(size, 1, 1, 1, device=self._device) < 0.5
            images = torch.where(mirrored, images.flip(3), images)
        return images, labels

    def _move(self, rows: Tensor) -> Tensor:
        if self._home == self._device:
            return rows
        return rows.pin_memory().to(self._device, non_blocking=True)


def _fits(split: Split, device: torch.device) -> bool:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return split.images.nbytes < RESIDENT_SHARE * free
    return True
