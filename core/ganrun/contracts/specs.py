"""The facts that components are built for: those of the data, and those of the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import index
from typing import Any, Literal, Self

from ganrun.base.errors import IncompatibleError


@dataclass(frozen=True)
class Factor:
    """A part of the latent vector with one meaning; factors are contiguous."""

    name: str
    """`class` for the data's classes; any other name for other factors, such as `code_1`."""

    size: int
    """Number of latents."""

    kind: Literal["noise", "categorical", "continuous", "given"]
    """noise: without a particular meaning; categorical: one-hot; continuous: in (-1, 1); given: the record field of
    this name, flattened, in [-1, 1]."""


@dataclass(frozen=True)
class DataSpec:
    """The facts of a data set; known before its files are read if possible."""

    sample_shape: tuple[int, ...]
    """One sample without the batch: (channels, height, width) for images, (features,) for points."""

    classes: int = 0
    """Number of classes of the labels; 0 if the data has no labels."""

    fields: Mapping[str, tuple[int, ...]] = field(default_factory=dict, hash=False)
    """The shapes of what each record holds beside its image, by name: `{"source": (3, 64, 64)}`. A field of three sides
    is an image: (channels, height, width)."""

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Self:
        """The spec that `facts` describes; a fact that is absent, as in older files, has its default.

        Raises:
            KeyError, TypeError, ValueError: if these are not the facts of a data set.
        """
        shape, fields = _shape(facts["sample_shape"]), dict(facts.get("fields", {}))
        return cls(shape, index(facts["classes"]), {str(name): _shape(sides) for name, sides in fields.items()})

    def facts(self) -> dict[str, Any]:
        """Every fact of the data, as JSON. Of a `ModelSpec`, only those of its data."""
        return {
            "sample_shape": list(_shape(self.sample_shape)),
            "classes": index(self.classes),
            "fields": {name: list(_shape(sides)) for name, sides in self.fields.items()},
        }

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


def _shape(sides: Any) -> tuple[int, ...]:
    shape = tuple(index(side) for side in sides)
    if any(side < 1 for side in shape):
        raise ValueError(f"{shape} has a side below 1")
    return shape
