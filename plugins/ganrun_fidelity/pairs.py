"""Errors of pictures against their targets, pair by pair."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ganrun import Extractor, to_uint8, to_unit_range
from ganrun_fidelity.doubles import in_float64
from ganrun_fidelity.structural import ssim

Measure = Callable[[Tensor, Tensor], Tensor]
"""`measure(first, second)` of two batches of pictures `(batch, channels, height, width)`: `(batch,)`."""

Seen = Callable[[Tensor], Tensor]
"""The part of pictures that is compared, uint8 `(batch, channels, height, width)`."""

PICTURES_AT_A_TIME = 16
"""For a picture of 256×256, LPIPS has 8 million features, and SSIM a dozen maps in float64."""


def as_they_are(pictures: Tensor) -> Tensor:
    """All channels, of all pixels."""
    return pictures


class PairErrors:
    """Errors of pairs of pictures in [0, 1], in float64.

    Args:
        measures: What is measured, by name.
        seen: What is compared of each picture, on a scale from 0 to 255.
    """

    def __init__(self, measures: Mapping[str, Measure], seen: Seen = as_they_are) -> None:
        self._measures = measures
        self._seen = seen
        self._errors: dict[str, list[Tensor]] = {name: [] for name in measures}

    def add(self, *batch: Tensor) -> None:
        """Take pictures and their targets, uint8 `(batch, channels, height, width)`."""
        for pair in zip(*(torch.split(each, PICTURES_AT_A_TIME) for each in batch), strict=True):
            first, second = (in_float64(self._seen(each)) / 255 for each in pair)
            for name, measure in self._measures.items():
                self._errors[name].append(measure(first, second).cpu())

    def by_name(self) -> dict[str, Tensor]:
        """The measurement of each pair: `(count,)` in float64."""
        return {name: torch.cat(parts) for name, parts in self._errors.items()}


class Enlarging:
    """Passes pairs of pictures on, the first ones enlarged by bicubic interpolation with a = −½, as Pillow's.

    Args:
        into: Gets the pairs.
        sides: Height and width of the second ones.
    """

    def __init__(self, into: PairErrors, sides: tuple[int, int]) -> None:
        self._into = into
        self._sides = sides

    def add(self, *batch: Tensor) -> None:
        """Take smaller or equally large pictures, and their targets: uint8."""
        first, second = batch
        if first.shape[2:] != self._sides:
            enlarged = F.interpolate(to_unit_range(first), self._sides, mode="bicubic", antialias=True)
            first = to_uint8(enlarged)
        self._into.add(first, second)


def mean_absolute_error(first: Tensor, second: Tensor) -> Tensor:
    """The mean of |x − y| over channels and pixels."""
    return (first - second).abs().flatten(1).mean(1)


def mean_squared_error(first: Tensor, second: Tensor) -> Tensor:
    """The mean of (x − y)² over channels and pixels."""
    return (first - second).square().flatten(1).mean(1)


def peak_signal_to_noise_ratio(first: Tensor, second: Tensor) -> Tensor:
    """10 log₁₀(1 / MSE), in dB; of equal pictures, as if one value were off by one step of 255."""
    least = 1 / (255**2 * first[0].numel())
    return -10 * mean_squared_error(first, second).clamp_min(least).log10()


MEASURES: Mapping[str, Measure] = {
    "l1": mean_absolute_error,
    "mse": mean_squared_error,
    "psnr": peak_signal_to_noise_ratio,
    "ssim": ssim,
}
"""By the names of scores."""


def cropped(pictures: Tensor, border: int) -> Tensor:
    """Pictures `(batch, channels, height, width)`, cropped by this many pixels on every side."""
    return pictures[..., border : pictures.shape[-2] - border, border : pictures.shape[-1] - border]


def luma(pictures: Tensor) -> Tensor:
    """Y of RGB pictures of 8 bits, float64 `(batch, 1, height, width)` in [16, 235].

        Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255

    ITU-R BT.601 in its studio range, as MATLAB's `rgb2ycbcr` and evaluations of super-resolution have it; not rounded.
    """
    red, green, blue = in_float64(pictures).unbind(1)
    return (16 + (65.481 * red + 128.553 * green + 24.966 * blue) / 255)[:, None]


class PerceptualDistances:
    """Squared distances of an extractor's output `perceptual` between pictures and their targets.

    Args:
        extractor: Prepared.
        seen: What is compared of each picture: pictures of three channels, or of one.
    """

    def __init__(self, extractor: Extractor, seen: Seen) -> None:
        self._extractor = extractor
        self._seen = seen
        self._found: list[Tensor] = []

    def add(self, *batch: Tensor) -> None:
        """Take pictures and their targets, uint8 `(batch, channels, height, width)`."""
        parts = (torch.split(self._seen(each), PICTURES_AT_A_TIME) for each in batch)
        for pair in zip(*parts, strict=True):
            first, second = (self._extractor(each)["perceptual"] for each in pair)
            self._found.append((first - second).square().flatten(1).sum(1).cpu().double())

    def distances(self) -> Tensor:
        """Of each pair, float64 `(count,)`."""
        return torch.cat(self._found)
