"""Features of real images: collected once, then cached for all runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

import torch
from torch import Tensor

from ganrun import Buffer, Data, DataError, Evaluation, Extractor
from ganrun_fidelity.stored import digest_of_text, load_stored, store

VERSION = 2
"""Part of every cache key and every protocol: raise it with each change to what is computed."""

CONTENT = "real, as uint8"
"""Part of every cache key: the input of the features. Earlier caches hold features of unscaled float images."""

V = TypeVar("V")

Pending = Callable[[], V]
"""Returns a value that a pass collects; to be called after the pass."""


def count_of(data: Data, split: str) -> int:
    """Number of images in a split; 0 if there is no such split."""
    try:
        return len(data.split(split))
    except DataError:
        return 0


class Once(Generic[V]):
    """A value that the first pass collects; later passes reuse it.

    Args:
        request: Asks an evaluation for what the value is computed from.
    """

    def __init__(self, request: Callable[[Evaluation], Pending[V]]) -> None:
        self._request = request

    def watch(self, evaluation: Evaluation) -> Pending[V]:
        """Ask for what the value is computed from, unless it is known."""
        pending = self._request(evaluation)

        def value() -> V:
            known = pending()
            self._request = lambda _: lambda: known  # later evaluations request nothing
            return known

        return value


# ── Features ──────────────────────────────────────────────────────────────────────────────────────────────


class Summary(ABC, Generic[V]):
    """A collector of features `(batch, n)` whose result is cached, as tensors by name."""

    @abstractmethod
    def add(self, *batch: Tensor) -> None:
        """Take the next features."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """The result, as the cache stores it."""

    @staticmethod
    @abstractmethod
    def read(state: Mapping[str, Tensor]) -> V:
        """The result, as metrics compute with it."""


class Rows(Buffer, Summary[Tensor]):
    """All features `(count, n)` in float32, on the CPU."""

    def add(self, *batch: Tensor) -> None:
        """Take features `(batch, n)`."""
        super().add(batch[0].float())

    def state(self) -> dict[str, Tensor]:
        """`features`"""
        return {"features": self.tensors()[0]}

    @staticmethod
    def read(state: Mapping[str, Tensor]) -> Tensor:
        """`(count, n)`"""
        return state["features"]


class RealFeatures(Generic[V]):
    """A summary of real images' features, from ganrun's cache or from the first pass that needs it.

    The cache key covers everything that the summary depends on: the images, the extractor and its weights, and the
    versions of the code.

    Args:
        summary: Collects the features.
        extractor: Prepared.
        data: Prepared.
        split: `train` or `test`.
        count: Number of images.
    """

    def __init__(self, summary: type[Summary[V]], extractor: Extractor, data: Data, split: str, count: int) -> None:
        self._summary = summary
        self._extractor = extractor
        self._split, self._count = split, count
        about = (summary.__name__, VERSION, torch.__version__, extractor.key, data.fingerprint(split), split, count)
        self._key = digest_of_text(CONTENT, *about)

    def watch(self, evaluation: Evaluation) -> Pending[V]:
        """Ask for the features, unless their summary is cached."""
        stored = load_stored("statistics", self._key)
        if stored is not None:
            return lambda: self._summary.read(stored.tensors)
        summary = evaluation.collect_real(
            self._summary(), "features", count=self._count, split=self._split, extractor=self._extractor
        )

        def collected() -> V:
            state = summary.state()
            store("statistics", self._key, state, {})
            return self._summary.read(state)

        return collected
