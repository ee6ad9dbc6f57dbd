"""The networks: generators from latents to samples, discriminators from images to vectors."""

from __future__ import annotations

from typing import Any

from torch import nn

from ganrun.contracts.components import Component
from ganrun.contracts.specs import ModelSpec


class Network(nn.Module, Component):
    """A network of any inputs and outputs, as its slot in the loss requires."""

    def __init__(self, settings: Any, spec: ModelSpec) -> None:
        super().__init__()
        self.settings = settings
        self.spec = spec


class Generator(nn.Module, Component):
    """A network from latents to samples.

    `forward(latents, labels=None)` takes latents `(batch, spec.latent_size)` and, where `spec.labelled` is set, int64
    labels `(batch,)`; it returns `(batch, *spec.sample_shape)` in [-1, 1]. `ganrun.LabelledLatents` appends the labels
    to the latents, and `ganrun.float32_tanh` is the usual last step.

    A plain module: it knows nothing of devices, precision, optimisers or averaging. `__init__` raises
    `IncompatibleError` where it cannot be built for the spec; the random stream is seeded when it runs.
    """

    def __init__(self, settings: Any, spec: ModelSpec) -> None:
        super().__init__()
        self.settings = settings
        self.spec = spec


class Discriminator(nn.Module, Component):
    """A network from images to one vector each: a critic, a classifier's trunk with heads, or an encoder.

    `forward(images, labels=None)` takes images `(batch, *spec.sample_shape)` in [-1, 1] and, where `spec.labelled` is
    set, int64 labels `(batch,)`; it returns `(batch, spec.out_features)`. It ends without sigmoid or softmax: losses
    work on logits. `ganrun.LabelledImages` appends the labels to the images. Otherwise as `Generator`.
    """

    def __init__(self, settings: Any, spec: ModelSpec) -> None:
        super().__init__()
        self.settings = settings
        self.spec = spec
