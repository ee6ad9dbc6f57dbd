"""Images under geometric transforms: by whole pixels where that is exact, else by band-limited resampling.

Karras et al. 2020 (arXiv:2006.06676), appendix B. Outside its frame, an image continues as repeated mirror images. It
is enlarged twofold by an orthogonal wavelet's low-pass filter, looked up bilinearly, and reduced by the same filter, so
that little aliasing is left; where nothing is transformed, the two filters undo each other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ganrun_augmentations.matrices import is_identity
from ganrun_augmentations.pixels import gathered, mirrored

SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)
"""Low-pass filter of the symlet with six vanishing moments: orthonormal to its shifts by two, sum √2."""

CENTRE = 5
"""The tap at a pixel's own position."""

DELAY = sum(tap * number for number, tap in enumerate(SYM6)) / sum(SYM6) - CENTRE
"""How far, in pixels of the enlarged image, the filter moves what it enlarges. Lookups take it into account."""


class Resampler(nn.Module):
    """Transforms images of one size.

    Args:
        height: Of the images, in pixels.
        width: Theirs.
    """

    enlarge_rows: Tensor
    enlarge_columns: Tensor
    reduce_rows: Tensor
    reduce_columns: Tensor

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        for name, side in (("rows", height), ("columns", width)):
            self.register_buffer(f"enlarge_{name}", enlarging(side).float(), persistent=False)
            self.register_buffer(f"reduce_{name}", reducing(side).float(), persistent=False)

    def forward(self, images: Tensor, whole: Tensor, general: Tensor) -> Tensor:
        """Images under `general` after `whole`.

        If `general` is the identity, pixels move by whole pixels; if both are, the image is unchanged, bit for bit.

        Args:
            images: `(batch, channels, height, width)`.
            whole: Inverse matrices `(batch, 3, 3)` of flips, quarter turns and shifts by whole pixels: from a place
                (x, y) in the result to where it comes from, in pixels from the centre.
            general: Inverse matrices of any transforms.
        """
        moved, resampled = by_pixels(images, whole), self.resampled(images, whole @ general)
        return torch.where(is_identity(general)[:, None, None, None], moved, resampled)

    def resampled(self, images: Tensor, inverse: Tensor) -> Tensor:
        """Images under the transforms with these inverse matrices, band-limited."""
        enlarged = self.enlarge_rows @ images @ self.enlarge_columns.mT
        looked_up = _looked_up(enlarged, *_sources(inverse, images.shape[2:]))
        return self.reduce_rows @ looked_up @ self.reduce_columns.mT


def _sources(inverse: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Rows and columns of the enlarged image that become the image to be reduced: `(batch, …, …)` each."""
    height, width = size
    x, y = transformed(inverse, *(_places(side, inverse.device) for side in (width, height)))
    return _enlarged_index(y, height), _enlarged_index(x, width)


def by_pixels(images: Tensor, inverse: Tensor) -> Tensor:
    """Images shifted by whole pixels.

    A quarter turn of an image whose sides differ by an odd number is off by half a pixel.
    """
    height, width = images.shape[2:]
    places = [torch.arange(side, device=images.device) - (side - 1) / 2 for side in (width, height)]
    x, y = transformed(inverse, *places)
    rows, columns = mirrored(_nearest(y, height), height), mirrored(_nearest(x, width), width)
    return gathered(images, rows * width + columns)


def _nearest(place: Tensor, side: int) -> Tensor:
    """Its index; between two, that of the lower one."""
    return (place + (side - 1) / 2 + 0.25).floor().long()


def transformed(matrices: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The images of all points (x_j, y_i) under each matrix: two tensors `(batch, len(y), len(x))`."""
    row, column = matrices[:, 0, :, None, None], matrices[:, 1, :, None, None]
    points = x[None, None, :], y[None, :, None]
    first, second = (line[:, 0] * points[0] + line[:, 1] * points[1] + line[:, 2] for line in (row, column))
    return first, second


def _places(side: int, device: torch.device) -> Tensor:
    """Where the pixels of a side to be reduced are: in pixels of the image, from its centre."""
    return (torch.arange(2 * side + len(SYM6) - 2, device=device) - CENTRE - DELAY) / 2 - (side - 1) / 2


def _enlarged_index(place: Tensor, side: int) -> Tensor:
    """The place as an index into the enlarged, endless image."""
    return 2 * (place + (side - 1) / 2) + DELAY


def _looked_up(enlarged: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Bilinear interpolation in images that repeat without end; their last row and column are the first ones again."""
    height, width = enlarged.shape[2:]
    top, left = rows.floor(), columns.floor()
    down, right = (rows - top).to(enlarged)[:, None], (columns - left).to(enlarged)[:, None]
    index = (top.long() % (height - 1)) * width + left.long() % (width - 1)
    above, below = (
        torch.lerp(gathered(enlarged, first), gathered(enlarged, first + 1), right) for first in (index, index + width)
    )
    return torch.lerp(above, below, down)


# ── Filters as matrices ───────────────────────────────────────────────────────────────────────────────────


def enlarging(side: int) -> Tensor:
    """A side, with its mirror image, to one period of it at twice the size, and the first pixel again.

    Returns:
        `(2·period + 1, side)`, period 2·side − 2.
    """
    size = 2 * max(2 * (side - 1), 1) + 1
    matrix = torch.zeros(size, side, dtype=torch.float64)
    tap, place = torch.meshgrid(torch.arange(len(SYM6)), torch.arange(size), indexing="ij")
    doubled = place - tap + CENTRE  # twice the index of the pixel that the tap takes; odd ones are zeros between pixels
    values = torch.tensor(SYM6, dtype=torch.float64)[tap] * 2**0.5 * (doubled % 2 == 0)
    matrix.index_put_((place, mirrored(doubled // 2, side)), values, accumulate=True)
    return matrix


def reducing(side: int) -> Tensor:
    """A side of twice the size, and the margin that the filter needs, to the side: `(side, 2·side + 10)`."""
    matrix = torch.zeros(side, 2 * side + len(SYM6) - 2, dtype=torch.float64)
    for tap, value in enumerate(SYM6):
        matrix[torch.arange(side), 2 * torch.arange(side) + tap] = value / 2**0.5
    return matrix
