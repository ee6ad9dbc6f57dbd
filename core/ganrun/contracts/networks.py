"""The networks: generators from latents to samples, discriminators from images to numbers, and all others."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from ganrun.contracts.beginning import values_of
from ganrun.contracts.components import Component
from ganrun.contracts.specs import NetworkSpec


class Network(nn.Module, Component):
    """A network from any input to any output: a translator, a mapping, a codebook, a velocity field.

    `forward(inputs, **conditions)` takes `(batch, *spec.inputs)` and, by name, `(batch, *shape)` for each of
    `spec.conditions`; it returns float32 `(batch, *spec.outputs)`. A loss may also call methods that its slot names.

    A plain module: it knows nothing about devices, precision, optimisers or averaging. `__init__` raises
    `IncompatibleError` if it cannot be built for the spec; the random stream is seeded when it runs.
    """

    memory_format: torch.memory_format = torch.channels_last
    """Layout of its images and of the weights that it applies to them. The engine sets `torch.contiguous_format` on a
    network that fails on channels-last images, such as one that calls `view` after a convolution."""

    def __init__(self, settings: Any, spec: NetworkSpec) -> None:
        super().__init__()
        self.settings = settings
        self.spec = spec
        self.now = values_of(settings)
        """The present values of its settings of type `Scheduled`, by name."""

    def prepare(self, device: torch.device) -> None:
        """Load weights from files, for example pretrained ones, before the network is tried and trained.

        Called whenever a run starts or continues; the network is already on `device`. Loaded and exported models
        contain their weights and need no file. Create layers in `__init__`, and fill them here, by `load_state_dict` or
        `copy_`. Does nothing unless overridden.

        Raises:
            PreflightError: if a file is missing, with the steps that get it.
        """


class Generator(Network):
    """A network from latents to samples.

    `forward(latents, labels=None)` takes latents `(batch, *spec.inputs)` and, where `spec.labelled` is set, int64
    labels `(batch,)`; it returns `(batch, *spec.outputs)` in [-1, 1]. `ganrun.LabelledLatents` appends the labels
    to the latents, and `ganrun.float32_tanh` is the usual last step.
    """


class Discriminator(Network):
    """A network from images to numbers: a critic, a classifier's trunk with heads, or an encoder.

    `forward(images, labels=None)` takes images `(batch, *spec.inputs)` in [-1, 1] and, where `spec.labelled` is set,
    int64 labels `(batch,)`; it returns `(batch, *spec.outputs)`: a vector each or, where the loss allows, a map. It
    ends without sigmoid or softmax: losses work on logits. `ganrun.LabelledImages` appends the labels to the images.
    """

    compares_samples: ClassVar[bool] = False
    """Whether it compares the samples of a batch on purpose, as the minibatch standard deviation does. If so, a penalty
    on each sample's gradient triggers no warning."""
