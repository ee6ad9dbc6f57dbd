"""The facts that components are built for: those of the data, and those of the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ganrun.base.errors import IncompatibleError


@dataclass(frozen=True)
class Factor:
    """A part of the latent vector with one meaning; factors are contiguous."""

    name: str
    """`class` for the data's classes; any other name for other factors, such as `code_1`."""

    size: int
    """Number of latents."""

    kind: Literal["noise", "categorical", "continuous"]
    """noise: without a particular meaning; categorical: one-hot; continuous: in (-1, 1)."""


@dataclass(frozen=True)
class DataSpec:
    """The facts of a data set; known before its files are read if possible."""

    sample_shape: tuple[int, ...]
    """One sample without the batch: (channels, height, width) for images, (features,) for points."""

    classes: int = 0
    """Number of classes of the labels; 0 if the data has no labels."""

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
    """The facts of the data and those that the loss adds. Networks, metrics and extractors are built for it."""

    latent_size: int = 0
    """Length of a generator's input vector; 0 for components that take no latents."""

    out_features: int = 1
    """Length of a discriminator's output vector per image, as its slot in the loss requires."""

    factors: tuple[Factor, ...] = ()
    """The factors of the loss's latent vector, in order."""

    encodes: bool = False
    """Whether the model encodes images to latents."""

    reconstructs: bool = False
    """Whether the model reconstructs images."""

    labelled: bool = False
    """Whether the network is called with labels, as its slot in the loss says. If so, it must use them."""

    def place(self, factor: Factor) -> slice:
        """The indices of a factor in a latent vector."""
        start = sum(each.size for each in self.factors[: self.factors.index(factor)])
        return slice(start, start + factor.size)
