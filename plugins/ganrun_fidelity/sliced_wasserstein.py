"""Sliced Wasserstein distance between patches of generated and real pictures, at several scales.

Karras et al. 2018 (arXiv:1710.10196), section 5: the pictures' Laplacian pyramids (Burt and Adelson 1983), patches of
7×7 pixels from each level, and the Wasserstein distance of their projections onto random directions (Rabin et al.
2011).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from pydantic import Field
from torch import Tensor

from ganrun import Buffer, Data, Evaluation, IncompatibleError, ModelSpec, PreflightError
from ganrun_fidelity.floors import OTHER_SPLIT, FlooredMetric, Reference, SampleSettings, ScoreProtocol, Value
from ganrun_fidelity.real_images import Pending, count_of

PATCH, PATCHES = 7, 128
"""Side of a patch in pixels, and patches of each picture and level."""
DIRECTIONS = 512
LEAST_SIDE = 16
"""Of the coarsest level, in pixels."""
SCALE = 1000
"""Published distances are multiplied by it."""
KERNEL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
"""Burt and Adelson's for a = 3/8, the one of OpenCV."""

PIXELS_AT_A_TIME, DIRECTIONS_AT_A_TIME = 2**20, 16
SEED = 2018

# ── The maths ─────────────────────────────────────────────────────────────────────────────────────────────


