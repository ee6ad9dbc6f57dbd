"""DiffAugment: Zhao et al. 2020, arXiv:2006.10738."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

import ganrun
from ganrun_augmentations.pixels import cut_out, gathered


class DiffAugment(ganrun.Augmentation):
    """DiffAugment: every image is changed in colour, shifted, and loses a square.

    Zhao et al. 2020 (arXiv:2006.10738), section 3.2, with the ranges of the authors' code. Nothing is adaptive: every
    image gets every part of the policy, from the first step to the last.
    """

    class Settings(ganrun.Settings):
        policy: list[Literal["color", "translation", "cutout"]] = Field(
            ["color", "translation", "cutout"], min_length=1
        )
        """The transforms, in this order. color: brightness + U(-½, ½), saturation × U(0, 2) around each pixel's mean
        over the channels, contrast × U(½, 1½) around each image's mean; translation: by up to an eighth of each side,
        in whole pixels, with zeros from outside; cutout: a rectangle of half the sides around any pixel becomes 0."""

        @field_validator("policy")
        @classmethod
        def _is_a_set(cls, policy: list[str]) -> list[str]:
            if len(set(policy)) < len(policy):
                raise ValueError("each part of the policy is applied once; name it once")
            return policy

    settings: Settings

    def __init__(self, settings: Settings, spec: ganrun.DataSpec) -> None:
        super().__init__(settings, spec)
        _ = spec.image_shape  # refuses points

    def forward(self, images: Tensor) -> Tensor:
        """The parts of the policy, one after the other."""
        for part in self.settings.policy:
            images = _PARTS[part](images)
        return images


def recoloured(images: Tensor) -> Tensor:
    """Brightness, saturation, contrast. With one channel, saturation changes nothing."""
    images = images + _uniform(images) - 0.5
    grey = images.mean(1, keepdim=True)
    images = (images - grey) * (2 * _uniform(images)) + grey
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images - mean) * (_uniform(images) + 0.5) + mean


def translated(images: Tensor) -> Tensor:
    """Shifted by -s…s pixels along each side, s = ⌊side/8 + ½⌋; outside is 0."""
    height, width = images.shape[2:]
    rows, columns = _shifted_index(images, height), _shifted_index(images, width)
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    return gathered(padded, rows[:, :, None] * (width + 2) + columns[:, None, :])


def _shifted_index(images: Tensor, side: int) -> Tensor:
    """Where each pixel comes from, in an image with a border of one pixel: int64 `(batch, side)`."""
    most = int(side / 8 + 0.5)
    shift = torch.randint(-most, most + 1, (len(images), 1), device=images.device)
    return (torch.arange(1, side + 1, device=images.device) + shift).clamp(0, side + 1)


def cut(images: Tensor) -> Tensor:
    """Cuts out a rectangle of ⌊side/2 + ½⌋ pixels along each side, whose centre is anywhere in the image."""
    height, width = images.shape[2:]
    rows, columns = int(height / 2 + 0.5), int(width / 2 + 0.5)
    return cut_out(images, _first(images, height, rows), _first(images, width, columns), rows, columns)


def _first(images: Tensor, side: int, length: int) -> Tensor:
    centre = torch.randint(0, side + 1 - length % 2, (len(images),), device=images.device)
    return centre - length // 2


def _uniform(images: Tensor) -> Tensor:
    return torch.rand(len(images), 1, 1, 1, dtype=images.dtype, device=images.device)


_PARTS = {"color": recoloured, "translation": translated, "cutout": cut}
