"""Metrics, and the scores that they give."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any, ClassVar

import torch

from ganrun.contracts.components import Component
from ganrun.contracts.data import Data
from ganrun.contracts.evaluation import Evaluation
from ganrun.contracts.extractors import Extractor
from ganrun.contracts.specs import ModelSpec


@dataclass(frozen=True)
class Score:
    """One number of an evaluation, with how it was made: scores of unlike protocol must not be ranked together."""

    name: str
    """As it appears everywhere: `fid` is Inception's alone; on other features it is `fid_<features>`."""

    value: float

    higher_is_better: bool

    protocol: Mapping[str, str | int | float | bool]
    """Extractor, weights hash, numbers of samples, split, resizer: whatever the value depends on."""

    error: float | None = None
    """Standard error of the value for these very weights: what other samples would make of it. None if unknown."""

    floor: float | None = None
    """What as many held-out real images score on the same terms: about what a perfect model would. None if unknown."""

    def improves_on(self, best: Score | None) -> bool:
        """Whether it is better than the best one of its name so far, or the first on its terms; NaN never is."""
        if best is None or best.protocol != self.protocol:
            return not isnan(self.value)
        return self.value > best.value if self.higher_is_better else self.value < best.value

    def __str__(self) -> str:
        """`fid 12.31 (real images 3.15)`, `inception_score 8.21 ± 0.06 (real images 11.2)`."""
        error = "" if self.error is None else f" ± {self.error:.2g}"
        floor = "" if self.floor is None else f" (real images {self.floor:.3g})"
        return f"{self.name} {self.value:.4g}{error}{floor}"


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

    features: ganrun.Features = "inception"
    """

    reads: ClassVar[tuple[str, ...]] = ("features",)
    """The extractor's outputs that it cannot do without."""

    @classmethod
    def class_fault(cls) -> str | None:
        """Without the field, no recipe could say whose features are meant."""
        has_field = "features" in getattr(cls.Settings, "model_fields", {})
        return super().class_fault() or (None if has_field else "a FeatureMetric whose Settings have no field features")

    def __init__(self, settings: Any, spec: ModelSpec, extractor: Extractor) -> None:
        super().__init__(settings, spec)
        self.extractor = extractor


Features = str | dict[str, Any]
"""The type of that field: an extractor's name, or a table of its settings that says `use`."""
