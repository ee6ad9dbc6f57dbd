"""The roles of networks in a loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Slot:
    """The role of a network in a loss. A recipe has one table per slot, with the slot's name."""

    kind: Literal["generator", "discriminator", "network"]
    """Which kind of component fills it. Shapes are the loss's `ports`."""

    averaged: bool = False
    """Whether an exponential moving average of its weights is kept. Scores and pictures then use the average."""

    augmented: bool = False
    """Whether it sees both real and generated images, as a discriminator does and an encoder does not: the recipe's
    `[augmentation]` is applied there."""

    boundary: float | None = None
    """A discriminator's decision threshold: its first output is above it for images that it classifies as real, and
    below it for the others. 0 for logits and for the hinge loss, ½ for least squares; None if the level of the output
    has no meaning, as in a Wasserstein or a relativistic loss. Adaptive augmentations, such as ADA, need it."""

    per_sample: bool = False
    """Whether each output must depend on its own sample alone, as a gradient penalty per sample requires. With batch
    norm it does not; the user is warned of such a network."""

    methods: tuple[str, ...] = ()
    """Names of methods or parts that objectives call besides the network itself: `("mapping", "synthesis")`. A network
    without them does not fit."""

    frozen: bool = False
    """Whether it is never trained: a perceptual network, or the encoder of an earlier run, by `from` in its table. It
    has no optimiser and no average, no phase may train it, it stays in evaluation mode during training, and gradients
    only pass through it. Checkpoints and exports contain it like every other slot, so the trained model does not need
    the original file. See `Network.prepare`."""
