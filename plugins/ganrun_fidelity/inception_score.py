"""The Inception Score: how confidently and how diversely pictures are classified.

Salimans et al. 2016 (arXiv:1606.03498), section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from ganrun import Data, Evaluation
from ganrun_fidelity.features import FidelityMetric, FidelitySettings
from ganrun_fidelity.floors import Reference, ScoreProtocol, Value
from ganrun_fidelity.real_images import Pending

SHUFFLE_SEED = 2020
"""torch-fidelity's default: gives the same parts."""


class ClassShares:
    """Sums of class probabilities and of their entropies, for each part of the pictures.

    Pictures are shuffled and split into parts as torch-fidelity does by default. Memory grows by 8 bytes a picture.

    Args:
        count: Number of pictures, at least `parts`.
        parts: Number of parts; each has its own p(y) and its own score.
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
        self._shares = torch.zeros(parts, 0, dtype=torch.float64)

    def add(self, *batch: Tensor) -> None:
        """Take logits `(batch, classes)`."""
        log_p = batch[0].cpu().double().log_softmax(1)
        p = log_p.exp()
        if not self._seen:
            self._shares = torch.zeros(len(self._sizes), p.shape[1], dtype=torch.float64)
        parts = self._part_of[self._seen : self._seen + len(p)]
        self._seen += len(p)
        self._shares.index_add_(0, parts, p)
        self._sharpness.index_add_(0, parts, torch.special.xlogy(p, p).sum(1))

    def scores(self) -> Tensor:
        """exp E KL(p(y|x) ‖ p(y)) of each part `(parts,)`, between 1 and the number of classes."""
        marginal = self._shares / self._sizes[:, None]
        divergence: Tensor = self._sharpness / self._sizes - torch.special.xlogy(marginal, marginal).sum(1)
        return divergence.exp()


class InceptionScore(FidelityMetric[ClassShares, None]):
    """Inception Score: how confidently and how diversely generated pictures are classified; higher is better.

    The mean over parts of the samples; the error is the standard deviation over parts, divided by the root of their
    number.
    """

    reads = ("logits",)

    class Settings(FidelitySettings):
        splits: int = Field(10, ge=1, validate_default=True)
        """Parts of the samples; the score is the mean of the parts' scores."""

        @field_validator("splits")
        @classmethod
        def _enough_samples(cls, splits: int, info: ValidationInfo) -> int:
            samples = info.data.get("samples", splits)
            if splits > samples:
                raise ValueError(
                    f"{samples} samples cannot be split into {splits} parts; lower splits or raise samples"
                )
            return splits

    settings: Settings

    @property
    def least(self) -> int:
        """One picture for each part."""
        return max(2, self.settings.splits)

    @property
    def protocol(self) -> ScoreProtocol:
        """Number of parts."""
        return {"splits": self.settings.splits}

    def reference(self, data: Data) -> Reference[None]:
        """Nothing: real images enter only as the floor."""
        return Reference(_no_real_images, floor_split="test")

    def collector(self, count: int) -> ClassShares:
        """Class probabilities by part."""
        return ClassShares(count, self.settings.splits)

    def values(self, samples: ClassShares, real: None) -> Sequence[Value]:
        """`inception_score`"""
        parts = samples.scores()
        error = float(parts.std() / len(parts) ** 0.5) if len(parts) > 1 else None
        return [Value("inception_score", float(parts.mean()), higher_is_better=True, error=error)]


def _no_real_images(_: Evaluation) -> Pending[None]:
    return lambda: None
