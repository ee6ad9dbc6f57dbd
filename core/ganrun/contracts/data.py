"""Data sets: whole arrays by split, and the mapping between pixels and the networks' numbers."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ganrun.base.errors import DataError
from ganrun.contracts.components import Component
from ganrun.contracts.specs import DataSpec


@dataclass(frozen=True)
class Split:
    """One split of a data set, as arrays or memory maps."""

    images: npt.NDArray[Any]
    """Images `(count, channels, height, width)`: uint8, which the core maps to [-1, 1], or float32 in [-1, 1]. Other
    samples `(count, …)`: float32, used unchanged. NumPy must consider the array writable: open memory maps
    copy-on-write (`mmap_mode="c"`)."""

    labels: npt.NDArray[np.int64] | None = None
    """int64 `(count,)` in [0, classes), or None for data without labels."""

    beside: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    """The further fields of each record, one array `(count, *spec.fields[name])` for each field of the spec: uint8,
    which the core maps to [-1, 1], or float32 in [-1, 1]. Row i belongs to image i, unless the data set is not
    `paired`; only for a loss that is not `paired` may the counts differ."""

    def __len__(self) -> int:
        return len(self.images)


SPLITS = ("train", "test")
"""The splits that a data set may have."""


class Data(Component, ABC):
    """A data set: whole arrays, by split.

    The core shuffles, flips and scales the arrays and moves them to the device; a data set only provides them. It must
    not download anything unless the recipe or `ganrun data fetch` asks for it.

    A data set derived from another one names it by a setting of type `ganrun.Part`, in `parts`, and gets it as a
    keyword argument of `__init__`: built, but not prepared.

        parts = {"of": "data"}

        def __init__(self, settings, *, of):
            super().__init__(settings)
            self.of = of
    """

    paired: ClassVar[bool] = True
    """Whether row i of each record field belongs to image i. If not, only a loss that is not `paired` can be trained on
    it, and the counts may differ."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    @classmethod
    def class_fault(cls) -> str | None:
        """Also refuses a part that is not a data set, because nothing would build it."""
        others = [name for name, kind in cls.parts.items() if kind != "data"]
        return super().class_fault() or (
            f"whose part {others[0]} is of the kind {cls.parts[others[0]]}; data is made from data" if others else None
        )

    @abstractmethod
    def spec(self) -> DataSpec:
        """Sample shape, number of classes and record fields; from the settings alone if possible.

        Raises:
            DataError: if they depend on the files, and those are absent or damaged.
        """

    def locate(self) -> Path | None:
        """The folder or archive that holds its files; None for data that needs no files.

        Must be fast, and so reads no contents: `ganrun data list` and `ganrun doctor` call it for every data set.

        Raises:
            DataError: if the files are absent, with the exact steps to get them.
        """
        return None

    def fetch(self) -> None:
        """Download absent files, for `ganrun data fetch`; does nothing if all files are there.

        Raises:
            DataError: if the download fails or is not permitted, with the exact steps to do it by hand.
        """
        self.locate()

    @abstractmethod
    def prepare(self) -> None:
        """Check that all files are there and intact, and decode them if necessary. Called before training starts.

        Raises:
            DataError: if they are not, with the exact steps to repair them.
        """

    def check_files(self) -> Mapping[str, str]:
        """Compare every byte of its files, and of what it keeps in ganrun's cache, with their checksums.

        For `ganrun data check --full`, which calls it before `prepare`. Override it if `prepare` checks less than
        everything, as it may to start quickly.

        Returns:
            The check of each file, such as `md5 as published`.

        Raises:
            DataError: if files are absent or damaged, with the exact steps to repair them.
        """
        return {}

    @abstractmethod
    def split(self, name: str) -> Split:
        """The split `"train"` or `"test"`. Called after `prepare`.

        Raises:
            DataError: if the data set has no such split.
        """

    def fingerprint(self, name: str = "train") -> str:
        """A short digest of a split's contents. Override it if reading all of them is slow."""
        split = self.split(name)
        digest = hashlib.blake2b(str((split.images.shape, split.images.dtype)).encode(), digest_size=8)
        digest.update(np.ascontiguousarray(split.images).data)
        if split.labels is not None:
            digest.update(np.ascontiguousarray(split.labels).data)
        for name, array in sorted(split.beside.items()):
            digest.update(str((name, array.shape, array.dtype)).encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def manifest(self) -> Mapping[str, Any]:
        """An exact description of the data, as JSON for the run's environment.json. Called after `prepare`.

        It always has `counts` by split and `fingerprint`. Data read from files adds `files` (each with a digest of its
        contents), `published` (whether all of them are the published ones) and `transform` (crop, size, filter).
        """
        counts = {}
        for name in SPLITS:
            with suppress(DataError):
                counts[name] = len(self.split(name))
        return {"counts": counts, "fingerprint": self.fingerprint()}

    def class_names(self) -> tuple[str, ...]:
        """A name for each class, for tables and captions."""
        return tuple(str(label) for label in range(self.spec().classes))


def unknown_split(name: str, known: Iterable[str]) -> DataError:
    """The error for a split that a data set lacks."""
    return DataError(f'has no split "{name}"; it has {", ".join(known)}')


def to_unit_range(images: Tensor) -> Tensor:
    """uint8 0…255 to float32 [-1, 1]: x / 127.5 - 1. Tensors of other types are returned unchanged."""
    if images.dtype != torch.uint8:
        return images
    return images.to(torch.float32).mul_(1 / 127.5).sub_(1)


def to_uint8(samples: Tensor) -> Tensor:
    """[-1, 1] to uint8 0…255: round((x + 1) · 127.5), clipped. The inverse of `to_unit_range`.

    ganrun converts samples to pictures by this function alone, for scores and for files.
    """
    return samples.add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
