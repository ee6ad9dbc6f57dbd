"""The quality of reconstructions, for models with an encoder: MSE, PSNR and SSIM of held-out images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field

from ganrun import Data, Evaluation, IncompatibleError, Metric, ModelSpec, PreflightError, Score, Settings
from ganrun_fidelity.pairs import MEASURES, PairErrors
from ganrun_fidelity.real_images import count_of
from ganrun_fidelity.structural import WINDOW

NAMES = "mse", "psnr", "ssim"


class Reconstruction(Metric):
    """Errors of reconstructed images: `mse`, `psnr` and `ssim`, of pictures in [0, 1] rounded to 8 bits.

    `mse`: mean squared error over pixels and images; lower is better. `psnr`: 10 log₁₀(1 / MSE) of each image, in dB,
    averaged; an exact reconstruction counts as if one value were off by one step. `ssim`: structural
    similarity (Wang et al. 2004, doi:10.1109/TIP.2003.819861, equation 13), with its Gaussian window of 11×11 pixels
    and σ = 1.5, over all positions where the window fits, averaged over channels and images; at most 1.
    """

    class Settings(Settings):
        real_samples: int | None = Field(None, ge=1)
        """Images, the same ones in every run; all images of the split unless given."""

        split: Literal["train", "test"] = "test"
        """The split of the images. Training images measure memory, not generalisation."""

    settings: Settings

    def __init__(self, settings: Settings, spec: ModelSpec) -> None:
        super().__init__(settings, spec)
        _, height, width = spec.image_shape
        if "reconstructions" not in spec.readings:
            raise IncompatibleError("this loss has no encoder to reconstruct images with; leave the metric out")
        if min(height, width) < WINDOW:
            raise IncompatibleError(f"SSIM's window is {WINDOW}×{WINDOW} pixels, and the images are {height}×{width}")

    def prepare(self, data: Data, device: torch.device) -> None:
        """Count the images.

        Raises:
            PreflightError: if there are none, or fewer than the recipe asks for.
        """
        split, wanted = self.settings.split, self.settings.real_samples
        available = count_of(data, split)
        if available < (wanted or 1):
            raise PreflightError(f'it asks for {wanted or "some"} images, but split "{split}" has {available}')
        self._count = wanted or available
        self._digest = data.fingerprint(split)

    def watch(self, evaluation: Evaluation) -> None:
        """Ask for images and their reconstructions."""
        pairs, split = ("images", "reconstructions"), self.settings.split
        errors = PairErrors({name: MEASURES[name] for name in NAMES})
        self._errors = evaluation.collect_real(errors, *pairs, count=self._count, split=split)

    def measure(self, evaluation: Evaluation) -> Sequence[Score]:
        """`mse`, `psnr` and `ssim`."""
        protocol = {"real": self._count, "split": self.settings.split, "real_digest": self._digest}
        return [
            Score(name, float(each.mean()), name != "mse", protocol, float(each.std(correction=0) / self._count**0.5))
            for name, each in self._errors.by_name().items()
        ]
