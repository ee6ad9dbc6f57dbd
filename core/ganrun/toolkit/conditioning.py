"""How a class enters a network: with the latents, or with the images.

A network that can be conditioned puts one of these two modules in front of its layers and uses the module's width as
their input width. Without labels (`spec.labelled` is false), the module adds nothing.
"""

from __future__ import annotations

from math import prod
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import one_hot

from ganrun.base.errors import ContractError
from ganrun.contracts.specs import NetworkSpec

Conditioning = Literal["concatenation", "embedding"]
"""concatenation: one input per class, 1 for the sample's class and 0 for all others (Mirza and Osindero 2014,
arXiv:1411.1784). embedding: inputs learned for each class, initialised from N(0, 1)."""

LatentConditioning = Annotated[
    Conditioning,
    Field(
        description="How the class enters, where the loss gives labels: concatenation adds one input per class, "
        "embedding adds 50 that are learned for each class."
    ),
]
"""The type of a network's setting for `LabelledLatents`, with its help text: `labels: LatentConditioning =
"concatenation"`."""

ImageConditioning = Annotated[
    Conditioning,
    Field(
        description="How the class enters, where the loss gives labels: concatenation adds one constant channel per "
        "class, embedding adds one channel, learned for each class pixel by pixel."
    ),
]
"""The same for `LabelledImages`."""


class LabelledLatents(nn.Module):
    """Appends the class to latents.

    Args:
        spec: What the network is built for; `spec.inputs` may have any shape, flattened.
        conditioning: `concatenation` appends `spec.classes` inputs, `embedding` appends `embedding_size`.
        embedding_size: Length of the vector learned for each class.
    """

    def __init__(self, spec: NetworkSpec, conditioning: Conditioning, embedding_size: int = 50) -> None:
        super().__init__()
        self._code = _Code(spec, conditioning, embedding_size) if spec.labelled else None
        self.features = prod(spec.inputs) + (self._code.features if self._code else 0)
        """Features per sample that `forward` returns."""

    def forward(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """Latents `(batch, n)` and int64 labels `(batch,)` to `(batch, features)`.

        Raises:
            ContractError: if the network is built for labels and gets None.
        """
        return latents if self._code is None else torch.cat([latents, self._code(labels)], dim=1)


class LabelledImages(nn.Module):
    """Appends the class to images as further channels, or to points as further features.

    Args:
        spec: What the discriminator is built for.
        conditioning: `concatenation` appends one constant channel per class; `embedding` appends one channel, each
            pixel of which is learned for each class.
    """

    def __init__(self, spec: NetworkSpec, conditioning: Conditioning) -> None:
        super().__init__()
        first, *plane = spec.inputs
        self._plane = tuple(plane)
        self._is_learned = conditioning == "embedding"
        self._code = _Code(spec, conditioning, prod(plane)) if spec.labelled else None
        added = 0 if self._code is None else 1 if self._is_learned else spec.classes
        self.shape = (first + added, *plane)
        """Shape per sample that `forward` returns."""

    def forward(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Images `(batch, *spec.inputs)` and int64 labels `(batch,)` to `(batch, *shape)`, in the images' precision.

        Raises:
            ContractError: if the network is built for labels and gets None.
        """
        if self._code is None:
            return images
        code = self._code(labels).to(images.dtype)
        if self._is_learned:
            planes = code.view(-1, 1, *self._plane)
        else:
            planes = code.view(*code.shape, *(1 for _ in self._plane)).expand(*code.shape, *self._plane)
        return torch.cat([images, planes], dim=1)


class _Code(nn.Module):
    """A vector for each class: one-hot, or learned."""

    def __init__(self, spec: NetworkSpec, conditioning: Conditioning, embedding_size: int) -> None:
        super().__init__()
        self._classes = spec.classes
        self._table = nn.Embedding(spec.classes, embedding_size) if conditioning == "embedding" else None
        self.features = spec.classes if self._table is None else embedding_size

    def forward(self, labels: Tensor | None) -> Tensor:
        if labels is None:
            raise ContractError("the network is built for labels, but the loss calls it without them")
        return one_hot(labels, self._classes).float() if self._table is None else self._table(labels)
