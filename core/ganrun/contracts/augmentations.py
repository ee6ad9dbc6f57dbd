"""Augmentations: what a discriminator sees in place of the images, real and generated ones alike."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from ganrun.contracts.components import Component
from ganrun.contracts.specs import DataSpec


class Augmentation(nn.Module, Component):
    """Random, differentiable changes to every image that a discriminator is shown.

    Built from its settings and the data's spec, once for each slot that a loss marks as `augmented`; it stands before
    that network's view. The loss sees nothing of it, and gradients, penalties among them, pass through it. Scores and
    pictures are made without it.

    Parameters are refused: nothing trains an augmentation. Its buffers are its state, changed in place; they are part
    of a checkpoint. `__init__` raises `IncompatibleError` where it cannot be built for the spec.
    """

    every: ClassVar[int] = 0
    """Steps between two calls of `adjust`; 0 for never."""

    def __init__(self, settings: Any, spec: DataSpec) -> None:
        super().__init__()
        self.settings = settings
        self.spec = spec

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Augmented images, of the shape of `images` `(batch, *spec.sample_shape)` in [-1, 1].

        Draws from torch's global random stream, for each image by itself.
        """

    def adjust(self, outputs: Tensor, images: int) -> None:
        """Adapt the strength to how well the network knows the training images (ADA, Karras et al. 2020, section 3).

        Args:
            outputs: What the network makes of the last real batch, augmented as it was; without gradients.
            images: Real images seen since the last call.
        """
