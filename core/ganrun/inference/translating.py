"""Images made from a user's own pictures, by a model that makes images from images."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ganrun.base.errors import IncompatibleError
from ganrun.contracts.specs import ModelSpec
from ganrun.inference.tiles import tiled
from ganrun.toolkit.image_to_image import MASK, SOURCE

Progress = Callable[[int, int], None]
"""`on_progress(done, total)`, in tiles."""


def translated(
    spec: ModelSpec,
    make: Callable[[Mapping[str, Tensor]], Tensor],
    pictures: Tensor,
    masks: Tensor | None,
    on_progress: Progress,
) -> Tensor:
    """As `Model.translate`; `make` decodes latents that hold these records."""
    shape, names = source_shape(spec), given_names(spec)
    _check_pictures(pictures, shape[0])
    whole = torch.cat([pictures, *_masks(spec, pictures, masks)], dim=1)

    def make_tiles(tiles: Tensor) -> Tensor:
        records = {SOURCE: tiles[:, : shape[0]], MASK: tiles[:, shape[0] :]}
        return make({name: records[name] for name in names})

    return tiled(make_tiles, whole, shape[1:], _scale(spec), on_progress)


def translated_back(
    spec: ModelSpec, encode: Callable[[Tensor], Tensor], pictures: Tensor, on_progress: Progress
) -> Tensor:
    """As `Model.translate` with `reverse`; `encode` reads the latents of images."""
    shape = source_shape(spec)
    if "encodings" not in spec.readings or takes_masks(spec) or shape[1:] != spec.image_shape[1:]:
        raise IncompatibleError("the model has not learned to make sources from images, as CycleGAN does")
    _check_pictures(pictures, spec.image_shape[0])
    return tiled(lambda tiles: encode(tiles).view(-1, *shape), pictures, shape[1:], 1, on_progress)


def source_shape(spec: ModelSpec) -> tuple[int, int, int]:
    """(channels, height, width) of the pictures that a model makes images of.

    Raises:
        IncompatibleError: if it makes its samples of anything else.
    """
    names = given_names(spec)
    if names not in ((SOURCE,), (SOURCE, MASK)) or len(names) != len(spec.factors):
        raise IncompatibleError("the model makes its samples from latents, not from pictures; see ganrun sample")
    channels, height, width = spec.fields[SOURCE]
    return channels, height, width


def takes_masks(spec: ModelSpec) -> bool:
    """Whether it also takes a mask of missing pixels."""
    return MASK in given_names(spec)


def given_names(spec: ModelSpec) -> tuple[str, ...]:
    """The record fields in a model's latents."""
    return tuple(factor.name for factor in spec.factors if factor.kind == "given")


def _check_pictures(pictures: Tensor, channels: int) -> None:
    if pictures.dim() != 4 or not pictures.is_floating_point() or not pictures.numel():
        found = f"{tuple(pictures.shape)} of {pictures.dtype}"
        raise IncompatibleError(f"pictures are (count, channels, height, width) in [-1, 1], and these are {found}")
    if pictures.shape[1] != channels:
        raise IncompatibleError(f"the model takes pictures of {channels} channels, and these have {pictures.shape[1]}")


def _masks(spec: ModelSpec, pictures: Tensor, masks: Tensor | None) -> list[Tensor]:
    if takes_masks(spec) == (masks is None):
        fault = "fills in what is missing, so it takes masks" if masks is None else "takes no masks"
        raise IncompatibleError(f"the model {fault}")
    if masks is not None and masks.shape != (len(pictures), 1, *pictures.shape[2:]):
        raise IncompatibleError(f"masks of shape {tuple(masks.shape)} do not fit pictures {tuple(pictures.shape)}")
    if masks is not None and not masks.abs().eq(1).all():
        raise IncompatibleError("masks are 1 where pixels are missing and -1 elsewhere, and these have other values")
    return [] if masks is None else [masks.to(pictures)]


def _scale(spec: ModelSpec) -> int:
    """The scale factor from a source to its image."""
    (_, height, width), (_, low, narrow) = spec.image_shape, source_shape(spec)
    scale = max(1, height // low)
    if (scale * low, scale * narrow) != (height, width):
        raise IncompatibleError(f"the model makes {height}×{width} of {low}×{narrow} pixels, not an integer factor")
    return scale
