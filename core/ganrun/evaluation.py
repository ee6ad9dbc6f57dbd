"""One evaluation: samples, real images and features, each made once and shared by every metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ganrun.components import Data, Problem, to_uint8, to_unit_range
from ganrun.randomness import derived_seed, isolated_random

SAMPLES_PER_BATCH = 256
"""Fixed, because each batch of latents has a seed of its own: sample i is the same however many are asked for."""

Source = Literal["generated", "real"]


class Extractor(Protocol):
    """A network that turns pictures into features."""

    @property
    def key(self) -> str:
        """Identifies architecture and weights: equal keys mean equal features, which are then computed once."""

    def __call__(self, images: Tensor) -> Mapping[str, Tensor]:
        """Features of uint8 images `(batch, channels, height, width)`, by name, each `(batch, …)` float."""


class RealImages:
    """The run's real images and their features, kept from one evaluation to the next."""

    def __init__(self, data: Data) -> None:
        self._data = data
        self.features: dict[tuple[str, str, int], Mapping[str, Tensor]] = {}

    def take(self, count: int | None, split: str) -> Tensor:
        """`count` images of a split, the same ones in every run; all of them where `count` is None."""
        return self._rows(self._data.split(split).images, count, split)

    def labels(self, count: int | None, split: str) -> Tensor | None:
        """int64 labels of `take(count, split)`, or None where the data has none."""
        labels = self._data.split(split).labels
        return None if labels is None else self._rows(labels, count, split)

    def _rows(self, array: npt.NDArray[Any], count: int | None, split: str) -> Tensor:
        if count is None or count >= len(array):
            return torch.from_numpy(np.asarray(array))
        order = np.random.default_rng(derived_seed(0, "real", split)).permutation(len(array))
        return torch.from_numpy(np.ascontiguousarray(array[np.sort(order[:count])]))


class Evaluation:
    """What a metric is given: everything it may need of one moment of a run.

    Samples come from the averaged weights where the loss asks for an average, in evaluation mode, from latents
    that are the same at every evaluation. Nothing here touches training's random stream.

    Args:
        problem: The facts of the data.
        device: Where extractors should compute.
        step: Steps done.
        seed: The run's seed.
        draw: `draw(count)` gives `count` fresh latents from the current random stream, and their samples in [-1, 1].
        real: The run's real images.
        encode: `encode(images)` gives the latents that the model reads off images in [-1, 1], or None.
        reconstruct: `reconstruct(images)` gives what the model makes of images in [-1, 1], or None.
        between_batches: Called between batches; may raise to stop the evaluation.
    """

    def __init__(
        self,
        *,
        problem: Problem,
        device: torch.device,
        step: int,
        seed: int,
        draw: Callable[[int], tuple[Tensor, Tensor]],
        real: RealImages,
        encode: Callable[[Tensor], Tensor | None] = lambda _: None,
        reconstruct: Callable[[Tensor], Tensor | None] = lambda _: None,
        between_batches: Callable[[], None] = lambda: None,
    ) -> None:
        self.problem = problem
        self.device = device
        self.step = step
        self.seed = seed
        self._draw = draw
        self._real = real
        self._encode = encode
        self._reconstruct = reconstruct
        self._between_batches = between_batches
        self._latents: list[Tensor] = []
        self._batches: list[Tensor] = []
        self._features: dict[tuple[str, int], Mapping[str, Tensor]] = {}

    def generated(self, count: int) -> Tensor:
        """The first `count` generated samples, on the CPU: `(count, *sample_shape)`.

        Images are uint8, by `ganrun.to_uint8`; other samples, such as points, stay as they are.
        """
        self._draw_up_to(count)
        return torch.cat(self._batches)[:count]

    def latents(self, count: int) -> Tensor:
        """The latents of `generated(count)`, in the same order, on the CPU: `(count, latent_size)`."""
        self._draw_up_to(count)
        return torch.cat(self._latents)[:count]

    def real(self, count: int | None = None, split: str = "train") -> Tensor:
        """`count` real images of a split as the data set holds them, on the CPU; all where `count` is None."""
        return self._real.take(count, split)

    def reconstructions(self, count: int | None = None, split: str = "test") -> Tensor | None:
        """What the model makes of `real(count, split)`, in the same order and form; None where it has no encoder."""
        return self._of_real(lambda images: _mapped(self._as_data, self._reconstruct(images)), count, split)

    def encodings(self, count: int | None = None, split: str = "test") -> Tensor | None:
        """The latents `(count, latent_size)` that the model reads off `real(count, split)`, in the same order, on the
        CPU; None where it reads none. `problem.factors` says what they are."""
        return self._of_real(lambda images: _mapped(Tensor.cpu, self._encode(images)), count, split)

    def real_labels(self, count: int | None = None, split: str = "train") -> Tensor | None:
        """int64 labels of `real(count, split)`, in the same order; None where the data has none."""
        return self._real.labels(count, split)

    def generated_features(self, extractor: Extractor, count: int) -> Mapping[str, Tensor]:
        """Features of the first `count` generated samples, on the CPU, each `(count, …)`."""
        key = (extractor.key, count)
        if key not in self._features:
            self._features[key] = self._extract(extractor, self.generated(count))
        return self._features[key]

    def real_features(
        self, extractor: Extractor, count: int | None = None, split: str = "train"
    ) -> Mapping[str, Tensor]:
        """Features of `real(count, split)`, computed once per run."""
        key = (extractor.key, split, -1 if count is None else count)
        if key not in self._real.features:
            self._real.features[key] = self._extract(extractor, self.real(count, split))
        return self._real.features[key]

    def _draw_up_to(self, count: int) -> None:
        while len(self._batches) * SAMPLES_PER_BATCH < count:
            self._between_batches()
            with isolated_random(self.device, derived_seed(self.seed, "evaluation", len(self._batches))):
                latents, samples = self._draw(SAMPLES_PER_BATCH)
            self._latents.append(latents.cpu())
            self._batches.append(self._as_data(samples))

    def _of_real(self, make: Callable[[Tensor], Tensor | None], count: int | None, split: str) -> Tensor | None:
        """What `make` gives for real images in [-1, 1], batch by batch; None as soon as it gives none."""
        parts = []
        for batch in torch.split(self.real(count, split), SAMPLES_PER_BATCH):
            self._between_batches()
            made = make(to_unit_range(batch))
            if made is None:
                return None
            parts.append(made)
        return torch.cat(parts)

    def _as_data(self, samples: Tensor) -> Tensor:
        """Samples in the form in which the data set holds its own."""
        return (to_uint8(samples) if len(self.problem.sample_shape) == 3 else samples).cpu()

    @torch.no_grad()
    def _extract(self, extractor: Extractor, images: Tensor) -> Mapping[str, Tensor]:
        parts: list[Mapping[str, Tensor]] = []
        for batch in torch.split(images, SAMPLES_PER_BATCH):
            self._between_batches()
            parts.append({name: value.cpu() for name, value in extractor(batch.to(self.device)).items()})
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _mapped(change: Callable[[Tensor], Tensor], value: Tensor | None) -> Tensor | None:
    return None if value is None else change(value)
