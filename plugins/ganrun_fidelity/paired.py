"""How close samples are to their targets, for models that make images from paired records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from ganrun import (
    Data,
    Evaluation,
    Extractor,
    IncompatibleError,
    Metric,
    ModelSpec,
    Part,
    PreflightError,
    Score,
    Settings,
    given_split,
)
from ganrun_fidelity.floors import ScoreProtocol
from ganrun_fidelity.pairs import MEASURES, Enlarging, PairErrors, PerceptualDistances, cropped, luma
from ganrun_fidelity.real_images import Once, Pending
from ganrun_fidelity.structural import SIGMA, WINDOW

NAMES = "l1", "psnr", "ssim"


class Paired(Metric):
    """Errors of samples against their targets, the images of the records that they are made from: `l1`, `psnr`, `ssim`.

    For translation, super-resolution and restoration, of pictures in [0, 1] rounded to 8 bits; each is measured for
    every image, and averaged. `l1`: mean absolute error; lower is better. `psnr`: 10 log₁₀(1 / MSE), in dB; an image
    that equals its target counts as if one value were off by one step. `ssim`: structural similarity (Wang et al. 2004,
    doi:10.1109/TIP.2003.819861, equation 13), with its Gaussian window of 11×11 pixels and σ = 1.5, over all positions
    where the window fits, averaged over channels. With `features`, also `lpips`; lower is better. On brightness, by
    `channels = "y"`, they are named `l1_y`, `psnr_y` and `ssim_y`; with `baseline`, those of the sources themselves are
    named `psnr_of_source` or `psnr_y_of_source`, and so on.
    """

    parts = {"features": "extractor"}
    reads = ("perceptual",)
    named_by = ("channels",)

    class Settings(Settings):
        samples: int | None = Field(None, ge=1)
        """Samples, each made of another record; one of every record of the test split unless given."""

        features: Part | None = None
        """The extractor of a perceptual distance, `lpips`; none unless given."""

        channels: Literal["rgb", "y"] = "rgb"
        """rgb: all channels, also the one of grey images. y: brightness, Y = 16 + (65.481 R + 128.553 G + 24.966 B) /
        255 as in ITU-R BT.601 and MATLAB's rgb2ycbcr, unrounded, on a scale of 255 as ever. Papers on super-resolution
        measure Y, whose PSNR is about 1.8 dB higher."""

        crop: int = Field(0, ge=0)
        """Pixels cropped from every border: in super-resolution, as many as the factor."""

        @field_validator("channels")
        @classmethod
        def _of_colours(cls, channels: str, info: ValidationInfo) -> str:
            if channels == "y" and info.data.get("features") is not None:
                raise ValueError("features need colours; name them in another [[metric]]")
            return channels

        baseline: bool = False
        """Whether to score the sources themselves, too, which a model should beat; smaller ones are enlarged by bicubic
        interpolation. They are measured once in a run."""

    settings: Settings

    def __init__(self, settings: Settings, spec: ModelSpec, extractor: Extractor | None = None) -> None:
        super().__init__(settings, spec)
        self._extractor = extractor
        self._of_sources = Once(self._request_of_sources)
        channels, *sides = spec.image_shape
        if not spec.has_targets:
            raise IncompatibleError(
                "samples have targets where a loss makes each of them of a paired record; this one does not, and"
                " pictures in files have none; leave the metric out"
            )
        if settings.channels == "y" and channels != 3:
            raise IncompatibleError('Y needs colours, and the images have none; leave out channels = "y"')
        if min(sides) - 2 * settings.crop < WINDOW:
            left = "×".join(str(side - 2 * settings.crop) for side in sides)
            raise IncompatibleError(f"SSIM's window is {WINDOW}×{WINDOW} pixels, and of the images {left} are left")
        if extractor is not None and settings.crop:
            inside = channels, *(side - 2 * settings.crop for side in sides)
            type(extractor)(extractor.settings, replace(spec, sample_shape=inside))  # refuses what is too small
        if settings.baseline:
            _check_comparable(spec.fields[spec.given[0].name], spec.image_shape)

    def prepare(self, data: Data, device: torch.device) -> None:
        """Count the records.

        Raises:
            PreflightError: if the recipe asks for more.
        """
        self._split, records = given_split(data)
        wanted = self.settings.samples
        if len(records) < (wanted or 1):
            text = f'split "{self._split}" has {len(records):,} records, each of which gives one sample'
            raise PreflightError(f"it asks for {wanted or 'some'} samples, but {text}; leave samples out to use all")
        self._count = wanted or len(records)
        self._digest = data.fingerprint(self._split)

    def watch(self, evaluation: Evaluation) -> None:
        """Ask for samples and their targets."""
        pairs, count = ("samples", "targets"), self._count
        self._errors = evaluation.collect(self._new_errors(), *pairs, count=count)
        self._pending = self._of_sources.watch(evaluation) if self.settings.baseline else dict[str, Tensor]
        if self._extractor is not None:
            distances = PerceptualDistances(self._extractor, self._without_border)
            self._distances = evaluation.collect(distances, *pairs, count=count)

    def measure(self, evaluation: Evaluation) -> Sequence[Score]:
        """`l1`, `psnr` and `ssim`, or `l1_y`, `psnr_y` and `ssim_y`; and `lpips`."""
        return [*self._scores()]

    def _scores(self) -> Iterator[Score]:
        yield from self._of_pixels(self._errors.by_name(), "")
        yield from self._of_pixels(self._pending(), "_of_source")
        if self._extractor is not None:
            about = {**self._extractor.protocol, **self._protocol}
            yield self._score(self._extractor.suffix, self._distances.distances(), about, higher_is_better=False)

    def _of_pixels(self, found: Mapping[str, Tensor], of: str) -> Iterator[Score]:
        suffix, window = "_y" if self._is_luma else "", f"Gaussian {WINDOW}×{WINDOW}, σ {SIGMA}"
        for name, each in found.items():
            about = {**self._protocol, **({"window": window} if name == "ssim" else {})}
            yield self._score(f"{name}{suffix}{of}", each, about, higher_is_better=name != "l1")

    def _request_of_sources(self, evaluation: Evaluation) -> Pending[Mapping[str, Tensor]]:
        """The errors of the records' sources, enlarged to the size of their images."""
        errors, name = self._new_errors(), self.spec.given[0].name
        enlarging = Enlarging(errors, self.spec.image_shape[1:])
        evaluation.collect_real(enlarging, name, "images", count=self._count, split=self._split)
        return errors.by_name

    def _new_errors(self) -> PairErrors:
        return PairErrors({name: MEASURES[name] for name in NAMES}, self._seen)

    def _score(self, name: str, each: Tensor, protocol: ScoreProtocol, *, higher_is_better: bool) -> Score:
        error = float(each.std(correction=0) / len(each) ** 0.5)
        return Score(name, float(each.mean()), higher_is_better, protocol, error)

    @property
    def _protocol(self) -> ScoreProtocol:
        channels = self.spec.image_shape[0]
        colours = {1: "grey", 3: "RGB"}.get(channels, f"{channels} channels")
        return {
            "colours": "Y of BT.601, 16 to 235" if self._is_luma else colours,
            "crop": self.settings.crop,
            "generated": self._count,
            "split": self._split,
            "real_digest": self._digest,
        }

    @property
    def _is_luma(self) -> bool:
        return self.settings.channels == "y"

    @property
    def _without_border(self) -> partial[Tensor]:
        return partial(cropped, border=self.settings.crop)

    def _seen(self, pictures: Tensor) -> Tensor:
        inside = self._without_border(pictures)
        return luma(inside) if self._is_luma else inside


def _check_comparable(source: tuple[int, ...], image: tuple[int, ...]) -> None:
    """Check that a source is an image of the same channels, and no larger."""
    if len(source) != 3 or source[0] != image[0] or source[1] > image[1] or source[2] > image[2]:
        raise IncompatibleError(f"sources of shape {source} are compared with no images of {image}; leave baseline out")
