"""How a class enters a network: beside the latents, or beside the images.

Networks that can be conditioned put one of these two in front, and take its width for their own input's. Where the
loss gives no labels (`spec.labelled` is false), nothing is added.
"""

from __future__ import annotations

from math import prod
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from ganrun.base.errors import ContractError
from ganrun.contracts.specs import ModelSpec

Conditioning = Literal["concatenation", "embedding"]
"""concatenation: one input per class, 1 for the class at hand and 0 for all others (Mirza and Osindero 2014,
arXiv:1411.1784). embedding: inputs learned for each class, N(0, 1) at first."""


class LabelledLatents(nn.Module):
    """Latents with their class beside them.

    Args:
        spec: What the generator is built for.
        conditioning: `concatenation` appends as many inputs as there are classes; `embedding` appends `embedding_size`.
        embedding_size: Length of a class's learned vector.
    """

    def __init__(self, spec: ModelSpec, conditioning: Conditioning, embedding_size: int = 50) -> None:
        super().__init__()
        self._code = _Code(spec, conditioning, embedding_size) if spec.labelled else None
        self.features = spec.latent_size + (self._code.features if self._code else 0)
        """Length of what `forward` returns per sample."""

    def forward(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """Latents `(batch, latent_size)` and int64 labels `(batch,)` to `(batch, features)`."""
        return latents if self._code is None else torch.cat([latents, self._code(labels)], dim=1)


class LabelledImages(nn.Module):
    """Images with their class beside them, as further channels; or points, as further features.

    Args:
        spec: What the discriminator is built for.
        conditioning: `concatenation` appends one constant channel per class; `embedding` appends one channel, whose
            every pixel is learned for each class.
    """

    def __init__(self, spec: ModelSpec, conditioning: Conditioning) -> None:
        super().__init__()
        first, *plane = spec.sample_shape
        self._plane = tuple(plane)
        self._is_learned = conditioning == "embedding"
        self._code = _Code(spec, conditioning, prod(plane)) if spec.labelled else None
        added = 0 if self._code is None else 1 if self._is_learned else spec.classes
        self.shape = (first + added, *plane)
        """Shape of what `forward` returns per sample."""

    def forward(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Images `(batch, *sample_shape)` and int64 labels `(batch,)` to `(batch, *shape)`."""
        if self._code is None:
            return images
        code = self._code(labels).to(images.dtype)
        if self._is_learned:
            planes = code.view(-1, 1, *self._plane)
        else:
            planes = code.view(*code.shape, *(1 for _ in self._plane)).expand(*code.shape, *self._plane)
        return torch.cat([images, planes], dim=1)


class _Code(nn.Module):
    """A vector for each class."""

    def __init__(self, spec: ModelSpec, conditioning: Conditioning, embedding_size: int) -> None:
        super().__init__()
        self._classes = spec.classes
        self._table = nn.Embedding(spec.classes, embedding_size) if conditioning == "embedding" else None
        self.features = spec.classes if self._table is None else embedding_size

    def forward(self, labels: Tensor | None) -> Tensor:
        if labels is None:
            raise ContractError("a network that was built for labels is called without them")
        return one_hot(labels, self._classes).float() if self._table is None else self._table(labels)
