"""What is made of a model, for the observer and the commands alike. Every picture is uint8 `(height, width, 3)`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ganrun import Data, DataError, Model, Split, real_images
from ganrun_samples.captions import Grid, captioned
from ganrun_samples.grid import image_grid, shown
from ganrun_samples.latents import Line, paths
from ganrun_samples.neighbours import nearest

Picture = npt.NDArray[np.uint8]

NEIGHBOURS = 6
"""Training images beside each sample."""


def real_samples(model: Model, data: Data, count: int, split: str | None = None) -> Tensor:
    """Always the same real samples, as the data holds them; of the test split where there is one, unless told.

    They are read by an evaluation of their own: a run's breaks off at Ctrl-C, and a picture that is begun is finished.
    """
    try:
        return real_images(data, count, split or "test")
    except DataError:
        if split is not None:
            raise
        return real_images(data, count)


def real_and_generated(real: Tensor, generated: Tensor, columns: int) -> Picture:
    """Real images on the left, generated ones on the right, each `(count, channels, height, width)`."""
    return captioned([Grid("real", shown(real), columns), Grid("generated", shown(generated), columns)])


def pairs(real: Tensor, made: Tensor, columns: int) -> Picture:
    """Rows of real images, each above what was made of it."""
    columns = min(columns, len(real))
    rows = zip(_rows(shown(real), columns), _rows(shown(made), columns), strict=True)
    return image_grid(torch.cat([each for pair in rows for each in pair]), columns).numpy()


def _rows(images: Tensor, columns: int) -> tuple[Tensor, ...]:
    """Rows of images, the last one filled up with white."""
    white = images.new_full((-len(images) % columns, *images.shape[1:]), 255)
    return torch.split(torch.cat([images, white]), columns)


def beside_nearest(samples: Tensor, training: Split, *, mirrored: bool) -> Picture:
    """Samples, each with the training images nearest to it in pixels, the nearest first; `mirrored` as in `nearest`."""
    count = min(NEIGHBOURS, len(training))
    places = nearest(samples, training.images, count, mirrored=mirrored).flatten().numpy()
    images = shown(torch.from_numpy(np.ascontiguousarray(training.images[places])))
    return captioned([Grid("generated", shown(samples), 1), Grid("nearest training images", images, count)])


# ── Strips: rows of samples that change from column to column ─────────────────────────────────────────────


def interpolations(model: Model, latents: Tensor, columns: int) -> Tensor:
    """Samples on the ways from the first half of some latents to the second: uint8 `(rows, columns, *sample_shape)`."""
    starts, ends = latents.cpu().chunk(2)
    return _made(model, paths(model, starts, ends, columns))


def traversals(model: Model, latents: Tensor, lines: Sequence[Line]) -> tuple[Tensor, list[str]]:
    """Samples along each line, from each of some latents: uint8 `(rows, columns, *sample_shape)`, and the rows' names.

    Rows of fewer values than there are columns end in white.
    """
    columns = max(len(line.values) for line in lines)
    rows, names = [], []
    for line in lines:
        made = _made(model, line.of(latents))
        white = made.new_full((len(made), columns - made.shape[1], *made.shape[2:]), 255)
        rows.append(torch.cat([made, white], 1))
        names += [line.name, *[""] * (len(made) - 1)]
    return torch.cat(rows), names


def strip(rows: Tensor, title: str, names: Sequence[str] = ()) -> Picture:
    """Rows `(rows, columns, channels, height, width)` as one picture."""
    return captioned([Grid(title, rows.flatten(0, 1), rows.shape[1])], names)


def _made(model: Model, latents: Tensor) -> Tensor:
    """Samples of latents `(rows, columns, latent_size)`, row by row so that memory does not grow with their number."""
    return torch.stack([shown(model.decode(row)) for row in latents])
