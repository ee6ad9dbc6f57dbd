"""Losses that make an image from an image: what all of them have in common."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from ganrun.base.errors import IncompatibleError
from ganrun.contracts.losses import Batch, Inputs, Loss, Nets
from ganrun.contracts.slots import Slot
from ganrun.contracts.specs import DataSpec, Factor, Ports, image_shape

SOURCE, MASK = "source", "mask"
"""Fields of a record: the image that a loss starts from, and where pixels of it are missing."""


class ImageToImageLoss(Loss):
    """Base of losses whose generator makes a record's image from its field `source`.

    The source may differ from the image in size and channels. If the data has a field `mask` as large as the source, 1
    where pixels are missing and -1 elsewhere, the generator gets it as an additional channel.

    A latent vector holds only the source and the mask. So samples are made from records of the test split, and
    everything that draws or scores samples works as it does for noise.
    """

    slots = {"generator": Slot("network", averaged=True)}

    def __init__(self, settings: Any, spec: DataSpec) -> None:
        super().__init__(settings, spec)
        image_shape(spec.sample_shape)
        if len(spec.fields.get(SOURCE, ())) != 3:
            known = f"its fields are {', '.join(spec.fields)}" if spec.fields else "it has none"
            raise IncompatibleError(
                f'it makes images from images, which are a field "{SOURCE}" of the data\'s records; {known}'
            )
        (_, *sides), mask = spec.fields[SOURCE], spec.fields.get(MASK)
        if mask is not None and mask != (1, *sides):
            raise IncompatibleError(f'the field "{MASK}" is {mask}, and the source {spec.fields[SOURCE]}')

    @property
    def seen(self) -> tuple[str, ...]:
        """The fields that the generator sees."""
        return (SOURCE, MASK) if MASK in self.spec.fields else (SOURCE,)

    @property
    def source_shape(self) -> tuple[int, int, int]:
        """The shape of the generator's input: (channels of all fields that it sees, height, width)."""
        shapes = [self.spec.fields[name] for name in self.seen]
        return sum(shape[0] for shape in shapes), shapes[0][1], shapes[0][2]

    @property
    def latent_size(self) -> int:
        """The number of values that the generator sees."""
        return prod(self.source_shape)

    def factors(self) -> Sequence[Factor]:
        """One for each field that the generator sees."""
        return tuple(Factor(name, prod(self.spec.fields[name]), "given") for name in self.seen)

    def ports(self, slot: str) -> Ports:
        """The generator takes sources and makes images."""
        return Ports(self.source_shape, self.spec.sample_shape) if slot == "generator" else super().ports(slot)

    def sources(self, batch: Batch) -> Tensor:
        """The generator's input for a batch: `(size, *source_shape)` in [-1, 1]."""
        return torch.cat([batch[name] for name in self.seen], dim=1)

    def made(self, nets: Nets, batch: Batch) -> Tensor:
        """The generator's outputs for a batch's sources, in training: `(size, *sample_shape)`."""
        return nets.generator(self.sources(batch))

    def generate(self, nets: Nets, latents: Tensor, sampling: Any) -> Tensor:
        """The generator's outputs for the sources in latents, clipped to [-1, 1].

        So a generator may end without tanh: a residual network's output is the source plus a correction.
        """
        sources: Tensor = latents.unflatten(1, self.source_shape)  # type: ignore[no-untyped-call]
        return nets.generator(sources).clamp(-1, 1)

    def generated_inputs(self, slot: str, nets: Nets, batch: Batch) -> Inputs:
        """Sources for the generator, and its outputs for a discriminator."""
        return Inputs(self.sources(batch)) if slot == "generator" else Inputs(self.made(nets, batch))
