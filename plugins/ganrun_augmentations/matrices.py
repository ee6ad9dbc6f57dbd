"""Transforms of planes and of colours as homogeneous matrices, one for each image of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

Entry = Tensor | float

# ── Of planes: 3×3 ────────────────────────────────────────────────────────────────────────────────────────


def scaling(x: Entry, y: Entry) -> Tensor:
    """(x, y) is multiplied."""
    return _matrices([x, 0, 0], [0, y, 0], [0, 0, 1])


def rotation(angle: Tensor) -> Tensor:
    """By an angle in radians, from the first axis to the second."""
    return turn(angle.cos(), angle.sin())


def turn(cosine: Tensor, sine: Tensor) -> Tensor:
    """The rotation with this cosine and sine."""
    return _matrices([cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1])


def translation(x: Tensor, y: Tensor) -> Tensor:
    """(x, y) is added to."""
    return _matrices([1, 0, x], [0, 1, y], [0, 0, 1])


def is_identity(matrices: Tensor) -> Tensor:
    """Which matrices are exactly the identity: bool `(batch,)`."""
    return (matrices == torch.eye(matrices.shape[-1], device=matrices.device)).flatten(1).all(1)


# ── Of colours: 4×4 ───────────────────────────────────────────────────────────────────────────────────────


def brightness(added: Tensor) -> Tensor:
    """The same is added to red, green and blue."""
    return _matrices([1, 0, 0, added], [0, 1, 0, added], [0, 0, 1, added], [0, 0, 0, 1])


def contrast(factor: Tensor) -> Tensor:
    """Red, green and blue are multiplied; 0 is mid-grey, and stays."""
    return _matrices([factor, 0, 0, 0], [0, factor, 0, 0], [0, 0, factor, 0], [0, 0, 0, 1])


def luma_flip(flipped: Tensor) -> Tensor:
    """Where `flipped` is 1, the part of a colour along the grey axis changes its sign: I − 2vᵀv."""
    return _eye(flipped) - 2 * flipped[:, None, None] * _grey(flipped)


def hue(angle: Tensor) -> Tensor:
    """Colours are rotated around the grey axis, by Rodrigues' formula: P + (I − P)·cos θ + K·sin θ.

    P projects onto the axis, and K is the cross product with its direction.
    """
    cosine, sine = angle.cos()[:, None, None], angle.sin()[:, None, None]
    return _eye(angle) + (cosine - 1) * _colourful(angle) + sine * _cross(angle)


def saturation(factor: Tensor) -> Tensor:
    """The part of a colour that is perpendicular to the grey axis is multiplied: P + (I − P)·s."""
    return _eye(factor) + (factor[:, None, None] - 1) * _colourful(factor)


def recoloured(images: Tensor, matrices: Tensor) -> Tensor:
    """Images of 1 or 3 channels under matrices `(batch, 4, 4)`; those under the identity stay, bit for bit.

    A grey pixel x is the colour (x, x, x), and becomes the mean of the three that this is mapped to.
    """
    linear, added = matrices[:, :3, :3], matrices[:, :3, 3:]
    if images.shape[1] == 1:
        linear, added = linear.sum(2, keepdim=True).mean(1, keepdim=True), added.mean(1, keepdim=True)
    changed = torch.baddbmm(added.to(images), linear.to(images), images.flatten(2)).view_as(images)
    return torch.where(is_identity(matrices)[:, None, None, None], images, changed)


def _eye(like: Tensor) -> Tensor:
    return torch.eye(4, device=like.device)


def _grey(like: Tensor) -> Tensor:
    """Projects onto (1, 1, 1)/√3."""
    third = torch.full((3, 3), 1 / 3, device=like.device)
    return torch.nn.functional.pad(third, (0, 1, 0, 1))


def _colourful(like: Tensor) -> Tensor:
    """Projects onto what is perpendicular to the grey axis."""
    three = torch.nn.functional.pad(torch.eye(3, device=like.device), (0, 1, 0, 1))
    return three - _grey(like)


def _cross(like: Tensor) -> Tensor:
    """The cross product with (1, 1, 1)/√3."""
    unit = torch.full((1,), 3**-0.5, device=like.device)
    return _matrices([0, -unit, unit, 0], [unit, 0, -unit, 0], [-unit, unit, 0, 0], [0, 0, 0, 0])


def _matrices(*rows: list[Entry]) -> Tensor:
    """`(batch, side, side)` of entries that are numbers, or tensors `(batch,)`."""
    like = next(entry for row in rows for entry in row if isinstance(entry, Tensor))
    entries = [entry if isinstance(entry, Tensor) else torch.full_like(like, entry) for row in rows for entry in row]
    return torch.stack(entries, dim=1).view(len(like), len(rows), len(rows))
