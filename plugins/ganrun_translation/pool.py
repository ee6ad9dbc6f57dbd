"""A pool of generated images that a discriminator sees again."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ganrun import gathered_over_ranks, ranks


class Pool(nn.Module):
    """A history of generated images (Shrivastava et al. 2017, arXiv:1612.07828, section 2.3).

    The rule of CycleGAN's authors: while the pool is not full, it takes each image. After that, each image is
    exchanged, with probability ½, for one that is chosen at random from the pool. Within a batch, images choose
    different ones; if the batch is larger than the pool, its last images are exchanged for none.

    Args:
        size: Places; 0 for a pool that does nothing.
        shape: Of one image.
    """

    images: Tensor
    is_filled: Tensor

    def __init__(self, size: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        if size:
            self.register_buffer("images", torch.zeros(size, *shape))
            self.register_buffer("is_filled", torch.zeros(size, dtype=torch.bool))
        self._size = size

    def forward(self, images: Tensor) -> Tensor:
        """The images `(batch, *shape)`, some of them in exchange for earlier ones; without gradients.

        Each rank draws for its own images, and all do what all have drawn, in order: so every rank has the same pool.
        """
        images = images.detach()
        if not self._size:
            return images
        at, drawn = ranks(), torch.rand(1, self._size + len(images), device=images.device)
        shares = gathered_over_ranks(images).chunk(at.total)
        exchanged = [self._exchanged(*each) for each in zip(shares, gathered_over_ranks(drawn), strict=True)]
        return exchanged[at.number]

    def _exchanged(self, images: Tensor, drawn: Tensor) -> Tensor:
        for_places, for_images = torch.split(drawn, [self._size, len(images)])
        places = (for_places + self.is_filled).argsort()[: len(images)]  # the empty ones come first
        given, rest = torch.split(images, [len(places), len(images) - len(places)])
        kept, is_kept = self.images[places], self.is_filled[places]
        is_exchanged = is_kept & (for_images[: len(places)] < 0.5)
        self.images[places] = torch.where(_by_image(is_exchanged | ~is_kept), given, kept)
        self.is_filled[places] = True
        return torch.cat([torch.where(_by_image(is_exchanged), kept, given), rest])


def _by_image(mask: Tensor) -> Tensor:
    return mask[:, None, None, None]
