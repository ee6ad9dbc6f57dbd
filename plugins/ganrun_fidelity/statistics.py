"""Published statistics of real images' features, as FID programs provide them: an .npz with `mu` and `sigma`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ganrun import Extractor, PreflightError, npz_headers, read_npz

MEAN, COVARIANCE = "mu", "sigma"

COUNTS = ("n", "count", "num_images", "num_samples")
"""Names under which a file may say how many images it is of."""

LARGEST = 16_384
"""Most features; the covariance of more takes over 2 GB."""

ASYMMETRY, NEGATIVE = 1e-4, 1e-4
"""Tolerances for a covariance's rounding to float32, relative to its largest entry and its largest eigenvalue."""


class Statistics(NamedTuple):
    """Mean and covariance of features of real images that are not here."""

    mean: Tensor
    """float64 `(features,)`"""

    covariance: Tensor
    """float64 `(features, features)`"""

    images: int | None
    """Number of images; None if the file does not say."""

    digest: str
    """Of the file: SHA-256, 16 hexadecimal digits."""


def read_statistics(path: Path) -> Statistics:
    """The statistics in an .npz. Nothing is unpickled.

    Raises:
        RequestError: if the file cannot be read, or is not an .npz.
        PreflightError: naming the array, if one is absent, or they are not a mean and a covariance.
    """
    if path.suffix != ".npz":
        raise PreflightError(f"{path}: statistics are read from an .npz with mu and sigma; nothing is unpickled")
    mean, covariance = _array(path, MEAN, 1), _array(path, COVARIANCE, 2)
    if covariance.shape != (len(mean), len(mean)):
        raise PreflightError(
            f"{path}: sigma is {covariance.shape}, and mu has {len(mean)} features; sigma has its square"
        )
    _check_covariance(path, covariance)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    return Statistics(torch.from_numpy(mean), torch.from_numpy(covariance), _count(path), digest)


def check_features(extractor: Extractor, statistics: Statistics, shape: tuple[int, ...], device: torch.device) -> None:
    """Check that an extractor gives as many features as there are in the statistics.

    Args:
        extractor: Prepared.
        statistics: Of real images.
        shape: Of a picture.
        device: The extractor's.

    Raises:
        PreflightError: if it does not.
    """
    own = extractor(torch.zeros(1, *shape, dtype=torch.uint8, device=device))["features"].shape[1]
    if own != len(statistics.mean):
        raise PreflightError(
            f"its statistics have {len(statistics.mean):,} features, and its extractor gives {own:,}: they are another "
            "network's; say features = … for the one that they were computed with"
        )


def _array(path: Path, name: str, dimensions: int) -> npt.NDArray[np.float64]:
    headers = npz_headers(path)
    if name not in headers:
        raise PreflightError(f"{path}: it has no {name}; statistics have mu and sigma, it has {', '.join(headers)}")
    shape, dtype = headers[name]
    if dtype.kind != "f" or len(shape) != dimensions or not shape or not 0 < max(shape) <= LARGEST:
        raise PreflightError(f"{path}: {name} is {headers[name]}, not {dimensions}-dimensional real numbers")
    array = read_npz(path, name).astype(np.float64)
    if not np.isfinite(array).all():
        raise PreflightError(f"{path}: {name} holds NaN or infinity")
    return array


def _check_covariance(path: Path, covariance: npt.NDArray[np.float64]) -> None:
    asymmetry = np.abs(covariance - covariance.T).max()
    if asymmetry > ASYMMETRY * np.abs(covariance).max():
        raise PreflightError(
            f"{path}: sigma is not symmetric, as a covariance must be: it differs by up to {asymmetry:.3g}"
        )
    values = np.linalg.eigvalsh(covariance)
    if values[0] < -NEGATIVE * max(values[-1], 0.0):
        raise PreflightError(f"{path}: sigma is not a covariance: it has the negative eigenvalue {values[0]:.3g}")


def _count(path: Path) -> int | None:
    headers = npz_headers(path)
    said = [name for name in COUNTS if name in headers and headers[name].dtype.kind in "iu" and not headers[name].shape]
    return int(read_npz(path, said[0])) if said else None
