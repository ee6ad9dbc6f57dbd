"""Gaussians in the plane: the standard test of mode collapse, and the metric that counts the modes that samples
reach."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

import ganrun
from ganrun import Data, Evaluation, PreflightError, Score

Points = npt.NDArray[np.float32]

NEAR = 3.0
"""Standard deviations within which a sample counts as near a mode (arXiv:1705.07761, section 4.1)."""

SEEDS = {"train": 0, "test": 1}


class Layout(NamedTuple):
    """Positions of the modes, in the papers' units, and the divisor of the points."""

    centres: list[tuple[float, float]]
    sigma: float
    scale: float


LAYOUTS = {
    "ring": Layout([(2 * math.cos(k * math.pi / 4), 2 * math.sin(k * math.pi / 4)) for k in range(8)], 0.02, 2.5),
    "grid": Layout([(2.0 * (x - 2), 2.0 * (y - 2)) for x in range(5) for y in range(5)], 0.05, 5.0),
}
"""The ring: eight modes on a circle of radius 2, σ = 0.02, as in unrolled GANs (Metz et al. 2016, arXiv:1611.02163).
The grid: 5×5 modes two units apart, σ = 0.05, as in VEEGAN (Srivastava et al. 2017, arXiv:1705.07761)."""


class Gaussians(Data):
    """Points in the plane from 8 or 25 narrow Gaussians: does a generator reach every one?

    The papers' modes are divided by 2.5 for the ring and by 5 for the grid, so that all points are in [-1, 1], like
    generators' outputs. The label of a point is its mode. Every mode is more than 13 σ from the edge, so no point is
    cut off.
    """

    class Settings(ganrun.Settings):
        layout: Literal["ring", "grid"] = "ring"
        """ring: eight modes on a circle; grid: 5×5 modes."""

        count: int = Field(50_000, ge=1)
        """Points to train on."""

        test_count: int = Field(10_000, ge=1)
        """Points of the test split."""

    settings: Settings

    def spec(self) -> ganrun.DataSpec:
        """Points in the plane; a class for each mode."""
        return ganrun.DataSpec((2,), classes=len(self.centres))

    def prepare(self) -> None:
        """Does nothing: drawing the points takes milliseconds."""

    def split(self, name: str) -> ganrun.Split:
        """`train` or `test`: float32 `(count, 2)`, drawn independently."""
        if name not in self._splits:
            raise ganrun.unknown_split(name, self._splits)
        return self._splits[name]

    @property
    def centres(self) -> Points:
        """The modes `(modes, 2)`, scaled as the points are."""
        layout = LAYOUTS[self.settings.layout]
        return (np.array(layout.centres) / layout.scale).astype(np.float32)

    @property
    def sigma(self) -> float:
        """Standard deviation of a mode in each direction, scaled as the points are."""
        layout = LAYOUTS[self.settings.layout]
        return layout.sigma / layout.scale

    @cached_property
    def _splits(self) -> dict[str, ganrun.Split]:
        counts = {"train": self.settings.count, "test": self.settings.test_count}
        return {name: self._drawn(count, SEEDS[name]) for name, count in counts.items()}

    def _drawn(self, count: int, seed: int) -> ganrun.Split:
        # RandomState never changes; the numbers of numpy's newer generators may change between releases.
        random = np.random.RandomState(seed)
        labels = random.randint(len(self.centres), size=count).astype(np.int64)
        noise = random.standard_normal((count, 2)).astype(np.float32)
        return ganrun.Split(self.centres[labels] + np.float32(self.sigma) * noise, labels)


class ModesCovered(ganrun.Metric):
    """How many modes of `gaussians` the samples reach, and how many samples lie near one.

    As in VEEGAN (arXiv:1705.07761, section 4.1) and PacGAN (arXiv:1712.04086), a sample has high quality if it lies
    within three standard deviations of its nearest mode, and a mode is covered if it is nearest to such a sample.

    `modes_covered` and `high_quality`, the share of such samples, are better if higher; real points have a share of
    0.989. `mode_kl`, in nats, is the divergence of the modes' shares of those samples from equal shares: 0 at best, and
    ln K if one of the K modes has all of them or there are none.
    """

    class Settings(ganrun.Settings):
        samples: int = Field(2_500, ge=1)
        """Generated samples; the default is the papers' number."""

    settings: Settings

    def prepare(self, data: Data, device: torch.device) -> None:
        """Take the modes from the data.

        Raises:
            PreflightError: if the data is not `gaussians`.
        """
        if not isinstance(data, Gaussians):
            raise PreflightError('it counts the modes of data "gaussians"; remove it for other data')
        self._centres = torch.from_numpy(data.centres)
        self._sigma = data.sigma
        self._layout = data.settings.layout

    def watch(self, evaluation: Evaluation) -> None:
        """Ask for the samples."""
        self._samples = evaluation.collect(ganrun.Buffer(), "samples", count=self.settings.samples)

    def measure(self, evaluation: Evaluation) -> Sequence[Score]:
        """`modes_covered`, `high_quality` and `mode_kl`."""
        counts = near_counts(self._samples.tensors()[0], self._centres, NEAR * self._sigma)
        protocol = {"generated": self.settings.samples, "layout": self._layout, "within_sigmas": NEAR}
        return [
            Score("modes_covered", float((counts > 0).sum()), True, protocol),
            Score("high_quality", float(counts.sum()) / self.settings.samples, True, protocol),
            Score("mode_kl", divergence_from_equal(counts), False, protocol),
        ]


def near_counts(samples: Tensor, centres: Tensor, radius: float) -> Tensor:
    """For each of the centres `(modes, 2)`, the number of samples `(count, 2)` that are nearest to it and within
    `radius` of it: int64 `(modes,)`."""
    distances, nearest = torch.cdist(samples.double(), centres.double()).min(dim=1)
    return torch.bincount(nearest[distances <= radius], minlength=len(centres))


def divergence_from_equal(counts: Tensor) -> float:
    """KL(p ‖ uniform) = ln K + Σ p ln p in nats of counts `(K,)`; ln K if all are 0."""
    entropy = torch.special.entr(counts.double() / counts.sum().clamp_min(1)).sum()
    return math.log(len(counts)) - float(entropy)
