"""The quality of reconstructions, for models with an encoder: MSE, PSNR and SSIM of held-out images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from pydantic import Field
from torch import Tensor

from ganrun import Data, Evaluation, IncompatibleError, Metric, ModelSpec, PreflightError, Score, Settings
from ganrun_fidelity.real_images import count_of

WINDOW, SIGMA = 11, 1.5
"""Side and standard deviation, in pixels, of the Gaussian window of SSIM."""
C1, C2 = 0.01**2, 0.03**2
"""SSIM's constants (K₁ L)² and (K₂ L)² for pictures in [0, 1]."""


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
        self._errors = evaluation.collect_real(PairErrors(), *pairs, count=self._count, split=split)

    def measure(self, evaluation: Evaluation) -> Sequence[Score]:
        """`mse`, `psnr` and `ssim`."""
        protocol = {"real": self._count, "split": self.settings.split, "real_digest": self._digest}
        return [
            Score(name, float(each.mean()), name != "mse", protocol, float(each.std(correction=0) / self._count**0.5))
            for name, each in self._errors.by_name().items()
        ]


class PairErrors:
    """`mse`, `psnr` and `ssim` of each pair of an image and its reconstruction."""

    def __init__(self) -> None:
        self._errors: dict[str, list[Tensor]] = {"mse": [], "psnr": [], "ssim": []}

    def add(self, *batch: Tensor) -> None:
        """Take images and their reconstructions, uint8 `(batch, channels, height, width)`."""
        images, made = (each.double().cpu() / 255 for each in batch)
        mse = (images - made).square().flatten(1).mean(1)
        least = 1 / (255**2 * images[0].numel())
        self._errors["mse"].append(mse)
        self._errors["psnr"].append(-10 * mse.clamp_min(least).log10())
        self._errors["ssim"].append(ssim(images, made))

    def by_name(self) -> dict[str, Tensor]:
        """`mse`, `psnr` and `ssim`, each `(count,)` in float64."""
        return {name: torch.cat(parts) for name, parts in self._errors.items()}


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Structural similarity of pictures `(batch, channels, height, width)` in [0, 1], pair by pair: `(batch,)`."""
    mean_1, mean_2 = _windowed(first), _windowed(second)
    variance_1 = _windowed(first * first) - mean_1**2
    variance_2 = _windowed(second * second) - mean_2**2
    covariance = _windowed(first * second) - mean_1 * mean_2
    luminance = (2 * mean_1 * mean_2 + C1) / (mean_1**2 + mean_2**2 + C1)
    structure = (2 * covariance + C2) / (variance_1 + variance_2 + C2)
    return (luminance * structure).flatten(1).mean(1)


def _windowed(pictures: Tensor) -> Tensor:
    """The Gaussian-weighted mean of every window."""
    places = torch.arange(WINDOW, dtype=pictures.dtype, device=pictures.device) - WINDOW // 2
    weights = torch.exp(-(places**2) / (2 * SIGMA**2))
    weights = weights / weights.sum()
    planes = pictures.flatten(0, 1)[:, None]
    blurred = F.conv2d(F.conv2d(planes, weights[None, None, :, None]), weights[None, None, None, :])
    return blurred.view(*pictures.shape[:2], *blurred.shape[2:])
