"""Metrics: scores of a model's samples."""

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
    """Scores a model by its samples.

    Built from its settings and the spec. `prepare` runs once, before training. At every evaluation, `watch` requests
    samples and real images, one pass serves the requests of all metrics, and `measure` computes the scores.
    """

    named_by: ClassVar[tuple[str, ...]] = ()
    """Settings that change the names of its scores: a recipe may hold the metric once for each of their values."""

    def __init__(self, settings: Any, spec: ModelSpec) -> None:
        self.settings = settings
        self.spec = spec

    def prepare(self, data: Data, device: torch.device) -> None:
        """Check everything that `measure` needs, such as the number of real images or their labels.

        Args:
            data: The run's data set, prepared.
            device: Where to compute.

        Raises:
            PreflightError: if something is missing, with the steps that fix it.
        """

    def watch(self, evaluation: Evaluation) -> None:
        """Request samples, real images and features, by `evaluation.collect` and `evaluation.collect_real`.

        Also called once before training, to find impossible requests early; that evaluation is discarded.
        """

    @abstractmethod
    def measure(self, evaluation: Evaluation) -> Sequence[Score]:
        """The scores, computed from what the requests of `watch` collected. Gets the same evaluation as `watch`."""


class FeatureMetric(Metric):
    """A metric on an extractor's features.

    Its settings have a field that names the extractor:

        features: ganrun.Part = "inception"
    """

    parts = {"features": "extractor"}

    reads: ClassVar[tuple[str, ...]] = ("features",)
    """The extractor's outputs that the metric needs."""

    def __init__(self, settings: Any, spec: ModelSpec, extractor: Extractor) -> None:
        super().__init__(settings, spec)
        self.extractor = extractor