def pyramid_sides(height: int, width: int) -> list[tuple[int, int]]:
    """Height and width of each level, the finest first, down to 16 pixels on the shorter side.

    Raises:
        IncompatibleError: if there is no level, or a side cannot be halved.
    """
    sides = [(height, width)]
    while min(sides[-1]) >= 2 * LEAST_SIDE:
        above = sides[-1]
        if above[0] % 2 or above[1] % 2:
            raise IncompatibleError(
                f"its pyramid halves sides down to {LEAST_SIDE} pixels, and of {height}×{width} the level of"
                f" {above[0]}×{above[1]} cannot be halved; set data.size to 32, 64, 128, …, or leave the metric out"
            )
        sides.append((above[0] // 2, above[1] // 2))
    if min(height, width) < LEAST_SIDE:
        raise IncompatibleError(f"its pyramid ends at {LEAST_SIDE} pixels, and the images are {height}×{width}")
    return sides


def laplacian_pyramid(pictures: Tensor, levels: int) -> Iterator[Tensor]:
    """The difference of each level from the enlarged next one, the finest first, and last the smallest picture.

    Args:
        pictures: float `(batch, channels, height, width)`.
        levels: At least 1.
    """
    for _ in range(levels - 1):
        smaller = _blurred(pictures)[..., ::2, ::2]
        yield pictures - _enlarged(smaller)
        pictures = smaller
    yield pictures


def _enlarged(pictures: Tensor) -> Tensor:
    """Twice the sides: zeros between pixels, blurred; four times the weight makes up for the zeros."""
    *batch, height, width = pictures.shape
    spread = pictures.new_zeros(*batch, 2 * height, 2 * width)
    spread[..., ::2, ::2] = pictures
    return 4 * _blurred(spread)


def _blurred(pictures: Tensor) -> Tensor:
    """By `KERNEL` in both directions; beyond its edges a picture is mirrored about its outermost pixels."""
    weights = torch.tensor(KERNEL, dtype=pictures.dtype, device=pictures.device)
    planes = F.pad(pictures.flatten(0, 1)[:, None], (2, 2, 2, 2), mode="reflect")
    blurred = F.conv2d(F.conv2d(planes, weights[None, None, :, None]), weights[None, None, None, :])
    return blurred.view_as(pictures)


def normalised(patches: Tensor) -> Tensor:
    """Patches `(count, channels, 7, 7)` as rows; each channel has mean 0 and variance 1 over all of them."""
    variance, mean = torch.var_mean(patches, (0, 2, 3), correction=0, keepdim=True)
    centred = patches - mean
    return centred.div_(variance.sqrt().clamp_min(torch.finfo(patches.dtype).tiny)).flatten(1)


def sliced_distance(first: Tensor, second: Tensor, directions: Tensor) -> float:
    """The Wasserstein-1 distance of two sets' projections onto a direction, averaged over directions.

    On a line, the best coupling of two sets of equal size is the one in order of size.

    Args:
        first: `(count, n)`.
        second: Likewise.
        directions: Unit vectors `(n, directions)`.
    """
    parts = torch.split(directions.to(first), DIRECTIONS_AT_A_TIME, 1)
    distances = [(_in_order(first @ part) - _in_order(second @ part)).abs().mean(1) for part in parts]
    return float(torch.cat(distances).cpu().double().mean())


def _in_order(projections: Tensor) -> Tensor:
    """The projections onto each direction, by size: `(directions, count)`."""
    rows = projections.T.contiguous()
    # On a CPU, numpy sorts almost three times as fast as torch.
    return torch.from_numpy(np.sort(rows.numpy(), axis=1)) if rows.device.type == "cpu" else rows.sort(1).values


def unit_directions(size: int, random: np.random.RandomState) -> Tensor:
    """`DIRECTIONS` unit vectors `(size, directions)`, uniform on the sphere."""
    drawn = random.standard_normal((size, DIRECTIONS))
    return torch.from_numpy(drawn / np.linalg.norm(drawn, axis=0)).float()


# ── The metric ────────────────────────────────────────────────────────────────────────────────────────────


class SlicedWasserstein(FlooredMetric[Buffer, Tensor]):
    """Sliced Wasserstein distance of patches, as progressive growing measures it, times 1,000; lower is better.

    `swd_<height>` compares the patches of one level of the Laplacian pyramid: of the images' own size, which has the
    finest structures, down to 16 pixels, which have the largest. `swd` is their mean. Karras et al. 2018
    (arXiv:1710.10196), section 5: 128 patches of 7×7 pixels from each picture, 512 directions. On each level, each
    set's channels are brought to mean 0 and variance 1, so their mean and contrast do not count. Keeps all pictures in
    memory.
    """

    class Settings(SampleSettings):
        samples: int = Field(16_384, ge=2)
        """Generated samples, compared with as many real images. Distances fall with their number; published ones are of
        16,384. Of each level, 75 kB of patches per colour picture are in memory at a time, twice."""

        split: Literal["train", "test"] = "train"
        """The split of the real images."""

    settings: Settings

    def __init__(self, settings: Settings, spec: ModelSpec) -> None:
        super().__init__(settings, spec)
        self._sides = pyramid_sides(*spec.image_shape[1:])

    @property
    def protocol(self) -> ScoreProtocol:
        """Patches, directions and scale."""
        return {"patches": f"{PATCHES} of {PATCH}×{PATCH}", "directions": DIRECTIONS, "scale": SCALE, "draws": SEED}

    def reference(self, data: Data) -> Reference[Tensor]:
        """As many real images as samples.

        Raises:
            PreflightError: if there are fewer.
        """
        split, count = self.settings.split, self.settings.samples
        if count_of(data, split) < count:
            raise PreflightError(
                f'it compares samples with as many real images, and split "{split}" has {count_of(data, split)}; say'
                f" samples = {count_of(data, split)}"
            )

        def watch(evaluation: Evaluation) -> Pending[Tensor]:
            images = self.request_real(evaluation, count, split)
            return lambda: images.tensors()[0]

        protocol: ScoreProtocol = {"real": count, "split": split, "real_digest": data.fingerprint(split)}
        return Reference(watch, OTHER_SPLIT[split], protocol)

    def request(self, evaluation: Evaluation, count: int) -> Buffer:
        """Ask for samples."""
        return evaluation.collect(Buffer(), "samples", count=count)

    def request_real(self, evaluation: Evaluation, count: int, split: str) -> Buffer:
        """Ask for real images."""
        return evaluation.collect_real(Buffer(), "images", count=count, split=split)

    def values(self, samples: Buffer, real: Tensor) -> Sequence[Value]:
        """`swd`, and `swd_<height>` of each level."""
        (generated,) = samples.tensors()
        found = [self._distance(generated, real, level) for level in range(len(self._sides))]
        names = [f"swd_{height}" for height, _ in self._sides]
        pairs = [("swd", float(np.mean(found))), *zip(names, found, strict=True)]
        return [Value(name, value, higher_is_better=False) for name, value in pairs]

    def _distance(self, generated: Tensor, real: Tensor, level: int) -> float:
        random = np.random.RandomState((SEED, level))
        directions = unit_directions(generated.shape[1] * PATCH**2, random)
        first, second = (normalised(self._patches(each, level, random)) for each in (generated, real))
        return SCALE * sliced_distance(first, second, directions)

    def _patches(self, pictures: Tensor, level: int, random: np.random.RandomState) -> Tensor:
        """Random patches of one level: float32 `(count * PATCHES, channels, 7, 7)`, on the device."""
        height, width = self._sides[level]
        tops, lefts = (random.randint(side - PATCH + 1, size=(len(pictures), PATCHES)) for side in (height, width))
        at_a_time = max(1, PIXELS_AT_A_TIME // (pictures.shape[2] * pictures.shape[3]))
        arrays = (pictures, torch.from_numpy(tops), torch.from_numpy(lefts))
        parts = zip(*(torch.split(each, at_a_time) for each in arrays), strict=True)
        return torch.cat([self._patches_of(level, *(each.to(self.device) for each in part)) for part in parts])

    def _patches_of(self, level: int, pictures: Tensor, tops: Tensor, lefts: Tensor) -> Tensor:
        maps = next(islice(laplacian_pyramid(pictures.float(), len(self._sides)), level, None))
        windows = maps.unfold(2, PATCH, 1).unfold(3, PATCH, 1)
        numbers = torch.arange(len(maps), device=maps.device)[:, None]
        return windows[numbers, :, tops, lefts].flatten(0, 1)
