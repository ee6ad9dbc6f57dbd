"""Evaluations of made-up samples, for tests of metrics."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ganrun.base.errors import ContractError
from ganrun.contracts.data import Data
from ganrun.contracts.evaluation import EvaluatedModel
from ganrun.contracts.losses import Nets
from ganrun.contracts.settings import Settings
from ganrun.contracts.specs import ModelSpec
from ganrun.inference.evaluation import SharedEvaluation
from ganrun.inference.given import GivenRecords
from ganrun.inference.readings import checked_rows
from ganrun.inference.samples import GeneratedSamples

CPU = torch.device("cpu")

OfImages = Callable[[Tensor], Tensor]


def evaluation_on(
    data: Data,
    draw: Callable[[int], tuple[Tensor, Tensor]],
    *,
    spec: ModelSpec | None = None,
    step: int = 0,
    seed: int = 0,
    readings: Mapping[str, OfImages] | None = None,
    decode: OfImages | None = None,
    model: EvaluatedModel | None = None,
) -> SharedEvaluation:
    """An evaluation on the CPU, for `ganrun.testing.measured` or a metric's own methods.

    Args:
        data: Prepared.
        draw: `draw(count)` gives latents `(count, latent_size)` and samples `(count, *sample_shape)` in [-1, 1]. It is
            called for batches of 256.
        spec: The facts of the model; those of the data alone unless given.
        step: Steps done.
        seed: The run's seed.
        readings: Functions of images in [-1, 1], by the names of readings: `{"encodings": fn}`.
        decode: The model's `decode`, for metrics that search latents.
        model: A whole model instead, such as `run.model`.
    """
    facts = dataclasses.replace(spec or ModelSpec.from_facts(data.spec().facts()), readings=tuple(readings or ()))
    facts = facts if model is None else model.spec
    made_up = _MadeUpModel(facts, readings or {}, decode)
    given = GivenRecords(data, facts, CPU) if facts.given else None
    return SharedEvaluation(
        spec=facts,
        device=CPU,
        step=step,
        seed=seed,
        samples=GeneratedSamples(lambda count, _: draw(count), facts, CPU, seed, given),
        data=data,
        model=made_up if model is None else model,
    )


@dataclass
class _MadeUpModel:
    """A model of a few functions."""

    spec: ModelSpec
    readings: Mapping[str, OfImages]
    decoder: OfImages | None
    device: torch.device = CPU
    sampling: Settings = field(default_factory=Settings)
    networks: Mapping[str, nn.Module] = field(default_factory=dict)
    nets: Nets = field(default_factory=lambda: Nets({}))

    def decode(self, latents: Tensor, *, gradients: bool = False) -> Tensor:
        if self.decoder is None:
            raise ContractError("this model decodes nothing; pass decode=… to evaluation_on")
        with torch.set_grad_enabled(gradients):
            return self.decoder(latents)

    def read(
        self,
        name: str,
        images: Tensor,
        labels: Tensor | None = None,
        beside: Mapping[str, Tensor] | None = None,
        *,
        batch: int = 0,
    ) -> Tensor:
        return checked_rows(self.readings[name](images), f'reading "{name}"', len(images))
