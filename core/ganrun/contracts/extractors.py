"""Extractors: networks that compute the features of pictures, for metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ganrun.contracts.components import Component
from ganrun.contracts.data import Data
from ganrun.contracts.specs import ModelSpec


class Extractor(Component, ABC):
    """A network from pictures to features.

    Built from its settings and the spec. Raise `IncompatibleError` in `__init__` for a shape that it cannot take.
    """

    outputs: ClassVar[tuple[str, ...]] = ("features",)
    """Names of its outputs: `features` `(batch, n)`; for a classifier, also `logits` `(batch, classes)`; for a distance
    between pictures, `perceptual` `(batch, n)`, whose squared Euclidean distances it is."""

    takes_floats: ClassVar[bool] = False
    """Whether it also takes float32 images in [-1, 1], without rounding them: for metrics of changes smaller than one
    level of 256, such as the perceptual path length."""

    suffix: ClassVar[str]
    """Ends the names of scores on its features, as in `fid_classifier`. Empty for Inception alone."""

    def __init__(self, settings: Any, spec: ModelSpec) -> None:
        self.settings = settings
        self.spec = spec

    def prepare(self, data: Data, device: torch.device) -> None:
        """Load the weights. Runs once, before the metrics' `prepare`.

        Args:
            data: The run's data set, prepared.
            device: Where to compute.

        Raises:
            PreflightError: if they are missing or damaged, with the steps that fix it.
        """

    @property
    @abstractmethod
    def key(self) -> str:
        """Identifies the features: extractors with equal keys compute equal features, so one of them computes for all.
        Available after `prepare`."""

    @property
    @abstractmethod
    def protocol(self) -> Mapping[str, str | int | float | bool]:
        """How the features are computed: network, hash of the weights, resizing. Part of the protocol of every score.
        Available after `prepare`."""

    @abstractmethod
    def __call__(self, images: Tensor) -> Mapping[str, Tensor]:
        """The outputs by name, each float `(batch, …)`, for uint8 images `(batch, channels, height, width)` on its
        device; or, if it `takes_floats`, for the same images by `ganrun.to_unit_range`."""
