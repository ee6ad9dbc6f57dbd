"""Metrics: ways of scoring samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from ganrun.contracts.components import Component
from ganrun.contracts.data import Data
from ganrun.contracts.evaluation import Evaluation
from ganrun.contracts.extractors import Extractor
from ganrun.contracts.scores import Score
from ganrun.contracts.specs import ModelSpec


class Metric(Component, ABC):
    """A way of scoring samples.

    Built from its settings and the spec; `prepare` runs before the first step, then at every evaluation `watch`
    says what is needed, and `measure` makes scores of it.
    """

    def __init__(self, settings: Any, spec: ModelSpec) -> None:
        self.settings = settings
        self.spec = spec

    def prepare(self, data: Data, device: torch.device) -> None:
        """Prove that `measure` will be able to run: weights present, enough real images, labels there.

        Args:
            data: The run's data set, prepared.
            device: Where extractors should live.

        Raises:
            PreflightError: with the steps that mend it.
        """

    def watch(self, evaluation: Evaluation) -> None:
        """Ask for samples, images and features, by `evaluation.collect` and `collect_real`, before any is made."""

    @abstractmethod
    def measure(self, evaluation: Evaluation) -> Sequence[Score]:
        """The scores of one evaluation, of what was collected since `watch`."""


class FeatureMetric(Metric):
    """A metric on an extractor's features. Its settings have a field `features`, whose default names one:

    features: ganrun.Part = "inception"
    """

    parts = {"features": "extractor"}

    reads: ClassVar[tuple[str, ...]] = ("features",)
    """The extractor's outputs that it cannot do without."""

    def __init__(self, settings: Any, spec: ModelSpec, extractor: Extractor) -> None:
        super().__init__(settings, spec)
        self.extractor = extractor
