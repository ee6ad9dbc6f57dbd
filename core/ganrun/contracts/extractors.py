"""Extractors: networks whose features metrics compare."""

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
    """A network that turns pictures into features, for metrics.

    Built from its settings and the spec; raises `IncompatibleError` in `__init__` for samples that it cannot look at.
    """

    outputs: ClassVar[tuple[str, ...]] = ("features",)
    """What it gives, by name: `features` `(batch, n)`; `logits` `(batch, classes)` where it is a classifier."""

    suffix: ClassVar[str]
    """Ends the names of scores on its features, `fid_classifier`. Empty for the one features of published scores."""

    def __init__(self, settings: Any, spec: ModelSpec) -> None:
        self.settings = settings
        self.spec = spec

    def prepare(self, data: Data, device: torch.device) -> None:
        """Load the weights, or whatever else it needs.

        Args:
            data: The run's data set, prepared.
            device: Where it should compute.

        Raises:
            PreflightError: if they are absent or damaged, with the steps that mend it.
        """

    @property
    @abstractmethod
    def key(self) -> str:
        """Whatever its features depend on: equal keys mean equal features, which are then computed once. After
        `prepare`."""

    @property
    @abstractmethod
    def protocol(self) -> Mapping[str, str | int | float | bool]:
        """The same for people: extractor, weights hash, resizing. It enters the protocol of every score."""

    @abstractmethod
    def __call__(self, images: Tensor) -> Mapping[str, Tensor]:
        """The outputs for uint8 images `(batch, channels, height, width)` on its device, each float `(batch, …)`."""
