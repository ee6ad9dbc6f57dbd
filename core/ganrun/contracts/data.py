"""Data sets: whole arrays by split, and how pixels become numbers."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ganrun.base.errors import DataError
from ganrun.contracts.components import Component
from ganrun.contracts.specs import DataSpec


@dataclass(frozen=True)
class Split:
    """One part of a data set, as arrays or memory maps."""

    images: npt.NDArray[Any]
    """uint8 `(count, channels, height, width)`, which the core maps to [-1, 1]; or float32 `(count, …)` as it is.
    Writable, as far as numpy knows: open memory maps copy-on-write (`mmap_mode="c"`)."""

    labels: npt.NDArray[np.int64] | None = None
    """int64 `(count,)` in [0, classes), or None."""

    def __len__(self) -> int:
        return len(self.images)


SPLITS = ("train", "test")
"""The parts that a data set may have."""


class Data(Component, ABC):
    """A data set: whole arrays, by split.

    The core shuffles, flips, scales and moves them; a data set only says what is there. Nothing may be
    downloaded unless the recipe or `ganrun data fetch` asks for it.
    """

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    @abstractmethod
    def spec(self) -> DataSpec:
        """Sample shape and number of classes; from the settings alone where that is possible.

        Raises:
            DataError: if the files are needed for it and are absent or damaged.
        """

    def locate(self) -> Path | None:
        """Where its files are: a folder or an archive. None for data that needs no files.

        Only looks, and reads nothing that takes long: `ganrun data list` and `ganrun doctor` ask every data set.

        Raises:
            DataError: if they are absent, with the exact steps that mend it.
        """
        return None

    def fetch(self) -> None:
        """Download what is absent, for `ganrun data fetch`; does nothing where all is there.

        Raises:
            DataError: if the download fails, or no program may do it, with the exact steps to do it by hand.
        """
        self.locate()

    @abstractmethod
    def prepare(self) -> None:
        """Check that everything is there, and decode what has to be decoded. Runs before anything is trained.

        Raises:
            DataError: with the exact steps that mend it.
        """

    @abstractmethod
    def split(self, name: str) -> Split:
        """The split `"train"` or `"test"`, after `prepare`.

        Raises:
            DataError: if the data set has no such split.
        """

    def fingerprint(self, name: str = "train") -> str:
        """A short digest of a split's contents. Override it where reading them all is slow."""
        split = self.split(name)
        digest = hashlib.blake2b(str((split.images.shape, split.images.dtype)).encode(), digest_size=8)
        digest.update(np.ascontiguousarray(split.images).data)
        if split.labels is not None:
            digest.update(np.ascontiguousarray(split.labels).data)
        return digest.hexdigest()

    def manifest(self) -> Mapping[str, Any]:
        """What exactly the pictures are, as JSON for the run's environment.json; after `prepare`.

        `counts` by split and `fingerprint` are always there. Data read from files adds `files` (each with a digest of
        its contents), `published` (whether all of them are the published ones) and `transform` (crop, size, filter).
        """
        counts = {}
        for name in SPLITS:
            with suppress(DataError):
                counts[name] = len(self.split(name))
        return {"counts": counts, "fingerprint": self.fingerprint()}

    def class_names(self) -> tuple[str, ...]:
        """A name for each class, for tables and pictures."""
        return tuple(str(label) for label in range(self.spec().classes))


def unknown_split(name: str, known: Iterable[str]) -> DataError:
    """The error for a split that a data set lacks."""
    return DataError(f'has no split "{name}"; it has {", ".join(known)}')


def to_unit_range(images: Tensor) -> Tensor:
    """uint8 0…255 to float32 [-1, 1]: x / 127.5 - 1. Other types pass as they are."""
    if images.dtype != torch.uint8:
        return images
    return images.to(torch.float32).mul_(1 / 127.5).sub_(1)


def to_uint8(samples: Tensor) -> Tensor:
    """[-1, 1] to uint8 0…255: round((x + 1) · 127.5), clipped. The inverse of `to_unit_range`, and the one rule
    by which ganrun turns samples into pictures, for scores and for files."""
    return samples.add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
