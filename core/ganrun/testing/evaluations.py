"""Evaluations of made-up samples, for tests of metrics."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ganrun.contracts.data import Data
from ganrun.contracts.specs import ModelSpec
from ganrun.inference.evaluation import SharedEvaluation
from ganrun.inference.sources import GeneratedSamples

CPU = torch.device("cpu")


def evaluation_on(
    data: Data,
    draw: Callable[[int], tuple[Tensor, Tensor]],
    *,
    spec: ModelSpec | None = None,
    step: int = 0,
    seed: int = 0,
    encode: Callable[[Tensor], Tensor | None] = lambda _: None,
    reconstruct: Callable[[Tensor], Tensor | None] = lambda _: None,
) -> SharedEvaluation:
    """An evaluation on the CPU, for `ganrun.testing.measured` or a metric's own methods.

    Args:
        data: Prepared.
        draw: `draw(count)` gives latents `(count, latent_size)` and samples `(count, *sample_shape)` in [-1, 1].
        spec: The facts of the model; those of the data alone unless given.
        step: Steps done.
        seed: The run's seed.
        encode: Gives the latents of images in [-1, 1], or None.
        reconstruct: Gives reconstructions of images in [-1, 1], or None.
    """
    facts = spec or ModelSpec.from_facts(data.spec().facts())
    return SharedEvaluation(
        spec=facts,
        device=CPU,
        step=step,
        seed=seed,
        samples=GeneratedSamples(draw, facts, CPU, seed),
        data=data,
        model=_Reader(encode, reconstruct),
    )


class _Reader:
    """A model's encoder, as two functions."""

    def __init__(
        self, encode: Callable[[Tensor], Tensor | None], reconstruct: Callable[[Tensor], Tensor | None]
    ) -> None:
        self.encode = encode
        self.reconstruct = reconstruct
