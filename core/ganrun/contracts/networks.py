"""The networks: generators from latents to samples, discriminators from images to vectors."""

from __future__ import annotations

from typing import Any

from torch import nn

from ganrun.contracts.components import Component
from ganrun.contracts.specs import ModelSpec


class Generator(nn.Module, Component):
    """A network from latents to samples.

    `forward(latents, labels=None)` takes latents `(batch, spec.latent_size)` and, for conditional models,
    int64 labels `(batch,)`; it returns `(batch, *spec.sample_shape)` in [-1, 1].

    A plain module: it knows nothing of devices, precision, optimisers or averaging. Raise `IncompatibleError` in
    `__init__` where the spec cannot be met. The random stream is seeded when `__init__` runs. Where
    `spec.labelled` is set, labels are always given: `ganrun.LabelledLatents` puts them beside the latents.
    """

    def __init__(self, settings: Any, spec: ModelSpec) -> None:
        super().__init__()
        self.settings = settings
        self.spec = spec


class Discriminator(nn.Module, Component):
    """A network from images to one vector each: a critic, a classifier's trunk with heads, or an encoder.

    `forward(images, labels=None)` takes images `(batch, *spec.sample_shape)` in [-1, 1] and returns
    `(batch, spec.out_features)`. No sigmoid and no softmax: losses work on logits. Where `spec.labelled` is
    set, labels are always given: `ganrun.LabelledImages` puts them beside the images.
    """

    def __init__(self, settings: Any, spec: ModelSpec) -> None:
        super().__init__()
        self.settings = settings
        self.spec = spec
