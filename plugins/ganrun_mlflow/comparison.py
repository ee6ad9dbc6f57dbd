"""Samples that can be compared between runs, because all runs decode the same latents."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from torch import nn

from ganrun import Run, RunError, atomic_path, to_uint8
from ganrun_mlflow.pictures import COMPARISON

log = logging.getLogger("ganrun")

ROWS = 4
"""Rows of the table in MLflow."""

COLUMNS, LINES = 4, 2
"""Samples in one of its cells."""

SIDE, MARGIN = 688, 8
"""Size of a cell's picture, and the gap between samples, in pixels. MLflow makes cells square, and shows their upper
half."""


def write_comparison(run: Run, deadline: float, gives_up: Callable[[], bool]) -> None:
    """Write `compare/samples_01_to_08.png`, … into the run directory, if samples are images and drawing them meets the
    deadline.

    Args:
        run: The run.
        deadline: When to stop, by `time.monotonic`.
        gives_up: Whether to stop earlier.
    """
    if len(run.model.spec.sample_shape) != 3:
        return
    in_cell = COLUMNS * LINES
    latents = run.model.fixed_latents(ROWS * in_cell)
    try:
        with _stopped(run.model.networks.values(), lambda: gives_up() or time.monotonic() > deadline):
            samples = to_uint8(run.model.decode(latents)).cpu().permute(0, 2, 3, 1).numpy()
    except _TooSlowError:
        log.warning("there are no samples to compare in MLflow, because drawing them takes too long")
        return
    (run.directory / COMPARISON).mkdir(exist_ok=True)
    for start in range(0, len(samples), in_cell):
        name = f"samples_{start + 1:02}_to_{start + in_cell:02}.png"
        with atomic_path(run.directory / COMPARISON / name) as partial:
            cell(samples[start : start + in_cell]).save(partial, "PNG")


class _TooSlowError(RunError):
    """Sampling was stopped."""


@contextmanager
def _stopped(networks: Iterable[nn.Module], is_over: Callable[[], bool]) -> Iterator[None]:
    """A block in which calls of networks, or of their parts, raise once it is over: slow samplers make thousands."""

    def check(*_: object) -> None:
        if is_over():
            raise _TooSlowError("sampling takes too long")

    with ExitStack() as stack:
        for module in (part for network in networks for part in network.modules()):
            stack.callback(module.register_forward_pre_hook(check).remove)
        yield


def cell(samples: npt.NDArray[np.uint8]) -> Image.Image:
    """Samples `(8, height, width, channels)` in the upper half of a square; the rest is transparent."""
    canvas = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0))
    pitch = SIDE // COLUMNS
    for index, sample in enumerate(samples):
        grey = sample.shape[2] == 1
        picture = Image.fromarray(sample[..., 0] if grey else sample).convert("RGB")
        is_small = max(picture.size) < pitch
        method = Image.Resampling.NEAREST if is_small else Image.Resampling.LANCZOS
        fitted = ImageOps.contain(picture, (pitch - MARGIN, pitch - MARGIN), method)
        canvas.paste(fitted, (index % COLUMNS * pitch, index // COLUMNS * pitch))
    return canvas
