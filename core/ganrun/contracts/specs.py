"""The facts that components are built for: those of the data, and those of the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import index
from types import EllipsisType
from typing import Any, Literal, NamedTuple, Self

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
    """The shapes of each record's further fields, by name: `{"source": (3, 64, 64)}`. A field of three sides is an
    image: (channels, height, width)."""

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Self:
        """The spec that `facts` describes; a fact that is absent, as in older files, has its default.

        Raises:
            KeyError, TypeError, ValueError: if these are not the facts of a data set.
        """
        shape, fields = _shape(facts["sample_shape"]), dict(facts.get("fields", {}))
        return cls(shape, index(facts["classes"]), {str(name): _shape(sides) for name, sides in fields.items()})

    def facts(self) -> dict[str, Any]:
        """Every fact of the data, as JSON; for a `ModelSpec`, without the facts of its loss."""
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
        return image_shape(self.sample_shape)


@dataclass(frozen=True)
class ModelSpec(DataSpec):
    """The facts of the data, plus those of the loss. Metrics and extractors are built for it."""

    latent_size: int = 0
    """Length of a latent vector."""

    factors: tuple[Factor, ...] = ()
    """The factors of the loss's latent vector, in order."""

    readings: tuple[str, ...] = ()
    """The readings that the model provides: the names of `Loss.readings`, such as `encodings`."""

    paired: bool = True
    """Whether the parts of a record belong together: `Loss.paired`."""

    @property
    def given(self) -> tuple[Factor, ...]:
        """The factors that records give, in order."""
        return tuple(factor for factor in self.factors if factor.kind == "given")

    @property
    def has_targets(self) -> bool:
        """Whether each sample is made of a record whose image is its target: what the sample should be."""
        return self.paired and bool(self.given)

    def place(self, factor: Factor) -> slice:
        """The indices of a factor in a latent vector."""
        start = sum(each.size for each in self.factors[: self.factors.index(factor)])
        return slice(start, start + factor.size)


class Ports(NamedTuple):
    """The arguments that a loss passes to the network in a slot, and the result that it expects: shapes without the
    batch."""

    inputs: tuple[int, ...]
    """Of the first argument."""

    outputs: tuple[int | EllipsisType, ...]
    """Of the result. A last `...` leaves further sides to the network: `(1, ...)` is a number for each sample or, as
    from a PatchGAN, a map of numbers."""

    conditions: Mapping[str, tuple[int, ...]] = {}
    """Of the keyword arguments. `labels` are int64 in [0, classes); all others are float32. A network that ignores one
    of them is refused."""


@dataclass(frozen=True)
class NetworkSpec:
    """The facts that a network is built for: the ports of its slot in the loss."""

    inputs: tuple[int, ...]
    """Shape of one input: `(latent_size,)` for a generator, (channels, height, width) for a network of images."""

    outputs: tuple[int | EllipsisType, ...]
    """Shape of one output; a last `...` leaves further sides to the network."""

    conditions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Shapes of the keyword arguments by name. A network must use each of them."""

    classes: int = 0
    """Number of classes of the labels."""

    @property
    def labelled(self) -> bool:
        """Whether the network is called with labels, int64 `(batch,)`."""
        return "labels" in self.conditions

    @property
    def out_features(self) -> int:
        """The first side of an output: its features, or the channels of its map.

        Raises:
            IncompatibleError: if the loss leaves it to the network.
        """
        if not self.outputs or self.outputs[0] is ...:
            raise IncompatibleError("the loss does not say how many numbers it expects")
        return self.outputs[0]

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The outputs' shape without `...`: the smallest that fits."""
        return tuple(side for side in self.outputs if side is not ...)

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether an output may have this shape."""
        fixed = self.output_shape
        return shape == fixed or (len(self.outputs) > len(fixed) and shape[: len(fixed)] == fixed)


def image_shape(shape: tuple[int | EllipsisType, ...]) -> tuple[int, int, int]:
    """A shape as (channels, height, width), for networks that work on images or make them.

    Raises:
        IncompatibleError: if it is not an image's.
    """
    sides = tuple(side for side in shape if side is not ...)
    if len(sides) != 3 or len(sides) != len(shape):
        raise IncompatibleError(f"works on images (channels, height, width), not on samples of shape {sides}")
    channels, height, width = sides
    return channels, height, width


def _shape(sides: Any) -> tuple[int, ...]:
    shape = tuple(index(side) for side in sides)
    if any(side < 1 for side in shape):
        raise ValueError(f"{shape} has a side below 1")
    return shape
