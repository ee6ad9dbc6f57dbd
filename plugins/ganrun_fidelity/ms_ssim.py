"""MS-SSIM between samples: how similar they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from ganrun import Data, Evaluation, IncompatibleError, ModelSpec
from ganrun_fidelity.doubles import in_float64
from ganrun_fidelity.floors import FlooredMetric, Reference, SampleSettings, ScoreProtocol, Value
from ganrun_fidelity.structural import WEIGHTS, ms_ssim

LEAST_SIDE = 2 ** len(WEIGHTS)
"""Smallest side in pixels: the last scale then has 2×2."""


class MultiScaleSimilarity(FlooredMetric["Pairs", None]):
    """MS-SSIM between pairs of samples: 1 for equal pictures; lower is more varied, down to that of real images.

    Odena et al. 2017 (arXiv:1610.09585), by the settings of progressive growing (Karras et al. 2018, arXiv:1710.10196).
    It finds a generator that has collapsed. It does not say whether pictures look real: compare with the floor, the
    value of real images, below which a generator is more varied than they are. Sides are halved four times, so they are
    multiples of 16, and at least 32. Where a scale is smaller than SSIM's window of 11×11 pixels, as in images below
    176, the window is the whole picture.
    """

    class Settings(SampleSettings):
        samples: int = Field(20_000, ge=4)
        """Generated samples, half as many pairs; progressive growing's published values use 20,000."""

        pairs: Literal["any", "class"] = "any"
        """any: of two samples of any classes, as in progressive growing; class: of two samples of one class, as
        for AC-GAN, for class-conditional models, where pictures of other classes hide those that are alike."""

    settings: Settings
    named_by = ("pairs",)

    def __init__(self, settings: Settings, spec: ModelSpec) -> None:
        super().__init__(settings, spec)
        _, height, width = spec.image_shape
        if min(height, width) < LEAST_SIDE or height % 16 or width % 16:
            raise IncompatibleError(
                f"MS-SSIM halves sides four times, so they are multiples of 16 and at least {LEAST_SIDE} pixels, and"
                f" these images are {height}×{width}; set data.size, or leave the metric out"
            )
        self._class = next((each for each in spec.factors if each.name == "class"), None)
        if self._within and self._class is None:
            raise IncompatibleError('the model knows no classes, so it has no samples of one; say pairs = "any"')
        if self._within and settings.samples <= spec.classes:
            raise IncompatibleError(f"{settings.samples} samples may be of one class each; raise samples")

    @property
    def floor_samples(self) -> int | None:
        """Any number: the mean over pairs is the same for fewer."""
        return None

    @property
    def protocol(self) -> ScoreProtocol:
        """Which pairs."""
        return {"pairs": "two samples of one class" if self._within else "any two samples"}

    def reference(self, data: Data) -> Reference[None]:
        """Nothing: real images enter only as the floor."""
        labelled = data.spec().classes > 0
        return Reference(lambda _: lambda: None, "test" if labelled or not self._within else None)

    def request(self, evaluation: Evaluation, count: int) -> Pairs:
        """Ask for samples, and for their classes where pairs are of one class."""
        into = Pairs(self.spec.place(self._class) if self._within and self._class else None)
        return evaluation.collect(into, *(("samples", "latents") if self._within else ("samples",)), count=count)

    def request_real(self, evaluation: Evaluation, count: int, split: str) -> Pairs:
        """Ask for real images, and for their classes where pairs are of one class."""
        outputs = ("images", "labels") if self._within else ("images",)
        return evaluation.collect_real(Pairs(), *outputs, count=count, split=split)

    def values(self, samples: Pairs, real: None) -> Sequence[Value]:
        """`ms_ssim`, or `ms_ssim_within_class`."""
        found = samples.similarities()
        error = float(found.std() / len(found) ** 0.5) if len(found) > 1 else None
        name = "ms_ssim_within_class" if self._within else "ms_ssim"
        return [Value(name, float(found.mean()), higher_is_better=False, error=error)]

    @property
    def _within(self) -> bool:
        return self.settings.pairs == "class"


class Pairs:
    """MS-SSIM of each picture with the next one, or with the next one of its class; no picture is in two pairs.

    Args:
        place: The class's place in a latent vector, if classes come as latents.
    """

    def __init__(self, place: slice | None = None) -> None:
        self._place = place
        self._single: dict[int, Tensor] = {}
        """Pictures without a partner yet, by class."""
        self._found: list[Tensor] = []

    def add(self, *batch: Tensor) -> None:
        """Take pictures, uint8 `(batch, channels, height, width)`; and labels `(batch,)`, or latents, if there are."""
        pictures, classes = batch[0], self._classes(*batch)
        firsts, seconds = [], []
        for value in sorted(set(classes.tolist())):
            own = pictures[classes == value]
            own = torch.cat([self._single.pop(value), own]) if value in self._single else own
            if len(own) % 2:
                self._single[value] = own[-1:]
            firsts.append(own[: len(own) // 2 * 2 : 2])
            seconds.append(own[1::2])
        first, second = (in_float64(torch.cat(each)) / 255 for each in (firsts, seconds))
        self._found.append(ms_ssim(first, second).cpu())

    def similarities(self) -> Tensor:
        """MS-SSIM of each pair, float64 `(pairs,)`."""
        return torch.cat(self._found)

    def _classes(self, pictures: Tensor, *about: Any) -> Tensor:
        if not about:
            return torch.zeros(len(pictures), dtype=torch.int64, device=pictures.device)
        values: Tensor = about[0] if self._place is None else about[0][:, self._place].argmax(1)
        return values
