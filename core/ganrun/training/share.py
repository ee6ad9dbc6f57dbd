"""A share of the training data, for experiments with less of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ganrun.base.randomness import derived_seed
from ganrun.contracts.data import Split

Rows = npt.NDArray[np.int64]


def share_of(split: Split, share: float, seed: int, *, paired: bool = True) -> Split:
    """A share of a split's records, in their order, copied into memory; the split itself for a share of 1.

    Every class keeps its proportion, up to rounding. A smaller share with the same seed is a subset of a larger one.

    Args:
        split: Checked against its spec.
        share: In (0, 1].
        seed: Decides which records; the same on every machine, and for every version of numpy.
        paired: Whether row i of a field belongs to image i. If not, the same share of each field is taken.
    """
    if share == 1:
        return split
    rows = share_rows(len(split), split.labels, share, seed)
    labels = None if split.labels is None else split.labels[rows]
    fields: dict[str, npt.NDArray[Any]] = {}
    for name, field in split.beside.items():
        fields[name] = field[rows if paired else share_rows(len(field), None, share, derived_seed(seed, name))]
    return Split(split.images[rows], labels, fields)


def share_rows(count: int, labels: Rows | None, share: float, seed: int) -> Rows:
    """The rows of a share, ascending: int64 `(round(share · count),)`.

    The rows of each class are shuffled. Row r of n is at (r + ½)/n of its class; those that come first are taken.
    """
    # Raw bits never change; numpy's use of them may change between releases.
    shuffled = np.argsort(np.random.PCG64(derived_seed(seed, "share")).random_raw(count), kind="stable")
    classes = np.zeros(count, np.int64) if labels is None else labels[shuffled]
    by_class = np.argsort(classes, kind="stable")
    sizes = np.bincount(classes)
    ranks = np.arange(count) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    first = np.argsort((ranks + 0.5) / np.repeat(sizes, sizes), kind="stable")[: round(share * count)]
    return np.sort(shuffled[by_class[first]])


def lost_classes(split: Split, share: Split) -> list[int]:
    """The classes of a split that are missing from a share of it."""
    if split.labels is None or share.labels is None:
        return []
    found: list[int] = np.setdiff1d(split.labels, share.labels).tolist()
    return found
