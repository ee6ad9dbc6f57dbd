"""Augmentations: what a discriminator sees in place of the images, real and generated ones alike."""

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

    Built from its settings and the spec of what its network is shown, once for each slot that a loss marks as
    `augmented`; it stands before that network's view, in training only. The loss sees nothing of it, and gradients,
    penalties among them, pass through it. It computes in float32 at any precision of the run. Methods and parts of the
    network, such as `nets.discriminator.features(images)`, are called without it.

    Parameters are refused: nothing trains an augmentation. Its buffers are its state, changed in place by `adjust`;
    they are part of a checkpoint, as `<slot>.augmentation`. `__init__` runs under a random stream of the slot; it
    raises `IncompatibleError` where the augmentation cannot be built for the spec.
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

        Draws from torch's global random stream, for each image by itself. Can be differentiated, and twice where the
        loss differentiates a gradient. Changes neither `images` nor its own state.
        """

    def adjust(self, outputs: Tensor, images: int) -> None:
        """Adapt the strength to how well the network knows the training images (ADA, Karras et al. 2020, section 3).

        Called after every `every` steps, where the loss says a `boundary` for the network's slot; elsewhere such an
        augmentation is refused. The network answers in training mode, as ADA's signs come from, at the run's precision
        and by random numbers that training does not share; its buffers, such as running statistics, stay as they are.
        All ranks see the whole batch.

        Args:
            outputs: How real the network finds each image of the whole last batch of real ones, augmented again:
                `(size, 1)`, or `(size, 1, …)` where it makes a map. Its first output less the slot's boundary, so above
                0 for what it takes for real; without gradients.
            images: Real images seen since the last call.
        """

    def report(self) -> Mapping[str, Tensor]:
        """Numbers that are logged as curves, `augmentation/<slot>.<name>`, such as the present probability.

        Called when the losses are logged, without gradients: what it returns is the value after that step, and no mean
        over steps. Real scalars, such as buffers, on the device of the images, and always under the same names. NaN
        says that a number is not known yet, and is logged as null. It changes nothing, and waits for nothing: no
        `item()`.
        """
        return {}
