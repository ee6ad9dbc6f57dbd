"""Augmentations: transform all images that a discriminator sees, both real and generated."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from ganrun.contracts.beginning import values_of
from ganrun.contracts.components import Component
from ganrun.contracts.specs import DataSpec


class Augmentation(nn.Module, Component):
    """Random, differentiable changes to every image that a discriminator is shown.

    Built from its settings and the spec of its network's inputs, once for each slot that a loss marks as `augmented`;
    it is applied before that network, in training only. It is invisible to the loss, and gradients, including those of
    penalties, pass through it. It always computes in float32. Methods and parts of the network, such as
    `nets.discriminator.features(images)`, are called without it.

    Parameters are refused, because an augmentation is not trained. Its buffers are its state, changed in place by
    `adjust`; they are part of a checkpoint, as `<slot>.augmentation`. `__init__` runs under a random stream of the
    slot; it raises `IncompatibleError` if the augmentation cannot be built for the spec.
    """

    every: ClassVar[int] = 0
    """Steps between two calls of `adjust`; 0 for never. May be a property that reads a setting."""

    @classmethod
    def class_fault(cls) -> str | None:
        """As `Component.class_fault`; an augmentation that is adjusted must also define how."""
        is_adjusted = isinstance(cls.every, int) and cls.every > 0
        if is_adjusted and cls.adjust is Augmentation.adjust:
            return f"which says every = {cls.every} and does not define adjust"
        return super().class_fault()

    def __init__(self, settings: Any, spec: DataSpec) -> None:
        super().__init__()
        self.settings = settings
        self.spec = spec
        self.now = values_of(settings)
        """The present values of its settings of type `Scheduled`, by name."""

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Augmented images, float32 and of the shape of `images` `(batch, *spec.sample_shape)` in [-1, 1].

        Draws from torch's global random stream, independently for each image. Differentiable; twice if the loss
        differentiates a gradient. Changes neither `images` nor its own state.
        """

    def adjust(self, outputs: Tensor, images: int) -> None:
        """Adapt the strength to how well the network knows the training images (ADA, Karras et al. 2020, section 3).

        Called after every `every` steps; requires a loss that defines a `boundary` for the network's slot. The outputs
        are computed in training mode, as ADA requires, at the run's precision and with random numbers separate from
        training's; the network's buffers, such as running statistics, stay unchanged. All ranks see the whole batch.

        Args:
            outputs: How real each image of the last batch of real ones, augmented again, appears to the network:
                `(size, 1)`, or `(size, 1, …)` for a map. Its first output minus the slot's boundary, so positive if it
                classifies an image as real; without gradients.
            images: Real images seen since the last call.
        """

    def report(self) -> Mapping[str, Tensor]:
        """Numbers that are logged as curves, `augmentation/<slot>.<name>`, such as the current probability.

        Called when the losses are logged, without gradients: it returns the values after that step, not means over
        steps. Real scalars, such as buffers, on the device of the images, and always under the same names. NaN means
        not yet known, and is logged as null. It must not change anything or wait for the device: no `item()`.
        """
        return {}
