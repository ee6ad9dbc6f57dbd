"""What components are built for: the facts of the data, and of the model that is made for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ganrun.base.errors import IncompatibleError


@dataclass(frozen=True)
class Factor:
    """A part of the latent vector that has a meaning of its own; factors follow each other without a gap."""

    name: str
    """`class` for the data's own classes; else whatever suits, such as `code_1`."""

    size: int
    """How many latents it takes."""

    kind: Literal["noise", "categorical", "continuous"]
    """noise means nothing in particular; a categorical factor is one-hot; a continuous one is in (-1, 1)."""


@dataclass(frozen=True)
class DataSpec:
    """The facts of a data set, known before its files are read wherever that is possible."""

    sample_shape: tuple[int, ...]
    """One sample without the batch: (channels, height, width) for images, (features,) for points."""

    classes: int = 0
    """Number of classes of the labels; 0 where the data has none."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width).

        Raises:
            IncompatibleError: if the samples are not images.
        """
        if len(self.sample_shape) != 3:
            raise IncompatibleError(
                f"works on images (channels, height, width), not on samples of shape {self.sample_shape}"
            )
        channels, height, width = self.sample_shape
        return channels, height, width


@dataclass(frozen=True)
class ModelSpec(DataSpec):
    """The facts of the data, and what the loss adds to them: networks, metrics and extractors are built for these."""

    latent_size: int = 0
    """Length of the vector that a generator takes; 0 for components that take none."""

    out_features: int = 1
    """Length of the vector that a discriminator returns per image, as its slot in the loss asks for."""

    factors: tuple[Factor, ...] = ()
    """What the loss's latent vector is made of; known to networks and metrics."""

    encodes: bool = False
    """Whether the model reads latents off images."""

    reconstructs: bool = False
    """Whether the model reconstructs images."""

    labelled: bool = False
    """Whether the network is called with labels, as its slot in the loss says, and must use them."""

    def place(self, factor: Factor) -> slice:
        """Where a factor stands in a latent vector."""
        start = sum(each.size for each in self.factors[: self.factors.index(factor)])
        return slice(start, start + factor.size)
