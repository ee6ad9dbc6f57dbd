"""Sheets of models that make images from images: each row is a record, with the model's output."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, sqrt
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ganrun import Model, ModelSpec, to_unit_range
from ganrun_samples.captions import Grid, captioned
from ganrun_samples.grid import are_images, shown
from ganrun_samples.pictures import Picture

SOURCE, MASK = "source", "mask"
"""Record fields: the image that a model starts from, and where pixels of it are missing."""

SQUARES = 16
"""Squares along the height of a missing part, which is shown as editors show transparency."""
LIGHT, DARK = 255, 190


class Column(NamedTuple):
    """Images below a title."""

    title: str
    images: Tensor
    """uint8 `(count, 1 or 3, height, width)`, on the CPU."""


def image_fields(spec: ModelSpec) -> list[str]:
    """The images in a model's latents, by the names of their fields; a model without any has no sheet."""
    return [factor.name for factor in spec.given if are_images(spec.fields[factor.name])]


def sheet(model: Model, made: Tensor, across: int | None = None) -> Picture:
    """Records in rows: source, sample, target; the parts of a mask that are missing are shown on the source.

    A smaller source is enlarged by whole pixels, with its bicubic enlargement beside it. If the loss is not paired,
    there is no target. A model that has the readings for it then shows both cycles: the sample, translated back; and an
    image, translated back and forth.

    Args:
        model: Its samples are made of images of the data.
        made: Its first samples, uint8 or in [-1, 1].
        across: Records side by side; about a square unless given.
    """
    columns = [*_columns(model, made)]
    sides = max(each.images.shape[2] for each in columns), max(each.images.shape[3] for each in columns)
    rows = ceil(len(made) / (across or max(1, round(sqrt(len(made) / len(columns))))))
    return captioned(
        [
            Grid(title, _fitted(images[start : start + rows], *sides), 1)
            for start in range(0, len(made), rows)
            for title, images in columns
        ]
    )


def _columns(model: Model, made: Tensor) -> Iterator[Column]:
    spec = model.spec
    for name in image_fields(spec):
        yield from _given(model, name, made)
    yield Column("made", shown(made))
    if spec.has_targets:
        yield Column("target", shown(_rows(model, "images", len(made))))
    else:
        yield from _cycles(model, made)


def _given(model: Model, name: str, made: Tensor) -> Iterator[Column]:
    """A field of the records; a mask is shown on its source, and a small source also enlarged."""
    fields, rows = model.spec.fields, _rows(model, name, len(made))
    is_masked = MASK in image_fields(model.spec) and fields[MASK][1:] == fields.get(SOURCE, ())[1:]
    if name == MASK and is_masked:
        return
    missing = _rows(model, MASK, len(made)).cpu() > 0 if name == SOURCE and is_masked else torch.tensor(False)
    yield Column(name, _with_holes(shown(rows), missing))
    if rows.shape[2] < made.shape[2] and rows.shape[3] < made.shape[3]:
        larger = interpolate(rows.cpu(), made.shape[2:], mode="bicubic", antialias=True)  # as Pillow's, with a = -0.5
        yield Column("bicubic", shown(larger))


def _cycles(model: Model, made: Tensor) -> Iterator[Column]:
    """The samples translated back; and real images, translated back and forth: by the loss's readings."""
    spec, images = model.spec, _rows(model, "images", len(made))
    if "encodings" in spec.readings:
        yield Column("cycle", _translated_back(model, to_unit_range(made)))
    yield Column("image", shown(images))
    if "encodings" in spec.readings:
        yield Column(f"as {image_fields(spec)[0]}", _translated_back(model, images))
    if "reconstructions" in spec.readings:
        yield Column("cycle", shown(_read(model, "reconstructions", images)))


def _translated_back(model: Model, images: Tensor) -> Tensor:
    """The first image in the encodings of images, which are latents."""
    spec, name = model.spec, image_fields(model.spec)[0]
    place = spec.place(next(each for each in spec.given if each.name == name))
    return shown(_read(model, "encodings", images)[:, place].reshape(-1, *spec.fields[name]))


def _read(model: Model, name: str, images: Tensor) -> Tensor:
    beside = {factor.name: _rows(model, factor.name, len(images)) for factor in model.spec.given}
    return model.read(name, images, beside=beside)


def _rows(model: Model, name: str, count: int) -> Tensor:
    assert model.given is not None, "only a model with given factors has a sheet"
    return model.given.rows(name, 0, count)


# ── Images of one size ────────────────────────────────────────────────────────────────────────────────────


def _fitted(images: Tensor, height: int, width: int) -> Tensor:
    """Images enlarged by a whole factor, as far as they fit, in the middle of white ones of this size."""
    factor = min(height // images.shape[2], width // images.shape[3])
    large = images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    top, left = (height - large.shape[2]) // 2, (width - large.shape[3]) // 2
    canvas = images.new_full((*images.shape[:2], height, width), LIGHT)
    canvas[..., top : top + large.shape[2], left : left + large.shape[3]] = large
    return canvas


def _with_holes(images: Tensor, missing: Tensor) -> Tensor:
    """Images with a chequered ground where they are missing: bool `(count, 1, height, width)`."""
    side = max(1, images.shape[2] // SQUARES)
    rows, columns = (torch.arange(length) // side for length in images.shape[2:])
    is_dark = (rows[:, None] + columns) % 2 == 1
    ground = torch.where(is_dark, DARK, LIGHT).to(torch.uint8)
    return torch.where(missing, ground, images)
