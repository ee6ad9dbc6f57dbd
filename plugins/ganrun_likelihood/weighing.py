"""log p(x) of each record of a batch, as an extractor's outputs, so that the processes of an evaluation share them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ganrun import EvaluatedModel, Extractor
from ganrun_likelihood.records import number_of

NUMBERS_AT_ONCE = 2**19
"""Approximate number of values that the decoder computes at a time; at least `LEAST_AT_ONCE` samples."""

LEAST_AT_ONCE = 256
"""As many samples as an evaluation's batch has."""


class Estimate(NamedTuple):
    """log p(x) of records, by importance sampling; each field is float64 `(batch,)`."""

    log_likelihood: Tensor
    """log 1/K Σ w, in nats: its expectation is at most log p(x)."""

    effective_samples: Tensor
    """(Σ w)² / Σ w²: between 1, where one weight decides all, and K."""

    variance: Tensor
    """Of `log_likelihood` over draws of the K samples: that of the mean weight over its square, to first order."""


def estimate(log_weights: Tensor) -> Estimate:
    """The estimate of each record from log weights `(batch, K)`: Burda et al. 2016 (arXiv:1509.00519), equation 8."""
    log_weights, count = log_weights.double(), log_weights.shape[1]
    effective = 1 / log_weights.softmax(1).square().sum(1)
    return Estimate(log_weights.logsumexp(1) - math.log(count), effective, 1 / effective - 1 / count)


class Weigher(Extractor):
    """An `Estimate` of every record.

    A record's samples depend only on the record and the run's seed. They are made together, a fixed number at a time.

    Args:
        model: Has the reading.
        reading: Gives a log weight of every record, by one sample of its latents.
        count: Samples of each record, K.
        prepared: The record as the reading takes it.
        offset: Added to each log-likelihood of such a record.
        key: Identifies all of this except the model.
    """

    outputs = Estimate._fields
    suffix = ""
    protocol: Mapping[str, str | int | float | bool] = {}
    key = ""

    def __init__(
        self,
        model: EvaluatedModel,
        reading: str,
        count: int,
        prepared: Callable[[Tensor], Tensor],
        offset: Callable[[Tensor], float],
        key: str,
    ) -> None:
        super().__init__(None, model.spec)
        self.model, self.reading, self.count = model, reading, count
        self.prepared, self.offset = prepared, offset
        self.key = key

    def __call__(self, images: Tensor) -> Mapping[str, Tensor]:
        """The fields of `Estimate` by name, for records in the data's format."""
        found = Estimate(*map(torch.cat, zip(*map(self._estimate, images), strict=True)))
        return found._asdict()

    def _estimate(self, record: Tensor) -> Estimate:
        found = estimate(self._log_weights(record)[None])
        return found._replace(log_likelihood=found.log_likelihood + self.offset(record))

    def _log_weights(self, record: Tensor) -> Tensor:
        """`(K,)`"""
        number, most = number_of(record), max(LEAST_AT_ONCE, NUMBERS_AT_ONCE // record.numel())
        calls = math.ceil(self.count / most)
        copies = self.prepared(record).expand(math.ceil(self.count / calls), *record.shape)
        parts = [self.model.read(self.reading, copies, batch=number + call) for call in range(calls)]
        return torch.cat(parts)[: self.count]
