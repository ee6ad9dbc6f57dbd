"""Pictures of a model, for the observer and for the commands. Every picture is uint8 `(height, width, 3)`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from ganrun import Data, DataError, Model, Split, real_images, to_unit_range
from ganrun_samples.captions import Grid, captioned
from ganrun_samples.grid import image_grid, shown
from ganrun_samples.latents import Traversal, interpolated
from ganrun_samples.neighbours import nearest

Picture = npt.NDArray[np.uint8]

NEIGHBOURS = 6
"""Training images beside each sample."""


def png(picture: Picture | None) -> bytes | None:
    """A picture as the content of a PNG file; None for None."""
    if picture is None:
        return None
    file = BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def real_samples(data: Data, count: int, split: str | None = None, field: str = "images") -> Tensor:
    """The same real samples every time, or a field of their records, as the data holds them; by default of the test
    split, if there is one."""
    try:
        return real_images(data, count, split or "test", field)
    except DataError:
        if split is not None:
            raise
        return real_images(data, count, field=field)


def reconstructed(model: Model, real: Tensor, beside: Mapping[str, Tensor] | None = None) -> Tensor:
    """The reconstructions of real images, as uint8 on the CPU. Only for a model with that reading.

    Args:
        model: Reconstructs them.
        real: As the data holds them.
        beside: The fields of their records that latents hold.
    """
    fields = {name: to_unit_range(each) for name, each in (beside or {}).items()}
    return shown(model.read("reconstructions", to_unit_range(real), beside=fields))


def real_and_generated(real: Tensor, generated: Tensor, columns: int) -> Picture:
    """Real images on the left, generated ones on the right, each `(count, channels, height, width)`."""
    return captioned([Grid("real", shown(real), columns), Grid("generated", shown(generated), columns)])


def pairs(real: Tensor, made: Tensor, columns: int) -> Picture:
    """Rows of real images, each above its reconstructions `made`."""
    columns = min(columns, len(real))
    rows = zip(_rows(shown(real), columns), _rows(shown(made), columns), strict=True)
    return image_grid(torch.cat([each for pair in rows for each in pair]), columns).numpy()


def _rows(images: Tensor, columns: int) -> tuple[Tensor, ...]:
    """Rows of images, the last one padded with white."""
    white = images.new_full((-len(images) % columns, *images.shape[1:]), 255)
    return torch.split(torch.cat([images, white]), columns)


def beside_nearest(samples: Tensor, training: Split, *, mirrored: bool) -> Picture:
    """Samples, each with its nearest training images by pixels, nearest first; `mirrored` as in `nearest`."""
    count = min(NEIGHBOURS, len(training))
    places = nearest(samples, training.images, count, mirrored=mirrored).flatten().numpy()
    images = shown(torch.from_numpy(np.ascontiguousarray(training.images[places])))
    return captioned([Grid("generated", shown(samples), 1), Grid("nearest training images", images, count)])


# ── Strips: rows of samples that change from column to column ─────────────────────────────────────────────


def interpolations(model: Model, latents: Tensor, columns: int) -> Tensor:
    """Samples between the first half of the latents and the second: uint8 `(rows, columns, *sample_shape)`."""
    starts, ends = latents.cpu().chunk(2)
    return _decoded(model, interpolated(model, starts, ends, columns))


def traversals(model: Model, latents: Tensor, along: Sequence[Traversal]) -> tuple[Tensor, list[str]]:
    """Samples along each traversal, from each of the latents: uint8 `(rows, columns, *sample_shape)`, and row names.

    Rows with fewer values than columns end in white.
    """
    columns = max(len(traversal.values) for traversal in along)
    rows, names = [], []
    for traversal in along:
        made = _decoded(model, traversal.applied_to(latents))
        white = made.new_full((len(made), columns - made.shape[1], *made.shape[2:]), 255)
        rows.append(torch.cat([made, white], 1))
        names += [traversal.name, *[""] * (len(made) - 1)]
    return torch.cat(rows), names


def strip(rows: Tensor, title: str, names: Sequence[str] = ()) -> Picture:
    """Rows `(rows, columns, channels, height, width)` as one picture."""
    return captioned([Grid(title, rows.flatten(0, 1), rows.shape[1])], names)


def _decoded(model: Model, latents: Tensor) -> Tensor:
    """Samples of latents `(rows, columns, latent_size)`; row by row, which bounds the memory."""
    return torch.stack([shown(model.decode(row)) for row in latents])
