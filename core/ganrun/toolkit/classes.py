"""Class-conditional losses: the class as a part of the latents, and the labels of real images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import one_hot

from ganrun.base.errors import ContractError, IncompatibleError
from ganrun.contracts import settings as base
from ganrun.contracts.data import Split
from ganrun.contracts.losses import Batch, Inputs, Loss, Nets
from ganrun.contracts.specs import DataSpec, Factor, Ports
from ganrun.toolkit.latents import join_latents, random_one_hot, split_latents


class ClassInLatents(Loss):
    """A mixin for losses whose generator takes a class: a latent vector is noise, then the class, one-hot.

        class ConditionalHinge(ClassInLatents, AdversarialLoss):
            class Settings(ClassInLatents.Settings, AdversarialLoss.Settings):
                ...

            def generator(self, nets, batch):
                noise, classes = self.noise_and_classes(batch.latents)
                samples = nets.generator(noise, labels=classes)
                ...

    Name it before the loss class. The generator gets the class as labels; to pass labels to others, extend `ports`.
    Objectives read the labels of real images by `ganrun.labels_of(batch)`. A loss with its own `prepare` calls
    `super().prepare(training)`, which counts the classes where the recipe draws them as in the data.
    """

    class Settings(base.Settings):
        noise_size: int = Field(100, ge=1)
        """Length of the noise. The one-hot class follows it in a latent vector."""

        draw_classes: Literal["equally", "as-data"] = "equally"
        """How often samples are of each class: equally, or as-data, each as often as among the records that the run
        trains on. On unbalanced data, samples with equal classes cannot reach a low FID."""

    settings: Settings

    def __init__(self, settings: Any, spec: DataSpec) -> None:
        super().__init__(settings, spec)
        if settings.draw_classes == "as-data":
            self.memory.register_buffer("class_counts", torch.zeros(self.classes))

    @property
    def latent_size(self) -> int:
        """Noise and one-hot class together."""
        return sum(factor.size for factor in self.factors())

    def factors(self) -> Sequence[Factor]:
        """`noise`, then the class: the `label_factor`."""
        noise = Factor("noise", self.settings.noise_size, "noise")
        return noise, Factor(self.label_factor, self.classes, "categorical")

    def ports(self, slot: str) -> Ports:
        """The generator takes the noise as its latents; the class reaches it as a label."""
        ports = super().ports(slot)
        if slot != "generator":
            return ports
        return ports._replace(inputs=(self.settings.noise_size,), conditions={"labels": ()})

    def prepare(self, training: Split) -> None:
        """Count the classes, if they are drawn as in the data.

        Raises:
            IncompatibleError: if the records have no labels.
        """
        super().prepare(training)
        if self.settings.draw_classes == "equally":
            return
        if training.labels is None:
            raise IncompatibleError('draw_classes = "as-data" needs labels, and the training records have none')
        counts = np.bincount(training.labels, minlength=self.classes)
        self.memory.class_counts.copy_(torch.from_numpy(counts))

    def latents(self, size: int, device: torch.device) -> Tensor:
        """Noise by `draw_noise` and classes as `draw_classes` says, drawn independently: `(size, latent_size)`."""
        noise = self.draw_noise(size, self.settings.noise_size, device)
        draw = self._equal_classes if self.settings.draw_classes == "equally" else self._classes_as_in_data
        classes = draw(size, device)
        return join_latents({"noise": noise, self.label_factor: classes}, self.factors())

    def generate(self, nets: Nets, latents: Tensor, sampling: base.Settings) -> Tensor:
        """Samples of the classes in the latents: `(size, *sample_shape)` in [-1, 1]."""
        noise, classes = self.noise_and_classes(latents)
        return nets.generator(noise, labels=classes)

    def generated_inputs(self, slot: str, nets: Nets, batch: Batch) -> Inputs:
        """As `Loss.generated_inputs`; the generator takes the noise alone."""
        found = super().generated_inputs(slot, nets, batch)
        is_generator = self.slots[slot].kind == "generator"
        return found._replace(inputs=self.noise_and_classes(batch.latents)[0]) if is_generator else found

    def noise_and_classes(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """A latent vector's two parts, as networks take them: noise `(size, noise_size)`, int64 classes `(size,)`."""
        parts = split_latents(latents, self.factors())
        return parts["noise"], parts[self.label_factor].argmax(dim=1)

    def _equal_classes(self, size: int, device: torch.device) -> Tensor:
        return random_one_hot(size, self.classes, device)

    def _classes_as_in_data(self, size: int, device: torch.device) -> Tensor:
        """The first of independent exponential clocks to ring, whose rates are the counts; equal if there are none."""
        counts = self.memory.class_counts.to(device)
        rates = torch.where(counts.sum() > 0, counts, torch.ones_like(counts))
        times = torch.empty(size, self.classes, device=device).exponential_().clamp_min(1e-30)
        return one_hot((rates / times).argmax(dim=1), self.classes).float()


def labels_of(batch: Batch) -> Tensor:
    """The int64 labels `(size,)` of a batch's real images.

    Raises:
        ContractError: if the data declares classes but its training split has no labels.
    """
    if batch.labels is None:
        raise ContractError("the data declares classes, but its training images have no labels")
    return batch.labels
