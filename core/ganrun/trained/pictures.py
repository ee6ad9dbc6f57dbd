"""Scores of pictures in files: a folder or zip of pictures, or an .npz of samples."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ganrun.base.console import ProgressReporter
from ganrun.base.errors import DataError, IncompatibleError, PluginError, RequestError
from ganrun.base.faults import Faults
from ganrun.base.frames import called
from ganrun.base.npz import ArrayHeader, npz_headers, read_npz
from ganrun.contracts.data import Data, Split
from ganrun.contracts.scores import Score
from ganrun.contracts.specs import DataSpec, ModelSpec
from ganrun.discovery.registry import Registry
from ganrun.inference.evaluation import SharedEvaluation
from ganrun.inference.samples import FoundSamples
from ganrun.recipe.reader import load_component_config
from ganrun.recipe.recipe import EvaluationConfig, MetricsConfig
from ganrun.rehearsal.data import check_data
from ganrun.rehearsal.stand_in import StandIn
from ganrun.training.components import frame_of, prepared_data, prepared_metrics
from ganrun.training.measuring import measured_any

log = logging.getLogger("ganrun")

FOLDER_DATA = "image-folder"
"""The data set that reads a folder of pictures."""

NPZ = ".npz"

IMAGE_ARRAYS = ("arr_0", "images", "samples")
"""The names of an .npz's array of images; the first is what NumPy gives an array without a name."""


def score_against_data(
    path: Path,
    config: EvaluationConfig,
    registry: Registry,
    device: torch.device,
    on_stage: Callable[[str], None],
    faults: Faults,
) -> list[Score]:
    """Compare pictures with the real images of a data set.

    Args:
        path: A folder or zip of pictures, or an .npz.
        config: The data set and the metrics.
        registry: The installed components.
        device: Where to compute.
        on_stage: Called with a description of the current stage.
        faults: Keeps what metrics failed to do.

    Raises:
        RequestError: if the data is absent, or the pictures cannot be read or do not have the data's shape.
    """
    on_stage(f"data {config.data.use}")
    real = prepared_data(config)
    with frame_of(config, config.data, "spec"):
        check_data(real, paired=False)
        shape = real.spec().image_shape
    on_stage(f"pictures in {path}")
    images = _npz_images(path, shape) if path.suffix == NPZ else _folder_images(path, _as_they_are(shape), registry)
    return _scores(images, config, real, device, on_stage, faults)


def score_against_statistics(
    path: Path,
    config: MetricsConfig,
    registry: Registry,
    device: torch.device,
    on_stage: Callable[[str], None],
    faults: Faults,
    overrides: Sequence[str] = (),
) -> list[Score]:
    """Compare pictures with published statistics, which the metrics' settings name; no data set is needed.

    Args:
        path: As in `score_against_data`.
        config: The metrics.
        registry: The installed components.
        device: Where to compute.
        on_stage: As in `score_against_data`.
        faults: As in `score_against_data`.
        overrides: Settings of the reader of a folder: `size=64`.

    Raises:
        RequestError: if the pictures cannot be read, or a metric needs real images.
    """
    on_stage(f"pictures in {path}")
    images = _npz_images(path) if path.suffix == NPZ else _folder_images(path, overrides, registry)
    return _scores(
        images, config, StandIn(DataSpec(tuple(images.shape[1:])), _no_real_images), device, on_stage, faults
    )


def _no_real_images(name: str) -> Split:
    """Stands in for real images when published statistics are used."""
    raise DataError("published statistics hold no real images; for them, say --against DATA")


def _scores(
    images: Tensor,
    config: MetricsConfig,
    real: Data,
    device: torch.device,
    on_stage: Callable[[str], None],
    faults: Faults,
) -> list[Score]:
    spec = ModelSpec.from_facts(real.spec().facts())
    metrics = prepared_metrics(config, real, spec, device, on_stage)
    with ProgressReporter() as report:
        samples = FoundSamples(images, device)
        evaluation = SharedEvaluation(
            spec=spec, device=device, step=0, seed=0, samples=samples, data=real, on_progress=report
        )
        return measured_any(metrics, evaluation, config, faults)


# ── A folder ──────────────────────────────────────────────────────────────────────────────────────────────


def _as_they_are(shape: tuple[int, int, int]) -> list[str]:
    """Settings of the reader of a folder, for pictures of this shape."""
    channels, height, width = shape
    if height != width:
        raise IncompatibleError(f"pictures are read as squares, and these images are {height}×{width}")
    return [f"size={height}", f"channels={channels}"]


def _folder_images(folder: Path, overrides: Sequence[str], registry: Registry) -> Tensor:
    """The pictures `(count, channels, height, width)`, uint8; those of another size are refused."""
    settings = [f"root={json.dumps(str(folder))}", "crop=exact", "labelled=false", "splits=false", *overrides]
    pictures: Data = load_component_config("data", FOLDER_DATA, registry, settings).build()
    with called(f"data {FOLDER_DATA}", "prepare", str(folder), PluginError):
        pictures.prepare()
        return torch.from_numpy(pictures.split("train").images)


# ── An .npz ───────────────────────────────────────────────────────────────────────────────────────────────


def _npz_images(path: Path, shape: tuple[int, int, int] | None = None) -> Tensor:
    """The images `(count, channels, height, width)`, uint8; any shape is accepted unless one is given.

    Raises:
        RequestError: if there is no such array, several qualify, or the layout is ambiguous.
    """
    headers = npz_headers(path)
    name = _image_array(path, headers)
    permuted = _is_channels_last(path, name, headers[name], shape)
    if others := sorted(headers.keys() - {name}):
        log.warning("%s: read images from %s, ignored %s", path, name, ", ".join(others))
    images = torch.from_numpy(read_npz(path, name))
    return images.permute(0, 3, 1, 2) if permuted else images


def _image_array(path: Path, headers: dict[str, ArrayHeader]) -> str:
    found = [name for name in IMAGE_ARRAYS if name in headers]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(f"{name} {header}" for name, header in headers.items()) or "nothing"
    if not found and {"mu", "sigma"} <= headers.keys():
        raise RequestError(f"{path} holds statistics (mu, sigma) and no images; pass it to --against")
    what = "several arrays that may be the images" if found else f"no array named {', '.join(IMAGE_ARRAYS)}"
    raise RequestError(f"{path} holds {what}; it has {listed}; save one array of images, named {IMAGE_ARRAYS[0]}")


def _is_channels_last(path: Path, name: str, header: ArrayHeader, shape: tuple[int, int, int] | None) -> bool:
    """Whether the array is `(count, height, width, channels)`, and not `(count, channels, height, width)`."""
    what = f"{path}: {name} is {header}"
    if header.dtype != np.uint8:
        raise RequestError(f"{what}, and images are uint8 from 0 to 255; convert them as they were published")
    if len(header.shape) != 4 or not header.shape[0]:
        raise RequestError(f"{what}; images are (count, height, width, channels) or (count, channels, height, width)")
    _, *sides = header.shape
    fits = [shape == tuple(read) if shape else _is_plausible(read) for read in (sides, [sides[2], *sides[:2]])]
    if all(fits):
        raise RequestError(f"{what}: it is ambiguous whether its channels are first or last")
    if not any(fits):
        wanted = (
            f"{'×'.join(map(str, shape))}; fit it by --set data.size, data.channels, …" if shape else "1 or 3 channels"
        )
        raise RequestError(f"{what}, and what it is compared with has {wanted}")
    return fits[1]


def _is_plausible(shape: Sequence[int]) -> bool:
    return shape[0] in (1, 3)
