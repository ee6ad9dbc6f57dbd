"""Samples as a source of an evaluation's rows: those of a model, or pictures in files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from math import ceil

import torch
from torch import Tensor

from ganrun.base.launched import Ranks
from ganrun.base.randomness import derived_seed, isolated_random
from ganrun.contracts.specs import ModelSpec
from ganrun.inference.given import GivenRecords
from ganrun.inference.sources import ALONE, SAMPLES_PER_BATCH, Rows, Source, as_data, chosen_batches, required


class SampleRows(Rows):
    """Samples `(batch, …)` in the data set's format, with their other outputs."""

    def __init__(
        self,
        ranks: Tensor,
        samples: Tensor,
        latents: Tensor | None = None,
        read_targets: Callable[[], Tensor] | None = None,
    ) -> None:
        super().__init__(ranks)
        self.samples = samples
        self._latents = latents
        self._read_targets = read_targets

    @property
    def latents(self) -> Tensor:
        """`(batch, latent_size)`; samples read from files have none."""
        return required(self._latents, "latents")

    @cached_property
    def targets(self) -> Tensor:
        """The targets of the samples, in the same format: the images of the records that they are made from."""
        return required(self._read_targets, "targets")()

    @property
    def pictures(self) -> Tensor:
        """The samples."""
        return self.samples


@dataclass(frozen=True)
class GeneratedSamples(Source):
    """The samples of a model. Fixed seeds make sample i of the same weights the same in every evaluation.

    If latents hold records, sample i has the record of rank i. If they hold nothing else, there are as many samples as
    records: repeating a record would repeat its sample.

    Args:
        draw: `draw(count, start)` returns `count` new latents from the current random stream, and their samples in
            [-1, 1]; the first one is sample number `start`.
        spec: The facts of the model.
        device: Where the model computes.
        seed: The run's seed.
        given: The records in latents; None for a model without given factors.
    """

    name = "samples"
    limited_by = ", one for each record"

    draw: Callable[[int, int], tuple[Tensor, Tensor]]
    spec: ModelSpec
    device: torch.device
    seed: int
    given: GivenRecords | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        """Samples and their latents; and targets, where samples are made of records that belong to images."""
        return "samples", "latents", *(("targets",) if self.given and self.spec.has_targets else ())

    @property
    def available(self) -> int | None:
        """The number of records, if latents hold nothing else; unknown if the data is absent."""
        is_one_each = self.given is not None and len(self.spec.given) == len(self.spec.factors)
        return (self.given.count or None) if self.given and is_one_each else None

    def batches(self, count: int, at: Ranks = ALONE) -> Iterator[Rows]:
        """Whole batches: the last one may hold rows of higher rank."""
        starts = range(at.number * SAMPLES_PER_BATCH, count, at.total * SAMPLES_PER_BATCH)
        drawn = seeded_batches(self.draw, count, self.device, self.seed, at)
        for start, (latents, made) in zip(starts, drawn, strict=True):
            samples = as_data(made, self.spec, "samples")
            ranks = torch.arange(start, start + len(samples), device=self.device)
            yield SampleRows(ranks, samples, latents, partial(self._targets, start, len(samples)))

    def _targets(self, start: int, count: int) -> Tensor:
        return as_data(required(self.given, "targets").rows("images", start, count), self.spec, "targets")


@dataclass(frozen=True)
class FoundSamples(Source):
    """Samples read from files, in the data set's format: `(count, …)`. They have no latents."""

    outputs = ("samples",)
    name = "samples"

    found: Tensor
    device: torch.device

    @property
    def available(self) -> int:
        """All of them."""
        return len(self.found)

    def batches(self, count: int, at: Ranks = ALONE) -> Iterator[Rows]:
        """A fixed random choice of `count`, in order."""
        chosen = chosen_batches(len(self.found), "pictures", count)
        for places, ranks in islice(chosen, at.number, None, at.total):
            samples = self.found[torch.from_numpy(places)].contiguous()  # an .npz may have its channels last
            yield SampleRows(ranks.to(self.device), samples.to(self.device))


def seeded_batches(
    draw: Callable[[int, int], tuple[Tensor, Tensor]],
    count: int,
    device: torch.device,
    seed: int,
    at: Ranks = ALONE,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Whole batches of latents and samples, at least `count` rows, each batch drawn from its own random stream. Scores
    and `Model.sample` both use this function, so they get the same samples.

    Args:
        draw: As in `GeneratedSamples`.
        count: Number of samples needed.
        device: Where the model computes.
        seed: With the number of the batch, decides its samples.
        at: Several processes draw batches in turn.
    """
    for number in range(at.number, ceil(count / SAMPLES_PER_BATCH), at.total):
        with isolated_random(device, derived_seed(seed, "evaluation", number)):
            batch = draw(SAMPLES_PER_BATCH, number * SAMPLES_PER_BATCH)
        yield batch
