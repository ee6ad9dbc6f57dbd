"""The Inception Score: how surely and how variedly pictures fall into classes.

Salimans et al. 2016 (arXiv:1606.03498), section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from ganrun import Extractor, ModelSpec
from ganrun_fidelity.features import FidelityMetric, FidelitySettings, Value

SHUFFLE_SEED = 2020
"""torch-fidelity's default: parts of one set of samples are then its parts."""


class ClassShares:
    """What the score needs of class probabilities as they come, for each of several parts of the pictures.

    The pictures are shuffled and parted as torch-fidelity does by default. Memory grows by eight bytes a picture.

    Args:
        count: Pictures in all, at least `parts`.
        parts: ModelConfig, whose scores are averaged; p(y) is each part's own.
    """

    def __init__(self, count: int, parts: int) -> None:
        bounds = [part * count // parts for part in range(parts + 1)]
        self._sizes = torch.tensor([high - low for low, high in pairwise(bounds)], dtype=torch.float64)
        self._part_of = torch.empty(count, dtype=torch.int64)
        order = torch.from_numpy(np.random.RandomState(SHUFFLE_SEED).permutation(count))
        for part, (low, high) in enumerate(pairwise(bounds)):
            self._part_of[order[low:high]] = part
        self._seen = 0
        self._sharpness = torch.zeros(parts, dtype=torch.float64)
        self._shares: Tensor | None = None

    def add(self, *batch: Tensor) -> None:
        """Take logits `(batch, classes)`."""
        log_p = batch[0].cpu().double().log_softmax(1)
        p = log_p.exp()
        parts = self._part_of[self._seen : self._seen + len(p)]
        self._seen += len(p)
        if self._shares is None:
            self._shares = torch.zeros(len(self._sizes), p.shape[1], dtype=torch.float64)
        self._shares.index_add_(0, parts, p)
        self._sharpness.index_add_(0, parts, torch.special.xlogy(p, p).sum(1))

    def scores(self) -> Tensor:
        """exp E KL(p(y|x) ‖ p(y)) of each part `(parts,)`, between 1 and the number of classes."""
        assert self._shares is not None
        marginal = self._shares / self._sizes[:, None]
        divergence: Tensor = self._sharpness / self._sizes - torch.special.xlogy(marginal, marginal).sum(1)
        return divergence.exp()


class InceptionScore(FidelityMetric[ClassShares]):
    """Inception Score: how surely and how variedly generated pictures fall into classes; higher is better.

    The mean over parts of the samples; its error is their standard deviation over the root of their number.
    """

    reads = ("logits",)

    class Settings(FidelitySettings):
        splits: int = Field(10, ge=1, validate_default=True)
        """ModelConfig of the samples whose scores are averaged."""

        @field_validator("splits")
        @classmethod
        def _enough_samples(cls, splits: int, info: ValidationInfo) -> int:
            samples = info.data.get("samples", splits)
            if splits > samples:
                raise ValueError(f"{samples} samples cannot be parted into {splits}; lower splits or raise samples")
            return splits

    settings: Settings

    def __init__(self, settings: Settings, spec: ModelSpec, extractor: Extractor) -> None:
        super().__init__(settings, spec, extractor)
        self.protocol = {"splits": settings.splits}
        self.least = max(2, settings.splits)

    def gather(self, count: int) -> ClassShares:
        """Class probabilities by part."""
        return ClassShares(count, self.settings.splits)

    def values(self, gathered: ClassShares) -> Sequence[Value]:
        """`inception_score`"""
        parts = gathered.scores()
        error = float(parts.std() / len(parts) ** 0.5) if len(parts) > 1 else None
        return [Value("inception_score", float(parts.mean()), higher_is_better=True, error=error)]
